"""Whatever a model says, and whatever a file holds: every benchmark counts each answer once or refuses in one line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_jax.cli import main

OPTIONS = {"A": "cat", "B": "dog"}
# Name -> files of the benchmark, the option that names each, and further options.
BENCHMARKS = {
    "pope": (
        {
            "--questions": [
                {"question_id": i, "image": "a.jpg", "text": f"Is there a {i}?", "label": "yes" if i else "no"}
                for i in range(2)
            ]
        },
        [],
    ),
    "chair": ({"--objects": {"0": ["dog"], "1": ["cat", "person"]}}, []),
    "vqa": (
        {
            "--questions": {
                "questions": [{"image_id": 7, "question_id": i, "question": f"What is {i}?"} for i in range(2)]
            },
            "--annotations": {
                "annotations": [
                    {
                        "question_id": i,
                        "image_id": 7,
                        "question_type": "what is",
                        "answer_type": "other",
                        "multiple_choice_answer": "red",
                        "answers": [{"answer": word, "answer_id": n} for n, word in enumerate(["red", "2"] * 5, 1)],
                    }
                    for i in range(2)
                ]
            },
        },
        [],
    ),
    "aokvqa": (
        {
            "--questions": [
                {
                    "question_id": str(i),
                    "image_id": 7,
                    "question": "Which pet?",
                    "choices": ["cat", "dog", "cow", "pig"],
                    "correct_choice_idx": i,
                    "direct_answers": ["dog"] * 10,
                    "difficult_direct_answer": False,
                }
                for i in range(2)
            ]
        },
        [],
    ),
    "mmbench": (
        {
            "--questions": "index\tquestion\tA\tB\tanswer\tcategory\n"
            "0\tWhich?\tcat\tdog\tA\tpets\n1\tWho?\tme\tyou\tB\tus\n"
        },
        ["--no-circular"],
    ),
    "amber": (
        {
            "--annotations": [
                {"id": 0, "type": "generative", "truth": ["sky", "dog"], "hallu": ["cat"]},
                {"id": 1, "type": "discriminative-attribute-state", "truth": "yes"},
            ],
            "--relations": {"sky": [], "dog": ["puppy"], "cat": []},
            "--safe-words": "light\n",
        },
        [],
    ),
    "hallusionbench": (
        {
            "--data": [
                {
                    "category": "VD",
                    "subcategory": "figure",
                    "visual_input": str(1 + i),
                    "set_id": "0",
                    "figure_id": str(1 + i),
                    "sample_note": "",
                    "question_id": "0",
                    "question": "Is it so?",
                    "gt_answer_details": "",
                    "gt_answer": str(i),
                    "filename": "a.png",
                }
                for i in range(2)
            ]
        },
        ["--mode", "rule"],
    ),
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def score(name, answers, folder, *more):
    """The exit code of scoring a file of these bytes."""
    files, options = BENCHMARKS[name]
    command = ["eval", name, "--output", folder / "out.json", *options, *more, "--answers", folder / "answers.jsonl"]
    for number, (option, content) in enumerate(files.items()):
        suffix = {str: "tsv" if name == "mmbench" else "txt"}.get(type(content), "json")
        command += [option, write(folder / f"{number}.{suffix}", content)]
    (folder / "answers.jsonl").write_bytes(answers)
    try:
        main(list(map(str, command)))
    except SystemExit as stopped:
        return stopped.code
    return 0


def rows_of(name, texts):
    key = "image_id" if name == "chair" else "question_id"
    ids = [f"{i}" if name == "aokvqa" else i for i in range(len(texts))]
    if name == "hallusionbench":
        ids = [f"VD_figure_0_{1 + i}_0" for i in range(len(texts))]
    return [{key: identity, "text": text} for identity, text in zip(ids, texts, strict=True)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_any_two_answers(name, tmp_path):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(max_size=40) | st.sampled_from(["Yes", "No.", "A", "a dog", ""]), min_size=2, max_size=2))
    def check(texts):
        assert score(name, lines(rows_of(name, texts)), tmp_path, "--allow-empty") == 0
        result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        samples = (tmp_path / "out.samples.jsonl").read_text(encoding="utf-8").split("\n")
        assert result["n"] == 2 == len(samples) - 1
        assert 0 <= result["unparsed"] <= 2

    check()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_long_answers(name, tmp_path):
    assert score(name, lines(rows_of(name, ["a dog, " * 40_000, "(" * 200_000])), tmp_path) == 0


# Captions and AMBER's groups may be of some images only.
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in BENCHMARKS
        for damage in ("twice", "missing", "nan", "cut", "number", "no text", "list", "empty")
        if damage != "missing" or name not in ("chair", "amber")
    ],
)
def test_files_that_cannot_be_scored(name, damage, tmp_path, capsys):
    rows = rows_of(name, ["Yes", "No"])
    content = {
        "twice": lines([*rows, rows[0]]),
        "missing": lines(rows[:1]),
        "nan": lines(rows).replace(b'"Yes"', b"NaN"),
        "cut": lines(rows)[:-10],
        "number": lines([{**rows[0], "text": 5}, rows[1]]),
        "no text": lines([{"metadata": {}}, rows[1]]),
        "list": b'["Yes", "No"]',
        "empty": b"",
    }[damage]
    assert score(name, content, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert "expected" in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_byte_order_marks_and_carriage_returns(name, tmp_path):
    assert score(name, b"\xef\xbb\xbf" + lines(rows_of(name, ["Yes", "No"])).replace(b"\n", b"\r\n"), tmp_path) == 0


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("silence", ["", " \n"])
def test_a_model_that_says_nothing_has_no_score(name, silence, tmp_path, capsys):
    """To CHAIR's rule it hallucinates nothing, to POPE's it says yes."""
    content = lines(rows_of(name, [silence, silence]))
    assert score(name, content, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("found 2 answers, all of them empty; expected answers, or --allow-empty")
    assert not (tmp_path / "out.json").exists()
    assert score(name, content, tmp_path, "--allow-empty") == 0
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["remarks"][0].startswith("2 OF 2 ANSWERS ARE EMPTY")
    assert "Note: 2 OF 2 ANSWERS ARE EMPTY" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_one_empty_answer_is_told(name, tmp_path):
    assert score(name, lines(rows_of(name, ["Yes", ""])), tmp_path) == 0
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "1 of 2 answers are empty" in result["remarks"]
