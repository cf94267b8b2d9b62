"""The evaluation of a drawn world, with answers put into the model's mouth."""

import json

import pytest

from vlm_jax.checkpoints.opening import Model
from vlm_jax.commands.eval import scenes as command
from vlm_jax.errors import InputError
from vlm_jax.evals.scenes import scorer as evaluation
from vlm_jax.scenes.files import write_world
from vlm_jax.scenes.language import INSTRUCTIONS, article, join
from vlm_jax.scenes.world import absent_kinds, present_kinds

SETTINGS = ("random", "popular", "adversarial", "partner")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, write_world(folder, {"test": 48})


def scored(monkeypatch, folder, answers, **options):
    """``evaluate`` on what ``answers(image, question)`` says."""
    monkeypatch.setattr(
        evaluation,
        "ask",
        lambda model, lora, world, pairs, *rest: [answers(image, text) for image, text in pairs],
    )
    shape = {"split": "test", "batch_size": 8, "prompt_lengths": (48,), "max_new_tokens": 8}
    return evaluation.evaluate(object.__new__(Model), {}, folder, **shape | options)


def read(folder, name):
    lines = (folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()] if name.endswith("l") else json.loads(lines)


def gold(folder, scenes):
    """The right answer to every question that the world's files ask."""
    known = {(row["image_src"], row["question"]): row["gt_answer"] for row in read(folder, "mmhal_test.json")}
    for setting in SETTINGS:
        for row in read(folder, f"pope_test_{setting}.jsonl"):
            known[row["image"], row["text"]] = row["label"].capitalize() + "."
    # Last: the description that MMHal holds as gold may hedge.
    for name, here in scenes.items():
        known[name, INSTRUCTIONS[0]] = f"There is {join([article(kind) for kind in present_kinds(here)])}."
    return known


def test_right_answers_get_full_marks(world, monkeypatch):
    folder, scenes = world
    known = gold(folder, scenes)
    scores = scored(monkeypatch, folder, lambda image, text: known[image, text])
    assert (scores["chair"]["chair_i"], scores["chair"]["chair_s"], scores["chair"]["recall"]) == (0, 0, 1)
    for setting in SETTINGS:
        assert (scores["pope"][setting]["accuracy"], scores["pope"][setting]["f1"]) == (1, 1)
    assert scores["pope_mean"]["f1"] == 1
    assert scores["mmhal"]["hallucination_rate"] == 0
    assert scores["mmhal"]["score"] > 4.5
    assert list(scores["descriptions"]) == list(scenes)


def test_always_yes_is_chance(world, monkeypatch):
    scores = scored(monkeypatch, world[0], lambda image, text: "Yes.")
    assert scores["pope_mean"]["accuracy"] == 0.5
    assert scores["pope_mean"]["yes_rate"] == 1
    assert scores["pope_mean"]["f1"] == pytest.approx(2 / 3)
    assert scores["chair"]["recall"] == 0


def test_a_model_that_says_nothing_has_no_score(world, monkeypatch):
    """It names no absent object, and POPE's rule hears yes."""
    with pytest.raises(InputError, match=r"48 answers \(describe\), all of them empty; expected .* or --allow-empty"):
        scored(monkeypatch, world[0], lambda image, text: " ")
    with pytest.raises(InputError, match=r"answers \(POPE random\), all of them empty"):
        scored(monkeypatch, world[0], lambda image, text: "A ball." if text == INSTRUCTIONS[0] else "")
    scores = scored(monkeypatch, world[0], lambda image, text: "", allow_empty=True)
    assert (scores["chair"]["chair_i"], scores["pope_mean"]["yes_rate"]) == (0, 1)


def test_mostly_empty_descriptions_are_told(world, monkeypatch, capsys):
    folder, scenes = world
    talks = list(scenes)[:3]
    scores = scored(
        monkeypatch, folder, lambda image, text: "" if text == INSTRUCTIONS[0] and image not in talks else "Yes."
    )
    monkeypatch.setattr(command, "measure", lambda options: scores)
    command.run(command.Options(checkpoint="tiny", world=folder, output=folder / "out.json"))
    assert capsys.readouterr().out.startswith("Note: 45 OF 48 DESCRIPTIONS ARE EMPTY")


def test_one_planted_kind_a_description_is_found(world, monkeypatch):
    folder, scenes = world
    planted = {name: absent_kinds(here)[0] for name, here in scenes.items()}
    scores = scored(monkeypatch, folder, lambda image, text: f"There is {article(planted[image])}.")
    assert (scores["chair"]["chair_i"], scores["chair"]["chair_s"], scores["chair"]["recall"]) == (1, 1, 0)
    assert scores["chair"]["hallucinated"] == len(scenes)


def test_denying_something_else_is_no_answer(world, monkeypatch):
    """One sentence for every question earns nothing beyond "no useful answer", right or not."""
    folder, scenes = world
    rows = read(folder, "mmhal_test.json")
    scores = scored(monkeypatch, folder, lambda image, text: f"There is no {absent_kinds(scenes[image])[-1]} here.")
    asked = {row["question_type"] for row in rows}
    assert asked == set(scores["mmhal"]["by_type"])
    about_it = sum(absent_kinds(scenes[row["image_src"]])[-1] == row["truth"].get("kind") for row in rows)
    assert scores["mmhal"]["score"] <= 3 + 3 * about_it / len(rows)
