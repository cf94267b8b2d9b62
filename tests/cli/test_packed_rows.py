"""`vlm-jax sft --batching packed`: the run of padded rows, in fewer positions."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlm_jax.cli import main
from vlm_jax.commands import sft
from vlm_jax.recipes import names, read
from vlm_jax.runs import loop
from vlm_jax.runs.log import read_metrics

SHORT, LONG = "Is there a kite in the image?", "How many houses are there?"


@pytest.fixture(scope="module")
def command(world, checkpoint, tmp_path_factory):
    """Over conversations of one to six turns, some without a picture; all arguments but --out and --batching."""
    pictures, rows = sorted((world / "images").iterdir()), []
    for number in range(24):
        seen = number % 4 != 3
        question = f"<image>\n{SHORT}" if seen else "Hello."
        turns = [("human", question), ("gpt", "No.")] + [("human", LONG), ("gpt", "There is one house.")] * (number % 6)
        said = [{"from": speaker, "value": value} for speaker, value in turns]
        rows.append({"id": str(number), "conversations": said, **({"image": pictures[number].name} if seen else {})})
    data = tmp_path_factory.mktemp("uneven") / "rows.json"
    data.write_text(json.dumps(rows))
    where = ["--data", data, "--images", world / "images", "--checkpoint", checkpoint]
    how = ["--batch-size", "8", "--microbatches", "2", "--epochs", "2", "--save-every", "2", "--warmup", "0.5"]
    return [str(part) for part in ("sft", *where, *how)]


@pytest.fixture(scope="module")
def runs(command, tmp_path_factory):
    """batching -> folder of a run of six steps."""
    folder = tmp_path_factory.mktemp("runs")
    for batching in ("padded", "packed"):
        main([*command, "--out", str(folder / batching), "--batching", batching])
    return folder


def assert_same_adapter(one, other):
    first, second = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        # Adam divides each gradient by its own size: of one that is nearly 0 little is left to compare.
        assert np.abs(leaf - second[name]).mean() < 1e-6, name


def test_the_updates_are_those_of_padded_rows(runs):
    padded, packed = (read_metrics(runs / batching / "metrics.jsonl") for batching in ("padded", "packed"))
    assert padded[-1]["tokens"] == packed[-1]["tokens"]
    assert padded[-1]["loss"] == pytest.approx(packed[-1]["loss"], rel=1e-4)
    assert padded[-1]["gradient_norm"] == pytest.approx(packed[-1]["gradient_norm"], rel=1e-3)
    assert packed[-1]["padding"] < padded[-1]["padding"] - 0.2
    assert_same_adapter(runs / "padded", runs / "packed")


def test_a_run_goes_on_in_rows_of_the_other_kind(command, runs, tmp_path, monkeypatch, capsys):
    """The stream of conversations is the same one."""
    plain, calls = loop.place_batch, []

    def interrupted(mesh, batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(mesh, batch)

    monkeypatch.setattr(loop, "place_batch", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([*command, "--out", str(tmp_path / "out"), "--batching", "padded"])
    assert "8 rows of 160 positions a step, " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "steps").iterdir()] == ["2"]
    monkeypatch.undo()
    main([*command, "--out", str(tmp_path / "out"), "--batching", "packed"])
    assert "rows of 160 positions a step, " in capsys.readouterr().out
    assert_same_adapter(tmp_path / "out", runs / "packed")


def test_the_recipe_of_the_tiny_model_pads(checkpoint):
    places = {"checkpoint": str(checkpoint), "data": Path("rows.json"), "images": Path("images"), "out": Path("out")}
    assert sft.complete(sft.Options(**places)).batching == "padded"
    said = {name: read(name).options["batching"] for name in names() if "/sft-" in name}
    padded = {name for name, batching in said.items() if batching == "padded"}
    assert padded == {"scenes-tiny/sft-full", "scenes-tiny/sft-lora"}
