"""The small model that the tests of runs train."""

import pytest
from small_models import SMALL, base_weights


@pytest.fixture(scope="session")
def config():
    return SMALL


@pytest.fixture(scope="session")
def base():
    return base_weights()
