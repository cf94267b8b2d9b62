"""Fixtures of the table of hostile inputs."""

import pytest
from good_commands import Ground
from shared_ground import Shared


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def ground(tmp_path, shared):
    return Ground(tmp_path, shared)
