"""Weights that the tests of the steps share."""

import numpy as np
import pytest
from small_models import SMALL, base_weights, role_weights


@pytest.fixture(scope="session")
def config():
    return SMALL


@pytest.fixture(scope="session")
def base():
    return base_weights()


@pytest.fixture
def role():
    """A role of its own for every test: steps donate their state."""
    return role_weights()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
