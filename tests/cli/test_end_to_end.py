"""The usual road through the real command line, on a model that knows nothing."""

import json
import math

import numpy as np
import pytest

import vlm_jax
from vlm_jax.cli import main
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.sources import read_captions
from vlm_jax.runs.log import read_metrics


def run(*arguments):
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, checkpoint, world):
    """annotate, reward, ppo, each from what the one before wrote; evaluated on the way, every second adapter kept."""
    folder = tmp_path_factory.mktemp("runs")
    facts = ["--facts", world / "image_to_caption.json"]
    start, images = ["--checkpoint", checkpoint, "--preset", "scenes-tiny"], ["--images", world / "images"]
    few = ["--max-new-tokens", "6"]
    run("annotate", "--checkpoint", checkpoint, "--world", world, "--batch-size", "20", *few)
    pairs = ["--preferences", world / "preferences.json", "--held-out", "5", "--batch-size", "8"]
    way = ["--keep-every", "2", "--evaluate-every", "2"]
    run("reward", *start, *pairs, *images, *facts, "--out", folder / "reward", *way, "--best", "loss")
    prompts = ["--prompts", world / "prompts.json", "--reward", folder / "reward" / "adapter", "--batch-size", "4"]
    (folder / "unseen.json").write_text(json.dumps(json.loads((world / "prompts.json").read_text())[:5]))
    way += ["--held-out-file", folder / "unseen.json", "--best", "kl"]
    run("ppo", *start, *prompts, *images, *facts, "--out", folder / "ppo", "--steps", "2", *few, *way)
    return folder


def test_annotators_compare_different_answers(runs, world):
    rows = json.loads((world / "preferences.json").read_text())
    assert 13 <= len(rows) <= 30
    for row in rows:
        assert row["output_1"]["value"].strip()
        assert row["output_1"]["value"] != row["output_2"]["value"]
        assert row["preference"] in (1, 2)


def test_the_reward_run_leaves_an_adapter_and_its_accuracy(runs):
    results = json.loads((runs / "reward" / "results.json").read_text())
    assert results["held_out_pairs"] == 5
    assert results["held_out_accuracy"] * 5 == pytest.approx(round(results["held_out_accuracy"] * 5))
    names = {path.name for path in (runs / "reward" / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "reward_head.safetensors"} <= names


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_reward_run_is_measured_on_its_way(runs):
    out = runs / "reward"
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "held_out_loss" in row]
    assert len(rows) == 2
    assert rows[-1]["held_out_accuracy"] == json.loads((out / "results.json").read_text())["held_out_accuracy"]
    best = min(rows, key=lambda row: row["held_out_loss"])
    told = json.loads((out / "best" / "best.json").read_text())
    assert (told["step"], told["metric"], told["value"]) == (best["step"] + 1, "held_out_loss", best["held_out_loss"])
    assert [path.name for path in (out / "kept").iterdir()] == ["2"]
    # What is kept is what a run that ended there would have left, whole.
    assert files_of(out / "kept" / "2").keys() == files_of(out / "adapter").keys()
    assert files_of(out / "best").keys() == {*files_of(out / "adapter"), "best.json"}
    speeds = read_metrics(out / "speed.jsonl")
    assert all(row["tokens_per_second"] < row["positions_per_second"] for row in speeds if "step_seconds" in row)


def test_the_policy_is_measured_and_kept_as_it_is_at_the_end(runs):
    first, last = read_metrics(runs / "ppo" / "metrics.jsonl")
    names = {"held_out_reward", "held_out_score", "held_out_kl", "held_out_length", "held_out_ended"}
    assert {name for name in last if name.startswith("held_out")} == names
    assert not any(name.startswith("held_out") for name in first)
    assert files_of(runs / "ppo" / "kept" / "2") == files_of(runs / "ppo" / "adapter")
    best = files_of(runs / "ppo" / "best")
    assert json.loads(best.pop("best.json"))["value"] == last["held_out_kl"]
    assert best == files_of(runs / "ppo" / "adapter")


def test_a_script_reads_what_the_reward_run_read(runs, checkpoint, world):
    reward = vlm_jax.load(checkpoint, adapter=runs / "reward" / "adapter")
    assert (reward.view.facts, reward.view.resolution, reward.view.prompt) == (True, None, SHORT)
    image, facts = next(iter(read_captions(world / "image_to_caption.json").items()))
    rows = (world / "images" / image, "What is in the picture?", ["There is a ball.", "There is a kite."])
    scores = reward.scores(*rows, [facts] * 2)
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_the_ppo_run_logs_every_step(runs):
    rows = read_metrics(runs / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["first_ratio"] == pytest.approx(1, abs=1e-5)
    assert (runs / "ppo" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_finished_run_is_left_alone(runs, checkpoint, world, capsys):
    """The same command finds its result; one that asks for something else is refused and changes nothing."""
    before = (runs / "ppo" / "metrics.jsonl").stat().st_mtime_ns
    prompts = ["--prompts", world / "prompts.json", "--reward", runs / "reward" / "adapter", "--batch-size", "4"]
    facts = ["--facts", world / "image_to_caption.json", "--max-new-tokens", "6"]
    again = ["ppo", "--checkpoint", checkpoint, *prompts, "--images", world / "images", *facts, "--out", runs / "ppo"]
    run(*again, "--steps", "2")
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run(*again, "--steps", "3")
    assert stop.value.code == 2
    assert "steps 2 instead of 3" in capsys.readouterr().err
    assert (runs / "ppo" / "metrics.jsonl").stat().st_mtime_ns == before


def test_eval_scores_an_adapter(runs, checkpoint, world, capsys):
    out = runs / "scores.json"
    adapter = ["--adapter", runs / "ppo" / "adapter"]
    few = ["--max-new-tokens", "6", "--batch-size", "64", "--split", "validation"]
    run("eval", "scenes", "--checkpoint", checkpoint, "--world", world, "--output", out, *adapter, *few)
    scores = json.loads(out.read_text())
    assert len(scores["descriptions"]) == 30
    assert {"random", "popular", "adversarial"} <= set(scores["pope"])
    for part in scores["pope"].values():
        assert 0 <= part["accuracy_interval"][0] <= part["accuracy"] <= part["accuracy_interval"][1] <= 1
    assert 0 <= scores["chair"]["chair_s"] <= 1
    assert 0 <= scores["mmhal"]["score"] <= 6
    assert "POPE" in capsys.readouterr().out


def test_generate_answers_and_repeats_itself(runs, checkpoint, world, capsys):
    image = world / "images" / "test_000000000.png"
    ask = ["generate", "--checkpoint", checkpoint, "--prompt", "What is in the picture?", "--max-new-tokens", "6"]
    answers = []
    for options in ([], [], ["--image", image], ["--image", image, "--adapter", runs / "ppo" / "adapter"]):
        capsys.readouterr()
        run(*ask, *options)
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert len({answers[0], answers[2], answers[3]}) > 1


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_sft_writes_what_generate_reads(trainable, runs, checkpoint, world, capsys):
    out = runs / f"sft-{trainable}"
    data = ["--data", world / "instructions.json", "--images", world / "images", "--batch-size", "4"]
    way = ["--evaluate-every", "1", "--held-out-file", world / "instructions.json", "--epochs", "0.3"]
    kept = ["--keep-every", "1", "--best", "loss"] if trainable == "lora" else []
    run("sft", "--checkpoint", checkpoint, *data, "--out", out, "--trainable", trainable, *way, *kept)
    assert "held-out rows are those that are trained on" in capsys.readouterr().err
    first, last = read_metrics(out / "metrics.jsonl")
    assert (first["step"], last["step"]) == (0, 1)
    assert last["held_out_loss"] < first["held_out_loss"]
    if kept:
        assert files_of(out / "kept" / "2") == files_of(out / "adapter") != files_of(out / "kept" / "1")
        assert json.loads((out / "best" / "best.json").read_text())["step"] == 2
    model = [checkpoint, "--adapter", out / "adapter"] if trainable == "lora" else [out / "checkpoint"]
    capsys.readouterr()
    run("generate", "--checkpoint", *model, "--prompt", "What is in the picture?", "--max-new-tokens", "6")
    assert capsys.readouterr().out
