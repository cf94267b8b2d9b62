"""The model in the package, and pictures for it."""

import pytest

import vlm_jax
from vlm_jax.scenes.draw import draw
from vlm_jax.scenes.world import scene


@pytest.fixture(scope="session")
def tiny():
    return vlm_jax.load("tiny")


@pytest.fixture(scope="session")
def pictures():
    """Of a heart, and of a ring and two boats: uint8 [48, 48, 3] each."""
    return [draw(scene("test", index)) for index in (4, 6)]
