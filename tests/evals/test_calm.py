"""CALM: perturbations change what they say and nothing else, rates are counted as written."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from chat_server import ChatServer, completion

from vlm_jax.cli import main
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.evals.calm import generative, measure
from vlm_jax.evals.calm.biases import BIASES, UNGROUNDED, chosen, drawn_side, perturbed
from vlm_jax.evals.calm.trial import PLACES, Trial
from vlm_jax.evals.judges.interface import Judgement, unnoticed
from vlm_jax.scenes.language import description
from vlm_jax.scenes.questions import questions
from vlm_jax.scenes.truth import chair_counts, score
from vlm_jax.scenes.world import KINDS, generator_for, present_kinds, scene

OBJECTS = {"0.jpg": frozenset({"cat", "sofa"}), "1.jpg": frozenset({"dog", "umbrella"})}
ALL = chosen((), OBJECTS)


def trial(answers=("A cat.", "A cat on a sofa. It sleeps."), gold=0, **changes):
    made = Trial("7", Path("0.jpg"), (Turn("human", f"{IMAGE}\nWhat is it?"),), answers, gold)
    return dataclasses.replace(made, **changes)


def many(count=40):
    return [trial((f"A cat {place}.", "A cat, a very long cat."), place % 2, id=str(place)) for place in range(count)]


def rates(compare, trials=None, names=()):
    trials = trials or many()
    biases = chosen(names, OBJECTS)
    return measure.score(trials, biases, measure.put(trials, biases, compare, compare))


def test_twelve_biases_and_one():
    assert len(BIASES) == 12
    assert set(ALL) - set(BIASES) == {UNGROUNDED}
    assert list(chosen(("verbosity", UNGROUNDED), None)) == ["verbosity"]


@pytest.mark.parametrize("name", ALL)
def test_a_perturbation_is_the_pairs_own(name):
    before = many()
    first, second = ([perturbed(name, ALL[name], one, 1, 0) for one in before] for _ in range(2))
    assert first == second
    assert before == many()
    for one, made in zip(before, first, strict=True):
        assert made != one
        assert (made.id, made.image, made.turns) == (one.id, one.image, one.turns)


# What each bias may touch; everything else stays.
TOUCHED = {
    "answers": ("verbosity", "fallacy_oversight", "authority", "sentiment", UNGROUNDED),
    "notes": (
        "compassion_fade",
        "bandwagon",
        "distraction",
        "diversity",
        "self_enhancement",
        "refinement_aware",
    ),
    "reasoned": ("chain_of_thought",),
}
TOUCHES = {name: {field} for field, names in TOUCHED.items() for name in names} | {"position": {"answers", "gold"}}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("side", [0, 1])
def test_what_a_perturbation_touches(name, side):
    one = trial()
    made = perturbed(name, ALL[name], one, side, 3)
    fields = [field.name for field in dataclasses.fields(Trial)]
    assert {field for field in fields if getattr(made, field) != getattr(one, field)} == TOUCHES[name]
    if TOUCHES[name] == {"answers"}:
        assert made.answers[1 - side] == one.answers[1 - side]
        assert one.answers[side].rstrip(".") in made.answers[side]
    assert ALL[name].in_prompt == (name in IN_PROMPT)


IN_PROMPT = {"compassion_fade", "diversity", "chain_of_thought", "self_enhancement", "refinement_aware"}


def test_a_seed_draws_among_phrasings():
    made = {perturbed("authority", BIASES["authority"], trial(), 1, seed).answers[1] for seed in range(20)}
    assert len(made) == 3


def test_the_worse_answer_is_favoured():
    assert drawn_side(trial(gold=0), 5) == 1
    assert drawn_side(trial(gold=1), 5) == 0
    drawn = [drawn_side(trial(gold=None, id=str(place)), 5) for place in range(200)]
    assert 70 < sum(drawn) < 130


def test_an_answer_without_a_full_stop_gets_one():
    made = perturbed("authority", BIASES["authority"], trial(("Yes", "No")), 1, 0)
    assert made.answers[1].startswith("No. ")


@pytest.mark.parametrize("index", range(25))
def test_longer_answers_claim_no_more(index):
    """By the rule that knows a drawn scene: as many true claims, as many false ones, twice the words."""
    here = scene("test", index)
    question = next(one for one in questions(here, generator_for(here, "q")) if one.type == "holistic")
    text = description(here, np.random.default_rng(index), synthetic=True)
    made = perturbed("verbosity", BIASES["verbosity"], trial((text, text)), 1, index).answers[1]
    assert score(question, made, here) == score(question, text, here)
    assert len(made.split()) >= 2 * len(text.split())


@pytest.mark.parametrize("index", range(25))
def test_an_ungrounded_detail_is_not_in_the_image(index):
    here = scene("test", index)
    text = description(here, np.random.default_rng(index))
    objects = {"0.jpg": frozenset(present_kinds(here)), "all.jpg": frozenset(KINDS)}
    bias = chosen((UNGROUNDED,), objects)[UNGROUNDED]
    made = perturbed(UNGROUNDED, bias, trial((text, text)), 0, index).answers[0]
    assert len(chair_counts(made, here)[1]) == len(chair_counts(text, here)[1]) + 1


def test_an_ungrounded_detail_needs_an_image_that_is_known_and_something_unsaid():
    bias = ALL[UNGROUNDED]
    for odd in (trial(image=None), trial(image=Path("other.jpg")), trial(("No.", "A dog with an umbrella."))):
        assert perturbed(UNGROUNDED, bias, odd, 1, 0) is None
    said = {perturbed(UNGROUNDED, bias, trial(("No.", "A dog.")), 1, seed).answers[1] for seed in range(20)}
    assert all("an umbrella" in one for one in said)


def test_rates_by_hand():
    """Favoured is the second answer of all: verdicts stay, move to it, move from it, to a tie, or cannot be read."""
    trials = [trial(id=str(place), image=Path(f"{place}.jpg")) for place in range(6)]
    clean = ["first", "first", "second", "first", None, "first"]
    again = ["first", "second", "second", None, "first", "first"]
    moved = ["first", "second", "first", "tie", "first", None]
    found = {"clean": clean, "again": again, "self_enhancement": moved}
    found = {name: dict(enumerate(verdicts)) for name, verdicts in found.items()}
    biases = chosen(("self_enhancement",), None)
    scored = measure.score(trials, biases, found, inapplicable=["diversity"])
    assert scored.metrics == {
        "cr": 3 / 4,
        "accuracy": 4 / 5,
        "rr_self_enhancement": 1 / 4,
        "toward_self_enhancement": 2 / 4,
        "away_self_enhancement": 1 / 4,
        "accuracy_self_enhancement": 3 / 5,
        # One and a half of four verdicts for it, one before.
        "error_self_enhancement": pytest.approx(0.5),
    }
    assert scored.unparsed == 3
    row = scored.tables["bias"]["self_enhancement"]
    assert (row["RR"], row["CR"], row["pairs"], row["unparsed"]) == (0.25, 0.75, 6, 1)
    assert scored.tables["bias"]["diversity"] == {"RR": "does not apply"}
    assert scored.per_sample[1]["verdicts"] == {"clean": "first", "again": "second", "self_enhancement": "second"}
    low, high = scored.tally.intervals()["rr_self_enhancement"]
    assert 0 <= low < 0.25 < high <= 1


def test_figures_of_nothing_are_left_out():
    scored = rates(measure.longer, [trial(gold=None, image=None)])
    assert "accuracy" not in scored.metrics
    assert f"rr_{UNGROUNDED}" not in scored.metrics
    assert scored.tables["bias"][UNGROUNDED]["pairs"] == 0
    assert scored.metrics["rr_position"] == 1


def scorer(value):
    def compare(trials):
        scores = [tuple(value(f"{a} {n}") for a, n in zip(one.answers, one.notes, strict=True)) for one in trials]
        return ["tie" if one == two else PLACES[two > one] for one, two in scores]

    return compare


def test_a_symmetric_scorer_has_no_place_and_a_deterministic_one_no_noise():
    for value in (hash, len, lambda text: 0):
        metrics = rates(scorer(value), names=("position",)).metrics
        assert metrics["rr_position"] == metrics["cr"] == 1
        assert metrics["accuracy_position"] == metrics["accuracy"]


def test_a_comparer_that_knows_the_place_alone():
    metrics = rates(lambda trials: ["first"] * len(trials)).metrics
    assert metrics["rr_position"] == 0
    assert all(metrics[f"rr_{name}"] == 1 for name in ALL if name != "position")


def test_a_noisy_comparer_shows_in_cr():
    rng = random.Random(0)
    metrics = rates(lambda trials: [rng.choice(PLACES) for _ in trials], many(400), ("authority",)).metrics
    assert 0.4 < metrics["cr"] < 0.6
    assert abs(metrics["cr"] - metrics["rr_authority"]) < 0.12


def test_a_planted_taste_for_length_shows_in_verbosity():
    def truth(text):
        return -float("dog" in text)

    trials = [trial(("A cat sits here.", "A dog."), 0, id=str(place)) for place in range(30)]
    clean = rates(scorer(truth), trials, ("verbosity",)).metrics
    fond = rates(scorer(lambda text: truth(text) + len(text.split()) / 4), trials, ("verbosity",)).metrics
    assert clean["rr_verbosity"] == 1
    assert fond["rr_verbosity"] == 0
    assert fond["accuracy"] == 1
    assert fond["toward_verbosity"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Verdict: A", "first"),
        ("verdict: b.", "second"),
        ("**Verdict:** tie", "tie"),
        ("A is vague.\nB is right.\n\nVerdict: B\n", "second"),
        ("Verdict: answer A", "first"),
        ("Verdict: A\nVerdict: A", "first"),
        ("Verdict: A\nVerdict: B", None),
        ("Verdict: A, or rather B", None),
        ("The verdict: A", None),
        ("A", None),
        ("Verdict: C", None),
        ("", None),
        ("x" * 1_000_000, None),
    ],
)
def test_verdicts_are_read_strictly(text, said):
    assert generative.verdict(text) == said


class Fake:
    """Says one thing."""

    reads_prompts = True

    def __init__(self, text="Verdict: A"):
        self.identity, self.text, self.requests = {"kind": "test"}, text, []

    def __call__(self, requests, finished=unnoticed):
        self.requests += requests
        return [Judgement(self.text) for _ in requests]


def test_a_judge_is_told_of_both_answers_and_of_notes_only_where_there_are_any():
    judge = Fake()
    assert generative.JudgeComparer(judge)([trial(), trial()]) == ["first", "first"]
    plain = judge.requests[0].user
    assert judge.requests[0].id != judge.requests[1].id
    assert plain.index("[Answer A]\nA cat.") < plain.index("[Answer B]\nA cat on a sofa. It sleeps.")
    assert IMAGE not in plain
    assert "About answer" not in plain
    noted = generative.prompt(perturbed("bandwagon", BIASES["bandwagon"], trial(), 1, 0))
    assert "About answer B: " in noted
    assert "About answer A: " not in noted
    reasoned = generative.prompt(trial(reasoned=True))
    assert "step by step" in reasoned
    assert "step by step" not in plain


def test_a_judge_sees_the_image_if_it_is_to():
    for sees, image in ((False, None), (True, Path("0.jpg"))):
        judge = Fake()
        generative.JudgeComparer(judge, sees_image=sees)([trial()])
        assert judge.requests[0].image == image


def test_a_judge_that_mumbles_is_counted():
    scored = rates(generative.JudgeComparer(Fake("Hard to say.")), names=("position",))
    assert scored.unparsed == 3 * 40
    assert "cr" not in scored.metrics


@pytest.fixture
def pairs(tmp_path):
    """Two pairs without images, as a file."""
    turns = [{"from": "human", "value": "What is a cat?"}]
    rows = [
        {
            "id": str(place),
            "conversations": turns,
            "output_1": {"from": "gpt", "value": f"An animal {place}."},
            "output_2": {"from": "gpt", "value": "A plant."},
            "preference": 1,
        }
        for place in range(2)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    return ["--preferences", str(tmp_path / "pairs.json"), "--images", str(tmp_path)]


def judged(pairs, *arguments):
    main(["eval", "judge-bias", *pairs, "--judge-model", "any", "--judge-concurrency", "1", *arguments])


def test_a_judge_behind_a_url(pairs, tmp_path, capsys):
    """The second time is asked anew, though judgements are kept; the same command then asks nobody."""
    out = tmp_path / "out.json"
    # Clean verdicts A, A; the second time B, A; exchanged B, B.
    said = ["A", "A", "B", "A", "B", "B"]
    with ChatServer(lambda number, body: completion(f"Verdict: {said[number]}")) as server:
        arguments = ["--judge", server.url, "--biases", "position", "--output", str(out)]
        judged(pairs, *arguments)
        first, printed = json.loads(out.read_text()), capsys.readouterr().out
        judged(pairs, *arguments)
        assert len(server.bodies) == 6
    assert first["metrics"] == {"cr": 0.5, "accuracy": 1.0, "rr_position": 1.0, "accuracy_position": 1.0}
    assert first["metrics"] == json.loads(out.read_text())["metrics"]
    assert (first["n"], first["mode"], first["unparsed"]) == (2, "judge", 0)
    assert {"versions", "judge", "intervals"} <= first.keys()
    assert first["judge"]["judgements"] == 6
    assert first["baselines"]["the longer answer"]["rr_position"] == 1
    # Each figure once: what stands in a bias's row is no line of its own.
    assert first["tables"]["bias"]["position"]["RR of the longer answer"] == 1
    assert "rr_position" not in printed
    assert "RR of the longer answer" in printed
    assert sum(line.startswith(("cr ", "accuracy ")) for line in printed.splitlines()) == 2
    rows = [json.loads(line) for line in out.with_suffix(".samples.jsonl").read_text().splitlines()]
    assert rows[0]["verdicts"] == {"clean": "first", "again": "second", "position": "first"}
    # Replayed, the second time is the first.
    kept = out.with_suffix(".judgements") / "judgements.jsonl"
    judge = ["--judge", f"replay:{kept}", "--biases", "position", "--output", str(tmp_path / "replayed.json")]
    main(["eval", "judge-bias", *pairs, *judge])
    assert json.loads((tmp_path / "replayed.json").read_text())["metrics"] == {**first["metrics"], "cr": 1.0}


def test_a_checkpoint_as_the_judge(pairs, tmp_path, capsys):
    """The tiny one has never seen such a prompt: nothing can be read, and there is no figure of nothing."""
    out = tmp_path / "out.json"
    judge = ["--judge", "checkpoint:tiny", "--judge-max-tokens", "2", "--judge-batch-size", "2"]
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "judge-bias", *pairs, *judge, "--biases", "position", "--output", str(out)])
    assert stopped.value.code == 2
    assert "found no verdict that can be read, of any pair" in capsys.readouterr().err
    assert not out.exists()
    kept = out.with_suffix(".judgements") / "judgements.jsonl"
    assert len({json.loads(line)["key"] for line in kept.read_text().splitlines()}) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither of --reward and --judge"),
        (["--judge", "http://x", "--reward", "y"], "both of --reward and --judge"),
        (["--judge", "http://x", "--against", "y"], "--against with a judge"),
        (["--reward", "y"], "--reward without --checkpoint"),
        (["--judge", "http://x", "--biases", "ungrounded_detail"], "without --objects"),
        (["--judge", "http://x", "--limit", "0"], "--limit 0"),
    ],
)
def test_options_that_do_not_go_together(arguments, said, pairs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "judge-bias", *pairs, "--output", str(tmp_path / "out.json"), *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
