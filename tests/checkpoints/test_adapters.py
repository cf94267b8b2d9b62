"""Adapters against peft on a LLaMA, both ways, and what is refused."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_llava import llama_config
from safetensors.numpy import load_file, save_file

from vlm_jax.arrays import Batch
from vlm_jax.checkpoints.adapters import load_adapter, save_adapter
from vlm_jax.checkpoints.export import export_adapter
from vlm_jax.checkpoints.layouts import PEFT_PROJECTOR_RENAMES, gather, llama, normalised, slots, translated
from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, VisionConfig
from vlm_jax.errors import InputError
from vlm_jax.models.adapters import init_lora, init_reward_head
from vlm_jax.models.llava import forward, init_llava, logits

CONFIG = LlavaConfig(
    vision=VisionConfig(image_size=14, patch_size=7, width=12, layers=1, heads=3, mlp_width=10),
    language=LanguageConfig(vocab_size=41, width=48, layers=2, heads=6, kv_heads=2, mlp_width=40, max_positions=32),
    lora=LoraConfig(rank=3, alpha=6.0),
    dtype="float32",
    remat="none",
)
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def randomised(make):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape).astype(leaf.dtype), jax.eval_shape(make))


@pytest.fixture
def role():
    return {
        "lora": randomised(lambda: init_lora(CONFIG, jax.random.key(0))),
        "head": randomised(lambda: init_reward_head(CONFIG, jax.random.key(0))),
    }


def assert_same_tree(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def llama_pair():
    """A random LLaMA of transformers and the same weights as our base."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(llama_config(CONFIG.language, initializer_range=0.15)).eval()
    whole = jax.eval_shape(lambda: init_llava(CONFIG, jax.random.key(0)))
    base = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), whole)
    shapes, tensors = {"language": whole["language"]}, model.state_dict()
    expected = slots(llama("model", "lm_head", "language"), shapes)
    # Copies: peft takes the model apart.
    language = gather(translated(expected, lambda name: tensors[name].numpy().copy()), shapes)
    return model, jax.tree.map(jnp.asarray, {**base, **language})


def both_logits(adapted, base, lora):
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(1).integers(3, 41, (2, 9)).astype(np.int32)
    everywhere = jnp.ones((2, 9), bool)
    batch = Batch(jnp.asarray(tokens), everywhere, ~everywhere, everywhere, None)
    with torch.no_grad():
        theirs = adapted(input_ids=torch.tensor(tokens).long()).logits.numpy()
    run = jax.jit(lambda base, lora: logits(CONFIG, base, forward(CONFIG, base, lora, batch).hidden))
    return np.asarray(run(base, lora)), theirs


def test_an_adapter_of_peft_gives_its_logits(llama_pair, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model, base = llama_pair
    shape = peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(NAMES), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, shape)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1)
    adapted.save_pretrained(tmp_path / "x")
    role = load_adapter(tmp_path / "x", CONFIG)
    assert set(role) == {"lora"}
    ours, theirs = both_logits(adapted, base, role["lora"])
    plain, _ = both_logits(adapted, base, None)
    adapted.unload()
    assert np.abs(plain - theirs).max() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_peft_computes_our_adapter_alike(llama_pair, role, tmp_path):
    peft = pytest.importorskip("peft")
    model, base = llama_pair
    save_adapter(tmp_path / "x", CONFIG, role)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "x").eval()
    ours, theirs = both_logits(adapted, base, role["lora"])
    adapted.unload()
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["reward", "value"])
def test_a_role_comes_back_bit_for_bit(role, head, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, role, head)
    assert_same_tree(load_adapter(tmp_path / "x", CONFIG), role)
    stored = load_file(tmp_path / "x" / f"{head}_head.safetensors")
    assert {name: tensor.shape for name, tensor in stored.items()} == {"weight": (1, 48), "bias": (1,)}


def test_names_of_the_transformers_class_are_read(role, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, {"lora": role["lora"]})
    path = tmp_path / "x/adapter_model.safetensors"
    original = load_file(path)
    for prefix in (
        "base_model.model.model.language_model.layers",
        "base_model.model.language_model.model.layers",
    ):
        renamed = {name.replace("base_model.model.model.layers", prefix): one for name, one in original.items()}
        save_file(renamed, path)
        assert_same_tree(load_adapter(tmp_path / "x", CONFIG)["lora"], role["lora"])


def test_names_with_the_adapters_name_in_them_are_read(role, tmp_path):
    """As peft has them in memory, whatever the adapter was called."""
    save_adapter(tmp_path / "a", CONFIG, {"lora": role["lora"]})
    path = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(path)
    for called in ("default", "lora", "my-name", "two words", "größe", "weight"):
        save_file({name.replace(".weight", f".{called}.weight"): tensor for name, tensor in tensors.items()}, path)
        assert_same_tree(load_adapter(tmp_path / "a", CONFIG), {"lora": role["lora"]})
    twice = {f"{name[:-7]}.{called}.weight": tensors[name] for name in sorted(tensors) for called in ("one", "two")}
    save_file(twice, path)
    with pytest.raises(InputError, match=r"lora_A.one.weight and .*lora_A.two.weight, which are one tensor"):
        load_adapter(tmp_path / "a", CONFIG)


@pytest.mark.parametrize("called", ["default", "my-name", ""])
@pytest.mark.parametrize(
    ("module", "inner", "name"),
    [
        ("mm_projector", "0.weight", "model.mm_projector.0.weight"),
        ("mm_projector", "weight", "model.mm_projector.weight"),
        ("multi_modal_projector", "linear_2.bias", "model.mm_projector.2.bias"),
        ("multi_modal_projector.linear_1", "weight", "model.mm_projector.0.weight"),
    ],
)
def test_a_projectors_names_with_the_adapters_name_in_them(called, module, inner, name):
    stored = ".".join(filter(None, ("base_model.model.model", module, "modules_to_save", called, inner)))
    assert normalised([stored], PEFT_PROJECTOR_RENAMES) == {name: stored}


def test_another_shape_is_refused(role, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, role)
    with pytest.raises(InputError, match=r"adapter_config\.json: found r 3; expected at most 2"):
        load_adapter(tmp_path / "x", dataclasses.replace(CONFIG, lora=LoraConfig(rank=2, alpha=6.0)))
    wider = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, mlp_width=50))
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: found 6 mis-shaped: .*gate_proj\.lora_B"):
        load_adapter(tmp_path / "x", wider)


OTHERS = [
    ("use_dora", True),
    ("bias", "all"),
    ("fan_in_fan_out", True),
    ("layer_replication", [[0, 2]]),
    ("lora_bias", True),
    ("trainable_token_indices", [3]),
    ("target_parameters", ["x"]),
    ("init_lora_weights", "pissa"),
    ("modules_to_save", ["lm_head"]),
    ("modules_to_save", ["mm_projector", "embed_tokens"]),
    ("rank_pattern", {"q_proj": 0}),
    ("rank_pattern", {"q_proj(": 3}),
    ("alpha_pattern", {"q_proj": "8"}),
    ("target_modules", 3),
]


@pytest.mark.parametrize(("key", "value"), OTHERS)
def test_other_arithmetic_is_refused(role, key, value, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, role)
    path = tmp_path / "x/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    # A pattern's value is complained of by the name of what it stands for.
    said = {"0": "r 0", "'8'": "lora_alpha '8'"}.get(repr(next(iter(value.values()))) if "pattern" in key else "", key)
    with pytest.raises(InputError, match=rf"adapter_config\.json: found .*{re.escape(said)}"):
        load_adapter(tmp_path / "x", CONFIG)


def test_adapters_of_the_vision_tower_are_refused(role, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, role)
    path = tmp_path / "x/adapter_model.safetensors"
    name = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**load_file(path), name: np.zeros((3, 12), np.float32)}, path)
    with pytest.raises(InputError, match=r"1 other tensors: .*vision_tower"):
        load_adapter(tmp_path / "x", CONFIG)


def test_two_heads_are_ambiguous(role, tmp_path):
    save_adapter(tmp_path / "x", CONFIG, role)
    path = tmp_path / "x/reward_head.safetensors"
    path.with_name("value_head.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="a reward head and a value head"):
        load_adapter(tmp_path / "x", CONFIG)


@pytest.mark.parametrize("name", ["value_head.bin", "value_head.safetensors"])
def test_a_head_of_trl_is_neither_read_nor_left_behind(name, role, tmp_path):
    """LLaMA-Factory keeps it beside an adapter: of a reward model, and of a policy after PPO."""
    torch = pytest.importorskip("torch")
    save_adapter(tmp_path / "a", CONFIG, {"lora": role["lora"]})
    head = {"v_head.summary.weight": np.ones((1, 48), np.float32), "v_head.summary.bias": np.ones(1, np.float32)}
    if name.endswith("bin"):
        torch.save({key: torch.tensor(tensor) for key, tensor in head.items()}, tmp_path / "a" / name)
    else:
        save_file(head, tmp_path / "a" / name)
    found = rf"{name}: found TRL's value head \(v_head.summary\); expected a head of LLaVA-RLHF's kind; .* without this"
    with pytest.raises(InputError, match=found):
        load_adapter(tmp_path / "a", CONFIG)
    with pytest.raises(InputError, match=found):
        export_adapter(tmp_path / "a", tmp_path / "b", "llava")
    assert not (tmp_path / "b").exists()


def test_a_save_that_breaks_off_leaves_nothing(role, tmp_path):
    broken = {**role, "head": {"kernel": role["head"]["kernel"]}}
    with pytest.raises(KeyError):
        save_adapter(tmp_path / "x", CONFIG, broken)
    assert list(tmp_path.iterdir()) == []
