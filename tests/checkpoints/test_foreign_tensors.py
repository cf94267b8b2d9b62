"""Weights in another program's form are refused by its name, whatever config.json says."""

import json
import re

import pytest
import torch
from original_llava import original_config, original_tensors, write_tower
from random_llava import CONFIG, torch_llava
from safetensors.torch import load_file, save_file

from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json

PROJECTION = re.compile(r"layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$")
# What a program makes of a projection's weight: tensors by what their names end in.
PROGRAMS = {
    "bitsandbytes": lambda weight: {
        "weight": torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        "weight.absmax": torch.zeros(3),
        "weight.quant_map": torch.zeros(16),
        "weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    },
    "bitsandbytes' int8": lambda weight: {"weight": weight.to(torch.int8), "SCB": torch.zeros(len(weight))},
    "GPTQ or AWQ": lambda weight: {
        "qweight": torch.zeros(weight.shape[1], 1, dtype=torch.int32),
        "qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "scales": torch.zeros(1, len(weight)),
    },
    "compressed-tensors": lambda weight: {"weight_packed": torch.zeros(len(weight), 2), "weight_scale": torch.ones(1)},
}


def quantised(tensors, program):
    found = {}
    for name, tensor in tensors.items():
        parts = PROGRAMS[program](tensor) if "language_model" in name and PROJECTION.search(name) else {"": tensor}
        found |= {name.removesuffix("weight") + end if end else name: part for end, part in parts.items()}
    return found


@pytest.fixture
def model(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_quantised_model(program, model):
    tensors = load_file(model / "model.safetensors")
    save_file(quantised(tensors, program), model / "model.safetensors", metadata={"format": "pt"})
    name = program.partition("'")[0]
    with pytest.raises(InputError, match=rf"model.safetensors: found weights that {name} has quantised: .*_proj.*full"):
        open_source(model)


def test_codes_without_anything_beside_them(model):
    """Read as numbers they would be a model of other weights."""
    tensors = load_file(model / "model.safetensors")
    codes = {name: (100 * x).to(torch.int8) if PROJECTION.search(name) else x for name, x in tensors.items()}
    save_file(codes, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"found weights of whole numbers, codes .*down_proj.weight int8, .*, \.\.\.;"):
        open_source(model)


def test_a_config_that_speaks_of_quantised_weights_that_are_not(model):
    write_json(model / "config.json", read_json(model / "config.json") | {"quantization_config": {"bits": 4}})
    assert open_source(model).slots


@pytest.mark.parametrize("prefix", ["module.", "base_model.model."])
def test_a_wrapper_that_was_saved_with_the_model(prefix, tmp_path):
    model, folder = torch_llava(CONFIG), tmp_path / "original"
    write_tower(tmp_path / "clip", model, "")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG, mm_projector_type="mlp2x_gelu")))
    tensors = {prefix + name: tensor for name, tensor in original_tensors(model, CONFIG).items()}
    unmerged = {f"{prefix}model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(3, 48)}
    file = "pytorch_model.bin: found no model.embed_tokens.weight, but "
    for more, found in (({}, f"{prefix}lm_head.weight, .*expected LLaVA's"), (unmerged, ".*q_proj.lora_A.*merged")):
        torch.save(tensors | more, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=file + found):
            open_source(folder, vision=tmp_path / "clip")


@pytest.mark.parametrize("spelled", ["multi_modal_projector.linear_1", "0"])
def test_a_projector_under_other_names(spelled, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    model = torch_llava(CONFIG)
    write_tower(tmp_path / "clip", model, "")
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    torch.save({f"{spelled}.weight": torch.ones(48, 36)}, tmp_path / "projector.bin")
    with pytest.raises(InputError, match=rf"projector.bin: found no mm_projector, but {spelled}.weight; expected"):
        open_source(folder, vision=tmp_path / "clip", projector=tmp_path / "projector.bin")
