"""Say whether a stage of training fits on GPUs or TPUs, and how long a step takes at best; no device is needed.

`vlm-jax plan --preset llava-rlhf-7b --stage ppo --topology v5e-16` counts what a step holds at one time and what it
computes, moves and sends, with the figures of the preset's recipe; what is given here goes before them. Times are those
of the chips' published peaks: no step is faster. How far the memory is from what the TPU compiler says stands in
tpu/README.md.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.ranges import LARGEST_COUNT, Range

if TYPE_CHECKING:
    from vlm_jax.planning.plan import Plan
    from vlm_jax.planning.stages import Asked

_GIB = 2**30
# Parts that are shown by name.
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes.

    Attributes:
        preset: Model.
        stage: Of the road; `ppo` is a rollout and its update, `sft-projector` the projector alone over the rows of
            `sft-full`.
        topology: `v5e-16`, `v4-8`, `v5p-8`, `v6e-64`, `h100x8`, `h200x1`, `a100-80gx4` and the like; of a GPU three
            quarters of the memory are counted, what jax takes unless it is told otherwise.
        rows: Rows a step: conversations, pairs, or answers of a rollout.
        microbatches: Parts that they are worked through in.
        rollout_parts: Parts that answers are drawn in; of `ppo` alone.
        base: Type of the frozen weights.
        max_length: Positions of a row, image included; not of `ppo`.
        prompt_length: Positions of a prompt, image included; of `ppo` alone.
        max_new_tokens: Limit of an answer; of `ppo` and `answer`.
        lora_rank: Of the adapters.
        remat: What a backward pass keeps of each decoder block.
        mesh: Layout of the chips; left out: all by fsdp as far as the rows divide by it, the rest by tensor.
        json: Print the figures alone, as JSON.
    """

    preset: str
    stage: Literal["sft-projector", "sft-lora", "sft-full", "reward", "ppo", "answer"]
    topology: str
    rows: Annotated[int | None, Range(1, 1 << 20)] = None
    microbatches: Annotated[int | None, Range(1, 1 << 20)] = None
    rollout_parts: Annotated[int | None, Range(1, 1 << 20)] = None
    base: Literal["bfloat16", "int8", "nf4", "nf4_double"] = "bfloat16"
    max_length: Annotated[int | None, Range(1, 1 << 20)] = None
    prompt_length: Annotated[int | None, Range(1, 1 << 20)] = None
    max_new_tokens: Annotated[int | None, Range(1, LARGEST_COUNT)] = None
    lora_rank: Annotated[int | None, Range(1, 1 << 14)] = None
    remat: Literal["none", "dots", "block"] | None = None
    mesh: MeshOptions = MeshOptions()
    json: bool = False


def run(options: Options) -> None:
    import json

    from vlm_jax.planning.stages import check, remedies, stage_plan

    asked = asked_of(options)
    check(asked)
    plan = stage_plan(asked)
    if options.json:
        print(json.dumps(figures(plan)))
        return
    print("\n".join(explained(asked, plan, [] if plan.fits else remedies(asked))))


def asked_of(options: Options) -> "Asked":
    """The stage with everything that was given.

    Raises:
        InputError: There is no such preset or topology, a figure is not of this stage, or all weights are to be trained
            over a base in fewer bits.
    """
    from vlm_jax.config import PRESETS
    from vlm_jax.errors import InputError, did_you_mean
    from vlm_jax.planning.chips import topology_named
    from vlm_jax.planning.stages import Asked

    if options.preset not in PRESETS:
        found = f"preset {options.preset!r}{did_you_mean(options.preset, PRESETS)}"
        raise InputError(found, f"one of {', '.join(PRESETS)}")
    if options.stage == "sft-full" and options.base != "bfloat16":
        raise InputError(f"--base {options.base} with --stage sft-full", "a base that is not quantised")
    topology = topology_named(options.topology)
    mesh = (options.mesh.data, options.mesh.fsdp, options.mesh.tensor)
    asked = Asked(options.preset, options.stage, options.base, topology, None if mesh == (1, 1, 1) else mesh)
    return asked.with_changes(**_changes(options, asked))


def _changes(options: Options, asked: "Asked") -> dict[str, object]:
    """Figures that were given, by the names that recipes have for them."""
    from vlm_jax.errors import InputError

    names = {"rows": "batch_size", "lora_rank": "lora_rank", "remat": "remat"}
    names |= {name: name for name in ("microbatches", "rollout_parts", "max_length", "prompt_length", "max_new_tokens")}
    given = {name: getattr(options, option) for option, name in names.items() if getattr(options, option) is not None}
    # The adapters' rank is a checkpoint's to say where the stage goes on from one.
    odd = sorted(name for name in given if name not in asked.sizes and name != "lora_rank")
    if odd:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        raise InputError(f"{shown} with --stage {options.stage}", "figures of this stage")
    if "lora_rank" in given:
        given["lora_alpha"] = asked.sizes.get("lora_alpha", 16.0)
    return given


def figures(plan: "Plan") -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "fits": plan.fits,
        "arguments_gib": round(sum(plan.arguments.values()) / _GIB, 2),
        "temporaries_gib": round(sum(plan.temporaries.values()) / _GIB, 2),
        "limit_gib": round(plan.limit / _GIB, 2),
        "seconds": float(f"{plan.seconds:.3g}"),
        "bound": plan.bound,
    }


def explained(asked: "Asked", plan: "Plan", remedies: list[str]) -> list[str]:
    """The same for people: what it is, what fills the memory, and what to change."""
    said = figures(plan)
    data, fsdp, tensor = asked.mesh
    rows, parts = asked.sizes["batch_size"], asked.sizes.get("microbatches", 1)
    lines = [
        f"{asked.preset} {asked.stage}, {asked.kind} base, {rows} rows, {parts} microbatches, on {asked.topology.name}"
        f" (data {data} x fsdp {fsdp} x tensor {tensor})",
        f"  {'fits' if plan.fits else 'does NOT fit'}: {plan.total / _GIB:.2f} of {said['limit_gib']:.2f} GiB a chip",
        f"  arguments   {said['arguments_gib']:8.2f} GiB",
        f"  temporaries {said['temporaries_gib']:8.2f} GiB",
        f"  a step at best {said['seconds']:g} s, bound by {said['bound']}",
        "  largest parts:",
    ]
    parts_by_size = sorted({**plan.arguments, **plan.temporaries}.items(), key=lambda part: -part[1])
    lines += [f"    {size / _GIB:8.2f} GiB  {name}" for name, size in parts_by_size[:_SHOWN]]
    if not plan.fits:
        lines.append(f"  fits with {', or '.join(remedies)}" if remedies else "  no option alone makes it fit")
    return lines
