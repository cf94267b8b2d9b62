import pytest
from known_scores import ROOM, scores_of

from vlm_jax.scenes.world import Scene


@pytest.fixture
def room() -> Scene:
    return ROOM


@pytest.fixture
def models() -> dict:
    return {"the start": scores_of(20), "plain": scores_of(18), "with facts": scores_of(4)}
