"""MME: counts by hand, its script's rule, its files and LLaVA's."""

import json
from pathlib import Path

import pytest

from vlm_jax.cli import main
from vlm_jax.commands.eval import mme as command
from vlm_jax.errors import InputError
from vlm_jax.evals.mme import scorer as mme
from vlm_jax.evals.mme.files import Question, bare, image_name, read_answers, read_questions


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("No, there is none.", "no"),
        ("YES!", "yes"),
        (" yes", "yes"),
        ("  yes", None),
        ("\nNo", "no"),
        ("Not at all", "no"),
        ("know", "no"),
        ("Now yes", "no"),
        ("a yes", None),
        ("nyes", "yes"),
        ("The answer is yes", None),
        ("", None),
        ("y" * 100_000, None),
    ],
)
def test_the_first_four_characters_decide(answer, found):
    assert mme.parse(answer) == found


def pairs(subtask, images):
    """For each image a question with yes and one with no for an answer."""
    return [
        Question(f"{subtask}/{number}/{image}.png", subtask, f"{image}.png", f"Is it {number}?", label)
        for image in range(images)
        for number, label in ((1, "yes"), (2, "no"))
    ]


def test_scores_by_hand():
    questions = pairs("count", 3) + pairs("code_reasoning", 2)
    answers = ["Yes", "No", "Yes", "Yes", "No", "Hm"] + ["yes", "no"] * 2
    scored = mme.score(answers, questions)
    # Of six questions three are right, of three images one.
    assert scored.tables["subtasks"]["count"] == {
        "score": 3 / 6 * 100 + 1 / 3 * 100,
        "accuracy": 0.5,
        "accuracy_plus": 1 / 3,
        "images": 3,
        "neither": 1,
    }
    assert scored.tables["subtasks"]["code_reasoning"]["score"] == 200.0
    assert scored.metrics == {
        "score": 3 / 6 * 100 + 1 / 3 * 100 + 200,
        "accuracy": 7 / 10,
        "accuracy_plus": 3 / 5,
    }
    assert scored.unparsed == 1
    assert scored.baselines["all yes"] == {"score": 100.0, "accuracy": 0.5, "accuracy_plus": 0.0}
    assert scored.baselines["all no"] == scored.baselines["all yes"]
    assert scored.remarks == (
        "no perception: existence, position, color, posters, celebrity, scene, landmark, artwork, OCR of its 10 "
        "subtasks are not there",
        "no cognition: commonsense_reasoning, numerical_calculation, text_translation of its 4 subtasks are not there",
        "no hallucination: existence, position, color of its 4 subtasks are not there",
    )
    assert list(scored.tally.units[:3]) == ["code_reasoning/0.png", "code_reasoning/1.png", "count/0.png"]


def test_sums_over_subtasks():
    names = [*mme.PERCEPTION, *mme.COGNITION]
    questions = [question for name in reversed(names) for question in pairs(name, 2)]
    scored = mme.score([question.label for question in questions], questions)
    assert scored.metrics == {
        "perception": 2000.0,
        "cognition": 800.0,
        "hallucination": 800.0,
        "score": 2800.0,
        "accuracy": 1.0,
        "accuracy_plus": 1.0,
    }
    assert scored.remarks == ()
    assert list(scored.tables["subtasks"]) == names
    assert scored.baselines["all yes"]["perception"] == 500.0
    half = mme.score([question.label if question.subtask != "OCR" else "no" for question in questions], questions)
    assert (half.metrics["perception"], half.metrics["cognition"]) == (1850.0, 800.0)
    low, high = half.tally.intervals()["perception"]
    # Subtasks are all right or all one word: nothing to be unsure about, unless one is not drawn at all.
    assert low <= high <= 1850.0


def test_the_hallucination_subset_alone():
    questions = [question for name in mme.PERCEPTION[:4] for question in pairs(name, 1)]
    scored = mme.score(["Yes", "No", "Yes", "Yes"] * 2, questions)
    assert scored.metrics["hallucination"] == 2 * 200 + 2 * 50
    assert "perception" not in scored.metrics


def test_subtasks_of_ones_own():
    scored = mme.score(["Yes", "No"], pairs("smell", 1))
    assert scored.metrics == {"score": 200.0, "accuracy": 1.0, "accuracy_plus": 1.0}
    assert scored.remarks == ("smell: no subtask of MME",)


def test_intervals_are_over_images():
    questions = pairs("count", 40)
    # Every image has one right answer: there is nothing to be unsure about.
    scored = mme.score(["Yes"] * 80, questions)
    assert scored.tally.intervals()["accuracy"] == (0.5, 0.5)


@pytest.mark.parametrize("number", [1, 3])
def test_an_image_without_a_pair(number):
    extra = Question("count/3/0.png", "count", "0.png", "And this?", "yes")
    questions = [*pairs("count", 1), extra][:number] if number == 3 else pairs("count", 1)[:1]
    with pytest.raises(InputError, match=rf"{number} questions about image 0.png of count; expected two"):
        mme.score(["Yes"] * number, questions)


def test_one_answer_a_question():
    with pytest.raises(ValueError, match="zip"):
        mme.score(["Yes"], pairs("count", 1))


ASKED = {"0020.png": ("Is it code?", "Is it prose?"), "0021.png": ("Is it short?", "Is it long?")}


@pytest.fixture
def release(tmp_path):
    """MME's release with one subtask in either layout."""
    root = tmp_path / "release"
    for subtask, texts, images in (
        ("code_reasoning", root / "code_reasoning", root / "code_reasoning"),
        ("artwork", root / "artwork" / "questions_answers_YN", root / "artwork" / "images"),
    ):
        texts.mkdir(parents=True)
        images.mkdir(parents=True, exist_ok=True)
        for image, (first, second) in ASKED.items():
            lines = f"{first}  Please answer yes or no.\tYes\r\n{second} Please answer yes or no.\tNo\n\n"
            (texts / image.replace(".png", ".txt")).write_bytes(lines.encode())
            (images / (image if subtask == "artwork" else image.replace(".png", ".jpg"))).touch()
    return root


def llava(subtask="artwork", prompt="{}\nAnswer the question using a single word or phrase.", answers="Yes"):
    return [
        {"question_id": f"{subtask}/{image}", "prompt": prompt.format(question), "text": answers}
        for image, both in ASKED.items()
        for question in both
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_release(release):
    questions = read_questions(release)
    assert [question.id for question in questions] == [
        "artwork/1/0020.png",
        "artwork/2/0020.png",
        "artwork/1/0021.png",
        "artwork/2/0021.png",
        "code_reasoning/1/0020.jpg",
        "code_reasoning/2/0020.jpg",
        "code_reasoning/1/0021.jpg",
        "code_reasoning/2/0021.jpg",
    ]
    assert [question.label for question in questions] == ["yes", "no"] * 4
    assert questions[0].text == "Is it code?  Please answer yes or no."
    assert bare(questions[0].text) == "Is it code?"
    assert release / image_name(release, questions[0]) == release / "artwork" / "images" / "0020.png"
    assert release / image_name(release, questions[4]) == release / "code_reasoning" / "0020.jpg"


def test_llavas_lines_have_one_id_for_two_questions(release, tmp_path):
    rows = llava("artwork", answers="No") + llava("code_reasoning")
    rows[1]["text"] = "Maybe"
    questions = read_questions(release)
    # In any order, whatever the image's ending.
    for found in (rows, rows[::-1]):
        answers = read_answers(write_lines(tmp_path / "a.jsonl", found), questions)
        assert answers == ["No", "Maybe", "No", "No"] + ["Yes"] * 4


def test_ids_of_our_own_with_any_instruction(release, tmp_path):
    questions = read_questions(release)
    rows = [{"question_id": one.id, "prompt": f"{bare(one.text)} In short?", "text": one.id} for one in questions]
    path = write_lines(tmp_path / "a.jsonl", rows[::-1])
    assert read_answers(path, questions) == [one.id for one in questions]
    # Numbered the other way round: the prompt is to another question.
    rows[0]["question_id"], rows[1]["question_id"] = rows[1]["question_id"], rows[0]["question_id"]
    with pytest.raises(InputError, match=r"an answer to 'Is it code\? In short\?' about artwork/2/0020.png"):
        read_answers(write_lines(path, rows), questions)
    without = [{"question_id": one.id, "text": one.id} for one in questions]
    assert read_answers(write_lines(path, without), questions) == [one.id for one in questions]


def test_questions_as_json_lines(release, tmp_path):
    rows = [
        {"question_id": f"artwork/{image}", "category": "artwork", "question": text, "answer": label}
        for image, both in ASKED.items()
        for text, label in zip(both, ("Yes", "No"), strict=True)
    ]
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert [one._replace(text=bare(one.text)) for one in read_questions(release)[:4]] == found


def results(folder, rows, subtask="artwork"):
    folder.mkdir(exist_ok=True)
    (folder / f"{subtask}.txt").write_bytes("\r\n".join("\t".join(row) for row in rows).encode() + b"\n\n")
    return folder


RESULTS = [
    ("0020.png", "Is it code? Please answer yes or no.", "Yes", "Yes, it is."),
    ("0020.png", "Is it prose? Please answer yes or no.", "No", "no"),
    ("0021.png", "Is it short? Please answer yes or no.", "Yes", "No"),
    ("0021.png", "Is it long? Please answer yes or no.", "No", ""),
]


def run(tmp_path, *arguments):
    main(["eval", "mme", *map(str, arguments), "--output", str(tmp_path / "out.json")])
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def test_the_command_on_a_folder_of_results(tmp_path, capsys):
    result = run(tmp_path, "--answers", results(tmp_path / "r", RESULTS))
    assert result.keys() >= {"metrics", "mode", "n", "unparsed", "versions"}
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 4, 1)
    assert result["metrics"] == {"score": 100.0, "accuracy": 0.5, "accuracy_plus": 0.5}
    assert result["tables"]["subtasks"]["artwork"]["images"] == 2
    assert "artwork" in capsys.readouterr().out
    better = [(*row[:3], row[2]) for row in RESULTS]
    compared = run(tmp_path, "--answers", tmp_path / "r", "--against", results(tmp_path / "s", better))["comparison"][
        "score"
    ]
    assert (compared["before"], compared["after"]) == (200.0, 100.0)


def test_the_command_on_llavas_lines(release, tmp_path):
    answers = write_lines(tmp_path / "a.jsonl", llava("artwork") + llava("code_reasoning", answers="No"))
    result = run(tmp_path, "--questions", release, "--answers", answers)
    assert result["metrics"] == {"score": 100.0, "accuracy": 0.5, "accuracy_plus": 0.0}
    assert [json.loads(line)["said"] for line in (tmp_path / "out.samples.jsonl").read_text().splitlines()] == (
        ["yes"] * 4 + ["no"] * 4
    )


def test_a_folder_of_results_to_given_questions(release, tmp_path):
    questions = read_questions(release)[:4]
    assert read_answers(results(tmp_path / "r", RESULTS[::-1]), questions) == [row[3] for row in RESULTS]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (llava()[:-1], "no answer to 1 questions, the first of them artwork/2/0021.png"),
        ([*llava(), llava()[0]], "row 5: found an answer to 'Is it code?' about artwork/0020.png for the second time"),
        ([*llava(), {**llava()[0], "prompt": "Why?"}], "row 5: found an answer to 'Why?' about artwork/0020.png"),
        ([*llava(), {**llava()[0], "question_id": "poster/0020.png"}], "row 5: found an answer to 'Is it code?'"),
        ([{"question_id": "artwork/0020.png", "text": "Yes"}], "row 1: found an answer to '' about artwork/0020.png"),
        ([{"text": "Yes"}], "an id under one of question_id"),
        ([{"question_id": "artwork/0020.png", "prompt": "Is it code?"}], "expected an answer under one of"),
        ([{**llava()[0], "text": 1}], "text of type int"),
    ],
)
def test_answers_that_do_not_fit(release, tmp_path, rows, message):
    with pytest.raises(InputError) as error:
        read_answers(write_lines(tmp_path / "a.jsonl", rows), read_questions(release)[:4])
    assert message in str(error.value)
    assert "a.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0020.png", "Is it?", "Perhaps", "Yes")], "artwork.txt, row 1: found the right answer 'Perhaps'"),
        ([RESULTS[0], ("0020.png", "Is it?")], "artwork.txt, row 2: found 2 columns"),
        ([(*RESULTS[0], "tab")], "artwork.txt, row 1: found 5 columns"),
        ([RESULTS[0], RESULTS[0]], "row 2: found the question"),
        ([RESULTS[0][:3]], "row 1: found no answer behind the question"),
    ],
)
def test_odd_results(tmp_path, capsys, rows, message):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--answers", results(tmp_path / "r", rows))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_template_without_answers_has_questions(tmp_path, release):
    template = results(tmp_path / "template", [row[:3] for row in RESULTS])
    answers = write_lines(tmp_path / "a.jsonl", llava())
    assert run(tmp_path, "--questions", template, "--answers", answers)["metrics"]["accuracy"] == 0.5


def test_folders_and_files_that_are_none(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no questions"):
        read_questions(tmp_path / "empty")
    with pytest.raises(InputError, match=r"found no \.txt file"):
        read_answers(tmp_path / "empty", pairs("count", 1))
    for arguments in (["--answers", write_lines(tmp_path / "a.jsonl", llava())], []):
        with pytest.raises(SystemExit):
            run(tmp_path, *arguments)
        assert "no --questions" in capsys.readouterr().err
    (tmp_path / "nan.jsonl").write_text('{"question_id": NaN}')
    with pytest.raises(InputError, match="NaN"):
        read_questions(tmp_path / "nan.jsonl")


def test_what_a_checkpoint_is_asked(release, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(command, "conclude", lambda name, mode, options, score, to_ask: found.extend(to_ask(release)))
    command.run(command.Options(questions=release, output=tmp_path / "out.json"))
    assert [one.id for one in found] == [one.id for one in read_questions(release)]
    assert found[0].text == "Is it code?"
    assert found[0].image == release / "artwork" / "images" / "0020.png"
    assert all(one.image.exists() for one in found)
    # What it answers is found again.
    rows = [{"question_id": one.id, "prompt": one.text, "text": one.id} for one in found]
    answers = read_answers(write_lines(tmp_path / "a.jsonl", rows), read_questions(release))
    assert answers == [one.id for one in found]


def test_a_folder_that_is_not_there():
    with pytest.raises(InputError, match="found no such file"):
        read_questions(Path("gone.jsonl"))
