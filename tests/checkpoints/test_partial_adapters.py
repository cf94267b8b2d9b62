"""Adapters as people have them: on some projections, rsLoRA, ranks and scales that differ, a projector beside.

Each is trained by nobody, written by peft over a random model, and computed here as peft computes it; what is exported
again gives peft the same logits.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from random_llava import CONFIG, LINEAR, logits_of, make_batch, torch_llava
from safetensors.numpy import load_file, save_file
from small_tokenizer import write_llama_tokenizer

from vlm_jax.checkpoints.adapters import load_adapter, lora_config, save_adapter
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export_adapter
from vlm_jax.checkpoints.hashes import weights_sha256
from vlm_jax.checkpoints.merge import write_merged
from vlm_jax.checkpoints.opening import map_base, open_model, open_policy
from vlm_jax.checkpoints.peft_files import open_adapter
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.commands import merge
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json
from vlm_jax.models.adapters import init_lora
from vlm_jax.models.llava import forward, logits

SEVEN = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
LANGUAGE = r".*language_model.*\.({})"
KINDS = {
    "q and v": {"target_modules": LANGUAGE.format("q_proj|v_proj")},
    "rsLoRA": {"target_modules": LANGUAGE.format(SEVEN), "use_rslora": True},
    "one layer": {"target_modules": r".*language_model.*layers\.1\.(self_attn\.q_proj|mlp\.up_proj)"},
    "ranks": {
        "target_modules": LANGUAGE.format(SEVEN),
        "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {"v_proj": 20, "self_attn.q_proj": 7},
    },
    "rsLoRA of ranks": {
        "target_modules": LANGUAGE.format("q_proj|v_proj|down_proj"),
        "use_rslora": True,
        "rank_pattern": {"v_proj": 4},
        "alpha_pattern": {"down_proj": 1},
    },
    "projector": {"target_modules": LANGUAGE.format("q_proj|v_proj"), "modules_to_save": ["multi_modal_projector"]},
}


def randomised(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.add_(0.15 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """Name of the kind, folder of a base, folder of an adapter over it, and peft's logits."""
    folder = tmp_path_factory.mktemp("adapters")
    torch_llava(CONFIG).save_pretrained(folder / "base")
    write_llama_tokenizer(folder / "base")
    config = peft.LoraConfig(r=3, lora_alpha=6, **KINDS[request.param])
    model = randomised(peft.get_peft_model(torch_llava(CONFIG), config))
    model.save_pretrained(folder / "adapter")
    return request.param, folder / "base", folder / "adapter", logits_of(model.base_model.model, make_batch(CONFIG))


def computed(base, adapter):
    """Logits of a base with an adapter over it, as a verb would compute them."""
    model = open_model(str(base), adapter=adapter, masters=True)
    config = dataclasses.replace(model.config, dtype="float32")
    batch, lora = make_batch(config), open_policy(model, adapter)
    run = jax.jit(lambda base, lora: logits(config, base, forward(config, base, lora, batch).hidden))
    return np.asarray(run(model.base, lora))


def assert_logits_agree(ours, theirs):
    real = np.asarray(make_batch(CONFIG).attention_mask)
    assert np.abs(ours - theirs)[real].max() < 1e-5 * np.abs(theirs[real]).max()


def test_logits_are_those_of_peft(trained):
    _, base, adapter, theirs = trained
    bare = logits_of(torch_llava(CONFIG), make_batch(CONFIG))
    assert np.abs(bare - theirs).max() > 0.5
    assert_logits_agree(computed(base, adapter), theirs)


def test_one_shape_for_every_kind(trained):
    _, _, adapter, _ = trained
    config = dataclasses.replace(CONFIG, lora=lora_config(adapter))
    shapes = jax.eval_shape(lambda: init_lora(config, jax.random.key(0)))
    lora = load_adapter(adapter, config)["lora"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), lora) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )


@pytest.mark.parametrize("spelling", ["hf", "llava"])
def test_exported_it_is_the_same_adapter(spelling, trained, tmp_path):
    kind, base, adapter, theirs = trained
    export_adapter(adapter, tmp_path / "there", spelling)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "there"))
    assert len(before) == len(after)
    assert sum(map(np.sum, before.values())) == pytest.approx(sum(map(np.sum, after.values())), abs=1e-4)
    export_adapter(tmp_path / "there", tmp_path / "back", "hf")
    again = load_file(tmp_path / "back/adapter_model.safetensors")
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(again[name], tensor)
    assert_logits_agree(computed(base, tmp_path / "there"), theirs)
    model = peft.PeftModel.from_pretrained(torch_llava(CONFIG), tmp_path / "back")
    assert not [name for name, _ in model.named_parameters() if "lora" in name and "vision" in name]
    np.testing.assert_array_equal(logits_of(model.base_model.model, make_batch(CONFIG)), theirs)
    if kind == "q and v" and spelling == "llava":
        assert read_json(tmp_path / "there/adapter_config.json")["target_modules"] == ["q_proj", "v_proj"]


def test_merged_it_is_what_peft_merges(trained, tmp_path, capsys):
    _, base, adapter, theirs = trained
    merge.run(merge.Options(str(base), adapter, tmp_path / "merged", dtype="float32"))
    assert "the likeliest token stayed at 100.0 %" in capsys.readouterr().out
    assert_logits_agree(computed(tmp_path / "merged", None), theirs)


def test_what_was_trained_from_it_is_saved_as_one_rank(trained, tmp_path):
    """Equal updates, in peft's plain form: the record of a pattern ends where training begins."""
    kind, base, adapter, theirs = trained
    config = dataclasses.replace(CONFIG, lora=lora_config(adapter))
    save_adapter(tmp_path / "plain", config, load_adapter(adapter, config))
    if kind == "projector":
        return
    assert_logits_agree(computed(base, tmp_path / "plain"), theirs)


def test_a_larger_rank_and_another_scale_compute_the_same(trained):
    """As for a policy beside a reward model of a larger rank."""
    _, _, adapter, _ = trained
    own = dataclasses.replace(CONFIG, lora=lora_config(adapter))
    wide = dataclasses.replace(CONFIG, lora=dataclasses.replace(own.lora, rank=9, alpha=5.5))

    def update(config):
        lora = load_adapter(adapter, config)["lora"]
        return [config.lora.scale * pair["a"] @ pair["b"] for part in lora.values() for pair in part.values()]

    for one, other in zip(update(own), update(wide), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_training_leaves_what_is_not_adapted(trained):
    kind, base, adapter, _ = trained
    if kind != "q and v":
        return
    model = open_model(str(base), adapter=adapter, masters=True)
    lora, config = open_policy(model, adapter), dataclasses.replace(model.config, dtype="float32")
    batch = make_batch(config)

    def loss(lora):
        return jnp.square(logits(config, model.base, forward(config, model.base, lora, batch).hidden)).mean()

    gradient = jax.jit(jax.grad(loss))(lora)
    moved = {name for part in gradient.values() for name, pair in part.items() if any(map(jnp.any, pair.values()))}
    assert moved == {"q", "v"}


def test_a_module_that_lost_its_tensors(trained, tmp_path):
    _, _, adapter, _ = trained
    tensors = load_file(adapter / "adapter_model.safetensors")
    lost = sorted(name for name in tensors if "lora_B" in name)[0]
    del tensors[lost]
    tmp_path.joinpath("adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter_model.safetensors: found 1 missing tensors: .*lora_B"):
        open_adapter(tmp_path)


@pytest.fixture
def plain(tmp_path):
    """An adapter on q and v in the original class' words."""
    model = peft.get_peft_model(torch_llava(CONFIG), peft.LoraConfig(r=3, lora_alpha=6, **KINDS["q and v"]))
    randomised(model).save_pretrained(tmp_path / "hf")
    export_adapter(tmp_path / "hf", tmp_path / "plain", "llava")
    return tmp_path / "plain"


def test_layers_to_transform(plain):
    path = plain / "adapter_config.json"
    write_json(path, {**read_json(path), "layers_to_transform": [1]})
    with pytest.raises(
        InputError, match=r"4 modules that adapter_config.json does not adapt: layers.0.self_attn.q_proj"
    ):
        open_adapter(plain)
    tensors = load_file(plain / "adapter_model.safetensors")
    save_file({n: t for n, t in tensors.items() if "layers.1." in n}, plain / "adapter_model.safetensors")
    assert {layer for layer, _ in open_adapter(plain).modules} == {1}
    lora = load_adapter(plain, CONFIG)["lora"]
    assert not lora["attention"]["q"]["a"][[0, 2]].any()
    assert lora["attention"]["q"]["b"][1].all()


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_other_modules_are_refused_by_name(name, plain):
    path = plain / "adapter_model.safetensors"
    save_file({**load_file(path), name: np.zeros((3, 48), np.float32)}, path)
    with pytest.raises(InputError, match=rf"found 1 other tensors: {name}; expected LoRA on projections of the"):
        load_adapter(plain, CONFIG)


def test_layers_that_the_adapter_lost(plain):
    """Zeros would stand for them, and nobody would see."""
    path = plain / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "layers.2." not in n}, path)
    for target_modules in (["q_proj", "v_proj"], None):
        config = plain / "adapter_config.json"
        write_json(config, {**read_json(config), "target_modules": target_modules})
        with pytest.raises(InputError, match=r"4 missing: .*layers.2.self_attn.q_proj.lora_A.weight \[3, 48\]"):
            load_adapter(plain, CONFIG)
    write_json(config, {**read_json(config), "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 1]})
    assert not load_adapter(plain, CONFIG)["lora"]["attention"]["q"]["a"][2].any()


def test_a_scale_that_float32_does_not_hold(plain):
    path = plain / "adapter_config.json"
    write_json(path, {**read_json(path), "lora_alpha": 1e38})
    with pytest.raises(InputError, match="scaled that are NaN or infinite"):
        load_adapter(plain, dataclasses.replace(CONFIG, lora=dataclasses.replace(CONFIG.lora, alpha=1e-3)))


def test_layers_that_the_base_has_not(plain):
    shorter = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, layers=2))
    with pytest.raises(InputError, match=r"4 unknown: .*layers.2.self_attn.q_proj.lora_A.weight"):
        load_adapter(plain, shorter)


def test_halves_of_both_kinds(plain, tmp_path, capsys):
    torch_llava(CONFIG).save_pretrained(tmp_path / "base")
    write_llama_tokenizer(tmp_path / "base")
    path = plain / "adapter_model.safetensors"
    halves = {"layers.0": np.float16, "layers.1": jnp.bfloat16, "layers.2": np.float16}
    tensors = {
        name: tensor.astype(next(half for layer, half in halves.items() if layer in name))
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    model = open_model(str(tmp_path / "base"), adapter=plain, masters=True)
    capsys.readouterr()
    lora = open_policy(model, plain)
    assert "bfloat16 and float16 in one adapter: what they meet in is float32" in capsys.readouterr().err
    for i in range(3):
        name = f"base_model.model.model.layers.{i}.self_attn.v_proj.lora_A.weight"
        np.testing.assert_array_equal(lora["attention"]["v"]["a"][i], tensors[name].astype(np.float32).T)


@pytest.mark.parametrize("config", [CONFIG, LINEAR], ids=["mlp", "linear"])
def test_the_projector_file_of_llavas_own_recipe(config, plain, tmp_path):
    """``non_lora_trainables.bin`` beside an adapter is a part of it."""
    torch_llava(config).save_pretrained(tmp_path / "base")
    write_llama_tokenizer(tmp_path / "base")
    rows = {"mlp": {"0": 36, "2": 48}, "linear": {"": 36}}[config.projector]
    names = {f"mm_projector.{number}".rstrip("."): width for number, width in rows.items()}
    new = {f"base_model.model.model.{n}.weight": torch.randn(48, width) for n, width in names.items()}
    new |= {f"base_model.model.model.{n}.bias": torch.randn(48) for n in names}
    torch.save(new, plain / "non_lora_trainables.bin")
    model = open_model(str(tmp_path / "base"), adapter=plain, masters=True)
    first = new[f"base_model.model.model.{next(iter(names))}.weight"].numpy()
    np.testing.assert_array_equal(model.base["projector"]["linear1"]["kernel"], first.T)
    open_policy(model, plain)
    export_adapter(plain, tmp_path / "ours", "llava")
    export_adapter(plain, tmp_path / "theirs", "hf")
    for folder in ("ours", "theirs"):
        assert not list((tmp_path / folder).glob("non_lora*"))
        again = open_model(str(tmp_path / "base"), adapter=tmp_path / folder, masters=True)
        jax.tree.map(np.testing.assert_array_equal, again.base["projector"], model.base["projector"])
    new["base_model.model.model.embed_tokens.weight"] = torch.zeros(61, 48)
    torch.save(new, plain / "non_lora_trainables.bin")
    with pytest.raises(
        InputError, match=r"non_lora_trainables.bin: found 1 other tensors: .*embed_tokens.*--projector"
    ):
        open_model(str(tmp_path / "base"), adapter=plain, masters=True)


def test_one_base_has_one_projector(trained, plain, tmp_path):
    kind, base, adapter, _ = trained
    if kind != "projector":
        return
    model = open_model(str(base), adapter=adapter, masters=True)
    for other in (plain, None):
        with pytest.raises(InputError, match="under the projector of"):
            open_policy(model, other)
    with pytest.raises(InputError, match="a projector of its own beside others"):
        open_policy(open_model(str(base), adapter=plain, masters=True), adapter)
    wider = dataclasses.replace(CONFIG, projector="linear")
    torch_llava(wider).save_pretrained(tmp_path / "linear")
    write_llama_tokenizer(tmp_path / "linear")
    with pytest.raises(InputError, match="expected a linear projector of this base"):
        open_model(str(tmp_path / "linear"), adapter=adapter, masters=True)


def test_an_adapter_of_another_base_is_told(trained, tmp_path, capsys):
    kind, base, adapter, _ = trained
    if kind != "q and v":
        return
    path = adapter / "adapter_config.json"

    def said(checkpoint, folder=adapter):
        model = open_model(str(checkpoint), adapter=folder, masters=True)
        capsys.readouterr()
        open_policy(model, folder)
        return capsys.readouterr().err

    assert said(base) == ""
    write_json(path, {**read_json(path), "base_model_name_or_path": "somebody/base/"})
    assert said(base) == ""
    write_json(path, {**read_json(path), "base_model_name_or_path": "somebody/llava-13b"})
    assert "trained over somebody/llava-13b by its adapter_config.json; nothing says that" in said(base)
    write_json(path, {**read_json(path), "base_model_name_or_path": None})
    record = {"base": {"source": "/runs/base", "sha256": weights_sha256(base)}}
    write_json(adapter.parent / "run.json", record)
    assert said(base) == ""
    record["base"]["sha256"] = "0" * 64
    write_json(adapter.parent / "run.json", record)
    assert "trained over /runs/base, whose weights are other files than" in said(base)
    (adapter.parent / "run.json").unlink()


def test_streaming_a_merge_with_a_projector(trained, tmp_path):
    kind, base, adapter, _ = trained
    if kind != "projector":
        return
    config = dataclasses.replace(CONFIG, lora=lora_config(adapter))
    lora = load_adapter(adapter, config)["lora"]
    write_merged(tmp_path / "without", config, map_base(base)[1], lora, None, {"path": "", "layout": "", "sha256": ""})
    convert(open_source(base), tmp_path / "plain", None)
    one, other = (map_base(tmp_path / name)[1]["projector"] for name in ("without", "plain"))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other))
    assert json.loads((tmp_path / "without/vlm_jax.json").read_text())["config"]["lora"]["rank"] == 3
