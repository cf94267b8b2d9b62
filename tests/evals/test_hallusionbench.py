"""HallusionBench against its script's own aggregates on the real questions, where those are at hand, and by hand."""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from shared_data import golden, shared_file

from vlm_jax.cli import main
from vlm_jax.commands.eval import hallusionbench as command
from vlm_jax.commands.eval.answering import Answering
from vlm_jax.errors import InputError
from vlm_jax.evals.hallusionbench import scorer as hallusionbench
from vlm_jax.evals.hallusionbench.files import Question, read_judged, read_questions
from vlm_jax.evals.hallusionbench.verdicts import by_rule, causes

ACCURACIES = {
    "q_acc": ("qAcc", "pair"),
    "f_acc": ("fAcc", "fig"),
    "easy_group_acc": ("easy_aAcc", "easy"),
    "hard_group_acc": ("hard_aAcc", "hard"),
    "a_acc": ("aAcc", "all"),
}


@pytest.fixture(scope="module")
def real():
    recorded = golden("hallusionbench_aggregate")["cases"]
    return read_questions(shared_file("hallusionbench/HallusionBench.json")), recorded


def drawn(number):
    rng = random.Random(0)
    return [rng.choices([0, 1, 2], [3, 6, 1])[0] for _ in range(number)]


VERDICTS = {
    "all_correct": lambda number: [1] * number,
    "all_wrong": lambda number: [0] * number,
    "all_unclear": lambda number: [2] * number,
    "seed0": drawn,
}


@pytest.mark.parametrize("case", VERDICTS)
def test_aggregates_equal_the_script(real, case):
    questions, recorded = real[0], real[1][case]
    number = len(questions)
    scored = hallusionbench.score(
        [""] * number, questions, "official", VERDICTS[case](number), [place % 2 == 1 for place in range(number)]
    )
    assert {name: scored.metrics[name] for name in ACCURACIES} == {
        name: recorded[theirs] for name, (theirs, _) in ACCURACIES.items()
    }
    counts = scored.tables["right of all"]
    assert {name: [counts[name]["right"], counts[name]["all"]] for name in ACCURACIES} == {
        name: recorded["counts"][key][:2] for name, (_, key) in ACCURACIES.items()
    }
    assert scored.metrics["figure_score"] == round(recorded["fig_score"], 4)
    found = scored.tables["causes of wrong answers"]
    order = ("language_hallucination", "visual_illusion", "mixed")
    assert [found[name]["questions"] for name in order] == recorded["LH_VI_Mix"]
    assert [found[name]["answers"] for name in order] == recorded["LH_VI_Mix_cg"]
    every = sum(recorded["LH_VI_Mix_cg"])
    assert [scored.metrics[name] for name in order] == [
        round(100 * one / every, 4) if every else 0.0 for one in recorded["LH_VI_Mix_cg"]
    ]
    bias = scored.metrics["yes_percentage_difference"], scored.metrics["false_positive_ratio"]
    if case == "all_correct":
        # The script divides by zero.
        assert bias == (0.0, 0.0)
    else:
        assert bias == (recorded["yes_ratio"]["diff"], recorded["yes_ratio"]["fp"])


def test_published_figures_are_fractions_of_these_parts(real):
    """LLaVA-1.5's line of the leaderboard: easy and hard are shares of questions and not of answers."""
    questions = real[0]
    scored = hallusionbench.score([""] * len(questions), questions, "official", [1] * len(questions))
    parts = {name: row["all"] for name, row in scored.tables["right of all"].items()}
    assert parts == {"a_acc": 1129, "f_acc": 346, "q_acc": 455, "easy_group_acc": 455, "hard_group_acc": 430}
    published = {
        "a_acc": (530, 46.94),
        "f_acc": (86, 24.86),
        "q_acc": (48, 10.55),
        "easy_group_acc": (226, 49.67),
        "hard_group_acc": (128, 29.77),
    }
    for name, (right, percent) in published.items():
        assert round(float(100 * Fraction(right, parts[name])), 2) == percent
    answers = {"easy": sum(one.visual_input != 2 for one in questions)}
    answers["hard"] = len(questions) - answers["easy"]
    assert answers == {"easy": 625, "hard": 504}
    for name, percent in (("easy", 49.67), ("hard", 29.77)):
        shares = (round(100 * right / answers[name], 2) for right in range(answers[name] + 1))
        assert percent not in shares


def test_subsets_of_the_real_questions(real):
    questions = real[0]
    scored = hallusionbench.score([""] * len(questions), questions, "official", [2] * len(questions))
    assert {name: row["answers"] for name, row in scored.tables["by category"].items()} == {"VD": 591, "VS": 538}
    assert sum(row["answers"] for row in scored.tables["by subcategory"].values()) == 1129
    assert len(scored.tables["by subcategory"]) == 9
    # Not to know is right where there is no figure.
    assert scored.tables["by category"]["VS"]["a_acc"] == round(100 * 178 / 538, 4)
    assert scored.tables["by category"]["VD"]["a_acc"] == 0.0
    assert scored.metrics["unclear"] == 1129


def asked(category, set_id, figure, question, shown, label, text="?"):
    return Question(category, "map", str(set_id), str(figure), str(question), shown, label, text, None)


# Two questions about an original figure and its twin, and one question without and with a figure.
SMALL = [
    asked("VD", 0, 0, 0, 1, "yes"),
    asked("VD", 0, 0, 1, 1, "no"),
    asked("VD", 0, 1, 0, 2, "no"),
    asked("VD", 0, 1, 1, 2, "yes"),
    asked("VS", 0, 0, 0, 0, "yes"),
    asked("VS", 0, 1, 0, 1, "yes"),
    asked("VS", 0, 2, 0, 2, "no"),
]


def small(verdicts, same=None):
    return hallusionbench.score(["yes"] * 7, SMALL, "official", verdicts, same)


def test_aggregates_by_hand():
    scored = small([1, 1, 1, 0, 2, 1, 0])
    expected = {
        "a_acc": (5, 7),  # Not to know counts without a figure.
        "f_acc": (2, 4),  # VD 0 and VS 1; VD 1 is half right, VS 2 wrong, and VS 0 is none.
        "q_acc": (1, 3),  # VD question 0.
        "easy_group_acc": (3, 3),
        "hard_group_acc": (1, 3),
    }
    for name, (right, all_) in expected.items():
        assert scored.tables["right of all"][name] == {"right": right, "all": all_}
        assert scored.metrics[name] == round(100 * right / all_, 4)
    assert scored.tables["answers about a figure"]["inconsistent"] == {"figures": 1, "percent": 25.0}
    assert scored.tables["answers about a figure"]["wrong"] == {"figures": 1, "percent": 25.0}
    assert scored.metrics["figure_score"] == 0.625
    # Two errors, one where no was right. Answers that amount to yes: 0, 4 (right to a yes), 5 and 6.
    assert scored.metrics["false_positive_ratio"] == 0.5
    assert scored.metrics["yes_percentage_difference"] == 0.0
    assert scored.metrics["unclear"] == 1
    assert "language_hallucination" not in scored.metrics
    assert [row["right"] for row in scored.per_sample] == [1, 1, 1, 0, 1, 1, 0]


def test_intervals_are_over_sets():
    assert list(small([1] * 7).tally.units) == ["VD_map_0", "VS_map_0"]
    low, high = small([1, 1, 1, 1, 0, 0, 0]).tally.intervals()["q_acc"]
    assert (low, high) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("verdicts", "same", "expected"),
    [
        # The original: sight with a figure, language without.
        ([0, 2, 1, 1, 0, 1, 1], [1] * 7, ["sight", "sight", None, None, "language", None, None]),
        # The twin after a right answer about the original: the same again may be either, another one is sight.
        ([1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1], [None, None, "either", "sight", None, None, None]),
        ([1, 1, 2, 2, 1, 1, 1], [1] * 7, [None, None, "sight", "sight", None, None, None]),
        # The twin after a wrong answer.
        ([0, 2, 0, 0, 1, 1, 1], [1] * 7, ["sight", "sight", "sight", "sight", None, None, None]),
        # With a figure after a wrong answer without: the same again is language, all else either.
        ([1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0], [None] * 4 + ["language", "language", "either"]),
        ([1, 1, 1, 1, 0, 2, 2], [1] * 7, [None] * 4 + ["language", "either", "either"]),
        # After not knowing.
        ([1, 1, 1, 1, 2, 0, 2], [1] * 7, [None] * 5 + ["sight", "sight"]),
        # After a right answer without a figure: an edited figure that changes nothing is language.
        ([1, 1, 1, 1, 1, 0, 0], [1] * 7, [None] * 5 + ["sight", "language"]),
        ([1, 1, 1, 1, 1, 2, 0], [0] * 7, [None] * 5 + ["sight", "sight"]),
    ],
)
def test_causes_of_wrong_answers(verdicts, same, expected):
    assert causes(SMALL, verdicts, [bool(one) for one in same]) == expected


def test_a_question_with_several_causes_is_mixed():
    scored = small([1, 1, 1, 1, 0, 1, 2], [True] * 7)
    assert scored.tables["causes of wrong answers"] == {
        "language_hallucination": {"answers": 1, "questions": 0},
        "visual_illusion": {"answers": 0, "questions": 0},
        "mixed": {"answers": 1, "questions": 1},
    }
    assert scored.metrics["language_hallucination"] == scored.metrics["mixed"] == 50.0
    assert scored.tally.intervals().keys() >= {"visual_illusion"}


def test_causes_need_the_original():
    with pytest.raises(InputError, match="no question VD_map_0_0 about figure 0"):
        causes(SMALL[2:], [1] * 5, [True] * 5)
    # Accuracies do not.
    assert hallusionbench.score(["no"] * 5, SMALL[2:], "rule").metrics["a_acc"] == 40.0


@pytest.mark.parametrize(
    ("answer", "label", "verdict"),
    [
        ("Yes", "yes", 1),
        ("no.", "yes", 0),
        ("No, it is not.", "no", 1),
        ("It is larger.", "no", 2),
        ("Yes and no", "yes", 2),
        ("", "no", 2),
        ("I cannot know", "no", 2),
    ],
)
def test_the_rule(answer, label, verdict):
    assert by_rule(answer, label) == verdict


def test_the_rule_over_all():
    scored = hallusionbench.score(["Yes", "Yes", "No", "?", "?", "Yes", "No."], SMALL, "rule")
    assert [row["verdict"] for row in scored.per_sample] == [1, 0, 1, 2, 2, 1, 1]
    assert [row["right"] for row in scored.per_sample] == [1, 0, 1, 0, 1, 1, 1]
    assert scored.unparsed == 2
    assert any("not by the official judge" in remark for remark in scored.remarks)
    assert scored.baselines["all yes"]["a_acc"] == round(100 * 4 / 7, 4)
    assert scored.baselines["all no"]["a_acc"] == round(100 * 3 / 7, 4)
    assert scored.baselines["all unclear"]["a_acc"] == round(100 / 7, 4)


def test_nothing_is_no_division_by_zero():
    assert hallusionbench.score([], [], "rule").metrics["a_acc"] == 0.0


@pytest.mark.parametrize(("answers", "verdicts"), [(["a"] * 7, None), (["a"] * 7, [3] * 7), (["a"], [1] * 7)])
def test_verdicts_that_are_none(answers, verdicts):
    with pytest.raises(ValueError, match="HallusionBench needs an answer and a verdict"):
        hallusionbench.score(answers, SMALL, "official", verdicts)


def row(one, **more):
    names = dict(zip(("category", "subcategory", "set_id", "figure_id", "question_id"), one[:5], strict=True))
    return names | {
        "visual_input": str(one.visual_input),
        "sample_note": "a note",
        "question": f"Is {one.id} so?",
        "gt_answer_details": "It is.",
        "gt_answer": "1" if one.label == "yes" else "0",
        "filename": None if one.visual_input == 0 else f"./{one.category}/map/{one.set_id}_{one.figure_id}.png",
        **more,
    }


VERDICT = "gpt4v_output_gpt_check"


@pytest.fixture
def files(tmp_path):
    """Writes HallusionBench's questions and judged answers as the script does; gives their folder."""
    (tmp_path / "data.json").write_text(json.dumps([row(one) for one in SMALL]), encoding="utf-8")
    folder = tmp_path / "judged"
    folder.mkdir()
    judged = [
        row(one, model_prediction="Yes.", same="1", **{VERDICT: verdict})
        for one, verdict in zip(SMALL, ["1", "1", "1", "0", "2", 1, 0], strict=True)
    ]
    for name in ("VD", "VS"):
        rows = [one for one in judged if one["category"] == name]
        (folder / f"hallusion_output_{name.lower()}_model.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def run(files, answers, *more):
    start = ["--data", files / "data.json", "--answers", answers, "--output", files / "out.json"]
    main(["eval", "hallusionbench", *map(str, (*start, *more))])
    return json.loads((files / "out.json").read_text(encoding="utf-8"))


def test_the_command_on_the_scripts_files(files, capsys):
    result = run(files, files / "judged")
    assert result.keys() >= {"metrics", "mode", "n", "unparsed", "versions"}
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 7, 0)
    assert result["metrics"]["a_acc"] == round(100 * 5 / 7, 4)
    assert result["metrics"]["mixed"] == 50.0
    assert "easy_group_acc" in capsys.readouterr().out
    joined = [one for file in sorted((files / "judged").iterdir()) for one in json.loads(file.read_text())]
    (files / "joined.json").write_text(json.dumps(joined))
    assert run(files, files / "joined.json")["metrics"] == result["metrics"]


def test_the_command_on_llavas_lines(files):
    lines = [{"question_id": one.id, "prompt": f"Is {one.id} so?\nShort!", "text": "Yes"} for one in SMALL]
    (files / "lines.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, lines)).encode())
    result = run(files, files / "lines.jsonl", "--mode", "rule", "--against", files / "judged")
    assert result["metrics"]["a_acc"] == round(100 * 4 / 7, 4)
    assert result["mode"] == "rule"
    assert "language_hallucination" not in result["metrics"]
    assert result["comparison"]["a_acc"]["difference"] == 0.0


def test_another_key_for_verdicts(files):
    rows = [row(one, model_prediction="?", mine=0) for one in SMALL]
    (files / "mine.json").write_text(json.dumps(rows))
    assert run(files, files / "mine.json", "--verdict-key", "mine")["metrics"]["a_acc"] == 0.0


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


def refused(files, capsys, answers, *more):
    with pytest.raises(SystemExit) as stopped:
        run(files, answers, *more)
    assert stopped.value.code == 2
    assert not (files / "out.json").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], "no answer to VS_map_0_1_0, VS_map_0_2_0"),
        (lambda rows: [*rows, rows[0]], "row 8: found an answer to VD_map_0_0_0 for the second time"),
        (lambda rows: [*rows, rows[0] | {"set_id": "9"}], "answers to VD_map_9_0_0; expected ids among the 7"),
        (lambda rows: [rows[0] | {VERDICT: "3"}, *rows[1:]], f"row 1: found {VERDICT} '3'; expected {VERDICT} 0 or 1"),
        (lambda rows: [rows[0] | {VERDICT: True}, *rows[1:]], f"row 1: found {VERDICT} of type bool"),
        (lambda rows: [rows[0] | {"same": "2"}, *rows[1:]], "row 1: found same '2'"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != VERDICT}, *rows[1:]], "no verdict"),
        (
            lambda rows: [{k: v for k, v in rows[0].items() if k != "same"}, *rows[1:]],
            "no second judgement (same) on 1",
        ),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "set_id"}, *rows[1:]], "no 'set_id'"),
        (lambda rows: [rows[0] | {"model_prediction": None}, *rows[1:]], "model_prediction of type NoneType"),
        (lambda rows: [rows[0] | {"question": "Another?"}, *rows[1:]], "as an answer to 'Another?'"),
    ],
)
def test_answers_that_do_not_fit(files, capsys, change, message):
    rows = [row(one, model_prediction="Yes", same="1", **{VERDICT: "1"}) for one in SMALL]
    (files / "odd.json").write_text(json.dumps(change(rows)))
    assert message in refused(files, capsys, files / "odd.json")


def test_answers_that_nobody_judged(files, capsys):
    (files / "plain.json").write_text(json.dumps([row(one, model_prediction="Yes") for one in SMALL]))
    assert f"no verdict ({VERDICT}) on 7 answers" in refused(files, capsys, files / "plain.json")
    options = command.Options(
        data=files / "data.json", output=files / "out.json", answering=Answering(checkpoint="tiny", images=files)
    )
    with pytest.raises(InputError, match="nobody has judged; expected --mode rule"):
        command.run(options)
    (files / "empty").mkdir()
    assert "no .json or .jsonl file" in refused(files, capsys, files / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "VX"}, "category 'VX'; expected VD or VS"),
        ({"visual_input": "3"}, "visual_input '3'; expected visual_input 0 or 1 or 2"),
        ({"gt_answer": "yes"}, "gt_answer 'yes'; expected gt_answer 0 or 1"),
        ({"gt_answer": 1.0}, "gt_answer of type float"),
        ({"filename": 1}, "filename of type int"),
        ({"figure_id": "1"}, "question VD_map_0_1_0 for the second time"),
        ({"question": None}, "question of type NoneType"),
    ],
)
def test_odd_questions(files, change, message):
    rows = [row(SMALL[2]), row(SMALL[0]) | change]
    (files / "data.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"data\.json, row 2: found ") as error:
        read_questions(files / "data.json")
    assert message in str(error.value)


def test_nan_is_no_verdict(files):
    (files / "nan.jsonl").write_text('{"question_id": "VD_map_0_0_0", "text": "Yes", "same": NaN}')
    with pytest.raises(InputError, match="row 1: found NaN, which is not JSON"):
        read_judged(files / "nan.jsonl")


def test_what_a_checkpoint_is_asked(files, monkeypatch):
    found = []
    monkeypatch.setattr(
        command,
        "conclude",
        lambda name, mode, options, score, to_ask: found.extend(to_ask(Path("root"))),
    )
    command.run(command.Options(data=files / "data.json", output=files / "out.json"))
    assert [one.id for one in found] == [one.id for one in SMALL]
    assert found[0].text == "Is VD_map_0_0_0 so?"
    assert found[0].image == Path("root/VD/map/0_0.png")
    assert found[4].image is None
