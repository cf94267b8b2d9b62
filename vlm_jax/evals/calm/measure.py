"""How far a comparer's verdicts are moved by what should not move them.

    RR        robustness rate: share of verdicts that a perturbation leaves as they were
    CR        consistency rate: share that stay when the same pair is put again; the noise that RR has to be read beside
    toward    share of verdicts that move to the answer that the perturbation favours
    away      share that move from it; 1 = RR + toward + away
    accuracy  share of verdicts for the better answer, where it is known; a tie is wrong
    error     |1 - s' / s|, s and s' being the share of verdicts for an answer without and with word that it is the
              judge's own (Err_SE) or refined (Err_RA); CALM's s are scores of single answers, which no comparer gives

All over the pairs whose verdicts could be read; the others are counted. RR says how firm verdicts are, not how right.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.calm.biases import Bias, drawn_side, perturbed
from vlm_jax.evals.calm.trial import PLACES, Comparer, Trial, Verdict, exchange
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, unit_counts

DOES_NOT_APPLY = "does not apply"

# Place of a pair -> verdict; a pair that does not allow the perturbation is not among them.
Verdicts = Mapping[int, Verdict | None]


def longer(trials: Sequence[Trial]) -> list[Verdict | None]:
    """A comparer that counts words, notes included."""
    return [_longer(trial) for trial in trials]


def _longer(trial: Trial) -> Verdict:
    one, two = (len(f"{answer} {note}".split()) for answer, note in zip(trial.answers, trial.notes, strict=True))
    return "tie" if one == two else PLACES[two > one]


def put(
    trials: Sequence[Trial],
    biases: Mapping[str, Bias],
    compare: Comparer,
    again: Comparer,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Verdicts]:
    """Put all pairs before a comparer: as they are ("clean"), once more ("again"), and perturbed.

    Args:
        trials: The pairs.
        biases: Name -> bias.
        compare: Who is asked.
        again: The same once more; for judges whose answers are kept on disk one that does not look there.
        seed: Of the perturbations.
        progress: Told how many verdicts there are.

    Returns:
        Verdicts by name, in terms of the pairs as they were.
    """
    places = dict(enumerate(trials))
    found: dict[str, Verdicts] = {}

    def ask(name: str, whom: Comparer, asked: Mapping[int, Trial]) -> None:
        found[name] = dict(zip(asked, whom(list(asked.values())), strict=True))
        progress(sum(map(len, found.values())))

    ask("clean", compare, places)
    ask("again", again, places)
    for name, bias in biases.items():
        made = {place: perturbed(name, bias, one, drawn_side(one, seed), seed) for place, one in places.items()}
        ask(name, compare, {place: trial for place, trial in made.items() if trial is not None})
    if "position" in found:
        found["position"] = {place: exchange(verdict) for place, verdict in found["position"].items()}
    return found


def score(
    trials: Sequence[Trial],
    biases: Mapping[str, Bias],
    found: Mapping[str, Verdicts],
    seed: int = 0,
    inapplicable: Sequence[str] = (),
    baselines: Mapping[str, Mapping[str, Verdicts]] = {},
) -> Scored:
    """The rates, with intervals over images.

    Args:
        trials, biases, seed: As in :func:`put`.
        found: From :func:`put`.
        inapplicable: Biases that cannot reach this comparer; the table says so.
        baselines: Name -> what :func:`put` found for a rule.

    Returns:
        ``cr``, ``accuracy`` and for each bias ``rr_BIAS`` and ``accuracy_BIAS``, ``toward_BIAS`` and ``away_BIAS``
        where it favours an answer, ``error_BIAS`` where it says whose the answer is; figures without anything to count
        are left out.
    """
    tally = _tally(trials, biases, found, seed)
    table, intervals = tally.values(), tally.intervals()
    rows = {name: _row(name, table, intervals, found) for name in biases}
    rows |= {name: {"RR": DOES_NOT_APPLY} for name in inapplicable}
    ruled = {name: _tally(trials, biases, verdicts, seed).values() for name, verdicts in baselines.items()}
    for name in biases:
        rows[name] |= {f"RR of {rule}": values.get(f"rr_{name}") for rule, values in ruled.items()}
    return Scored(
        metrics=table,
        per_sample=[_sample(place, trial, found, seed) for place, trial in enumerate(trials)],
        unparsed=sum(verdict is None for verdicts in found.values() for verdict in verdicts.values()),
        tally=tally,
        tables={"bias": rows},
        baselines=ruled,
    )


def _tally(trials: Sequence[Trial], biases: Mapping[str, Bias], found: Mapping[str, Verdicts], seed: int) -> Tally:
    sides = [drawn_side(trial, seed) for trial in trials]
    counts = [_repeat_counts(trials, found)]
    counts += [_counts(trials, sides, found["clean"], found[name]) for name in biases]
    sums = np.concatenate(counts, 1).sum(0)
    figures = {"cr": _rate(0, 1), "accuracy": _rate(2, 3)}
    bottoms = {"cr": 1, "accuracy": 3}
    for number, (name, bias) in enumerate(biases.items()):
        start = 4 + number * _WIDTH
        figures[f"rr_{name}"], bottoms[f"rr_{name}"] = _rate(start, start + _BOTH), start + _BOTH
        if bias.sided:
            for column, word in ((_TOWARD, "toward"), (_AWAY, "away")):
                figures[f"{word}_{name}"] = _rate(start + column, start + _BOTH)
                bottoms[f"{word}_{name}"] = start + _BOTH
        figures[f"accuracy_{name}"], bottoms[f"accuracy_{name}"] = _rate(start + _RIGHT, start + _GOLD), start + _GOLD
        if bias.attributes:
            figures[f"error_{name}"] = _error(start + _FOR, start + _WAS_FOR)
            bottoms[f"error_{name}"] = start + _WAS_FOR
    units = [trial.id if trial.image is None else trial.image.name for trial in trials]
    known = {name: figure for name, figure in figures.items() if sums[bottoms[name]]}
    return Tally(*unit_counts(units, np.concatenate(counts, 1)), known)


# Sums of a bias.
_STAYS, _BOTH, _TOWARD, _AWAY, _RIGHT, _GOLD, _FOR, _WAS_FOR, _WIDTH = range(9)


def _repeat_counts(trials: Sequence[Trial], found: Mapping[str, Verdicts]) -> Float[np.ndarray, "n 4"]:
    rows = np.zeros((len(trials), 4))
    for place, trial in enumerate(trials):
        one, two = found["clean"][place], found["again"][place]
        rows[place, :2] = one == two and one is not None, one is not None and two is not None
        if trial.gold is not None and one is not None:
            rows[place, 2:] = one == PLACES[trial.gold], 1
    return rows


def _counts(
    trials: Sequence[Trial], sides: Sequence[int], clean: Verdicts, moved: Verdicts
) -> Float[np.ndarray, "n k"]:
    rows = np.zeros((len(trials), _WIDTH))
    for place, after in moved.items():
        before, gold, row = clean[place], trials[place].gold, rows[place]
        if after is not None and gold is not None:
            row[_RIGHT], row[_GOLD] = after == PLACES[gold], 1
        if before is None or after is None:
            continue
        was, now = _leaning(before, sides[place]), _leaning(after, sides[place])
        row[_STAYS], row[_BOTH], row[_TOWARD], row[_AWAY] = before == after, 1, now > was, now < was
        row[_FOR], row[_WAS_FOR] = now, was
    return rows


def _leaning(verdict: Verdict, side: int) -> float:
    """1 for this side, 0 for the other, a half for neither."""
    return 0.5 if verdict == "tie" else float(verdict == PLACES[side])


def _rate(top: int, bottom: int) -> Statistic:
    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return safe_ratio(sums[:, top], sums[:, bottom])

    return rate


def _error(now: int, was: int) -> Statistic:
    def error(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return np.abs(1 - safe_ratio(sums[:, now], sums[:, was]))

    return error


def _row(
    name: str,
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    found: Mapping[str, Verdicts],
) -> dict[str, Any]:
    interval = intervals.get(f"rr_{name}")
    return {
        "RR": values.get(f"rr_{name}"),
        "95 %": interval and "{:.3f} to {:.3f}".format(*interval),
        "CR": values.get("cr"),
        "toward": values.get(f"toward_{name}"),
        "away": values.get(f"away_{name}"),
        "accuracy": values.get(f"accuracy_{name}"),
        "pairs": len(found[name]),
        "unparsed": sum(verdict is None for verdict in found[name].values()),
    }


def _sample(place: int, trial: Trial, found: Mapping[str, Verdicts], seed: int) -> dict[str, Any]:
    return {
        "id": trial.id,
        "image": trial.image and trial.image.name,
        "gold": None if trial.gold is None else PLACES[trial.gold],
        "perturbed": PLACES[drawn_side(trial, seed)],
        "verdicts": {name: verdicts[place] for name, verdicts in found.items() if place in verdicts},
    }
