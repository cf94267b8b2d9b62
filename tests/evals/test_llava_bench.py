"""LLaVA-Bench: the official scripts' numbers, their files and layout, and the whole command."""

import json
import time

import numpy as np
import pytest
from chat_server import ChatServer, completion
from shared_data import golden, shared_file

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import read_answers
from vlm_jax.evals.llava_bench import scorer as llava_bench
from vlm_jax.evals.llava_bench.rules import RULES, SYSTEM, Rule, read_rules, rule_for
from vlm_jax.evals.llava_bench.scorer import Context, Question

CATEGORIES = ("conv", "detail", "complex")


def saved(tmp_path, rows, name):
    path = tmp_path / name
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def questions(count):
    return [Question(str(i), f"{i // 3}.jpg", f"What {i}?", CATEGORIES[i % 3]) for i in range(count)]


def relative(pairs):
    """As ``summarize_gpt_review.py`` has it, written out anew."""
    reference, model = (round(float(mean), 3) for mean in np.mean(np.array(pairs, float), 0))
    return round(model / reference * 100, 1)


# --- What a judgement says


def test_parse_equals_the_original():
    cases = golden("llavabench_parse")
    assert len(cases) > 3
    assert [list(llava_bench.parse(case["text"]) or (-1, -1)) for case in cases] == [c["scores"] for c in cases]


@pytest.mark.parametrize(
    ("text", "official", "robust"),
    [
        ("8 7\nBoth are fine, 9 10 things.", (8, 7), (8, 7)),
        ("8.5 7", (8.5, 7), (8.5, 7)),
        ("8,7", (8, 7), (8, 7)),
        ("8 7\r\nGood.", (8, 7), (8, 7)),
        ("8, 7", None, (8, 7)),
        ("8 7 \nGood.", None, (8, 7)),
        (" 8 7", None, (8, 7)),
        ("8\n7", None, (8, 7)),
        ("\n8 7", None, (8, 7)),
        ("**8 7**", None, (8, 7)),
        ("8/10 7/10", None, (8, 7)),
        ("Scores: 8 and 7", None, (8, 7)),
        ("Scores for Assistant 1 and 2: 8 7", None, (8, 7)),
        ("Assistant 1: 8\nAssistant 2: 7", None, (8, 7)),
        ("Assistant 1: 8/10, Assistant 2: 7/10", None, (8, 7)),
        ("**Assistant 2's score: 7**\nIt has 3 slips.\n**Assistant 1's overall score is 8.5**", None, (8.5, 7)),
        ("Assistant 1 names 3 dogs. Assistant 2 names 4.\n\nScores:\n9 6", None, (9, 6)),
        # Two verdicts are none.
        ("8 7\n\nor rather\n7 8", (8, 7), None),
        ("There are 2 dogs and 3 cats.", None, None),
        ("8 7 6", None, None),
        ("80 70", (80, 70), None),
        ("-1 -1", (-1, -1), None),
        ("nan 7", None, None),
        ("inf 7", None, None),
        ("Assistant 1: 8", None, None),
        ("8", None, None),
        ("", None, None),
    ],
)
def test_parse(text, official, robust):
    assert llava_bench.parse(text) == official
    assert llava_bench.parse(text, "robust") == robust


def test_judges_that_ramble_are_read_in_no_time():
    start = time.monotonic()
    for piece in ("\n", " ", "rating", "rating: ", "1.", "8 ", "assistant 1 ", "-", "_", "9", "Rating\n", "out of "):
        for mode in llava_bench.MODES:
            llava_bench.parse(piece * 100_000, mode)
    assert time.monotonic() - start < 20


# --- Figures


def test_figures_by_hand():
    judgements = ["8 6", "9 9\nGood.", "10 5", "7 7", "8, 7", "6 3"]
    found = llava_bench.score(questions(6), [f"a{i}" for i in range(6)], judgements)
    pairs = [(8, 6), (9, 9), (10, 5), (7, 7), (-1, -1), (6, 3)]
    # The pair that could not be read takes from both sums.
    assert found.metrics["relative_score"] == relative(pairs) == round(29 / 39 * 100, 1)
    assert found.metrics["relative_score_read"] == relative([pair for pair in pairs if pair[0] > 0]) == 75.0
    assert found.metrics["reference_score"] == 65.0
    assert found.metrics["model_score"] == 48.3
    assert found.metrics["relative_score_conv"] == round(6.5 / 7.5 * 100, 1)
    assert found.metrics["relative_score_detail"] == 100.0
    assert found.metrics["relative_score_complex"] == 50.0
    assert found.unparsed == 1
    table = found.tables["by category"]
    assert list(table) == ["all", "complex", "conv", "detail"]
    assert table["detail"] == {
        "relative": 100.0, "reference": 40.0, "model": 40.0, "relative, read only": 100.0, "judgements": 2, "unread": 1
    }  # fmt: skip
    assert found.per_sample[4]["reference_score"] is None
    assert found.per_sample[5]["model_score"] == 3
    assert "1 judgements without two scores count as -1 to -1" in found.remarks[0]
    assert list(found.tally.units) == ["0.jpg", "1.jpg"]

    robust = llava_bench.score(questions(6), [""] * 6, judgements, "robust")
    assert robust.metrics["relative_score"] == relative([*pairs[:4], (8, 7), pairs[5]])
    assert robust.unparsed == 0


def test_the_sums_behind_the_figures_say_the_same():
    rng = np.random.default_rng(0)
    judgements = [f"{a} {b}" for a, b in rng.integers(1, 11, (90, 2))]
    judgements[::17] = ["Both are fine."] * len(judgements[::17])
    for mode in llava_bench.MODES:
        found = llava_bench.score(questions(90), [""] * 90, judgements, mode)
        values, intervals = found.tally.values(), found.tally.intervals()
        assert values.keys() == found.metrics.keys()
        for name, value in found.metrics.items():
            assert value == pytest.approx(values[name], abs=0.06), (mode, name)
            assert intervals[name][0] < value < intervals[name][1]
        assert len(found.tally.units) == 30
    assert found.metrics["relative_score"] == found.metrics["relative_score_read"]


def test_rounding_is_the_originals():
    # Means 1.3333.. and 1.6666.. become 1.333 and 1.667 before the division; without that it were 125.0.
    pairs = [(1, 1), (1, 2), (2, 2)]
    judgements = [f"{a} {b}" for a, b in pairs]
    found = llava_bench.score([one._replace(category="conv") for one in questions(3)], [""] * 3, judgements)
    assert found.metrics["relative_score"] == relative(pairs) == 125.1
    assert found.tally.values()["relative_score"] == pytest.approx(125.0)


def test_where_nothing_was_read():
    found = llava_bench.score(questions(3), [""] * 3, ["?"] * 3)
    # The script divides -1 by -1.
    assert found.metrics["relative_score"] == 100.0
    assert found.metrics["relative_score_read"] == 0.0
    assert found.tally.values()["relative_score"] == 100.0
    robust = llava_bench.score(questions(3), [""] * 3, ["?"] * 3, "robust")
    assert set(robust.metrics.values()) == {0.0}
    assert set(robust.tally.values().values()) == {0.0}
    zero = llava_bench.score(questions(3), [""] * 3, ["0 5"] * 3)
    assert zero.metrics["relative_score"] == 0.0


def test_lists_that_do_not_fit():
    with pytest.raises(ValueError, match="zip"):
        llava_bench.score(questions(3), [""] * 3, ["8 7"] * 2)


# --- Files


def test_the_real_questions_and_references():
    folder = shared_file("llava_bench/qa90_questions.jsonl").parent
    found = llava_bench.read_questions(folder / "qa90_questions.jsonl")
    assert [one.id for one in found] == [str(i) for i in range(90)]
    assert [one.category for one in found] == [*CATEGORIES] * 30
    assert len({one.image for one in found}) == 30
    assert read_answers(folder / "qa90_gpt4_answer.jsonl").keys() == {one.id for one in found}


def test_contexts_of_both_kinds(tmp_path):
    rows = [
        {
            "id": "1", "image": "1.jpg", "captions": ["A donut shop.", "Donuts in a case."],
            "instances": [
                {"category": "donut", "bbox": [0.37, 0.5, 1.0, 0.709]}, {"category": "tie", "bbox": [0, 0, 1, 1]}
            ],
        },
        {"id": "002", "image": "002.jpg", "caption": "A painting of a dog."},
        {"id": "003", "image": "003.jpg", "caption": ["One.", "Two."]},
        {"id": "4", "image": "4.jpg", "captions": ["Nothing."], "instances": []},
    ]  # fmt: skip
    assert llava_bench.read_contexts(saved(tmp_path, rows, "context.jsonl")) == {
        "1.jpg": Context(
            "A donut shop.\nDonuts in a case.\n\ndonut: [0.37, 0.5, 1.0, 0.709]\ntie: [0, 0, 1, 1]", False
        ),
        "002.jpg": Context("A painting of a dog.", True),
        "003.jpg": Context("One.\nTwo.", True),
        "4.jpg": Context("Nothing.\n\n", False),
    }


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"image": "a"}, "no 'caption'"),
        ({"caption": "a"}, "no 'image'"),
        ({"image": "a", "captions": ["a"]}, "no 'instances'"),
        ({"image": "a", "captions": ["a"], "instances": [{"category": "dog"}]}, "instances of another layout"),
        ({"image": "a", "captions": [5], "instances": []}, "captions of type int"),
        ({"image": "a", "caption": None}, "caption of type NoneType"),
    ],
)
def test_contexts_that_are_none(tmp_path, row, found):
    with pytest.raises(InputError) as error:
        llava_bench.read_contexts(saved(tmp_path, [{"image": "b", "caption": "b"}, row], "context.jsonl"))
    assert f"context.jsonl, row 2: found {found}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"question_id": 1, "image": "a", "text": "b"}', "row 1: found no 'category'"),
        ('{"question_id": 1.5, "image": "a", "text": "b", "category": "c"}', "row 1: found question_id of type float"),
        ('{"question_id": 1, "image": "a", "text": "b", "category": "c"}\n' * 2, "row 2: found question_id 1"),
        ('{"question_id": 1, "image": NaN}', "row 1: found NaN"),
        ("", "found no rows"),
    ],
)
def test_questions_that_are_none(tmp_path, text, found):
    with pytest.raises(InputError) as error:
        llava_bench.read_questions(saved(tmp_path, text, "questions.jsonl"))
    assert found in str(error.value)


# --- What the judge is told


def test_the_prompt_is_laid_out_as_in_the_scripts():
    rules = {"conv": Rule("Helper", "Who is better?"), "llava_bench_conv": Rule("Assistant", "Who is wild?")}
    contexts = {"0.jpg": Context("A dog.\n\ndog: [0, 0, 1, 1]", False), "1.jpg": Context("A wild dog.", True)}
    asked = [Question("a", "0.jpg", "What?", "conv"), Question("b", "1.jpg", "Where?", "conv")]
    tame, wild = llava_bench.requests(asked, ["r1", "r2"], ["m1", "m2"], contexts, rules)
    assert tame.user == (
        "[Context]\nA dog.\n\ndog: [0, 0, 1, 1]\n\n[Question]\nWhat?\n\n[Helper 1]\nr1\n\n[End of Helper 1]\n\n"
        "[Helper 2]\nm1\n\n[End of Helper 2]\n\n[System]\nWho is better?\n\n"
    )
    assert (tame.id, tame.system, tame.temperature, tame.max_tokens) == ("a", SYSTEM, 0.2, 1024)
    assert wild.user.startswith("[Context]\nA wild dog.\n\n[Question]\nWhere?\n\n[Assistant 1]\nr2\n")
    assert wild.user.endswith("[System]\nWho is wild?\n\n")
    with pytest.raises(InputError, match="no rule 'detail' among conv"):
        llava_bench.requests([asked[0]._replace(category="detail")], ["r"], ["m"], contexts, rules)


def test_our_rules_cover_both_benchmarks():
    assert read_rules(None) is RULES
    prompts = {rule_for(RULES, category, wild).prompt for category in CATEGORIES for wild in (False, True)}
    assert len(prompts) == len(RULES) == 6


def test_rules_of_ones_own(tmp_path):
    path = tmp_path / "rule.json"
    path.write_text('{"conv": {"role": "Assistant", "prompt": "Judge.", "more": 1}}')
    assert read_rules(path) == {"conv": Rule("Assistant", "Judge.")}
    for text in ('{"conv": "Judge."}', '{"conv": {"role": "Assistant"}}', '{"conv": {"role": 1, "prompt": ""}}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"rule\.json: found rule 'conv' of another layout"):
            read_rules(path)


# --- The command


@pytest.fixture
def command(tmp_path):
    """Runs the command on six questions about two images; returns what it wrote."""
    asked = [one._asdict() | {"question_id": int(one.id)} for one in questions(6)]
    contexts = [{"image": f"{i}.jpg", "captions": ["A dog."], "instances": []} for i in range(2)]
    arguments = [
        "--questions", saved(tmp_path, asked, "questions.jsonl"),
        "--references", saved(tmp_path, said("Reference", 6), "references.jsonl"),
        "--answers", saved(tmp_path, said("Answer", 6), "answers.jsonl"),
        "--output", tmp_path / "out.json",
    ]  # fmt: skip
    saved(tmp_path, contexts, "context.jsonl")

    def run(*options):
        main(["eval", "llava-bench", *map(str, arguments), *map(str, options)])
        return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))

    return run


def said(what, count):
    return [{"question_id": i, "prompt": f"What {i}?", "text": f"{what} {i}."} for i in range(count)]


def test_saved_reviews_through_the_command(command, tmp_path, capsys):
    """Reviews need no context, and no order."""
    pairs = [(8, 6), (9, 9), (10, 5), (7, 7), (-1, -1), (6, 3)]
    rows = [
        {"id": i + 1, "question_id": i, "content": f"{a} {b}\nWell.", "tuple": [a, b], "category": CATEGORIES[i % 3]}
        for i, (a, b) in enumerate(pairs)
    ]
    rows[4]["content"] = "Both are fine."
    result = command("--judge", f"replay:{saved(tmp_path, rows[::-1], 'review.jsonl')}")
    assert result["metrics"]["relative_score"] == relative(pairs)
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 6, 1)
    assert result["judge"]["kind"] == "replay"
    assert result["tables"]["by category"]["complex"]["relative"] == 50.0
    out = capsys.readouterr().out
    assert "1 without anything to read" in out
    assert "Judge: replay from review.jsonl; 6 judgements, 0 of them made now" in out


def test_scores_that_the_script_could_not_read(command, tmp_path):
    """It keeps a pair of -1 for them, which counts in its mean and says nothing of a category."""
    pairs = [(8, 6), (-1, -1), (10, 5), (7, 7), (-1, -1), (6, 3)]
    rows = [{"question_id": i, "tuple": list(pair)} for i, pair in enumerate(pairs)]
    review = saved(tmp_path, rows, "review.jsonl")
    result = command("--judge", f"replay:{review}")
    assert result["metrics"]["relative_score"] == relative(pairs)
    assert result["unparsed"] == 2
    name = CATEGORIES[1]
    assert f"no judgement was read of {name}: figures there say nothing" in result["remarks"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"tuple": [-1, -1]}, "found 6 judgements, all of them empty; expected a judge that says something"),
        ({"content": ""}, "found 6 judgements, all of them empty"),
        ({"content": "Both are fine."}, "found 6 judgements, none of which can be read ('Both are fine.' for one)"),
    ],
)
def test_no_score_of_nothing(command, tmp_path, capsys, change, found):
    rows = [{"question_id": i, **change} for i in range(6)]
    with pytest.raises(SystemExit) as stopped:
        command("--judge", f"replay:{saved(tmp_path, rows, 'review.jsonl')}")
    assert stopped.value.code == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    rows[3] = {"question_id": 3, "content": "8 4"}
    result = command("--judge", f"replay:{saved(tmp_path, rows, 'review.jsonl')}", "--mode", "robust")
    assert (result["metrics"]["relative_score"], result["unparsed"]) == (50.0, 5)


def test_a_server_that_says_nothing(command, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai", reason="needs the judge extra")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer(lambda number, body: completion("")) as server, pytest.raises(SystemExit) as stopped:
        command("--judge", server.url, "--judge-model", "m", "--context", tmp_path / "context.jsonl")
    assert stopped.value.code == 2
    assert "6 judgements, all of them empty" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["question_id", "index"])
def test_scores_of_a_judged_table(command, tmp_path, capsys, key):
    """VLMEvalKit's: the reference's score and the model's, and the question that they are of."""
    pairs = [(8, 6), (9, 9), (10, 5.5), (7, 7), (-1, -1), (6, 3)]
    rows = [
        {key: i, "question": f"What {i}?", "prediction": "x", "gpt4_score": one, "score": two}
        for i, (one, two) in enumerate(pairs)
    ]
    result = command("--judge", f"replay:{saved(tmp_path, rows[::-1], 'judged.jsonl')}")
    assert (result["metrics"]["relative_score"], result["unparsed"]) == (relative(pairs), 1)
    table = tmp_path / "judged.tsv"
    table.write_text("".join("\t".join(map(str, row)) + "\n" for row in ([*rows[0]], *(row.values() for row in rows))))
    assert command("--judge", f"replay:{table}")["metrics"] == result["metrics"]
    for change, found in (
        ({"question": "Who?"}, "found a judgement of 2 about 'Who?'"),
        ({"score": "high"}, "row 3: found score 'high'; expected score as a number"),
        ({"gpt4_score": None}, "row 3: found gpt4_score None"),
    ):
        odd = [*rows[:2], {**rows[2], **change}, *rows[3:]]
        with pytest.raises(SystemExit):
            command("--judge", f"replay:{saved(tmp_path, odd, 'odd.jsonl')}")
        assert found in capsys.readouterr().err


def test_a_judge_behind_a_url(command, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer(lambda number, body: completion("8 6\nFine.")) as server:
        options = ["--judge", server.url, "--judge-model", "m", "--context", tmp_path / "context.jsonl"]
        result = command(*options)
        assert result["metrics"]["relative_score"] == 75.0
        assert len(server.bodies) == 6
        system, user = server.bodies[0]["messages"]
        assert system == {"role": "system", "content": SYSTEM}
        assert user["content"].startswith("[Context]\nA dog.\n\n")
        assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.2, 1024)
        rules = tmp_path / "rule.json"
        rules.write_text(json.dumps({name: {"role": "Assistant", "prompt": "Judge."} for name in CATEGORIES}))
        other = command(*options, "--rules", rules)
        assert len(server.bodies) == 12
        assert server.bodies[-1]["messages"][1]["content"].endswith("[System]\nJudge.\n\n")
        assert other["judge"]["wording_sha256"] != result["judge"]["wording_sha256"]
        assert command(*options)["judge"]["made_now"] == 0
        assert len(server.bodies) == 12
    kept = tmp_path / "out.judgements" / "judgements.jsonl"
    again = command("--judge", f"replay:{kept}", "--context", tmp_path / "context.jsonl")
    assert again["metrics"] == result["metrics"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"], "no --context"),
        (["--judge", "scenes:world", "--context", "context.jsonl"], "--judge 'scenes:world'; expected a URL"),
        (["--judge", "checkpoint:tiny", "--context", "short.jsonl"], "found nothing about 1.jpg"),
        (["--judge", "checkpoint:tiny", "--context", "context.jsonl", "--rules", "rule.json"], "found no rule 'conv'"),
        (["--judge", "replay:review.jsonl"], "review.jsonl: found no judgement of 1"),
        (["--judge", "replay:review.jsonl", "--against", "answers.jsonl"], "do not say which answers they are of"),
    ],
)
def test_options_that_do_not_fit(command, options, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rule.json").write_text("{}")
    saved(tmp_path, [{"image": "0.jpg", "caption": "A dog."}], "short.jsonl")
    saved(tmp_path, [{"question_id": 0, "tuple": [8, 7]}], "review.jsonl")
    with pytest.raises(SystemExit) as stopped:
        command(*options)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line
