import json

import numpy as np
import pytest
from PIL import Image

from vlm_jax.scenes import files
from vlm_jax.scenes.conversations import (
    checked_conversation,
    counting_list,
    fact_conversation,
    inventory,
    listed_kinds,
)
from vlm_jax.scenes.draw import draw
from vlm_jax.scenes.language import NUMBERS, captions
from vlm_jax.scenes.pope import SETTINGS, pope_rows
from vlm_jax.scenes.questions import QUESTION_TYPES
from vlm_jax.scenes.truth import check, claims, mentioned_kinds, score
from vlm_jax.scenes.world import PARTNER, Dials, Scene, Thing, matching, present_kinds, scene

SIZES = {"train": 120, "preference": 4, "prompts": 60, "validation": 24, "test": 40}
DIALS = Dials(synthetic_rate=0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    seen = []
    scenes = files.write_world(folder, SIZES, DIALS, seed=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 248) for i in range(248)]
    return folder, scenes


def load(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_scenes_and_images_round_trip(world):
    folder, scenes = world
    assert files.read_scenes(folder) == scenes
    assert scenes["train_000000007.png"] == scene("train", 7, DIALS, seed=3)
    assert len(list((folder / "images").iterdir())) == sum(SIZES.values())
    for name in list(scenes)[::40]:
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "images" / name)), draw(scenes[name]))
    box = load(folder, "scenes.json")["test_000000000.png"]["things"][0]["box"]
    assert 0 <= box[0] < box[2] <= 48
    assert not [p for p in folder.rglob(".*")]


def test_instructions(world):
    folder, scenes = world
    rows = load(folder, "instructions.json")
    assert len(rows) == SIZES["train"]
    text_only = [row for row in rows if "image" not in row]
    assert 5 < len(text_only) < 35
    answers = []
    for row in rows:
        turns = row["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n") == ("image" in row)
        assert sum(t["value"].count("<image>") for t in turns) == ("image" in row)
        asked = zip(turns[::2], turns[1::2], strict=True)
        answers += [a["value"] for q, a in asked if "in the image?" in q["value"] and a["value"] in ("Yes.", "No.")]
    assert 0.35 < np.mean([a == "Yes." for a in answers]) < 0.65
    described = [
        r for r in rows if "image" in r and any(len(t["value"].split()) > 12 for t in r["conversations"][1::2])
    ]
    assert 0.3 < len(described) / len(rows) < 0.7
    assert rows == files.instruction_rows({n: s for n, s in scenes.items() if s.split == "train"})


def test_facts_come_before_what_is_asked_of_them():
    rng = np.random.default_rng(0)
    for i in range(60):
        here = scene("train", i)
        turns = fact_conversation(here, rng)
        assert all(caption in turns[0]["value"] for caption in captions(here))
        assert not any("<image>" in turn["value"] for turn in turns)


def test_a_checked_description_is_called_supported_when_it_is_true():
    """The verdict agrees with the rule that knows the truth, and the items with the facts."""
    rng = np.random.default_rng(0)
    supported = 0
    for i in range(60):
        here = scene("train", i)
        _, description, check_turn, verdict = (turn["value"] for turn in checked_conversation(here, rng))
        assert all(caption in check_turn for caption in captions(here))
        said, items = verdict.removesuffix(".").split(": ")
        assert (said == "Yes") == all_true(description, here)
        supported += said == "Yes"
        found = dict(item.split() for item in items.split(", "))
        assert set(found) == set(mentioned_kinds(description))
        assert {kind for kind in found if found[kind] == "no"} == set(found) - set(present_kinds(here))
    assert 15 < supported < 45


def test_lists_tell_present_from_absent_kinds():
    rng = np.random.default_rng(0)
    for i in range(60):
        here = scene("train", i)
        kinds = listed_kinds(here, rng)
        assert len(set(kinds)) == 6
        assert set(kinds) & set(present_kinds(here))
        for make in (inventory, counting_list):
            question, answer = make(here, kinds)
            assert question.endswith(f": {', '.join(kinds)}?")
            for kind, item in zip(kinds, answer.removesuffix(".").split(", "), strict=True):
                name, *what = item.split()
                assert name == kind
                things = matching(here, kind)
                if make is inventory and len(things) == 1:
                    assert what == [things[0].colour, things[0].size]
                else:
                    assert what == [NUMBERS[len(things)]]


def all_true(description, here):
    return all(check(claim, here) for claim in claims(description))


def test_prompts(world):
    folder, scenes = world
    rows = load(folder, "prompts.json")
    assert {row["caption_type"] for row in rows} == {1, 6, 7}
    for row in rows:
        assert set(row) == {"id", "image", "conversations", "captions", "caption_type", "length_bonus"}
        assert len(row["conversations"]) == 2
        answer = row["conversations"][1]["value"]
        assert row["caption_type"] == {"No.": 6, "Yes.": 7}.get(answer, 1)
        assert row["captions"] == list(captions(scenes[row["image"]]))
        question = files.prompt_question(scenes[row["image"]])
        assert row["conversations"][0]["value"] == "<image>\n" + question.text
        assert (row["length_bonus"] == 1.0) == (question.type == "holistic")
    assert load(folder, "image_to_caption.json") == {name: list(captions(s)) for name, s in scenes.items()}


def test_mmhal(world):
    folder, scenes = world
    rows = load(folder, "mmhal_test.json")
    assert len(rows) >= 24
    assert len(rows) % 8 == 0
    for i, row in enumerate(rows):
        here = scenes[row["image_src"]]
        assert row["question_type"] == QUESTION_TYPES[i % 8]
        assert row["image_content"] == present_kinds(here)
        assert score(files.mmhal_question(row), row["gt_answer"], here).rating >= 5


@pytest.mark.parametrize("setting", SETTINGS)
def test_pope(world, setting):
    folder, scenes = world
    lines = (folder / f"pope_test_{setting}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["label"] for row in rows] == ["yes", "no"] * (len(rows) // 2)
    partners = []
    for row in rows:
        kind = row["text"].removeprefix("Is there a ").removesuffix(" in the image?")
        assert (row["label"] == "yes") == (kind in present_kinds(scenes[row["image"]]))
        partners.append(PARTNER[kind] in present_kinds(scenes[row["image"]]))
    for start in range(0, len(rows), 6):
        assert len({row["image"] for row in rows[start : start + 6]}) == 1
        assert len({row["text"] for row in rows[start : start + 6]}) == 6
    if setting == "partner":
        assert np.mean(partners[1::2]) > 0.7


def test_pope_ranks_negatives_as_its_authors_do():
    """By hand: ball, box and ring are in two images each, all others in one; beside a ring stand fish and house."""
    contents = {
        "a": ("ball", "box", "star"),
        "b": ("ball", "box", "moon"),
        "d": ("ring", "tree", "cup"),
        "e": ("ring", "fish", "house"),
    }
    scenes = {
        name: Scene("test", i, "snow", tuple(Thing(kind, "red", "large", cell) for cell, kind in enumerate(kinds)))
        for i, (name, kinds) in enumerate(contents.items())
    }
    rows = pope_rows(scenes, np.random.default_rng(0))
    negatives = {
        setting: [r["text"].split()[3] for r in made if r["image"] == "d" and r["label"] == "no"]
        for setting, made in rows.items()
    }
    assert negatives["popular"][:2] == ["ball", "box"]
    assert negatives["adversarial"][0] == "fish"
    assert negatives["partner"] == ["heart", "house", "box"]
    assert not set(negatives["random"]) & set(contents["d"])
    assert all(len(made) == 24 for made in rows.values())


def test_preference_row(world):
    _, scenes = world
    name = "preference_000000001.png"
    question = files.prompt_question(scenes[name])
    row = files.preference_row(name, question, "one", "two", 2, True)
    assert row == {
        "id": "preference_000000001",
        "image": name,
        "conversations": [{"from": "human", "value": "<image>\n" + question.text}],
        "output_1": {"from": "gpt", "value": "one"},
        "output_2": {"from": "gpt", "value": "two"},
        "preference": 2,
        "hallucination": True,
    }


def test_a_failed_write_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", [object()])
    assert load(tmp_path, "a.json") == [1]
    assert len(list(tmp_path.iterdir())) == 1
