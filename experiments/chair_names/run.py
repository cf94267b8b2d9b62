"""CHAIR with its own list of names against the table that ships here, and with the script's slips against without.

    python -m experiments.chair_names.run --objects objects.json --synonyms synonyms.txt --answers greedy.jsonl

Needs files that belong to others: OPERA's logs of LLaVA-1.5 (500 images of COCO's val2014), CHAIR's ``synonyms.txt``
and the images' objects, as ``vlm-jax eval chair-objects`` makes them from COCO's annotations.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import tyro

from experiments.claims import record
from experiments.generated import replace_between
from vlm_jax.evals.answering.answer_files import read_answers
from vlm_jax.evals.chair import scorer as chair
from vlm_jax.evals.chair.coco_objects import NAMES_FILE, ObjectNames, Reader, read_names, read_objects
from vlm_jax.files import read_json, write_json
from vlm_jax.versions import versions

_HERE = Path(__file__).parent
_SHOWN = 12
_FIGURES = ("chair_s", "chair_i", "recall")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        objects: JSON of image id -> objects.
        synonyms: CHAIR's own list.
        answers: Captions of one model each.
    """

    objects: Path
    synonyms: Path
    answers: tuple[Path, ...]


def words_alone(captions: Iterable[str], one: ObjectNames, other: ObjectNames) -> dict[str, int]:
    """Mentions by word that one table counts for an object and the other does not."""
    first, second = Reader(one), Reader(other)
    counts: collections.Counter[str] = collections.Counter()
    for caption in captions:
        theirs = {(mention.place, mention.object) for mention in second.mentions(caption)}
        counts.update(
            f"{mention.word} ({mention.object})"
            for mention in first.mentions(caption)
            if (mention.place, mention.object) not in theirs
        )
    return dict(counts.most_common(_SHOWN))


def measure(options: Options) -> dict:
    tables = {"CHAIR's": read_names(options.synonyms), "ours": read_names(NAMES_FILE)}
    objects = read_objects(options.objects)
    logs = {path.stem: {image: one.text for image, one in read_answers(path).items()} for path in options.answers}
    captions = [text for log in logs.values() for text in log.values()]
    modes: tuple[chair.Mode, ...] = ("official", "corrected")
    return {
        "scores": [
            {"log": log, "names": names, "mode": mode} | scored.metrics | {"intervals": scored.tally.intervals()}
            for log, said in logs.items()
            for names, table in tables.items()
            for mode in modes
            for scored in [chair.score(said, objects, table, mode)]
        ],
        "counted by ours alone": words_alone(captions, tables["ours"], tables["CHAIR's"]),
        "counted by CHAIR's alone": words_alone(captions, tables["CHAIR's"], tables["ours"]),
        "versions": versions(),
    }


def table(results: Mapping) -> str:
    lines = [
        "| captions | names | mode | CHAIR_s % | CHAIR_i % | recall % | mentions |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in results["scores"]:
        cells = [f"{100 * row[name]:.2f} ({100 * low:.1f} to {100 * high:.1f})" for name, (low, high) in _brackets(row)]
        lines.append(f"| {row['log']} | {row['names']} | {row['mode']} | {' | '.join(cells)} | {row['mentions']} |")
    for title in ("counted by ours alone", "counted by CHAIR's alone"):
        words = ", ".join(f"{word} {count}" for word, count in results[title].items())
        lines += ["", f"{title[0].upper()}{title[1:]}, most frequent first: {words}."]
    return "\n".join(lines)


def _brackets(row: Mapping) -> list[tuple[str, tuple[float, float]]]:
    return [(name, row["intervals"][name]) for name in _FIGURES]


def main(options: Options) -> None:
    write_json(_HERE / "results" / "results.json", measure(options))
    replace_between(_HERE / "README.md", "table", table(read_json(_HERE / "results" / "results.json")))
    record(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
