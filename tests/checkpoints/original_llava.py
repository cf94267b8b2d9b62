"""What the original LLaVA code would have written of a random model, and what became of it here."""

import json
import re

import torch
from random_llava import (
    assert_close_on_real,
    logits_of,
    make_batch,
    our_logits,
)

from vlm_jax.checkpoints.native import load_native
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


def loaded(folder):
    info, base = load_native(folder, make_mesh())
    return info.config, base


def assert_logits_agree(config, base, model):
    batch = make_batch(config)
    assert_close_on_real(our_logits(config, base, batch), logits_of(model, batch), batch)
