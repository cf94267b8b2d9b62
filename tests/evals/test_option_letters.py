"""Letters of options in free text, against the original rules' answers where those are at hand."""

import pytest
from shared_data import golden

from vlm_jax.evals.reading.option_letters import find, lmms_eval, robust, vlmevalkit

PETS = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


def test_letters_equal_the_original():
    cases = golden("mmbench_option_extraction")
    assert len(cases) > 10
    for rule, column in (("vlmevalkit", "vlmevalkit"), ("lmms-eval", "lmms_eval")):
        found = {case["text"]: find(case["text"], case["choices"], rule) or False for case in cases}
        assert found == {case["text"]: case[column] for case in cases}


@pytest.mark.parametrize(
    ("answer", "ours", "theirs"),
    [
        ("", None, None),
        ("The answer is A", "A", None),
        ("[C]", "C", None),
        ("B, C", None, "C"),
        ("E", None, "E"),
        ("A cat is in the image", "C", "C"),
        # A letter has to be among the last four words.
        ("B is what I see there now", None, "B"),
        ("I see there B and so on", "B", "B"),
        # No end of a word behind "answer is", and only the first of these counts.
        ("Certainly the answer is blue and not any of the others", "B", None),
        ("Some answer is a, my answer is D or so, all in all", "A", "D"),
        ("The correct answer is **b**", "B", None),
        # The text of one option, in an answer that is not too long.
        ("CAT", "C", "C"),
        ("cat or dog", None, None),
        ("cat" + " and so on" * 10, None, "C"),
        ("I can't process this file. A", "Z", None),
        ("I can't process this file. B", "Z", "B"),
        ("Failed to obtain answer via API: A", None, None),
        ("Failed to obtain answer via API: cat", "C", "C"),
        ("Z", "Z", None),
        ("A or Z", "A", "A"),
        ("A. A)", "A", "A"),
        (":D). yes", "D", "D"),
        ("x" * 1_000_000, None, None),
    ],
)
def test_two_rules(answer, ours, theirs):
    assert (vlmevalkit(answer, PETS), lmms_eval(answer, PETS)) == (ours, theirs)


def test_options_that_are_not_there():
    two = {"A": "yes", "B": "no"}
    assert vlmevalkit("C", two) is None
    assert lmms_eval("C", two) == "C"
    assert vlmevalkit("the answer is C", two) is None
    assert vlmevalkit("E", {**PETS, "E": "fox"}) == "E"
    # The text of a fifth option is not looked for by lmms-eval.
    assert (vlmevalkit("fox", {**PETS, "E": "fox"}), lmms_eval("fox", {**PETS, "E": "fox"})) == ("E", None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", None),
        ("...", None),
        ("no letter", None),
        ("A", "A"),
        ("A small cat", "A"),
        ("it is (B) or (C), I say so", "C"),
        ("B) it is", "B"),
        ("(A) is wrong, so I take B", "B"),
        ("I choose C over the rest", "C"),
        ("the answer is A. No, my answer is B or A, I say so", "A"),
        ("答案是B吧", "B"),
        ("seeDthere", "D"),
        ("xC: yD. z", "D"),
        ("'\"B\"'", "B"),
        ("E", None),
    ],
)
def test_robust(answer, expected):
    assert robust(answer, list(PETS)) == expected
