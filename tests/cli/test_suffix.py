"""What stands behind a benchmark's questions: words that the checkpoint knows."""

import dataclasses
import json

import jax
import pytest

from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.cli import main
from vlm_jax.commands.eval.answering import known_suffix
from vlm_jax.config import PRESETS
from vlm_jax.models.llava import init_llava


@pytest.fixture
def pope(world, tmp_path, capsys):
    """Asks the tiny model a few of POPE's questions about a drawn world."""
    lines = (world / "pope_test_random.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "q.jsonl").write_text("".join(lines[:24]))
    files = ["--questions", tmp_path / "q.jsonl", "--images", world / "images", "--output", tmp_path / "out.json"]

    def run(*options):
        main([*map(str, ["eval", "pope", "--checkpoint", "tiny", *files]), *options])
        return json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out

    return run


def test_the_tiny_model_is_asked_what_it_knows(pope):
    result, said = pope()
    assert result["unparsed"] == 0
    assert result["metrics"]["accuracy"] > 0.8
    assert "MOST ANSWERS" not in said
    # What was meant by `own`, so that the result says it.
    assert result["made"]["options"]["answering"]["suffix"] == "none"


def test_a_suffix_that_it_does_not_know(pope):
    """Asked for by hand it is used; and the note says what would do."""
    result, said = pope("--suffix", "one_word")
    assert result["unparsed"] > 12
    assert result["made"]["options"]["answering"]["suffix"] == "one_word"
    assert "MOST ANSWERS COULD NOT BE READ: the figures say little of the model; ask with --suffix none." in said


def test_other_checkpoints_are_asked_as_llava_is(checkpoint, tmp_path):
    assert known_suffix(str(checkpoint), "short") == "none"
    config = dataclasses.replace(PRESETS["scenes-tiny"], projector="linear")
    save_llava(tmp_path / "other", config, jax.jit(lambda: init_llava(config, jax.random.key(0)))(), checkpoint)
    assert known_suffix(str(tmp_path / "other"), "short") == "short"
    assert known_suffix(str(tmp_path / "other"), "letter") == "letter"
