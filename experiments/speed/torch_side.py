"""The other side: transformers' LLaVA and peft's adapters in plain loops of torch; and the weights that both read."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from torch import nn

from experiments.speed.shapes import ROLES, Inputs, Shape, adapter_folder, base_folder, heads, inputs
from experiments.speed.work import Figures, Work
from vlm_jax.checkpoints.hf_config import config_json
from vlm_jax.config import CLIP_MEAN, CLIP_STD

# As ``ours.OPTIM`` has them; AdamW's other figures are the same on both sides.
LEARNING_RATE, CLIP_NORM, WEIGHT_DECAY = 1e-4, 1.0, 0.0
# As ``train.reward.RewardSettings`` has it.
_CENTRING = 1e-3
# The tower has projections of the same names and gets no adapter.
_PROJECTIONS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def write_weights(shape: Shape, folder: Path) -> None:
    """A random LLaVA in transformers' layout and four adapters over it in peft's, none of which changes nothing."""
    torch.manual_seed(0)
    config = shape.config
    theirs = transformers.LlavaConfig.from_dict(config_json(config, config.language.vocab_size, "float32"))
    base = transformers.LlavaForConditionalGeneration(theirs)
    base.save_pretrained(base_folder(folder))
    lora = peft.LoraConfig(
        r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=_PROJECTIONS, task_type="CAUSAL_LM"
    )
    for role in ROLES:
        adapted = peft.get_peft_model(base, lora)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.01)
        adapted.save_pretrained(adapter_folder(folder, role))
        base = adapted.unload()


def load_base(folder: Path) -> transformers.LlavaForConditionalGeneration:
    """All weights frozen; attention as torch's scaled_dot_product_attention."""
    found = transformers.LlavaForConditionalGeneration.from_pretrained(
        base_folder(folder), dtype=torch.float32, attn_implementation="sdpa"
    )
    return found.requires_grad_(False)


def load_adapted(folder: Path, roles: Sequence[str]) -> peft.PeftModel:
    """The base with the adapters of these roles; the first is active, and trained."""
    first, *others = roles
    found = peft.PeftModel.from_pretrained(
        load_base(folder), adapter_folder(folder, first), adapter_name=first, is_trainable=True
    )
    for role in others:
        found.load_adapter(adapter_folder(folder, role), role)
    return found


def scalar_head(kernel: np.ndarray) -> nn.Linear:
    found = nn.Linear(len(kernel), 1)
    with torch.no_grad():
        found.weight.copy_(torch.from_numpy(kernel)[None])
        found.bias.zero_()
    return found


def optimizer_of(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Torch's own fused AdamW, its fastest here."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def read(given: Inputs) -> dict[str, torch.Tensor]:
    """A batch in transformers' words; its processor normalises pictures before, so that is not in any step."""
    pixels = (given.images / np.float32(255) - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    tokens = torch.from_numpy(given.tokens).long()
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
    }


def hidden_states(model: peft.PeftModel, read: dict[str, torch.Tensor]) -> torch.Tensor:
    """[b, t, d] behind the final norm, without logits."""
    return model.get_base_model().model(**read, use_cache=False).last_hidden_state


def _nothing() -> None:
    """Torch compiles nothing before it runs."""


def _training(parameters: Sequence[nn.Parameter], loss_and_total: Callable[[], tuple]) -> Work:
    """Of a function that gives the loss to report and the one to descend."""
    optimizer = optimizer_of(parameters)

    def step(_: Figures | None) -> Figures:
        optimizer.zero_grad(set_to_none=True)
        loss, total = loss_and_total()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        return {"loss": loss.detach().numpy()}

    return Work(_nothing, step)


def _labelled(shape: Shape) -> dict[str, torch.Tensor]:
    batch = read(inputs(shape))
    labels = batch["input_ids"].clone()
    labels[:, : shape.prompt] = -100
    return batch | {"labels": labels}


def _next_token(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple:
    loss = model(**batch, use_cache=False).loss
    return loss, loss


def sft(shape: Shape, folder: Path, compiled: bool = False) -> Work:
    """Projector and language model."""
    model = load_base(folder).train()
    model.model.multi_modal_projector.requires_grad_(True)
    model.model.language_model.requires_grad_(True)
    model.lm_head.requires_grad_(True)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    run = torch.compile(model) if compiled else model
    return _training(parameters, functools.partial(_next_token, run, _labelled(shape)))


def lora(shape: Shape, folder: Path, compiled: bool = False) -> Work:
    model = load_adapted(folder, ["policy"]).train()
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    run = torch.compile(model) if compiled else model
    return _training(parameters, functools.partial(_next_token, run, _labelled(shape)))


def reward(shape: Shape, folder: Path) -> Work:
    """Rows of the first half of the batch are the better answers, those of the second half the worse ones."""
    model, head = load_adapted(folder, ["reward"]).train(), scalar_head(heads(shape)["reward"])
    parameters = [weight for weight in [*model.parameters(), *head.parameters()] if weight.requires_grad]
    batch = read(inputs(shape))

    def loss_and_total():
        first, second = head(hidden_states(model, batch)[:, -1])[:, 0].chunk(2)
        loss = -nn.functional.logsigmoid(first - second).mean()
        return loss, loss + _CENTRING * (first + second).mean().abs()

    return _training(parameters, loss_and_total)


def greedy(shape: Shape, folder: Path, cache: str = "dynamic") -> Work:
    """``generate`` with one of its caches, bare weights; there is no id at which an answer ends."""
    model, batch = load_base(folder).eval(), read(inputs(shape, shape.prompt))

    def step(_: Figures | None) -> Figures:
        return {"tokens": answers(shape, model, batch, do_sample=False, cache_implementation=cache)}

    return Work(_nothing, step)


def answers(shape: Shape, model: nn.Module, batch: dict[str, torch.Tensor], **how) -> np.ndarray:
    """Ids [b, r] of answers as long as they may be; the image's id is never drawn, on either side."""
    with torch.no_grad():
        found = model.generate(
            **batch,
            max_new_tokens=shape.answer,
            eos_token_id=None,
            pad_token_id=shape.config.pad_token_id,
            suppress_tokens=[shape.config.image_token_id],
            **how,
        )
    return found[:, shape.prompt :].numpy().astype(np.int32)
