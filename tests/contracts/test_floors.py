"""No import runs upwards: every module stands on the floors below its own, and on its own one.

Imports within functions count as well, and so do those for type checkers alone.
"""

import ast
from pathlib import Path

import pytest

import vlm_jax

PACKAGE = Path(vlm_jax.__file__).parent

# From the ground up. Rooms of one floor may read each other.
FLOORS = (
    ("config", "arrays", "errors", "randomness", "ranges", "terminal", "versions"),
    ("files", "provenance", "recipes", "parallel"),
    ("models", "scenes"),
    ("data",),
    ("checkpoints",),
    ("generate",),
    ("interpret", "train"),
    ("planning", "runs"),
    ("evals",),
    ("report", "scripting"),
    ("commands",),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What the package's own file says of itself; it imports nothing.
GROUND = {"__version__": -1}


def room_of(module: str) -> str:
    """``vlm_jax.data.images`` -> ``data``."""
    return module.split(".")[1]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module of ours) of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute, so that a name says where it leads"
            # `from vlm_jax import provenance` names a room; so does what stands behind every other one of ours.
            names = [f"{node.module}.{name.name}" for name in node.names]
        else:
            continue
        found += [(node.lineno, name) for name in names if name.split(".")[0] == "vlm_jax" and "." in name]
    return found


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module but the package's own ``__init__``."""
    paths = sorted(PACKAGE.rglob("*.py"))
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths}
    return {".".join(names): path for path, names in parts.items() if names != ("vlm_jax", "__init__")}


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name in modules()}
    assert rooms == set(FLOOR_OF)
    # The package's own file offers names of upper floors, and looks them up when they are asked for.
    offered = {f"{module}.{name}" for name, module in vlm_jax._MODULES.items()}
    assert {target for _, target in imports(PACKAGE / "__init__.py")} <= offered


@pytest.mark.parametrize("room", FLOOR_OF)
def test_no_import_runs_upwards(room):
    upwards = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {target}"
        for name, path in modules().items()
        if room_of(name) == room
        for line, target in imports(path)
        if (FLOOR_OF | GROUND)[room_of(target)] > FLOOR_OF[room]
    ]
    assert not upwards, "\n".join(upwards)


def test_the_walk_sees_imports_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import vlm_jax.data.images\nfrom vlm_jax import provenance\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from vlm_jax.evals import judges\ndef run():\n"
        "    from vlm_jax.commands.ppo import Options\n"
    )
    assert [room_of(name) for _, name in imports(path)] == ["data", "provenance", "evals", "commands"]
