"""Weights, adapters and heads that are not finite are refused by the name of their tensor, wherever they are read."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_llava import CONFIG, random_base
from safetensors.numpy import load_file, save_file
from small_tokenizer import write_llama_tokenizer

from vlm_jax.checkpoints.adapters import load_adapter, save_adapter
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export, export_adapter
from vlm_jax.checkpoints.finite import not_finite
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.merge import write_merged
from vlm_jax.checkpoints.native import map_native
from vlm_jax.checkpoints.opening import map_base, open_model
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError
from vlm_jax.models.adapters import init_lora, init_reward_head

UP = "language_model.model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (600_000,), ()])
def test_counted_as_numpy_counts(dtype, shape):
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal(shape).astype(jnp.dtype(dtype))
    largest = jnp.finfo(jnp.dtype(dtype)).max
    for value in (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, largest, -largest):
        tensor[rng.random(shape) < 0.1] = value
        tensor.reshape(-1)[-1] = value
        assert not_finite(tensor) == (~np.isfinite(tensor.astype(np.float64))).sum()
        assert not_finite(tensor.T) == not_finite(tensor)
    assert not_finite(np.zeros(shape, np.int32)) == 0


def with_value(folder, file, name, value):
    tensors = load_file(folder / file)
    tensors[name] = np.array(tensors[name])
    tensors[name].reshape(-1)[7] = value
    save_file(tensors, folder / file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_base_in_transformers_layout(value, tmp_path):
    save_llava(tmp_path / "hf", CONFIG, random_base(CONFIG), None)
    write_llama_tokenizer(tmp_path / "hf")
    open_model(str(tmp_path / "hf"))
    with_value(tmp_path / "hf", "model.safetensors", UP, value)
    found = rf"hf/model.safetensors: found 1 of 1920 values of {UP} that are NaN or infinite; expected finite weights"
    work = {
        "open": lambda: open_model(str(tmp_path / "hf")),
        "load": lambda: load_llava(tmp_path / "hf"),
        "convert": lambda: convert(open_source(tmp_path / "hf"), tmp_path / "no", None),
        "quantise": lambda: convert(open_source(tmp_path / "hf"), tmp_path / "no", None, scheme="int8"),
        "export": lambda: export(tmp_path / "no", "hf", *map_base(tmp_path / "hf"), None),
        "merge": lambda: write_merged(tmp_path / "no", *map_base(tmp_path / "hf"), lora(), None, {}),
    }
    for call in work.values():
        with pytest.raises(InputError, match=found):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_base_in_our_own_layout(tmp_path):
    save_llava(tmp_path / "hf", CONFIG, random_base(CONFIG), write_llama_tokenizer(tmp_path / "words"))
    for name, scheme in (("whole", None), ("small", "int8")):
        folder = tmp_path / name
        convert(open_source(tmp_path / "hf"), folder, tmp_path / "hf", scheme=scheme)
        open_model(str(folder))
        leaf = "language/blocks/mlp/up/kernel" + ("/scale" if scheme else "")
        with_value(folder, "weights.safetensors", leaf, np.nan)
        found = rf"{name}/weights.safetensors: found 1 of \d+ values of {leaf}"
        with pytest.raises(InputError, match=found):
            open_model(str(folder))
        with pytest.raises(InputError, match=found):
            export(tmp_path / "no", "hf", *map_base(folder), None)
    with pytest.raises(InputError, match="up/kernel, layer 0 that are NaN"):
        write_merged(tmp_path / "no", *map_base(tmp_path / "whole"), lora(), None, {})
    assert not (tmp_path / "no").exists()
    info, base = map_native(tmp_path / "whole")
    tree = jax.tree.map(lambda leaf: np.array(leaf.read_layer(0)) if leaf.dtype == np.int8 else leaf, base)
    assert info.config.language == CONFIG.language
    assert tree


def test_weights_in_memory_are_not_exported(tmp_path):
    """What training hands over."""
    base = random_base(CONFIG)
    base["language"]["norm"]["scale"][3] = np.nan
    for dtype in ("float32", "float16"):
        with pytest.raises(InputError, match=r"1 of 48 values of language_model.model.norm.weight that are NaN"):
            save_llava(tmp_path / "no", CONFIG, base, None, dtype)


def lora():
    return jax.tree.map(np.asarray, init_lora(CONFIG, jax.random.key(0)))


@pytest.fixture
def adapter(tmp_path):
    head = jax.tree.map(np.asarray, init_reward_head(CONFIG, jax.random.key(0)))
    save_adapter(tmp_path / "adapter", CONFIG, {"lora": lora(), "head": head})
    load_adapter(tmp_path / "adapter", CONFIG)
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("adapter_model.safetensors", "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight"),
        ("reward_head.safetensors", "weight"),
    ],
)
def test_adapters_and_heads(file, name, adapter, tmp_path):
    with_value(adapter, file, name, np.inf)
    for call in (load_adapter, lambda folder, _: export_adapter(folder, tmp_path / "no", "hf")):
        with pytest.raises(InputError, match=rf"{file}: found 1 of \d+ values of {name} that are NaN or infinite"):
            call(adapter, CONFIG)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("alpha", ["1e300", "1e999", "-1e999", "NaN", "0", "-3"])
def test_scales_that_are_no_numbers(alpha, adapter):
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 6.0', f'"lora_alpha": {alpha}'))
    with pytest.raises(InputError, match=r"adapter_config.json: found"):
        load_adapter(adapter, CONFIG)
    with pytest.raises(InputError, match=r"adapter_config.json: found"):
        export_adapter(adapter, adapter.parent / "no", "llava")


@pytest.mark.parametrize(
    ("part", "key"), [("vlm_jax", "lora"), ("text_config", "rms_norm_eps"), ("text_config", "rope_parameters")]
)
@pytest.mark.parametrize("value", ["1e300", "1e999"])
def test_configs_of_numbers_that_are_none(part, key, value, tmp_path):
    save_llava(tmp_path / "hf", CONFIG, random_base(CONFIG), None)
    path = tmp_path / "hf/config.json"
    raw = json.loads(path.read_text())
    inner = {"lora": {"rank": 3, "alpha": 77}, "rms_norm_eps": 77, "rope_parameters": {"rope_theta": 77}}
    raw[part][key] = inner[key]
    path.write_text(json.dumps(raw).replace("77", value))
    with pytest.raises(InputError, match=rf"config.json: found .*{key.partition('_')[0]}"):
        load_llava(tmp_path / "hf")


def test_what_is_finite_is_read_as_before(tmp_path):
    config = dataclasses.replace(CONFIG, dtype="float32")
    base = random_base(config)
    base["language"]["norm"]["scale"][0] = np.finfo(np.float32).max
    save_llava(tmp_path / "hf", config, base, None)
    np.testing.assert_array_equal(
        load_llava(tmp_path / "hf")[1]["language"]["norm"]["scale"], base["language"]["norm"]["scale"]
    )
