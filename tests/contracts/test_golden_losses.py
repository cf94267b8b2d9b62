"""Ten steps of SFT, reward training and PPO give the committed figures: whatever changes data, arithmetic or the order
of draws on the default paths shows here."""

import json

import pytest
from golden_losses import CURVES, FILE, STEPS, write_golden_world

from vlm_jax.checkpoints.opening import open_model

# Float32 sums in another order: XLA's other versions, flags (the committed figures were made with full optimisation,
# tests run with little) and processors. Between the two sets of flags ten steps drift apart by at most 5e-6, figures
# being about 1; what is left above that is for compilers to come. A change of what is computed is far larger.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_golden_world(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    return open_model("tiny")


@pytest.mark.parametrize("kind", CURVES)
def test_the_first_steps_are_those_committed(kind, model, world):
    committed = json.loads(FILE.read_text(encoding="utf-8"))[kind]
    found = CURVES[kind](model, world)
    assert found.keys() == committed.keys()
    for name, values in found.items():
        assert len(values) == STEPS
        assert values == pytest.approx(committed[name], abs=TOLERANCE, rel=0), name
