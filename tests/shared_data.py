"""Real benchmark files and recorded answers of reference scorers, where they are at hand (they are not ours to
ship)."""

import json
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared_file(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name}, which belongs to others and is not part of this repository")
    return path


def golden(group: str):
    """What the reference scorers gave on hand-made cases."""
    return json.loads(shared_file("golden_evals.json").read_text(encoding="utf-8"))[group]
