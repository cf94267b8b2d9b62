"""README's commands as they stand: every option is one, and every command does what it is there for."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer, completion
from readme_commands import (
    README,
    commands,
    verbs,
    write_chair,
    write_checkpoints,
    write_mmhal,
    write_photo,
    write_pope,
)

from vlm_jax.checkpoints.opening import TINY
from vlm_jax.cli import main

ROAD, CHECKPOINTS, BENCHMARKS = "The same road on your files", "Checkpoints", "Benchmarks"
# Scenes of each split that the road is walked on: `vlm-jax scenes --out world` draws thousands. 200 pairs are held out
# and some have equal answers, so that less would not do for `vlm-jax reward`.
SMALL_WORLD = {"train": 64, "preference": 300, "prompts": 64, "validation": 8, "test": 16}


def named(words):
    return " ".join(words)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_sections_are_there():
    assert [len(verbs(heading)) > 3 for heading in (ROAD, CHECKPOINTS, BENCHMARKS)] == [True] * 3


def test_whatever_stands_in_a_block_of_commands_is_one():
    targets = re.findall(r"^([\w-]+):", (README.parent / "Makefile").read_text(encoding="utf-8"), re.M)
    for words in commands():
        assert words[0] == "vlm-jax" or (words[0] == "make" and words[1] in targets), words


@pytest.mark.parametrize("words", [words for words in verbs() if words != ["eval"]], ids=named)
def test_every_option_is_one(words, monkeypatch):
    name = f"eval.{words[1].replace('-', '_')}" if words[0] == "eval" else words[0]
    asked = []
    monkeypatch.setattr(importlib.import_module(f"vlm_jax.commands.{name}"), "run", asked.append)
    main(words)
    assert len(asked) == 1


def test_checkpoints(here, capsys):
    """One after the other: each reads what those before it wrote."""
    write_checkpoints(here)
    for words in verbs(CHECKPOINTS):
        capsys.readouterr()
        if words[0] == "convert":
            # Several lines show ways to the same folder.
            shutil.rmtree(here / words[2], ignore_errors=True)
        before = set(here.iterdir())
        main(words)
        if words[0] == "checkpoint":
            assert "layout: our own" in capsys.readouterr().out
        else:
            (made,) = set(here.iterdir()) - before
            assert made.name in words
            assert any(path.suffix == ".safetensors" for path in made.iterdir())


def pope_results(folder):
    """Results of the three files whose mean is asked for."""
    for name in ("random", "popular", "adversarial"):
        write_pope(folder, f"{name}_questions.json")
        files = ["--questions", f"{name}_questions.json", "--answers", "answers.jsonl", "--output", f"{name}.json"]
        main(["eval", "pope", *files])


def a_checkpoint(folder):
    write_pope(folder)
    shutil.copytree(TINY, folder / "DIR")


def inputs_of(words):
    if words[1] == "pope":
        return a_checkpoint if "--checkpoint" in words else write_pope
    return {"chair": write_chair, "pope-mean": pope_results, "mmhal": write_mmhal}[words[1]]


@pytest.mark.parametrize("words", [words for words in verbs(BENCHMARKS) if words != ["eval"]], ids=named)
def test_benchmarks(words, here, monkeypatch, capsys):
    inputs_of(words)(here)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with ChatServer(lambda number, body: completion("Rating: 5")) as server:
        # Nothing but the judge's URL is another.
        main([server.url if word.startswith("http://localhost") else word for word in words])
    result = json.loads((here / words[words.index("--output") + 1]).read_text(encoding="utf-8"))
    assert result["metrics"]
    assert len(server.bodies) == (8 if "--judge" in words else 0)


@pytest.mark.parametrize("words", [words for words in verbs() if words[0] == "recipe"], ids=named)
def test_recipes(words, capsys):
    main(words)
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_eval_says_what_there_is(capsys):
    assert ["eval"] in verbs(BENCHMARKS)
    main(["eval"])
    assert "pope" in capsys.readouterr().out


@pytest.mark.slow
def test_the_road(tmp_path):
    """Minutes: the whole road with its own defaults, on a smaller world under the name that README draws."""
    write_photo(tmp_path / "photo.jpg")
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    def run(words):
        done = subprocess.run(
            [sys.executable, "-m", "vlm_jax.cli", *words], cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr[-3000:]}"
        return done.stdout

    for words in verbs(ROAD):
        if words[0] == "scenes":
            assert words == ["scenes", "--out", "world"]
            words = [*words, *(f"--{split}={size}" for split, size in SMALL_WORLD.items())]
        said = run(words)
        written = [words[words.index(option) + 1] for option in ("--out", "--output") if option in words]
        assert all((tmp_path / name).exists() for name in written), words
        assert said.strip(), words
    assert (Path(tmp_path) / "world" / "preferences.json").exists()
