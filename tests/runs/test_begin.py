import dataclasses
import json
from pathlib import Path

import pytest

from vlm_jax.checkpoints.hashes import BaseSource, weights_sha256
from vlm_jax.errors import InputError
from vlm_jax.provenance import claim, finished
from vlm_jax.runs.begin import identity


@dataclasses.dataclass(frozen=True)
class View:
    facts: Path | None = None
    resolution: int = 16


@dataclasses.dataclass(frozen=True)
class Options:
    data: Path
    images: Path
    out: Path
    adapter: Path | None = None
    view: View = View()
    steps: int = 3
    save_every: int = 10


@pytest.fixture
def options(tmp_path):
    for name in ("data.json", "facts.json"):
        (tmp_path / name).write_text("[]")
    for name in ("images", "adapter", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"one")
    paths = {"data": tmp_path / "data.json", "images": tmp_path / "images", "adapter": tmp_path / "adapter"}
    return Options(**paths, out=tmp_path / "run", view=View(tmp_path / "facts.json"))


def test_places_may_change(options, tmp_path):
    record = tmp_path / "run.json"
    claim(record, identity(options, BaseSource("here", "aa")))
    (tmp_path / "elsewhere").mkdir()
    moved = options.data.rename(tmp_path / "elsewhere" / "data.json")
    changed = dataclasses.replace(options, data=moved, out=tmp_path / "other", images=tmp_path / "x", save_every=1)
    claim(record, identity(changed, BaseSource("there", "aa")))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data.json", "data"),
        ("facts.json", "view.facts"),
        ("adapter/adapter_model.safetensors", "adapter"),
    ],
)
def test_changed_inputs_are_named(options, tmp_path, path, name):
    record = tmp_path / "run.json"
    claim(record, identity(options))
    (tmp_path / path).write_bytes(b"two")
    with pytest.raises(InputError, match=rf"run\.json: found inputs.{name} "):
        claim(record, identity(options))


def test_changed_settings_and_bases_are_named(options, tmp_path):
    record = tmp_path / "run.json"
    claim(record, identity(options, BaseSource("tiny", "aa")))
    for other in (dataclasses.replace(options, steps=4), dataclasses.replace(options, view=View(resolution=8))):
        with pytest.raises(InputError, match=r"steps 3 instead of 4|view\.resolution 16 instead of 8"):
            claim(record, identity(other, BaseSource("tiny", "aa")))
    with pytest.raises(InputError, match=r"base\.sha256 'aa' instead of 'bb'"):
        claim(record, identity(options, BaseSource("tiny", "bb")))


def test_a_result_counts_only_with_the_record_of_its_making(options, tmp_path, capsys):
    result, record, made = tmp_path / "scores.json", tmp_path / "run.json", identity(options)
    assert not finished(result, record, made)
    result.write_text("{}")
    with pytest.raises(InputError, match=r"scores\.json: found a result without a record"):
        finished(result, record, made)
    claim(record, made)
    assert finished(result, record, made)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(InputError, match="steps 3 instead of 4"):
        finished(result, record, identity(dataclasses.replace(options, steps=4)))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_a_checkpoints_hash_follows_what_is_read(name, tmp_path):
    weights = "pytorch_model.bin" if name.endswith("bin") else "model.safetensors"
    for path in {weights, name, "config.json"}:
        (tmp_path / path).write_bytes(b"one")
    first = weights_sha256(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"not read")
    assert weights_sha256(tmp_path) == first
    (tmp_path / name).write_bytes(b"two")
    assert weights_sha256(tmp_path) != first
    with pytest.raises(InputError, match="no such file or folder"):
        weights_sha256(tmp_path / "absent")


def test_our_own_hash_follows_weights_and_config_wherever_they_came_from(tmp_path):
    def made(**more):
        (tmp_path / "vlm_jax.json").write_text(json.dumps({"config": {"rope_theta": 1e4}, "source": "here", **more}))
        return weights_sha256(tmp_path)

    (tmp_path / "weights.safetensors").write_bytes(b"one")
    first = made()
    assert made(source="there") == first
    assert made(config={"rope_theta": 1e6}) != first
    (tmp_path / "weights.safetensors").write_bytes(b"two")
    assert made() != first
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors: found no such file"):
        made()


def test_sharded_weights_are_hashed_by_their_index(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(b"one")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    first = weights_sha256(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"two")
    assert weights_sha256(tmp_path) != first


def test_a_record_that_is_older_than_an_option_is_found(tmp_path):
    """What an absent setting says is what None says."""
    (tmp_path / "run.json").write_text('{"settings": {"seed": 0}, "inputs": {}}')
    claim(tmp_path / "run.json", {"settings": {"seed": 0, "like": None}, "inputs": {}})
    with pytest.raises(InputError, match=r"settings\.like"):
        claim(tmp_path / "run.json", {"settings": {"seed": 0, "like": "llava"}, "inputs": {}})
