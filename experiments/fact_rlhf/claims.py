"""The goals of this study, and what its README says beyond them, from its results files."""

from collections.abc import Sequence
from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, count_of_seeds, over_seeds, versions_of
from experiments.fact_rlhf.readme import common_seeds, load, truth_told
from vlm_jax.commands.demo import Options

_ARMS = {"rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
# Set beforehand: per cent of CHAIR_i, points of recall, seeds of five.
_CHAIR_I, _RECALL, _BETTER = -25, -3, 4
_HALF = -50
_TOLD = {"accuracy": "two answers", "equal_accuracy": "two answers that name as many kinds"}


def summary(folder: Path) -> Summary:
    results, usual = load(folder), Options().resolution
    main = [one for one in results if one["resolution"] == usual]
    claims = [claim for arm in _ARMS for claim in _against_start(main, arm)]
    claims += [*_between_arms(main), *_counting(main), *_facts_told(main, usual)]
    few = common_seeds(results)
    for resolution in sorted({one["resolution"] for one in few} - {usual}):
        group = [one for one in few if one["resolution"] == resolution]
        claims += [*_facts_told(group, resolution), _cured(group, "rlhf", resolution)]
    return Summary(claims, versions_of(results))


def _source(resolution: int | None = None) -> str:
    return f"results/seed_*_resolution_{resolution or Options().resolution}.json"


def _changes(results: Sequence[dict], after: str, measure: str) -> list[tuple[float, float]]:
    """Before and after of every seed, in per cent."""
    models = [one["summaries"] for one in results]
    return [(100 * one["sft"][measure], 100 * one[after][measure]) for one in models]


def _relative(results: Sequence[dict], arm: str) -> list[float]:
    return [100 * (after / before - 1) for before, after in _changes(results, arm, "chair_i")]


def _against_start(results: Sequence[dict], arm: str) -> list[Claim]:
    name, source = _ARMS[arm], f"{_source()}: models"
    relative = _relative(results, arm)
    recall = [after - before for before, after in _changes(results, arm, "recall")]
    chair_i = f"{name}: CHAIR_i against the start, %"
    return [
        over_seeds(chair_i, source, relative, Wanted("interval", at_most=_CHAIR_I)),
        over_seeds(f"{chair_i}, more than halved on average", source, relative, Wanted("interval", at_most=_HALF)),
        count_of_seeds(f"{name}: seeds with CHAIR_i halved", source, [c <= _HALF for c in relative], len(relative)),
        over_seeds(f"{name}: recall against the start, points", source, recall, Wanted("interval", at_least=_RECALL)),
        count_of_seeds(
            f"{name}: seeds with recall down by at most {-_RECALL} points",
            source,
            [change >= _RECALL for change in recall],
            len(recall),
        ),
    ]


def _between_arms(results: Sequence[dict]) -> list[Claim]:
    source, models = f"{_source()}: models", [one["summaries"] for one in results]
    change = [100 * (one["fact_rlhf"]["chair_i"] - one["rlhf"]["chair_i"]) for one in models]
    return [
        over_seeds("Fact-RLHF minus RLHF: CHAIR_i, points", source, change, Wanted("interval", below=0)),
        count_of_seeds("seeds with Fact-RLHF's CHAIR_i below RLHF's", source, [c < 0 for c in change], _BETTER),
    ]


def _counting(results: Sequence[dict]) -> list[Claim]:
    """Whether a reward model knows more than a rule that sees nothing."""
    counting, source = truth_told(results, "counting"), f"{_source()}: why.truth_accuracy"
    return [
        over_seeds(
            f"{name}'s reward model minus the rule that counts: truer of two answers preferred, points",
            source,
            [one - rule for one, rule in zip(truth_told(results, arm), counting, strict=True)],
            Wanted("interval", above=0),
        )
        for arm, name in _ARMS.items()
    ]


def _facts_told(results: Sequence[dict], resolution: int) -> list[Claim]:
    """What facts add to a reward model."""
    claims = []
    for measure, answers in _TOLD.items():
        arms = (truth_told(results, arm, measure) for arm in ("fact_rlhf", "rlhf"))
        gains = [with_facts - without for with_facts, without in zip(*arms, strict=True)]
        name = f"facts at {resolution} px: reward model's gain in preferring the truer of {answers}, points"
        source = f"{_source(resolution)}: why.truth_accuracy"
        claims.append(over_seeds(name, source, gains, Wanted("interval", above=0)))
    return claims


def _cured(results: Sequence[dict], arm: str, resolution: int) -> Claim:
    name = f"{_ARMS[arm]}, reward model at {resolution} px: CHAIR_i against the start, %"
    source = f"{_source(resolution)}: models"
    return over_seeds(name, source, _relative(results, arm), Wanted("interval", at_most=_CHAIR_I))
