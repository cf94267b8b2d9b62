"""A run's result as one HTML file that needs nothing beside it: no network, no scripts, no other files."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vlm_jax.files import write_bytes
from vlm_jax.report.gallery import Picture
from vlm_jax.report.headline import headlines
from vlm_jax.report.marks import Mark, mark, missed
from vlm_jax.report.measures import BEST, Figure, label, rows, written, written_interval
from vlm_jax.report.plots import PPO_PANELS, REWARD_PANELS, SERIES, Rows, intervals, panels
from vlm_jax.scenes.world import Scene, Thing

Curves = Mapping[str, Rows]

# One model's share with its interval, drawn above the table.
_DRAWN = ("chair_i", "chair_s", "recall")
_Z = 1.96


@dataclasses.dataclass(frozen=True)
class _Said:
    """What one model said about a picture."""

    model: str
    colour: int
    pieces: list[tuple[str, Mark]]
    missed: list[str]


@dataclasses.dataclass(frozen=True)
class _Card:
    """One picture of the gallery, ready to be shown."""

    file: str
    uri: str
    reason: str
    truth: list[str]
    said: list[_Said]


def write_page(path: Path, results: Mapping[str, Any], curves: Curves, gallery: Sequence[Picture]) -> None:
    """Writes the page; the file appears whole or not at all.

    Args:
        path: The HTML file; its folder is made.
        results: ``models``: name -> what ``evals.scenes.evaluate`` gives (and ``reward_accuracy`` if known), the
            starting model first and the one that the headline is about last. Optional: ``reward_models``: name ->
            ``held_out_accuracy``, ``held_out_pairs``, and what it saw: ``resolution`` (None is the policy's) and
            ``facts`` (bool). Optional: ``made``: how the result came about, ``seed``, ``seconds``, ``dials``,
            ``versions`` and anything else that is worth telling, as text, numbers and dicts of them.
        curves: Run name -> rows of its ``metrics.jsonl``. Rows with ``kl`` are PPO's, rows with ``margin`` a reward
            model's. A run that is called like a model gets that model's colour.
        gallery: Pictures, as ``gallery.pictures`` gives.
    """
    write_bytes(path, page(results, curves, gallery).encode())


def page(results: Mapping[str, Any], curves: Curves, gallery: Sequence[Picture]) -> str:
    """The HTML of ``write_page``."""
    models, reward_models = results["models"], results.get("reward_models", {})
    colours = _colours([*models, *curves, *reward_models])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlm_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(label=label, written=written, interval=written_interval, percent=_percent)
    # A number and its sign stay on one line.
    first, *others = (sentence.replace(" %", "\N{NO-BREAK SPACE}%") for sentence in headlines(models))
    return environment.get_template("page.html").render(
        headline=first,
        others=others,
        models=models,
        colours=colours,
        rows=rows(models),
        best=BEST,
        drawn=_drawn(models, colours),
        ppo=panels(PPO_PANELS, _with("kl", curves), colours),
        reward=panels(REWARD_PANELS, _with("margin", curves), colours),
        reward_models={name: _reward_model(facts) for name, facts in reward_models.items()},
        cards=[_card(picture, colours) for picture in gallery],
        made=_made(results.get("made", {})),
    )


def duration(seconds: int | float) -> str:
    """Hours and minutes, or minutes and seconds, or seconds."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def share_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` independent trials (Wilson 1927)."""
    middle, spread = share + _Z**2 / (2 * count), _Z * (share * (1 - share) / count + (_Z / (2 * count)) ** 2) ** 0.5
    scale = 1 + _Z**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _colours(names: Sequence[str]) -> dict[str, int]:
    return {name: i % SERIES for i, name in enumerate(dict.fromkeys(names))}


def _with(metric: str, curves: Curves) -> dict[str, Rows]:
    return {name: steps for name, steps in curves.items() if any(metric in step for step in steps)}


def _drawn(models: Mapping[str, Any], colours: Mapping[str, int]) -> list[Markup]:
    if len(models) < 2:
        return []
    return [
        intervals(f"{row.measure.label} {row.measure.arrow}", dict(zip(models, row.figures, strict=True)), colours)
        for row in rows(models)
        if row.measure.key in _DRAWN and all(row.figures)
    ]


def _reward_model(facts: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, pairs = float(facts["held_out_accuracy"]), int(facts["held_out_pairs"])
    return {
        "figure": Figure(accuracy, share_interval(accuracy, pairs)),
        "pairs": pairs,
        "resolution": f"{facts['resolution']} px" if facts.get("resolution") else "as the policy",
        "facts": "true captions" if facts.get("facts") else "no",
    }


def _card(picture: Picture, colours: Mapping[str, int]) -> _Card:
    return _Card(
        file=picture.file,
        uri="data:image/png;base64," + base64.b64encode(picture.png).decode("ascii"),
        reason=picture.reason,
        truth=_truth(picture.scene),
        said=[
            _Said(model, colours[model], mark(text, picture.scene), missed(text, picture.scene))
            for model, text in picture.descriptions.items()
        ],
    )


def _truth(scene: Scene) -> list[str]:
    letter = [f"the letter {scene.letter}"] if scene.letter else []
    return [*(_thing(thing) for thing in scene.things), *letter]


def _thing(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.kind}{' (faint)' if thing.faint else ''}"


def _made(made: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Groups of (name, value): plain entries first under "", then one group a dict."""
    plain = [(_words(name), _value(name, value)) for name, value in made.items() if not isinstance(value, Mapping)]
    groups = {_words(name): _pairs(value) for name, value in made.items() if isinstance(value, Mapping)}
    return ({"": plain} if plain else {}) | groups


def _pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for name, value in values.items():
        full = prefix + _words(name)
        pairs += _pairs(value, f"{full}.") if isinstance(value, Mapping) else [(full, _value(name, value))]
    return pairs


def _value(name: str, value: object) -> str:
    if name == "seconds":
        return duration(value) if isinstance(value, int | float) else str(value)
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return str(value)


def _words(name: str) -> str:
    return "wall time" if name == "seconds" else name


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
