"""The table and the claims of what a GPU did, from the files that ``gpu.py`` wrote."""

from pathlib import Path
from typing import Any

from experiments.claims import Claim, Wanted
from vlm_jax.files import read_json

_ONCE = (None, "measured once")
# Best published for LoRA on one H100 at sequence 4096: NeMo AutoModel's LLaMA-3-8B and Qwen2.5-7B.
_PUBLISHED_TOKENS, _PUBLISHED_OPERATIONS = 14_100, 402e12
_NAMES = {
    "sft_4096": "LoRA step, 2 rows of 4,096",
    "sft_4096_unrolled": "the same, every block compiled by itself",
    "sft_llava": "LoRA step, 8 rows of 1,024 with an image each",
    "torch_sft_4096": "transformers and peft, LoRA step, 2 rows of 4,096",
}
_DECODING = {"decode": "answers to prompts of 640", "torch_decode": "transformers, texts of 640"}
_PPO = {"ppo_7b": "7B, bfloat16", "ppo_13b_int8": "13B, int8"}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Figures of the stages that were run, by name."""
    return {file.stem: read_json(file) for file in sorted((folder / "results" / "gpu").glob("*.json"))}


def table(found: dict[str, dict[str, Any]]) -> str:
    """One line a figure; stages that were never run say so."""
    lines = ["| what | figure | of which | peak memory, GB | first call, s |", "|---|---:|---|---:|---:|"]
    for stage, name in _NAMES.items():
        lines.append(_training(name, found.get(stage)))
    for stage, name in _DECODING.items():
        lines.extend(_decoding(name, found.get(stage)))
    for stage, name in _PPO.items():
        lines.append(_iteration(f"PPO iteration, four roles, {name}", found.get(stage)))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _training(name: str, one: dict[str, Any] | None) -> str:
    if one is None or "tokens_per_second" not in one:
        return _line(name, "not run", "", "", "")
    detail = f"{one['operations_at_4n'] / 1e12:.0f} TFLOP/s at 4N" if "operations_at_4n" in one else ""
    if one.get("checkpointed"):
        detail = "with checkpointing: without, it does not fit"
    peak = "" if "checkpointed" in one else f"{one['peak_gb']:.1f}"
    return _line(name, f"{one['tokens_per_second']:,.0f} tokens/s", detail, peak, f"{one['first_seconds']:.0f}")


def _decoding(name: str, one: dict[str, Any] | None) -> list[str]:
    if one is None:
        return [_line(name, "not run", "", "", "")]
    lines = []
    for rows in (1, 8, 32):
        found = one[f"rows_{rows}"]
        bound = one.get("bound_tokens_per_second")
        share = f"{found['tokens_per_second'] / bound / rows:.0%} of what reading the weights allows" if bound else ""
        cells = [f"{name}, {rows} at a time", f"{found['tokens_per_second']:,.0f} tokens/s", share]
        peak = f"{found['peak_gb']:.1f}" if "peak_gb" in found else ""
        lines.append(_line(*cells, peak, f"{found['first_seconds']:.0f}" if "first_seconds" in found else ""))
    return lines


def _iteration(name: str, one: dict[str, Any] | None) -> str:
    if one is None or "second" not in one:
        return _line(name, "not run", "", "", "")
    second, first = one["second"], one["first"]
    parts = f"{second['rollout_seconds']:.1f} s rollout, {second['update_seconds']:.1f} s update"
    detail = f"{one['rows']} answers of {one['new_tokens']} tokens: {parts}"
    seconds = f"{first['rollout_seconds'] + first['update_seconds']:.0f}"
    return _line(name, f"{one['episodes_per_second']:.2f} episodes/s", detail, f"{one['peak_gb']:.1f}", seconds)


def claims(found: dict[str, dict[str, Any]]) -> list[Claim]:
    """What was wanted of one H100, of the stages that were run."""
    made: list[Claim] = []

    def claim(name: str, stage: str, value: float, wanted: Wanted) -> None:
        made.append(Claim(f"{found[stage]['card']}, {name}", f"results/gpu/{stage}.json", value, *_ONCE, wanted, None))

    if "sft_4096" in found:
        one = found["sft_4096"]
        least = Wanted("value", at_least=_PUBLISHED_TOKENS)
        claim("7B LoRA at 4,096: tokens/s above the best published", "sft_4096", one["tokens_per_second"], least)
        least = Wanted("value", at_least=_PUBLISHED_OPERATIONS / 1e12)
        tflops = one["operations_at_4n"] / 1e12
        claim("7B LoRA at 4,096: TFLOP/s at 4N above those of the best published", "sft_4096", tflops, least)
    if "decode" in found:
        one = found["decode"]
        speed = {rows: one[f"rows_{rows}"]["tokens_per_second"] for rows in (1, 32)}
        share = speed[1] / one["bound_tokens_per_second"]
        claim("7B answers one at a time: share of the bandwidth bound", "decode", share, Wanted("value", at_least=0.6))
        claim("7B answers: 32 at a time by one at a time", "decode", speed[32] / speed[1], Wanted("value", at_least=8))
    if "ppo_7b" in found:
        claim(
            "7B PPO with four roles, unquantised: peak GB",
            "ppo_7b",
            found["ppo_7b"]["peak_gb"],
            Wanted("value", at_most=80),
        )
    if {"sft_4096", "torch_sft_4096"} <= found.keys():
        faster = found["sft_4096"]["tokens_per_second"] / found["torch_sft_4096"]["tokens_per_second"]
        claim(
            "7B LoRA at 4,096: times as fast as transformers and peft",
            "torch_sft_4096",
            faster,
            Wanted("value", at_least=1),
        )
    return made
