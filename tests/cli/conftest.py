"""A checkpoint with random weights, a small drawn world, a random adapter: what every verb starts from."""

import shutil

import jax
import numpy as np
import pytest

from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.reward_view import VIEW_FILE, TrainedView, written_view
from vlm_jax.cli import main
from vlm_jax.config import PRESETS
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.files import write_json
from vlm_jax.models.adapters import init_lora, init_reward_head
from vlm_jax.models.llava import init_llava
from vlm_jax.scenes.tokenizer import build

CONFIG = PRESETS["scenes-tiny"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    build(folder / "tokenizer")
    base = jax.jit(lambda: init_llava(CONFIG, jax.random.key(0)))()
    save_llava(folder / "model", CONFIG, base, folder / "tokenizer")
    return folder / "model"


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """A reward model of random weights."""
    folder = tmp_path_factory.mktemp("adapter") / "role"
    keys = jax.random.split(jax.random.key(1))
    # A fresh adapter has zeros in B, and changes nothing.
    lora = jax.tree.map(
        lambda leaf: leaf + 0.01 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), init_lora(CONFIG, keys[0])
    )
    save_adapter(folder, CONFIG, {"lora": lora, "head": init_reward_head(CONFIG, keys[1])})
    return folder


@pytest.fixture(scope="session")
def reward(adapter, tmp_path_factory):
    """The same, with the word of a training that had facts and saw 24 pixels a side."""
    folder = tmp_path_factory.mktemp("reward") / "adapter"
    shutil.copytree(adapter, folder)
    write_json(folder / VIEW_FILE, written_view(TrainedView(facts=True, resolution=24, prompt=SHORT)))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "world"
    main(["scenes", "--out", str(folder), *(f"--{split}=30" for split in SPLITS)])
    return folder


SPLITS = ("train", "preference", "prompts", "validation", "test")
