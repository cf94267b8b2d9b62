"""Every layout to our own: logits as torch computes them, nothing lost, and clear words where something is wrong."""

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from random_llava import (
    CONFIG,
    LINEAR,
    assert_close_on_real,
    assert_same_tree,
    logits_of,
    make_batch,
    our_logits,
    random_base,
    torch_llava,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.merge import write_merged
from vlm_jax.checkpoints.native import CONFIG_FILE, WEIGHTS_FILE, load_native, read_info
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.data.conversation import Piece, encode_pieces
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.models.adapters import init_lora
from vlm_jax.parallel.mesh import make_mesh

TO_ORIGINAL = (
    (r"^model\.language_model\.", "model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model."),
)


def original_tensors(model, config):
    """The weights of transformers' model under the original code's names."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in TO_ORIGINAL:
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor.contiguous()
    if config.projector == "linear":
        del tensors["model.mm_projector.2.weight"], tensors["model.mm_projector.2.bias"]
        for part in ("weight", "bias"):
            tensors[f"model.mm_projector.{part}"] = tensors.pop(f"model.mm_projector.0.{part}")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    return tensors


def original_config(config, **more):
    language = config.language
    return {
        "model_type": "llava",
        "hidden_size": language.width,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "intermediate_size": language.mlp_width,
        "vocab_size": language.vocab_size,
        "rms_norm_eps": language.norm_eps,
        "max_position_embeddings": language.max_positions,
        "rope_theta": language.rope_theta,
        "mm_vision_tower": "somewhere/clip",
        **more,
    }


def write_tower(folder, model, prefix):
    """The model's vision tower as a CLIP folder: flat, or under a prefix with full CLIP's other tensors beside it."""
    folder.mkdir()
    config = model.config.vision_config.to_dict()
    tower = {
        prefix + re.sub(r"^vision_model\.", "", name): tensor.contiguous()
        for name, tensor in model.model.vision_tower.state_dict().items()
    }
    if prefix:
        tower |= {"logit_scale": torch.ones(()), "text_model.final_layer_norm.weight": torch.ones(3)}
        config = {"model_type": "clip", "vision_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(tower, folder / "pytorch_model.bin")


@pytest.fixture(scope="module", params=["mlp", "linear"])
def pair(request):
    config = CONFIG if request.param == "mlp" else LINEAR
    return config, torch_llava(config)


def loaded(folder):
    info, base = load_native(folder, make_mesh())
    return info.config, base


def assert_logits_agree(config, base, model):
    batch = make_batch(config)
    assert_close_on_real(our_logits(config, base, batch), logits_of(model, batch), batch)


def test_transformers_layout_gives_its_logits(pair, tmp_path):
    config, model = pair
    model.save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert not list(tmp_path.glob(".*"))
    ours, base = loaded(tmp_path / "ours")
    assert (ours.language, ours.vision, ours.projector) == (config.language, config.vision, config.projector)
    assert_logits_agree(ours, base, model)
    info = read_info(tmp_path / "ours")
    assert info.source["layout"] == "hf"
    assert re.fullmatch("[0-9a-f]{64}", info.source["sha256"])
    assert_same_tree(jax.tree.map(np.asarray, base), load_llava(tmp_path / "hf")[1])


@pytest.mark.parametrize("form", ["bin", "sharded bin", "safetensors"])
def test_original_layout_with_its_tower_and_without(pair, form, tmp_path):
    config, model = pair
    folder = tmp_path / "original"
    folder.mkdir()
    tensors = original_tensors(model, config)
    tower = form != "bin"
    if not tower:
        tensors = {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}
    write_tower(tmp_path / "clip", model, "" if form == "safetensors" else "vision_model.")
    (folder / "config.json").write_text(json.dumps(original_config(config)))
    names = sorted(tensors)
    if form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif form == "safetensors":
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, folder / "model.safetensors")
    else:
        halves = {"a.bin": names[::2], "b.bin": names[1::2]}
        for file, part in halves.items():
            torch.save({name: tensors[name] for name in part}, folder / file)
        index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    if not tower:
        with pytest.raises(InputError, match="mm_vision_tower 'somewhere/clip'"):
            open_source(folder)
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert ours.image_token_id == config.language.vocab_size
    assert_logits_agree(dataclasses.replace(ours, image_token_id=config.image_token_id), base, model)


def test_a_llama_with_a_projector_file_and_a_tower(pair, tmp_path):
    config, model = pair
    tensors = original_tensors(model, config)
    projector = {f"base_model.model.{n}": t for n, t in tensors.items() if "mm_projector" in n}
    torch.save(projector, tmp_path / "mm_projector.bin")
    folder = tmp_path / "vicuna"
    folder.mkdir()
    language = {n: t.numpy() for n, t in tensors.items() if "mm_projector" not in n and "vision" not in n}
    save_file(language, folder / "model.safetensors")
    plain = {k: v for k, v in original_config(config, model_type="llama").items() if not k.startswith("mm_")}
    (folder / "config.json").write_text(json.dumps(plain))
    write_tower(tmp_path / "clip", model, "vision_model.")
    source = open_source(folder, vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")
    convert(source, tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert_logits_agree(dataclasses.replace(ours, image_token_id=config.image_token_id), base, model)


def test_delta_weights(tmp_path):
    """target = delta + base in float16, extra vocabulary rows and the projector as they are (LLaVA apply_delta.py)."""
    model = torch_llava(LINEAR, torch.float16)
    whole = original_tensors(model, LINEAR)
    rng = np.random.default_rng(0)
    base, delta = {}, dict(whole)
    for name, tensor in whole.items():
        if name.startswith(("model.layers", "model.norm", "model.embed", "lm_head")) and "inv_freq" not in name:
            rows = 58 if tensor.shape[0] == LINEAR.language.vocab_size else tensor.shape[0]
            base[name] = torch.tensor(rng.standard_normal((rows, *tensor.shape[1:])), dtype=torch.float16)
            delta[name] = tensor.clone()
            delta[name][:rows] -= base[name]
    for folder, tensors in (("base", base), ("delta", delta)):
        (tmp_path / folder).mkdir()
        torch.save(tensors, tmp_path / folder / "pytorch_model.bin")
    (tmp_path / "delta/config.json").write_text(json.dumps(original_config(LINEAR)))
    write_tower(tmp_path / "clip", model, "")
    source = open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")
    for name in source.slots:
        expected = delta[name].clone() if name in delta else None
        if name in base:
            expected[: len(base[name])] += base[name]
        if expected is not None and "vision" not in name:
            np.testing.assert_array_equal(source.read(name), expected.numpy())
    near_nothing = delta["model.norm.weight"] * 0.001
    torch.save(delta | {"model.norm.weight": near_nothing}, tmp_path / "delta/pytorch_model.bin")
    with pytest.raises(InputError, match=r"stored as a difference to a LLaMA; expected --base"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip")
    base["model.norm.weight"] = torch.ones(99)
    torch.save(base, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match=r"model.norm.weight \[99\] under a delta of \[48\]"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")
    # A smaller LLaMA, of which every tensor would fit into a corner.
    smaller = {name: tensor[tuple(slice(n - 1) for n in tensor.shape)].clone() for name, tensor in base.items()}
    del smaller["model.layers.2.mlp.up_proj.weight"]
    torch.save(smaller, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match=r"layers.2.mlp.up_proj.weight in one of them alone; .* under a delta of"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")


def test_every_tensor_keeps_its_type_unless_asked(tmp_path):
    model = torch_llava(CONFIG, torch.bfloat16)
    model.save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    _, base = loaded(tmp_path / "ours")
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    convert(open_source(tmp_path / "hf"), tmp_path / "wide", None, dtype="float32")
    _, wide = loaded(tmp_path / "wide")
    jax.tree.map(lambda one, two: np.testing.assert_array_equal(one.astype(jnp.float32), two), base, wide)


@pytest.mark.parametrize("scheme", ["int8", "nf4", "nf4_double"])
def test_quantised_conversion_reports_its_error(scheme, tmp_path):
    from vlm_jax.models.quantize import quantize_base

    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    rows = convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, scheme=scheme)
    _, base = loaded(tmp_path / "ours")
    whole = jax.jit(quantize_base, static_argnums=1)(load_llava(tmp_path / "hf")[1], scheme)
    assert jax.tree.structure(base) == jax.tree.structure(whole)
    for one, other in zip(jax.tree.leaves(base), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-6)
    report = json.loads((tmp_path / "ours/quantization.json").read_text())["tensors"]
    assert len(report) == 7 * CONFIG.language.layers
    low, high = (0.002, 0.02) if scheme == "int8" else (0.05, 0.15)
    assert all(low < row["relative_rms"] < high for row in report)
    assert len(rows) == len(open_source(tmp_path / "hf").slots)


class Killed(BaseException):
    pass


def begun(source, target, count, tokenizer=None, **how):
    """A conversion that is killed after so many tensors; the hidden folder that it leaves."""
    left = count

    def die(size):
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, tokenizer, step=die, **how)
    assert not target.exists()
    return target.with_name(f".{target.name}.converting")


@pytest.fixture
def source(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    return open_source(tmp_path / "hf")


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words/tokenizer.json").write_text("{}")
    return tmp_path / "words"


def test_a_killed_conversion_goes_on(source, tmp_path):
    convert(source, tmp_path / "straight", None, scheme="nf4")
    log = begun(source, tmp_path / "ours", 20, scheme="nf4") / "done.jsonl"
    log.write_text(log.read_text() + '{"tensor": "cut o')
    with pytest.raises(InputError, match=r"settings\.scheme 'nf4' instead of 'int8'"):
        convert(source, tmp_path / "ours", None, scheme="int8")
    again = []
    convert(source, tmp_path / "ours", None, scheme="nf4", step=again.append)
    assert len(again) == len(source.slots) - 20
    for name in (WEIGHTS_FILE, CONFIG_FILE, "quantization.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_mistake_does_not_end_what_was_begun(source, tokenizer, tmp_path):
    begun(source, tmp_path / "ours", 20, tokenizer)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found no tokenizer"):
        convert(source, tmp_path / "ours", tmp_path / "none")
    again = []
    convert(source, tmp_path / "ours", tokenizer, step=again.append)
    assert len(again) == len(source.slots) - 20


def test_another_tokenizer_is_another_conversion(source, tokenizer, tmp_path):
    begun(source, tmp_path / "ours", 20, tokenizer)
    (tokenizer / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"settings\.tokenizer '[0-9a-f]+' instead of"):
        convert(source, tmp_path / "ours", tokenizer)


def test_other_weights_are_another_conversion(source, tmp_path):
    begun(source, tmp_path / "ours", 20)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["language_model.model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match=r"settings\.sha256 '[0-9a-f]+' instead of"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)


@pytest.mark.parametrize(
    "garbage", ['{"tensor": "x"}\nnot json\n', '{"foo": 1}\n', '{"tensor": "x"}\n', "7\n", "\udcff\n"]
)
def test_garbage_among_the_rows_that_are_done(garbage, source, tmp_path):
    log = begun(source, tmp_path / "ours", 20) / "done.jsonl"
    log.write_bytes(garbage.encode(errors="surrogateescape"))
    with pytest.raises(
        InputError, match=r"done\.jsonl: found rows that no .*; delete .*\.ours\.converting to begin anew"
    ):
        convert(source, tmp_path / "ours", None)
    assert log.exists()


def test_a_conversion_killed_between_its_name_and_its_end(source, tmp_path, monkeypatch):
    """The result is whole, and what is left of its making tells no later conversion that tensors are there."""

    rename = Path.rename

    def rename_and_die(path, target):
        rename(path, target)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_and_die)
        with pytest.raises(Killed):
            convert(source, tmp_path / "ours", None)
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == sorted([WEIGHTS_FILE, CONFIG_FILE])
    whole = (tmp_path / "ours").rename(tmp_path / "whole")
    convert(source, tmp_path / "ours", None)
    assert (tmp_path / "ours" / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_two_conversions_of_one_target(source, tmp_path):
    complaints = []

    def meanwhile(size):
        if not complaints:
            with pytest.raises(
                InputError, match=r"\.ours\.converting: found a folder in use by another process"
            ) as caught:
                convert(source, tmp_path / "ours", None)
            complaints.append(caught.value)

    convert(source, tmp_path / "ours", None, step=meanwhile)
    assert complaints
    assert_same_tree(jax.tree.map(np.asarray, loaded(tmp_path / "ours")[1]), load_llava(tmp_path / "hf")[1])


def test_neither_converting_nor_merging_holds_the_model(tmp_path):
    """As far as NumPy holds it: what jax holds is not traced."""
    wide = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, mlp_width=4096, layers=12))
    base = random_base(wide)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
    save_llava(tmp_path / "hf", wide, base, None)
    del base
    lora = jax.tree.map(np.asarray, init_lora(wide, jax.random.key(0)))
    source = open_source(tmp_path / "hf")
    peaks = []
    for work in (
        lambda: convert(source, tmp_path / "ours", None),
        lambda: write_merged(tmp_path / "merged", wide, source.stored(), lora, None, {}),
    ):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < size / 2


def test_nan_weights_are_counted(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["language_model.lm_head.weight"][3, :4] = [np.nan, np.inf, -np.inf, 1]
    save_file(tensors, tmp_path / "hf/model.safetensors")
    rows = convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert {row["tensor"]: row["not_finite"] for row in rows if row["not_finite"]} == {
        "language_model.lm_head.weight": 3
    }


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    torch.save({"model.norm.weight": _Attack(tmp_path / "owned")}, folder / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model.bin: found a pickle that asks for io.open; it was not"
    ) as caught:
        open_source(folder)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_named(name, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    tensors = original_tensors(torch_llava(CONFIG), CONFIG)
    if name.endswith("bin"):
        torch.save(tensors, folder / name)
    else:
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=re.escape(str(folder / name))):
        open_source(folder)


def test_an_index_that_disagrees_with_its_files(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/one.safetensors")
    names = load_file(tmp_path / "hf/one.safetensors")
    index = tmp_path / "hf/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "lost.weight"], "one.safetensors")}))
    with pytest.raises(InputError, match=r"1 tensors that are not where it says: lost.weight in one.safetensors"):
        open_source(tmp_path / "hf")
    *named, left_out = sorted(names)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(named, "one.safetensors")}))
    with pytest.raises(InputError, match=rf"1 tensors that it leaves out: {re.escape(left_out)} in one.safetensors"):
        open_source(tmp_path / "hf")


def test_an_index_may_leave_out_computed_buffers(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/model.safetensors").unlink()
    old = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    save_file({**tensors, **old}, tmp_path / "hf/one.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "one.safetensors")}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    assert len(open_source(tmp_path / "hf").slots) == len(tensors)


@pytest.mark.parametrize("file", ["../hf/model.safetensors", "/model.safetensors", "", "..", "a\0b"])
def test_an_index_that_leaves_its_folder(file, tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    names = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text((tmp_path / "hf/config.json").read_text())
    index = tmp_path / "other/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
    with pytest.raises(InputError, match=r"index.json: found files \[.*\]; expected files of this folder"):
        open_source(tmp_path / "other")


def test_whole_weights_beside_an_index(tmp_path):
    """transformers reads the whole file, whatever the index says."""
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    names = load_file(tmp_path / "hf/model.safetensors")
    save_file({name: 0 * tensor for name, tensor in names.items()}, tmp_path / "hf/old.safetensors")
    index = {"weight_map": dict.fromkeys(names, "old.safetensors")}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"hf: found model.safetensors and model.safetensors.index.json; expected one"):
        open_source(tmp_path / "hf")


def test_a_config_that_contradicts_the_tensors_leaves_nothing(tmp_path, monkeypatch):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    config["text_config"]["intermediate_size"] = 41
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"9 mis-shaped: .*gate_proj"):
        open_source(tmp_path / "hf")


def test_a_broken_source_leaves_nothing_half_written(tmp_path, monkeypatch):
    torch_llava(LINEAR).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["multi_modal_projector.linear_2.weight"][0, 1] = 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match="not the identity"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_a_native_folder_of_another_config_is_refused(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    raw = json.loads((tmp_path / "ours" / CONFIG_FILE).read_text())
    raw["config"]["language"]["mlp_width"] = 44
    (tmp_path / "ours" / CONFIG_FILE).write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"language/blocks/mlp/down/kernel \[3, 40, 48\] instead of \[3, 44, 48\]"):
        loaded(tmp_path / "ours")


def test_devices_share_what_a_file_holds(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, scheme="int8")
    _, one = load_native(tmp_path / "ours", make_mesh())
    _, spread = load_native(tmp_path / "ours", make_mesh(fsdp=2, tensor=2))
    for whole, parts in zip(jax.tree.leaves(one), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(parts))
    kernel = spread["language"]["blocks"]["mlp"]["gate"]["kernel"].values
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def original_with_ends(folder, model):
    """An original checkpoint with tokens around the image, and the CLIP and the projector file that go with it."""
    (folder / "original").mkdir()
    tensors = original_tensors(model, CONFIG)
    torch.save(tensors, folder / "original/pytorch_model.bin")
    (folder / "original/config.json").write_text(json.dumps(original_config(CONFIG, mm_use_im_start_end=True)))
    (folder / "original/added_tokens.json").write_text(json.dumps({"<im_start>": 59, "<im_end>": 60}))
    write_tower(folder / "clip", model, "")
    return tensors, {name: tensor for name, tensor in tensors.items() if "mm_projector" in name}


@pytest.mark.parametrize("rows", [2, 61])
def test_a_projector_file_brings_the_rows_of_new_tokens(rows, tmp_path):
    """LLaVA ``initialize_vision_tokenizer`` takes the last two rows, of two or of a whole table."""
    tensors, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    new = torch.arange(rows * CONFIG.language.width, dtype=torch.float32).reshape(rows, -1)
    torch.save({**projector, "model.embed_tokens.weight": new}, tmp_path / "mm_projector.bin")

    def opened():
        return open_source(tmp_path / "original", vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")

    convert(opened(), tmp_path / "ours", None)
    table = np.asarray(loaded(tmp_path / "ours")[1]["language"]["embedding"])
    np.testing.assert_array_equal(table[:-2], tensors["model.embed_tokens.weight"].numpy()[:-2])
    np.testing.assert_array_equal(table[-2:], new.numpy()[-2:])
    # Rows of words, which are no new tokens.
    (tmp_path / "original/added_tokens.json").write_text(json.dumps({"<im_start>": 58, "<im_end>": 59}))
    with pytest.raises(InputError, match=r"mm_projector.bin: found .* over ids \[58, 59\] in a table of 61 rows in"):
        opened()
    (tmp_path / "original/config.json").write_text(json.dumps(original_config(CONFIG)))
    with pytest.raises(InputError, match=r"mm_projector.bin: found .* over no mm_use_im_start_end in a table"):
        opened()


def test_a_projector_file_with_too_few_rows(tmp_path):
    tensors, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    one = tensors["model.embed_tokens.weight"][:1].clone()
    torch.save({**projector, "model.embed_tokens.weight": one}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector.bin: found model.embed_tokens.weight \[1, .*expected two rows"):
        open_source(tmp_path / "original", vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")


def test_tables_that_were_trained_beside_an_adapter_are_taken_whole(tmp_path):
    """LLaVA ``load_pretrained_model`` loads ``non_lora_trainables.bin`` over the model, table by table."""
    _, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    trained = {name: torch.randn(61, 48) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    beside = {f"base_model.model.{name}": tensor for name, tensor in {**projector, **trained}.items()}
    torch.save(beside, tmp_path / "non_lora_trainables.bin")
    path = tmp_path / "non_lora_trainables.bin"
    convert(open_source(tmp_path / "original", vision=tmp_path / "clip", projector=path), tmp_path / "ours", None)
    language = loaded(tmp_path / "ours")[1]["language"]
    np.testing.assert_array_equal(language["embedding"], trained["model.embed_tokens.weight"])
    np.testing.assert_array_equal(np.asarray(language["head"]["kernel"]).T, trained["lm_head.weight"])


def test_a_tower_that_is_not_the_named_one(tmp_path):
    (tmp_path / "original").mkdir()
    model = torch_llava(CONFIG)
    torch.save(original_tensors(model, CONFIG), tmp_path / "original/pytorch_model.bin")
    write_tower(tmp_path / "clip", model, "")
    named = original_config(CONFIG, mm_vision_tower="openai/clip-vit-large-patch14-336/")
    (tmp_path / "original/config.json").write_text(json.dumps(named))
    wanted = "expected the tower openai/clip-vit-large-patch14-336/ that the model names"
    with pytest.raises(InputError, match=f"clip/config.json: found image_size 28 instead of 336; .*{wanted}"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


@pytest.mark.parametrize("section", [None, [], "x"])
def test_a_tower_without_a_config(section, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    (tmp_path / "clip/config.json").write_text(json.dumps({"vision_config": section}))
    with pytest.raises(InputError, match=re.escape(f"found vision_config {section!r}; expected a CLIP")):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_a_tower_inside_goes_before_one_beside(tmp_path):
    model, other = torch_llava(CONFIG), torch_llava(CONFIG)
    with torch.no_grad():
        for weight in other.model.vision_tower.parameters():
            weight.add_(1.0)
    folder = tmp_path / "original"
    folder.mkdir()
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    write_tower(tmp_path / "clip", other, "")
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert_logits_agree(dataclasses.replace(ours, image_token_id=CONFIG.image_token_id), base, model)


def test_a_table_that_was_resized_elsewhere_keeps_its_rows(tmp_path):
    """transformers keeps keys of a config that it does not know, ours among them."""
    outside = dataclasses.replace(CONFIG, image_token_id=61)
    save_llava(tmp_path / "one", outside, random_base(outside), None)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "one", dtype=torch.float32)
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "two")
    assert json.loads((tmp_path / "two/config.json").read_text())["vlm_jax"]["vocab_size"] == 61
    config, base = load_llava(tmp_path / "two")
    assert config.language.vocab_size == 70
    np.testing.assert_array_equal(base["language"]["embedding"], model.get_input_embeddings().weight.detach().numpy())


@pytest.mark.parametrize("table", ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"])
def test_padding_that_was_trained_elsewhere_is_kept(table, tmp_path):
    outside = dataclasses.replace(CONFIG, image_token_id=61)
    save_llava(tmp_path / "hf", outside, random_base(outside), None)
    assert load_llava(tmp_path / "hf")[0].language.vocab_size == 61
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors[table][63, 5] += 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    config, base = load_llava(tmp_path / "hf")
    assert (config.language.vocab_size, config.image_token_id) == (64, 61)
    ours = {"embed_tokens": base["language"]["embedding"], "lm_head": base["language"]["head"]["kernel"].T}
    np.testing.assert_array_equal(ours[table.split(".")[-2]], tensors[table])


def test_rows_of_tokens_around_the_image_are_never_padding(tmp_path):
    """A table of 64 rows, the image's id 58 and those around it 59 and 60."""
    config = dataclasses.replace(
        CONFIG,
        language=dataclasses.replace(CONFIG.language, vocab_size=64),
        image_token_id=58,
        image_ends=(59, 60),
    )
    base = random_base(config)
    export(tmp_path / "original", "llava", config, base, None, vision_tower="somewhere/clip")
    table = load_file(tmp_path / "original/model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table, base["language"]["embedding"][:61])
    assert read_json(tmp_path / "original/config.json")["mm_use_im_patch_token"] is True


@pytest.mark.parametrize(
    "added",
    [
        {"<im_start>": 60, "<im_end>": 61},
        {"<im_start>": "59", "<im_end>": 60},
        {"<im_start>": -1, "<im_end>": 60},
        {"<im_start>": 59, "<im_end>": 60, "<im_patch>": 62},
    ],
)
def test_added_ids_beyond_the_table_are_refused(added, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    open_source(tmp_path / "original", vision=tmp_path / "clip")
    (tmp_path / "original/added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(InputError, match=r"in added_tokens.json; expected ids of a table of 61 rows"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_layers_of_different_types_lose_nothing(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    name = "language_model.model.layers.{}.self_attn.q_proj.weight"
    tensors[name.format(0)] = tensors[name.format(0)].astype(jnp.bfloat16)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    for base in (loaded(tmp_path / "ours")[1], load_llava(tmp_path / "hf")[1]):
        kernel = base["language"]["blocks"]["attention"]["q"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel[2], tensors[name.format(2)].T)
        np.testing.assert_array_equal(kernel[0], tensors[name.format(0)].astype(np.float32).T)


def test_values_too_large_for_a_type_are_counted(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["language_model.model.norm.weight"][5] = 1e5
    save_file(tensors, tmp_path / "hf/model.safetensors")
    rows = convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, dtype="float16")
    assert {row["tensor"]: row["not_finite"] for row in rows if row["not_finite"]} == {
        "language_model.model.norm.weight": 1
    }
    config, base = load_llava(tmp_path / "hf")
    with pytest.raises(InputError, match=r"values of language_model.model.norm.weight beyond float16"):
        export(tmp_path / "no", "hf", config, base, None, "float16")
    assert not (tmp_path / "no").exists()


def test_broken_kernels_are_counted_after_quantising(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    broken, empty = (f"language_model.model.layers.1.mlp.{name}_proj.weight" for name in ("up", "gate"))
    tensors[broken][0, 0] = np.nan
    tensors[empty][:] = 0
    save_file(tensors, tmp_path / "hf/model.safetensors")
    rows = {row["tensor"]: row for row in convert(open_source(tmp_path / "hf"), tmp_path / "x", None, scheme="int8")}
    assert rows[broken] == {"tensor": broken, "not_finite": 48, "relative_rms": None, "largest": None}
    assert rows[empty] == {"tensor": empty, "not_finite": 0, "relative_rms": 0.0, "largest": 0.0}
    read_json(tmp_path / "x/quantization.json")


def test_a_conversion_killed_before_the_header_goes_on(source, tmp_path):
    partial = begun(source, tmp_path / "ours", 1)
    (partial / "checkpoint" / WEIGHTS_FILE).write_bytes(b"")
    (partial / "done.jsonl").unlink()
    convert(source, tmp_path / "ours", None)
    assert_same_tree(jax.tree.map(np.asarray, loaded(tmp_path / "ours")[1]), load_llava(tmp_path / "hf")[1])


def test_another_config_is_another_conversion(source, tmp_path):
    begun(source, tmp_path / "ours", 1)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.1
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.language\.norm_eps 1e-05 instead of 0\.1"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)


class NoWords:
    def tokenize(self, text):
        return [text]

    def __call__(self, texts, **_):
        return {"input_ids": []}


def test_tokens_around_the_image(tmp_path):
    folder = tmp_path / "v0"
    folder.mkdir()
    model = torch_llava(CONFIG)
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG, mm_use_im_start_end=True)))
    write_tower(tmp_path / "clip", model, "")
    with pytest.raises(InputError, match=r"mm_use_im_start_end without <im_start> and <im_end>"):
        open_source(folder, vision=tmp_path / "clip")
    added = {"<im_patch>": 58, "<im_start>": 59, "<im_end>": 60}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    config, base = loaded(tmp_path / "ours")
    assert (config.image_token_id, config.image_ends) == (58, (59, 60))
    pieces = [Piece("<image>", False, "image")]
    encoded = encode_pieces(NoWords(), pieces, config)
    assert encoded.tokens.tolist() == [1, 59, *[58] * 16, 60]
    assert encoded.image_mask.tolist() == [False, False, *[True] * 16, False]
    export(tmp_path / "again", "llava", config, base, None, vision_tower="somewhere/clip")
    assert json.loads((tmp_path / "again/config.json").read_text())["mm_use_im_start_end"] is True


@pytest.mark.parametrize(("key", "value"), [("hidden_size", "48"), ("vocab_size", None), ("num_attention_heads", 0)])
def test_numbers_that_are_none(key, value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**original_config(CONFIG), key: value}))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    write_tower(tmp_path / "clip", torch_llava(CONFIG), "")
    with pytest.raises(InputError, match=f"found {key} {value!r}"):
        open_source(tmp_path, vision=tmp_path / "clip")


@pytest.mark.parametrize(
    ("key", "value"), [("eos_token_id", [2, 3]), ("rope_theta", None), ("rope_theta", "x"), ("rope_scaling", "linear")]
)
def test_an_original_config_that_is_not_computed(key, value, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), key: value}))
    with pytest.raises(InputError, match=rf"config\.json: found {key} {re.escape(repr(value))}"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_a_layer_that_the_named_tower_has_not(tmp_path):
    named = original_config(CONFIG, mm_vision_tower="openai/clip-vit-large-patch14", mm_vision_select_layer=-26)
    (tmp_path / "config.json").write_text(json.dumps(named))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"config\.json: found vision feature layer -26 of 24 layers"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("said", "aspect"),
    [({"image_aspect_ratio": "pad"}, "pad"), ({"image_aspect_ratio": "square"}, "square"), ({}, "square")],
)
def test_how_images_are_made_square_stays_with_the_weights(said, aspect, tmp_path):
    """Where a config says nothing, LLaVA leaves images to CLIP's processor, which crops."""
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), **said}))
    convert(open_source(tmp_path / "original", vision=tmp_path / "clip"), tmp_path / "ours", None)
    config, base = loaded(tmp_path / "ours")
    assert config.aspect == aspect
    export(tmp_path / "again", "llava", config, base, None, vision_tower="somewhere/clip")
    assert read_json(tmp_path / "again/config.json")["image_aspect_ratio"] == aspect
    save_llava(tmp_path / "hf", config, base, None)
    assert load_llava(tmp_path / "hf")[0].aspect == aspect
    assert read_json(tmp_path / "hf/preprocessor_config.json")["do_pad"] is (aspect == "pad")


def test_images_in_several_parts_are_not_computed(tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), "image_aspect_ratio": "anyres"}))
    with pytest.raises(InputError, match=r"config\.json: found image_aspect_ratio 'anyres'; expected an original"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")
