"""What one GPU does at real size, beside transformers and peft on the same card in the same run.

    python -m experiments.speed.gpu [--stages sft decode ...] [--small]

Weights are random and made on the device. Every stage is a process of its own, with a limit of three minutes, and
writes its JSON the moment a figure is there; what a stage could not do stands in it as ``error``. Needs jax, flax,
optax, einops and jaxtyping; torch, transformers and peft for the peer. ``--small`` runs the same code on tiny shapes,
on any machine, to check its logic.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "gpu"
LIMIT = 180.0
# By name: bytes a second and bfloat16 operations a second of the data sheets (dense).
CARDS = {"H100": (3.35e12, 989e12), "H200": (4.8e12, 989e12), "A100": (2.04e12, 312e12)}


# --- shapes -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is measured, at full size or for a check of the logic."""

    small: bool

    def config(self, preset: str = "llava-1.5-7b", **changes: Any):
        from vlm_jax.config import PRESETS, LanguageConfig, VisionConfig

        config = PRESETS[preset]
        if self.small:
            vision = VisionConfig(image_size=28, patch_size=14, width=64, layers=3, heads=2, mlp_width=64)
            language = LanguageConfig(vocab_size=512, width=128, layers=2, heads=2, kv_heads=2, mlp_width=256)
            config = dataclasses.replace(config, vision=vision, language=language, image_token_id=3)
        # No end token: every answer has the full length.
        return dataclasses.replace(config, eos_token_id=-1, **changes)

    def of(self, full: int, small: int) -> int:
        return small if self.small else full


def random_base(config, scheme: str | None = None):
    """Bfloat16 weights of a shape, drawn on the device leaf by leaf; the decoder's projections quantised if asked."""
    import jax
    import jax.numpy as jnp

    from vlm_jax.models.llava import init_llava
    from vlm_jax.models.quantize import quantize

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def drawn(key, shape, quantised):
        kernel = 0.02 * jax.random.normal(key, shape, jnp.bfloat16)
        return quantize(kernel, scheme) if quantised else kernel

    def leaf(path, shape):
        names = [str(part.key) for part in path]
        if names[-1] == "scale":
            return jnp.ones(shape.shape, jnp.bfloat16)
        quantised = scheme is not None and names[0] == "language" and names[-1] == "kernel" and "blocks" in names
        return drawn(jax.random.key(zlib.crc32("/".join(names).encode())), shape.shape, quantised)

    shapes = jax.eval_shape(lambda: init_llava(config, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def batch_of(config, rows: int, width: int, images: bool, padded: int = 0):
    """Random tokens; an image behind the first where asked, and ``padded`` positions of padding on the left."""
    import jax.numpy as jnp
    import numpy as np

    from vlm_jax.arrays import Batch

    rng = np.random.default_rng(0)
    tokens = rng.integers(4, config.language.vocab_size, (rows, width)).astype(np.int32)
    real, image_mask = np.ones((rows, width), bool), np.zeros((rows, width), bool)
    real[:, :padded] = False
    pixels = None
    if images:
        image_mask[:, padded + 1 : padded + 1 + config.vision.patches] = True
        tokens[image_mask] = config.image_token_id
        side = config.vision.image_size
        pixels = jnp.asarray(rng.integers(0, 256, (rows, side, side, 3), np.uint8))
    loss = real & ~image_mask
    loss[:, 0] = False
    return Batch(*map(jnp.asarray, (tokens, real, image_mask, loss)), images=pixels)


# --- timing and what is known of the card -----------------------------------------------------------------------------


def times(run: Callable[[], Any], repeats: int, warm: int = 2) -> tuple[float, float]:
    """Seconds of the first call (compiling included) and the median of ``repeats`` after ``warm``."""
    import jax

    def one() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - start

    first = one()
    for _ in range(warm - 1):
        one()
    return first, statistics.median(one() for _ in range(repeats))


def decoder_numbers(config) -> int:
    """Of the blocks and the head: what a token passes through (the table is looked up in)."""
    language = config.language
    projections = 2 * language.width**2 + 2 * language.width * language.kv_heads * language.head_width
    block = projections + 3 * language.width * language.mlp_width
    return language.layers * block + language.width * language.vocab_size


def card() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    sheet = next((figures for name, figures in CARDS.items() if name in device.device_kind), None)
    return {"card": device.device_kind, "bandwidth": sheet and sheet[0], "operations": sheet and sheet[1]}


def peak_gb() -> float | None:
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 1e9 if "peak_bytes_in_use" in stats else None


# --- ours -------------------------------------------------------------------------------------------------------------


def attention(shapes: Shapes, note: Callable[..., None]) -> None:
    """The fused kernel against float32, and against what XLA makes of the scores, on left-padded rows with a gap."""
    import jax
    import jax.numpy as jnp

    from vlm_jax.models.llava import forward
    from vlm_jax.parallel.mesh import platform

    config = shapes.config(remat="none")
    config = dataclasses.replace(config, language=dataclasses.replace(config.language, layers=2))
    base = random_base(config)
    width = shapes.of(1001, 41)
    batch = batch_of(config, 3, width, images=False)
    real = batch.attention_mask.at[0, : width // 3].set(False).at[1, width // 2 : width // 2 + 9].set(False)
    batch = batch.replace(attention_mask=real)

    def states(dtype, how, base):
        out = forward(dataclasses.replace(config, dtype=dtype, attention=how), base, None, batch).hidden
        return jnp.where(real[..., None], out.astype(jnp.float32), 0)

    def loss(dtype, how, base):
        return jnp.square(states(dtype, how, base)).mean()

    def both(dtype, how):
        out = jax.jit(functools.partial(states, dtype, how))(base)
        slope = jax.jit(jax.grad(functools.partial(loss, dtype, how)))(base)["language"]["blocks"]["attention"]
        return out, slope["k"]["kernel"].astype(jnp.float32)

    with jax.default_matmul_precision("highest"):
        exact = both("float32", "xla")
    fused = "cudnn" if platform() == "gpu" else "xla"
    for how in ("xla", fused):
        got = both("bfloat16", how)
        error = [float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(got, exact, strict=True)]
        note(**{f"{how}_error": error[0], f"{how}_gradient_error": error[1]})
    note(milliseconds=_kernels(shapes, fused))


def _kernels(shapes: Shapes, fused: str) -> dict[str, float]:
    """Forward and backward pass of one layer's attention at the published shape, by what it is told of the mask."""
    import jax
    import jax.numpy as jnp

    from vlm_jax.models.attend import Visible, attend

    width = shapes.of(4096, 64)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (2, width, shapes.of(32, 2), 128), jnp.bfloat16) for key in keys]
    causal = jnp.tri(width, dtype=bool)[None, None]
    told = {"causality": Visible(causal=True), "mask": Visible(mask=causal)}
    ways = {f"{fused}, {name}": (fused, visible) for name, visible in told.items()}
    found = {}
    for name, (how, visible) in (ways | {"xla, mask": ("xla", told["mask"])}).items():

        def total(*arrays, how=how, visible=visible):
            return attend(*arrays, visible, how).astype(jnp.float32).sum()

        step = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
        found[name] = 1e3 * times(lambda step=step: step(*arrays), 7)[1]
    return found


def sft(shapes: Shapes, note: Callable[..., None], rows: int, width: int, images: bool, unroll: bool = False) -> None:
    """A LoRA step (rank 64, all seven projections), the whole of it: loss, gradients, AdamW."""
    import jax

    from vlm_jax.models.adapters import init_lora
    from vlm_jax.parallel.compile import jit_step
    from vlm_jax.parallel.mesh import make_mesh
    from vlm_jax.train.optim import Optim, start
    from vlm_jax.train.sft import SftSettings, sft_step

    config = shapes.config(remat="dots", unroll=unroll)
    base, batch = random_base(config), batch_of(config, rows, width, images)
    optim = Optim(1e-4, steps=1000)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        state = start(optim, {"lora": init_lora(config, jax.random.key(0))})
        step = jit_step(sft_step, mesh, config, SftSettings(optim), state=state)

        def run():
            nonlocal state
            state, metrics = step(base, state, batch)
            return metrics

        first, seconds = times(run, 7)
        loss = float(run()["loss"])
    tokens, numbers = rows * width, decoder_numbers(config)
    note(rows=rows, width=width, images=images, unroll=unroll, first_seconds=first, seconds=seconds, loss=loss)
    note(tokens_per_second=tokens / seconds, operations_at_4n=4 * numbers * tokens / seconds, peak_gb=peak_gb())


def decode(shapes: Shapes, note: Callable[..., None], batches: tuple[int, ...] = (1, 8, 32)) -> None:
    """Greedy answers of a fixed length to prompts with an image; a step's time is the difference of two lengths."""
    import jax

    from vlm_jax.generate.decode import generate
    from vlm_jax.generate.sampling import Sampling

    config = shapes.config()
    base = random_base(config)
    width, new = shapes.of(640, 24), shapes.of(128, 8)
    weights, bandwidth = 2 * decoder_numbers(config), card()["bandwidth"]
    run = jax.jit(functools.partial(generate, config), static_argnums=(4,))
    note(prompt=width, new_tokens=new, bound_tokens_per_second=bandwidth and bandwidth / weights)
    for rows in batches:
        batch, seconds = batch_of(config, rows, width, images=True), {}
        for limit in (1, 1 + new):
            rule = Sampling(max_new_tokens=limit, temperature=0)
            first, seconds[limit] = times(lambda: run(base, None, batch, jax.random.key(0), rule).tokens, 3, 1)  # noqa: B023
        step = (seconds[1 + new] - seconds[1]) / new
        figures = {"first_seconds": first, "prefill_seconds": seconds[1], "step_seconds": step}
        note(**{f"rows_{rows}": {**figures, "tokens_per_second": rows / step, "peak_gb": peak_gb()}})


def ppo(
    shapes: Shapes, note: Callable[..., None], preset: str, scheme: str | None, rows: int, new: int, microbatches: int
) -> None:
    """A whole iteration with four roles over one base: answers, four measuring passes, one epoch of updates."""
    import jax
    import jax.numpy as jnp

    from vlm_jax.arrays import PromptBatch
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.models.adapters import init_lora, init_reward_head
    from vlm_jax.train.optim import Optim, start
    from vlm_jax.train.ppo import PpoSettings, first_params, ppo_update, rollout

    config = shapes.config(preset, remat="block")
    base = random_base(config, scheme)
    prompts = batch_of(config, rows, shapes.of(704, 24), images=True, padded=shapes.of(50, 3))
    suffix = shapes.of(128, 8)
    nothing = jnp.zeros(rows, jnp.float32)
    batch = PromptBatch(
        prompt=prompts,
        reward_images=None,
        suffix_tokens=jnp.full((rows, suffix), 5, jnp.int32),
        suffix_mask=jnp.ones((rows, suffix), bool),
        length_bonus=nothing,
        caption_type=jnp.ones(rows, jnp.int32),
        index=jnp.arange(rows, dtype=jnp.int32),
    )
    frozen = {
        "reference": {"lora": init_lora(config, jax.random.key(1))},
        "reward": {"lora": init_lora(config, jax.random.key(2)), "head": init_reward_head(config, jax.random.key(3))},
    }
    sampling = Sampling(max_new_tokens=new, temperature=1.0)
    settings = PpoSettings(Optim(1e-5, steps=1000), sampling, epochs=1, minibatches=1, microbatches=microbatches)
    state = start(settings.optim, first_params(config, frozen))
    sample = jax.jit(functools.partial(rollout, config, settings))
    update = jax.jit(functools.partial(ppo_update, config, settings), donate_argnums=1)
    note(rows=rows, prompt=prompts.tokens.shape[1], new_tokens=new, suffix=suffix, microbatches=microbatches)
    for number in range(2):
        start_time = time.perf_counter()
        measured = jax.block_until_ready(sample(base, state.params, frozen, batch, jax.random.key(number)))
        middle = time.perf_counter()
        state, metrics = jax.block_until_ready(update(base, state, measured, nothing, jax.random.key(number)))
        end = time.perf_counter()
        figures = {"rollout_seconds": middle - start_time, "update_seconds": end - middle}
        figures |= {name: float(metrics[name]) for name in ("first_ratio", "kl", "length", "sampler_gap")}
        note(**{"first" if number == 0 else "second": figures}, peak_gb=peak_gb())
    note(episodes_per_second=rows / (end - start_time))


# --- the peer ---------------------------------------------------------------------------------------------------------


def _torch_llama(shapes: Shapes):
    """transformers' LLaMA of the same shape, random bfloat16 weights made on the card."""
    import torch
    import transformers

    language = shapes.config().language
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.LlamaConfig(
        vocab_size=language.vocab_size,
        hidden_size=language.width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width,
        max_position_embeddings=language.max_positions,
        attn_implementation="sdpa",
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    return model, device


def _torch_times(run: Callable[[], Any], device: str, repeats: int) -> tuple[float, float]:
    import torch

    def one() -> float:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = one()
    one()
    return first, statistics.median(one() for _ in range(repeats))


def torch_sft(shapes: Shapes, note: Callable[..., None], rows: int, width: int) -> None:
    """peft's LoRA of the same rank on the same projections; checkpointing of gradients only if it does not fit."""
    import peft
    import torch

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model, device = _torch_llama(shapes)
    config = peft.LoraConfig(r=64, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    trained = [weight.data.float() for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4, fused=device == "cuda")
    tokens = torch.randint(4, model.config.vocab_size, (rows, width), device=device)

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], 1.0)
        optimizer.step()

    measured = None
    try:
        measured = _torch_times(run, device, 5)
    except torch.OutOfMemoryError as error:
        note(without_checkpointing=str(error)[:200])
    # Not in the handler: there the error's frames still hold all activations.
    if checkpointed := measured is None:
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
        measured = _torch_times(run, device, 5)
    first, seconds = measured
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    note(rows=rows, width=width, trained=sum(w.numel() for w in trained), checkpointed=checkpointed, peak_gb=peak)
    note(first_seconds=first, seconds=seconds, tokens_per_second=rows * width / seconds)


def torch_decode(shapes: Shapes, note: Callable[..., None], batches: tuple[int, ...] = (1, 8, 32)) -> None:
    """``generate`` of transformers with its dynamic cache, as users run it: text of the same length, no image."""
    import torch

    model, device = _torch_llama(shapes)
    model.eval()
    width, new = shapes.of(640, 24), shapes.of(32, 4)
    note(prompt=width, new_tokens=new)
    for rows in batches:
        tokens = torch.randint(4, model.config.vocab_size, (rows, width), device=device)
        seconds = {}
        for limit in (1, 1 + new):
            ask = {"max_new_tokens": limit, "min_new_tokens": limit, "do_sample": False, "pad_token_id": 0}
            with torch.no_grad():
                _, seconds[limit] = _torch_times(lambda: model.generate(tokens, **ask), device, 3)  # noqa: B023
        step = (seconds[1 + new] - seconds[1]) / new
        figures = {"prefill_seconds": seconds[1], "step_seconds": step, "tokens_per_second": rows / step}
        note(**{f"rows_{rows}": figures})


# --- stages -----------------------------------------------------------------------------------------------------------


def stages(shapes: Shapes) -> dict[str, Callable[[Callable[..., None]], None]]:
    """By name, in the order in which they are worth having."""
    long, own = shapes.of(4096, 64), shapes.of(1024, 32)
    answers = shapes.of(256, 8)
    calls = {
        "decode": (decode,),
        "sft_4096": (sft, 2, long, False),
        "ppo_7b": (ppo, "llava-1.5-7b", None, shapes.of(32, 4), answers, shapes.of(8, 2)),
        "torch_sft_4096": (torch_sft, 2, long),
        "torch_decode": (torch_decode,),
        "sft_llava": (sft, shapes.of(8, 2), own, True),
        "attention": (attention,),
        "sft_4096_unrolled": (sft, 2, long, False, True),
        "ppo_13b_int8": (ppo, "llava-1.5-13b", "int8", shapes.of(16, 4), shapes.of(128, 8), shapes.of(8, 2)),
    }
    return {
        name: (lambda note, call=call, rest=rest: call(shapes, note, *rest)) for name, (call, *rest) in calls.items()
    }


def run_stage(name: str, shapes: Shapes, folder: Path) -> None:
    """One stage in this process; its figures are written as they come."""
    found: dict[str, Any] = {"stage": name, **_versions(name)}

    def note(**figures: Any) -> None:
        found.update(figures)
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(figures), flush=True)

    start = time.perf_counter()
    try:
        stages(shapes)[name](note)
    except Exception as error:
        # What the card could not do is a figure as well; the other stages go on.
        note(error=f"{type(error).__name__}: {str(error)[:500]}")
        raise
    note(stage_seconds=time.perf_counter() - start)


def _versions(name: str) -> dict[str, Any]:
    if name.startswith("torch"):
        import peft
        import torch
        import transformers

        kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
        return {"card": kind, "versions": versions}
    import jax

    return {"card": card()["card"], "versions": {"jax": jax.__version__, "python": sys.version.split()[0]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="*", help="which, in this order; all without")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shapes = Shapes(options.small)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.inside:
        run_stage(options.inside, shapes, options.out)
        return
    known = stages(shapes)
    chosen = options.stages or list(known)
    if odd := [name for name in chosen if name not in known]:
        parser.error(f"no stage {', '.join(odd)}; there are {', '.join(known)}")
    failed = []
    for name in chosen:
        command = [sys.executable, "-m", "experiments.speed.gpu", "--inside", name, "--out", str(options.out)]
        # JAX would take three quarters of the memory, and leave the rest to nobody.
        environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94"}
        try:
            code = subprocess.run([*command, *["--small"] * options.small], env=environment, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            code = f"more than {LIMIT:.0f} s"
        if code:
            failed.append(f"{name} ({code})")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
