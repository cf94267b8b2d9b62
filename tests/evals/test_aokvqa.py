"""A-OKVQA against the original script's answers, where those are at hand, and against counts by hand."""

import json

import pytest
from shared_data import golden

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.aokvqa import scorer as aokvqa
from vlm_jax.files import write_json_lines

ROWS = [
    {
        "question_id": "a",
        "image_id": 299207,
        "question": "Which pet?",
        "choices": ["cat", "dog", "cow", "pig"],
        "correct_choice_idx": 1,
        "direct_answers": ["dog"] * 4 + ["puppy"] * 2 + ["hound"] + ["cat"] * 3,
        "difficult_direct_answer": False,
    },
    {
        "question_id": "b",
        "image_id": 7,
        "question": "Which color?",
        "choices": ["red", "blue", "green", "pink"],
        "correct_choice_idx": 0,
        "direct_answers": ["red"] * 10,
        "difficult_direct_answer": False,
    },
    {
        "question_id": "c",
        "image_id": 7,
        "question": "How many?",
        "choices": ["1", "2", "3", "4"],
        "correct_choice_idx": 3,
        "direct_answers": ["4"] * 10,
        "difficult_direct_answer": True,
    },
]


@pytest.fixture
def write(tmp_path):
    def save(content, name="questions.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return save


def predictions(path, questions, strict=True, **how):
    return aokvqa.read_predictions(
        path, questions, how.get("task", "multiple_choice"), how.get("mode", "vlmevalkit"), strict
    )


def test_accuracies_equal_the_original(write):
    case = golden("aokvqa")
    questions = aokvqa.read_questions(write([{"image_id": 1, "question": "?", **row} for row in case["dataset"]]))
    assert len(case["cases"]) > 5
    for one in case["cases"]:
        task = "multiple_choice" if one["multiple_choice"] else "direct_answer"
        path = write({identity: {task: said} for identity, said in one["preds"].items()}, "predictions.json")
        if one["result"] == "AssertionError":
            with pytest.raises(InputError, match="multiple_choice 'Dog' for a; expected one of cat, dog, cow, pig"):
                predictions(path, questions, one["strict"])
            continue
        found = aokvqa.score(predictions(path, questions, one["strict"]).tasks, questions)
        assert found.metrics == {task: one["result"]}


def test_both_tasks_by_hand(write):
    questions = aokvqa.read_questions(write(ROWS))
    both = {
        "a": {"multiple_choice": "dog", "direct_answer": "puppy"},
        "b": {"multiple_choice": "blue", "direct_answer": "Red"},
        "c": {"multiple_choice": "4", "direct_answer": "4"},
    }
    read = predictions(write(json.dumps(both, indent=2), "p.json"), questions)
    assert read.mode == "official"
    found = aokvqa.score(read.tasks, questions)
    # Two of three; two thirds and nothing over the two that are not difficult.
    assert found.metrics == pytest.approx({"multiple_choice": 200 / 3, "direct_answer": 100 / 3})
    assert found.tally.values() == pytest.approx(found.metrics)
    assert list(found.tally.units) == ["299207", "7"]
    assert found.baselines["all B"] == {"multiple_choice": pytest.approx(100 / 3)}
    assert found.tables["by letter of the right choice"]["A"] == {"multiple_choice": 0.0, "questions": 1}
    assert found.unparsed == 0
    assert found.per_sample[2] == {
        "question_id": "c",
        "image": "7",
        "question": "How many?\nA. 1\nB. 2\nC. 3\nD. 4",
        "right": "4",
        "multiple_choice": "4",
        "multiple_choice_value": 1.0,
        "direct_answer": "4",
        "direct_answer_value": None,
        "fault": 0.0,
    }


def test_without_strictness_missing_and_odd_predictions_are_wrong(write):
    questions = aokvqa.read_questions(write(ROWS))
    path = write({"a": {"multiple_choice": "Dog"}, "c": {"multiple_choice": "4"}, "x": {"multiple_choice": "4"}}, "p")
    found = aokvqa.score(predictions(path, questions, strict=False).tasks, questions)
    assert found.metrics == {"multiple_choice": pytest.approx(100 / 3)}
    assert found.unparsed == 1
    assert found.remarks == ("1 predictions for other questions are left out",)
    with pytest.raises(InputError, match="no multiple_choice for 1 of 3 questions, b among them"):
        predictions(path, questions)


def test_text_for_other_questions_is_counted(write):
    questions = aokvqa.read_questions(write(ROWS))
    rows = [{"question_id": name, "text": "A"} for name in "abcx"]
    found = aokvqa.score(predictions(write(rows, "p"), questions).tasks, questions)
    assert found.remarks == ("1 predictions for other questions are left out",)


def free_text(path, texts):
    write_json_lines(path, [{"question_id": identity, "text": text} for identity, text in texts.items()])
    return path


@pytest.mark.parametrize(
    ("mode", "read"),
    [
        ("vlmevalkit", {"a": "dog", "b": "red", "c": ""}),
        ("lmms-eval", {"a": "", "b": "red", "c": ""}),
        ("exact", {"a": "[B]", "b": "red", "c": "no idea"}),
    ],
)
def test_choices_in_free_text(tmp_path, write, mode, read):
    questions = aokvqa.read_questions(write(ROWS))
    path = free_text(tmp_path / "answers.jsonl", {"a": "[B]", "b": "red", "c": "no idea"})
    found = predictions(path, questions, mode=mode)
    assert found[:2] == ({"multiple_choice": read}, mode)
    right = sum(read[row["question_id"]] == row["choices"][row["correct_choice_idx"]] for row in ROWS)
    scored = aokvqa.score(found.tasks, questions)
    assert scored.metrics == {"multiple_choice": pytest.approx(100 * right / 3)}
    assert scored.unparsed == 3 - right


def test_direct_answers_in_free_text(tmp_path, write):
    questions = aokvqa.read_questions(write(ROWS))
    path = free_text(tmp_path / "answers.jsonl", {"a": "A Dog.", "b": "red"})
    found = predictions(path, questions, task="direct_answer")
    assert found == ({"direct_answer": {"a": "dog", "b": "red"}}, "evalai", {"a": "A Dog.", "b": "red"})
    assert aokvqa.score(found.tasks, questions).metrics == {"direct_answer": 100.0}
    found = predictions(path, questions, task="direct_answer", mode="exact")
    assert found[:2] == ({"direct_answer": {"a": "A Dog.", "b": "red"}}, "exact")
    assert aokvqa.score(found.tasks, questions).metrics == {"direct_answer": 50.0}
    path = free_text(tmp_path / "answers.jsonl", {"a": "The", "b": "red " * 300_000})
    found = aokvqa.score(predictions(path, questions, task="direct_answer").tasks, questions)
    assert (found.metrics, found.unparsed) == ({"direct_answer": 0.0}, 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"correct_choice_idx": 4}, "row 2: found correct_choice_idx 4"),
        ({"choices": []}, r"row 2: found choices \[\]"),
        ({"choices": "red"}, "row 2: found choices red"),
        ({"direct_answers": [1]}, "row 2: found direct_answers of type int"),
        ({"difficult_direct_answer": "no"}, "row 2: found difficult_direct_answer 'no'"),
        ({"question_id": "a"}, "row 2: found question_id a for the second time"),
        ({"question": None}, "row 2: found question of type NoneType"),
    ],
)
def test_other_questions(write, change, found):
    with pytest.raises(InputError, match=found):
        aokvqa.read_questions(write([ROWS[0], {**ROWS[1], **change}]))


def test_a_split_without_answers(write):
    hidden = {key: value for key, value in ROWS[0].items() if key not in ("correct_choice_idx", "direct_answers")}
    with pytest.raises(InputError, match="row 1: found no 'direct_answers' among the keys"):
        aokvqa.read_questions(write([hidden]))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "p.json: found no predictions"),
        ({"a": {}}, "p.json: found no predictions"),
        ('{"a": {"multiple_choice": "\\ud800"}}', "row 1: found multiple_choice with a lone surrogate"),
        ('{"a": {"multiple_choice": "cat"}, "a": {"multiple_choice": "dog"}}', "the key 'a' for the second time"),
        ({"a": {"multiple_choice": 3}}, "p.json, row 1: found multiple_choice of type int"),
        ('{"a": {"multiple_choice": "cat"},\n"b": 3}', "p.json, row 2: found b: 3"),
        ('{"a": {"multiple_choice":\n NaN}}', "p.json: found NaN"),
        ('{"a": {"multiple_choice":\n', "p.json: found malformed JSON at line 2"),
        ('{"question_id": "a", "text": "cat"', "p.json: found malformed JSON at line 1"),
        ([{"question_id": "a", "text": "cat"}] * 2, "row 2: found question_id a for the second time"),
        ([{"question_id": "a"}], "expected an answer under one of"),
        ([{"question_id": "a", "text": "cat"}], "no multiple_choice for 2 of 3 questions, b among them"),
        ("", "p.json: found no rows|found malformed JSON"),
    ],
)
def test_other_predictions(write, content, found):
    questions = aokvqa.read_questions(write("\ufeff" + json.dumps(ROWS, indent=1).replace("\n", "\r\n")))
    with pytest.raises(InputError, match=found):
        predictions(write(content, "p.json"), questions)


def test_command(tmp_path, write, capsys):
    questions, out = write(ROWS), tmp_path / "out.json"
    both = {row["question_id"]: {"multiple_choice": row["choices"][1], "direct_answer": "red"} for row in ROWS}
    own, llava = write(both, "own.json"), free_text(tmp_path / "llava.jsonl", dict.fromkeys("abc", "B"))
    command = ["eval", "aokvqa", f"--questions={questions}", f"--output={out}"]
    main([*command, f"--answers={own}"])
    result = json.loads(out.read_text())
    assert result["metrics"] == pytest.approx({"multiple_choice": 100 / 3, "direct_answer": 50})
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 3, 0)
    assert "jax" in result["versions"]
    main([*command, f"--answers={llava}", f"--against={llava}"])
    result = json.loads(out.read_text())
    assert (result["mode"], result["comparison"]["multiple_choice"]["difference"]) == ("vlmevalkit", 0)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*command, f"--answers={own}", f"--against={llava}"])
    assert stopped.value.code == 2
    assert "found multiple_choice; expected multiple_choice and direct_answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "text", "suffix", "reply"),
    [
        ("multiple_choice", "Which pet?\nA. cat\nB. dog\nC. cow\nD. pig", "letter", "B"),
        ("direct_answer", "Which pet?", "short", "Dog"),
    ],
)
def test_a_checkpoint_is_asked_as_llava_was(tmp_path, write, asked, task, text, suffix, reply):
    asked.reply = lambda ask: reply
    command = ["eval", "aokvqa", f"--questions={write(ROWS)}", "--checkpoint=tiny", f"--images={tmp_path}"]
    main([*command, f"--task={task}", f"--output={tmp_path / 'out.json'}"])
    assert [ask.id for ask in asked.to_ask] == ["a", "b", "c"]
    assert asked.to_ask[0].text == text
    assert asked.to_ask[0].image == tmp_path / "000000299207.jpg"
    assert asked.options.suffix == suffix
    result = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert result == pytest.approx({task: 100 / 3 if task == "multiple_choice" else 50.0})
