"""Runs come back bit for bit, typed, on whatever mesh asks for them, and only into the run that wrote them."""

import errno
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.runs.log import MetricLog
from vlm_jax.runs.state import RunState

BASE = {"source": "/weights/base", "sha256": "0f" * 32}
MADE = {"rate": 1e-3, "lora": {"rank": 4}, "names": ("a", "b"), "base": BASE}
DATA = {"position": 7, "rng": [1, {"seed": None}]}


def make_state(seed: int = 0):
    optimizer = optax.adamw(1e-3)
    params = {"lora": {"a": jax.random.normal(jax.random.key(seed), (8, 4)), "b": jnp.ones((4,), jnp.bfloat16)}}
    updates, opt = optimizer.update(params, optimizer.init(params), params)
    return {"params": optax.apply_updates(params, updates), "opt": opt, "step": jnp.int32(seed)}


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_newest_state_comes_back_bit_for_bit_with_its_types(tmp_path):
    with RunState(tmp_path, MADE) as run:
        assert run.latest_step is None
        for step in (1, 2, 3):
            run.save(step, make_state(step), {**DATA, "position": step})
        run.wait()
        assert run.latest_step == 3
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["2", "3"]
    with RunState(tmp_path, MADE) as run:
        restored = run.restore(abstract(make_state()))
    assert (restored.step, restored.data_state) == (3, {**DATA, "position": 3})
    assert_same(restored.state, make_state(3))
    assert isinstance(restored.state["opt"][0], optax.ScaleByAdamState)


def test_another_config_or_base_is_refused(tmp_path):
    with RunState(tmp_path, MADE) as run:
        run.save(1, make_state(1), DATA)
    with pytest.raises(InputError, match=r"run\.json.*lora\.rank 4 instead of 8"):
        RunState(tmp_path, {**MADE, "lora": {"rank": 8}})
    with pytest.raises(InputError, match=r"base\.sha256"):
        RunState(tmp_path, {**MADE, "base": {"source": "/weights/base", "sha256": "aa" * 32}})


def test_a_run_that_saved_nothing_is_in_nobodys_way(tmp_path):
    RunState(tmp_path, MADE).close()
    other = {**MADE, "lora": {"rank": 8}}
    RunState(tmp_path, other).close()
    assert read_json(tmp_path / "run.json")["lora"] == {"rank": 8}


def test_a_run_that_saved_nothing_leaves_nothing_beside_the_next(tmp_path):
    """Its log and its rollouts' answers go with its record; a saved step keeps them, and a user's own files stay."""
    theirs = ["answers/00000.jsonl", "answers/00012.jsonl"]
    own = [
        "answers/notes.jsonl",
        "answers/1.jsonl",
        "answers/00000.txt",
        "tensorboard/notes",
        "results.json",
        "x.jsonl",
    ]
    (tmp_path / "answers").mkdir()

    def write():
        log = MetricLog(tmp_path, 0)
        log.write(0, {"loss": 1.0}, {})
        log.close()
        for name in (*theirs, *own):
            (tmp_path / name).write_text("{}")

    def files():
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("steps/")} - {"lock"}

    write()
    before = files()
    # Without a record it is nobody's.
    with RunState(tmp_path, MADE):
        assert files() == before | {"run.json"}
    with RunState(tmp_path, {**MADE, "rate": 7.0}):
        assert files() == {"run.json", *own}
        write()
    with RunState(tmp_path, MADE) as run:
        assert files() == {"run.json", *own}
        write()
        run.save(1, make_state(1), DATA)
    with RunState(tmp_path, MADE):
        assert {"metrics.jsonl", *theirs, *own} <= files()


def test_steps_that_nothing_vouches_for_are_refused(tmp_path):
    with RunState(tmp_path, MADE) as run:
        run.save(1, make_state(1), DATA)
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match=r"found saved steps without run\.json"):
        RunState(tmp_path, {**MADE, "rate": 7.0})
    assert not (tmp_path / "run.json").exists()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    with RunState(tmp_path, MADE):
        saving = tmp_path / "steps" / "2.orbax-checkpoint-tmp"
        saving.mkdir(parents=True)
        with pytest.raises(InputError, match="found a folder in use by another process"):
            RunState(tmp_path, MADE)
        assert saving.exists()
    RunState(tmp_path, MADE).close()
    assert not saving.exists()


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from vlm_jax.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]) / 'lock'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="in use by another process"):
        RunState(tmp_path, MADE)
    other.kill()
    other.communicate()
    RunState(tmp_path, MADE).close()


def test_restoring_nothing_or_another_state_is_refused(tmp_path):
    state = make_state()
    with RunState(tmp_path, MADE) as run:
        with pytest.raises(InputError, match="no checkpoint"):
            run.restore(abstract(state))
        run.save(1, state, DATA)
        run.wait()
        wrong = abstract(state)
        wrong["params"]["lora"]["a"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
        wrong["extra"] = wrong["step"]
        with pytest.raises(InputError, match=r"extra nothing instead of int32\[\].*lora/a float32\[8, 4\]"):
            run.restore(wrong)


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    state, donate = make_state(1), jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
    with RunState(tmp_path, MADE) as run:
        run.save(1, state, DATA)
        jax.block_until_ready(donate(state))
        run.wait()
        assert_same(run.restore(abstract(make_state(1))).state, make_state(1))


def test_interrupted_save_does_not_count(tmp_path):
    with RunState(tmp_path, MADE) as run:
        run.save(1, make_state(1), DATA)
    # What a killed process leaves: a step's folder without orbax's commit marker.
    torn = tmp_path / "steps" / "2.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "state").mkdir()
    with RunState(tmp_path, MADE) as run:
        assert run.latest_step == 1


def test_restores_onto_another_mesh(tmp_path):
    from vlm_jax.parallel.mesh import make_mesh

    state = jax.device_put(make_state(1), jax.sharding.NamedSharding(make_mesh(fsdp=8), jax.P()))
    with RunState(tmp_path, MADE) as run:
        run.save(1, state, DATA)
        run.wait()
        spread = abstract(state)
        target = jax.sharding.NamedSharding(make_mesh(fsdp=4, tensor=2), jax.P("fsdp", "tensor"))
        spread["params"]["lora"]["a"] = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=target)
        restored = run.restore(spread)
    assert restored.state["params"]["lora"]["a"].sharding == target
    assert_same(restored.state, state)


def files_of(folder):
    """Every file of a saved step, the arrays' own first."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[: len(content) // 2]], ids=["flipped", "cut"])
def test_a_damaged_checkpoint_is_named_or_does_no_harm(damage, tmp_path):
    """Whichever file is damaged: an error that names the step and the one before, or the very same state."""
    state = jax.tree.map(lambda leaf: jnp.tile(leaf, (64,) * leaf.ndim), make_state(2))
    with RunState(tmp_path, MADE) as run:
        run.save(1, state, DATA)
        run.save(2, state, DATA)
    complaints = []
    for path in files_of(tmp_path / "steps" / "2"):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        with RunState(tmp_path, MADE) as run:
            try:
                assert_same(run.restore(abstract(state)).state, state)
            except InputError as error:
                complaints.append(str(error))
        path.write_bytes(whole)
    assert len(complaints) >= 4
    for line in complaints:
        assert "steps/2: found a damaged checkpoint" in line
        assert "delete that folder to go on from step 1" in line
    shutil.rmtree(tmp_path / "steps" / "2")
    with RunState(tmp_path, MADE) as run:
        assert run.restore(abstract(state)).step == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(small_disk, capfd):
    def noise(size):
        return {"params": jax.random.normal(jax.random.key(0), (size,))}

    small, large = noise(2_000), noise(500_000)

    def fill():
        with RunState(small_disk, MADE) as run:
            run.save(1, small, DATA)
            run.wait()
            run.save(2, large, DATA)
            run.wait()

    with pytest.raises(OSError, match="No space left on device") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert len(capfd.readouterr().err.splitlines()) < 20
    with RunState(small_disk, MADE) as run:
        restored = run.restore(abstract(small))
    assert restored.step == 1
    assert_same(restored.state, small)
