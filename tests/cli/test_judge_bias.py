"""`vlm-jax eval judge-bias` with a reward model, which is asked as its training asks."""

import json
from dataclasses import asdict

import jax
import numpy as np
import pytest

from vlm_jax.checkpoints.opening import open_model, open_role
from vlm_jax.cli import main
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import preference_batches
from vlm_jax.data.sources import read_captions, read_preferences
from vlm_jax.evals.calm.reward_model import RewardComparer
from vlm_jax.evals.calm.trial import trial_of
from vlm_jax.files import read_json, write_json
from vlm_jax.parallel.compile import place_batch
from vlm_jax.scenes.files import preference_row, prompt_question, read_scenes
from vlm_jax.scenes.world import present_kinds
from vlm_jax.train.reward import reward_scores


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory):
    """Pairs about the world's test scenes, and what is in them."""
    folder = tmp_path_factory.mktemp("pairs")
    scenes = {name: here for name, here in read_scenes(world).items() if here.split == "test"}
    answers = ("There is a red ball. It is on the sand.", "There are two boats and a kite.")
    rows = [
        preference_row(name, prompt_question(here), *answers, 1 + number % 2, True)
        for number, (name, here) in enumerate(scenes.items())
    ]
    write_json(folder / "pairs.json", rows)
    write_json(folder / "objects.json", {name: present_kinds(here) for name, here in scenes.items()})
    return folder


@pytest.fixture
def arguments(pairs, world, checkpoint, adapter, tmp_path):
    files = ["--preferences", pairs / "pairs.json", "--images", world / "images", "--objects", pairs / "objects.json"]
    model = ["--checkpoint", checkpoint, "--reward", adapter, "--reward-prompt", "short"]
    return [str(one) for one in ("eval", "judge-bias", *files, *model, "--output", tmp_path / "out.json")]


def test_a_reward_model(arguments, adapter, tmp_path):
    main([*arguments, "--against", str(adapter), "--batch-size", "16"])
    result = read_json(tmp_path / "out.json")
    metrics = result["metrics"]
    # Scores do not depend on the place, nor on when they are asked for.
    assert metrics["rr_position"] == metrics["cr"] == 1
    assert (result["n"], result["mode"], result["unparsed"]) == (30, "reward", 0)
    assert result["tables"]["bias"]["chain_of_thought"] == {"RR": "does not apply"}
    assert "rr_chain_of_thought" not in metrics
    applied = {name.removeprefix("rr_") for name in metrics if name.startswith("rr_")}
    assert applied >= {"verbosity", "authority", "ungrounded_detail"}
    for name in applied - {"position"}:
        assert metrics[f"rr_{name}"] + metrics[f"toward_{name}"] + metrics[f"away_{name}"] == pytest.approx(1)
    assert all(one["difference"] == 0 for one in result["comparison"].values())
    rows = [json.loads(line) for line in (tmp_path / "out.samples.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    before = sum(row["verdicts"]["clean"] == row["gold"] for row in rows) / 30
    assert metrics["accuracy"] == pytest.approx(before)


def test_answers_that_are_cut_are_counted(arguments, tmp_path):
    main([*arguments, "--biases", "verbosity", "--max-length", "64"])
    (remark,) = read_json(tmp_path / "out.json")["remarks"]
    assert "cut at their end to --max-length 64" in remark


def test_a_reward_model_is_shown_what_it_was_trained_with(arguments, adapter, tmp_path, capsys):
    own = tmp_path / "adapter"
    own.mkdir()
    for path in adapter.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    write_json(own / "reward_view.json", {"facts": True, "resolution": 16, "reward_prompt": asdict(SHORT)})
    arguments[arguments.index("--reward") + 1] = str(own)
    with pytest.raises(SystemExit):
        main(arguments)
    assert "found no --facts; expected --facts, which the reward model read" in capsys.readouterr().err


def test_pairs_are_not_written_over(arguments, pairs, capsys):
    arguments[arguments.index("--output") + 1] = str(pairs / "pairs.json")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "pairs.json, which would be written over" in capsys.readouterr().err


def test_objects_of_other_images(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--image-name", "COCO_{}"])
    assert "none of the pairs' images among those such as COCO_test_" in capsys.readouterr().err


@pytest.mark.parametrize("facts", [False, True])
def test_scores_are_those_of_training(facts, pairs, world, checkpoint, adapter):
    captions = read_captions(world / "image_to_caption.json") if facts else None
    # One fact has one order, where training draws one.
    captions = captions and {name: texts[:1] for name, texts in captions.items()}
    records = read_preferences(pairs / "pairs.json", world / "images", captions)[:8]
    model = open_model(str(checkpoint), adapter=adapter)
    role = open_role(model, adapter)
    found = RewardComparer(model, role, SHORT, resolution=16, max_length=120, batch_size=4)
    scores = sorted(found.scores([trial_of(record) for record in records]))
    config = model.config
    asked = (records, model.tokenizer, config, model.template, 8, 120, SHORT, 0)
    batch = place_batch(model.mesh, next(iter(preference_batches(*asked, resolution=16))).batch)
    with jax.set_mesh(model.mesh):
        trained = np.asarray(reward_scores(config, model.base, role, batch)).reshape(2, -1).T
    np.testing.assert_allclose(scores, sorted(map(tuple, trained.tolist())), rtol=1e-4, atol=1e-5)
