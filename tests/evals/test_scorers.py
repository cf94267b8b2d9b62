"""Scorers against the original scripts' answers, where those are at hand, and against counts by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from vlm_jax.evals import chair, mmhal, pope
from vlm_jax.evals.bootstrap import ratio, ratio_interval

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden_evals.json"


def pope_score(answers, labels):
    """Every question about an image of its own."""
    return report(answers, labels, [str(i) for i in range(len(answers))])


def counts_of(answers, labels, images):
    return pope.confusion([pope.parse(answer) for answer in answers], labels, images)


def report(answers, labels, images):
    return pope.tally(*counts_of(answers, labels, images)).report()


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.is_file():
        pytest.skip(f"needs the recorded answers of the original scripts ({GOLDEN.name})")
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_pope_parse_equals_the_original(golden):
    cases = golden["pope_answer_parsing"]
    assert len(cases) > 10
    assert {case["text"]: pope.parse(case["text"]) for case in cases} == {c["text"]: c["official"] for c in cases}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes, it is.", "yes"),
        ("No, it is not.", "no"),
        ("There is no dog", "no"),
        ("There is, no, wait. yes", "no"),
        ("Yes. No.", "yes"),
        ("Nothing", "yes"),
        ("NO", "yes"),
        ("Not here", "yes"),
        ("it is not", "no"),
        ("", "yes"),
    ],
)
def test_pope_parse(answer, expected):
    assert pope.parse(answer) == expected


def test_pope_metrics_equal_the_original(golden):
    case = golden["pope_metrics_example"]
    found, expected = pope_score(case["pred"], case["gt"]), case["official"]
    names = {"accuracy": "acc", "precision": "precision", "recall": "recall", "f1": "f1", "yes_rate": "yes_ratio"}
    assert {ours: found[ours] for ours in names} == pytest.approx({o: expected[n] for o, n in names.items()})


@pytest.mark.parametrize(
    ("true_positive", "false_positive", "true_negative", "false_negative"),
    [(3, 2, 4, 1), (1183, 31, 1379, 317), (5, 0, 5, 0), (0, 4, 4, 2)],
)
def test_pope_counts(true_positive, false_positive, true_negative, false_negative):
    yes, no = true_positive + false_positive, true_negative + false_negative
    labels = ["yes"] * true_positive + ["no"] * (false_positive + true_negative) + ["yes"] * false_negative
    found = pope_score(["Yes."] * yes + ["No."] * no, labels)
    precision = true_positive / yes
    recall = true_positive / (true_positive + false_negative)
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall) if true_positive else 0.0)
    assert found["accuracy"] == pytest.approx((true_positive + true_negative) / (yes + no))
    assert found["yes_rate"] == pytest.approx(yes / (yes + no))
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high


def test_pope_resamples_images_with_all_their_questions():
    """Ten questions an image, all right or all wrong, tell no more than one question an image."""
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.7
    answers, labels = ["Yes" if hit else "No" for hit in right], ["yes"] * 80
    once = report(answers, labels, [f"{i:03d}" for i in range(80)])
    often = report(answers * 10, labels * 10, [f"{i:03d}" for i in range(80)] * 10)
    assert often["accuracy_interval"] == pytest.approx(once["accuracy_interval"])
    assert once["f1_interval"][0] < once["f1"] < once["f1_interval"][1]


def test_pope_over_settings_is_the_mean_of_each():
    images = ["a", "a", "b", "b"]
    labels = ["yes", "no", "yes", "no"]
    settings = [
        counts_of(answers, labels, images) for answers in (["Yes"] * 4, ["No"] * 4, ["Yes", "No", "Yes", "Yes"])
    ]
    apart = [pope.tally(*one).values() for one in settings]
    together = pope.tally(settings[0][0], *(counts for _, counts in settings)).values()
    for name in ("accuracy", "precision", "recall", "f1", "yes_rate"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in apart]))


def test_pope_without_a_positive_is_no_division_by_zero():
    found = pope_score(["No", "No"], ["yes", "no"])
    assert (found["precision"], found["recall"], found["f1"], found["yes_rate"]) == (0, 0, 0, 0)
    assert found["accuracy"] == 0.5
    assert pope_score(["No"], ["no"])["recall"] == 0.0
    assert pope_score([], [])["accuracy"] == 0.0


@pytest.mark.parametrize(("answers", "labels"), [(["Yes"], []), (["Yes"], ["Yes"]), (["Yes", "No"], ["yes", "maybe"])])
def test_pope_refuses_labels_that_do_not_fit(answers, labels):
    with pytest.raises(ValueError, match="POPE needs one yes/no label"):
        counts_of(answers, labels, ["a.png"] * len(answers))


def test_chair_by_hand():
    mentions = [["dog", "dog", "cat"], ["sun"], [], ["tree", "bird", "fox"]]
    present = [{"dog"}, {"sun", "moon"}, {"cat"}, {"tree"}]
    found = chair.report(mentions, present)
    # Mentions count with repeats: cat, bird and fox of seven; captions 1 and 4 of four; dog, sun and tree of five.
    assert found["hallucinated"] == 3
    assert found["mentions"] == 7
    assert found["chair_i"] == pytest.approx(3 / 7)
    assert found["chair_s"] == pytest.approx(2 / 4)
    assert found["recall"] == pytest.approx(3 / 5)
    for name in ("chair_i", "chair_s", "recall"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] <= high <= 1


def test_the_change_of_chair_is_paired():
    """Where both models err on the same images, the images are no reason to doubt the change."""
    rng = np.random.default_rng(0)
    present = [{"dog"}] * 200
    wrong = rng.random(200) < 0.3
    before = chair.report([["dog", "cat"] if w else ["dog", "dog"] for w in wrong], present)
    after = chair.report([["dog", "dog"]] * 200, present)
    assert chair.change_interval(before, before) == (0.0, 0.0)
    low, high = chair.change_interval(before, after)
    assert low < -before["chair_i"] < high < 0


def test_chair_without_mentions_is_no_division_by_zero():
    found = chair.report([[], []], [{"dog"}, set()])
    assert (found["chair_i"], found["chair_s"], found["recall"]) == (0, 0, 0)
    assert chair.report([], [])["chair_i"] == 0
    with pytest.raises(ValueError, match="one set of objects a caption"):
        chair.report([["dog"]], [])


def test_mmhal_by_hand():
    found = mmhal.score([6, 2, 3, 0], ["attribute", "counting", "attribute", "counting"])
    assert found["score"] == pytest.approx(11 / 4)
    assert found["hallucination_rate"] == pytest.approx(2 / 4)
    assert found["by_type"] == {"attribute": 4.5, "counting": 1.0}
    assert mmhal.score([], [])["score"] == 0.0


@pytest.mark.parametrize(("ratings", "types"), [([7], ["a"]), ([-1], ["a"]), ([3], [])])
def test_mmhal_refuses_what_is_no_rating(ratings, types):
    with pytest.raises(ValueError, match="MMHal needs one type"):
        mmhal.score(ratings, types)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, ones, runs = np.random.default_rng(0), np.ones(200), 300
    hits = 0
    for run in range(runs):
        low, high = ratio_interval((rng.random(200) < 0.3).astype(float), ones, seed=run)
        hits += low <= 0.3 <= high
    # Five standard errors around 95 %.
    assert abs(hits / runs - 0.95) < 0.063


def test_intervals_narrow_with_the_root_of_the_sample():
    rng = np.random.default_rng(0)
    widths = {}
    for count in (100, 1600):
        low, high = ratio_interval((rng.random(count) < 0.5).astype(float), np.ones(count))
        widths[count] = high - low
    assert widths[100] == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.2)
    assert widths[100] / widths[1600] == pytest.approx(4, rel=0.25)


def test_intervals_of_ratios_resample_both_sides_together():
    # Every sample has ratio 1/2, whatever its size: there is nothing to be unsure about.
    sizes = np.array([2.0, 10.0, 4.0, 100.0])
    assert ratio_interval(sizes / 2, sizes) == (0.5, 0.5)


def test_intervals_are_repeatable_and_survive_nothing():
    values, ones = np.arange(10.0), np.ones(10)
    assert ratio_interval(values, ones) == ratio_interval(values, ones)
    assert ratio_interval(values, ones, seed=1) != ratio_interval(values, ones, seed=2)
    nothing = np.zeros(0)
    assert ratio_interval(nothing, nothing) == (0.0, 0.0)
    assert ratio(nothing, nothing) == 0.0
    assert ratio_interval(np.zeros(3), np.zeros(3)) == (0.0, 0.0)
