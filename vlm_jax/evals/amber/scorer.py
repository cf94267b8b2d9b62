"""AMBER (Wang et al. 2023): descriptions (``amber_generative.py``) and yes/no questions (``amber_discriminative.py``)
about 1004 images, and the score over both, (100 - CHAIR + F1) / 2.

AMBER's query files part the annotations in four: the generative one, existence, attribute and relation. A file of
answers may have any of them, and what it has it has to have whole: the script scores whatever is there without a word,
so that a run that broke off looks like a better or worse model. To score a selection, hand in annotations of that
selection.

Intervals resample images where it is known which image a question is about, otherwise questions and descriptions.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.errors import InputError
from vlm_jax.evals.amber import discriminative, generative
from vlm_jax.evals.amber.discriminative import Mode
from vlm_jax.evals.amber.generative import Described, Lexicon, Similarity
from vlm_jax.evals.amber.nouns import nouns
from vlm_jax.evals.answering.answer_files import row_id
from vlm_jax.evals.statistics.bootstrap import Statistic
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

GENERATIVE = "generative"
_PARTS = {"state": "attribute", "number": "attribute", "action": "attribute"}
_MOST = 10  # Rows of a table.


class Item(NamedTuple):
    """One annotation. ``kind`` is generative, existence, state, number, action or relation; ``label`` is yes or no, or
    empty for a description, which alone has ``truth`` (objects) and ``lures``."""

    id: str
    kind: str
    label: str
    truth: Sequence[str]
    lures: Sequence[str]

    @property
    def part(self) -> str:
        """The query file that it belongs to."""
        return _PARTS.get(self.kind, self.kind)


class Query(NamedTuple):
    """What a model is asked about which image."""

    id: str
    image: str
    text: str


def read_annotations(path: Path) -> list[Item]:
    """AMBER's ``annotations.json``, or some of its rows: ``id``, ``type`` and ``truth``, which is yes or no, or for
    descriptions a list of objects beside another, ``hallu``.

    Raises:
        InputError: A row is otherwise, or an id comes twice.
    """
    found: dict[str, Item] = {}
    for row in iter_rows(path):
        item = _item(row)
        if item.id in found:
            raise row.wrong(f"id {item.id} for the second time", "ids that differ")
        found[item.id] = item
    return list(found.values())


def _item(row: Row) -> Item:
    identity, kind = row_id(row, "id"), row.string("type")
    if kind == GENERATIVE:
        return Item(identity, kind, "", _words(row, "truth"), _words(row, "hallu"))
    if kind not in discriminative.KINDS:
        raise row.wrong(f"type {kind!r}", f"one of {', '.join((GENERATIVE, *discriminative.KINDS))}")
    label = row.require("truth")
    if label not in ("yes", "no"):
        raise row.wrong(f"truth {label!r}", "yes or no")
    return Item(identity, discriminative.KINDS[kind], label, (), ())


def _words(row: Row, key: str) -> list[str]:
    value = row.require(key)
    if not isinstance(value, list):
        raise row.wrong(f"{key} of type {type(value).__name__}", f"{key} as a list of words")
    return [row.text(word, f"a word of {key}") for word in value]


def read_queries(path: Path) -> dict[str, Query]:
    """By id, one of AMBER's query files: rows of ``id``, ``image`` and ``query``.

    Raises:
        InputError: A row lacks a key, or an id comes twice.
    """
    found: dict[str, Query] = {}
    for row in iter_rows(path):
        query = Query(row_id(row, "id"), *(row.string(key) for key in ("image", "query")))
        if query.id in found:
            raise row.wrong(f"id {query.id} for the second time", "ids that differ")
        found[query.id] = query
    return found


def answered(items: Iterable[Item], ids: Iterable[str]) -> list[Item]:
    """The annotations of those parts that have an answer, all of them where none has."""
    items, there = list(items), set(ids)
    parts = {item.part for item in items if item.id in there}
    return [item for item in items if item.part in parts or not parts]


def queries_of(items: Sequence[Item], queries: Mapping[str, Query], file: Path) -> list[Query]:
    """The queries in the order of their annotations.

    Raises:
        InputError: An annotation has none.
    """
    if lost := [item.id for item in items if item.id not in queries]:
        found = f"no query of id {lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
        raise InputError(found, f"a query to each of the {len(items)} annotations", file=str(file))
    return [queries[item.id] for item in items]


def score(
    answers: Sequence[str],
    items: Sequence[Item],
    lexicon: Lexicon | None = None,
    mode: Mode = "official",
    images: Mapping[str, str] | None = None,
    extract: Callable[[str], Sequence[str]] | None = None,
    similarity: Similarity | None = None,
) -> Scored:
    """Whichever parts are answered.

    Args:
        answers: In the order of the items.
        items: From :func:`answered`.
        lexicon: Needed for descriptions.
        mode: How yes/no answers are read.
        images: Item's id -> image, for intervals.
        extract: The nouns of a description, singular; none means :func:`~vlm_jax.evals.amber_nouns.nouns`.
        similarity: Of two words, as spaCy has it; none means that only equal words are alike.

    Returns:
        ``chair``, ``cover``, ``hal``, ``cog``; ``accuracy``, ``precision``, ``recall``, ``f1`` over all questions where
        all three dimensions are answered, accuracy and F1 of each dimension that is; ``amber_score`` where everything
        is. In percent. ``unparsed`` counts yes/no answers in which the rule reads neither and descriptions without any
        letter.

    Raises:
        ValueError: As many answers as items are needed, and a lexicon for descriptions.
        InputError: An annotated word is not in the lexicon.
    """
    if len(answers) != len(items):
        raise ValueError(f"AMBER needs an answer an item, got {len(answers)} and {len(items)}")
    descriptions = [place for place, item in enumerate(items) if item.kind == GENERATIVE]
    questions = [place for place, item in enumerate(items) if item.kind != GENERATIVE]
    if descriptions and lexicon is None:
        raise ValueError("AMBER needs a lexicon for descriptions")
    described = _described(answers, items, descriptions, lexicon, extract, similarity)
    said = [discriminative.parse(answers[place], mode) for place in questions]
    kinds, labels = [items[place].kind for place in questions], [items[place].label for place in questions]

    rows = np.zeros((len(items), generative.COLUMNS + discriminative.COLUMNS))
    truths, lures = [items[place].truth for place in descriptions], [items[place].lures for place in descriptions]
    rows[descriptions, : generative.COLUMNS] = generative.counts(described, truths, lures)
    rows[questions, generative.COLUMNS :] = discriminative.counts(kinds, labels, said)
    units, sums = unit_counts([(images or {}).get(item.id, item.id) for item in items], rows)
    metrics, figures = _figures(sums.sum(0), bool(descriptions), kinds)
    samples = {place: _description_row(found) for place, found in zip(descriptions, described, strict=True)} | {
        place: {"label": label, "said": word, "fault": float(word != label)}
        for place, label, word in zip(questions, labels, said, strict=True)
    }
    return Scored(
        metrics=metrics,
        per_sample=[
            {"id": item.id, "kind": item.kind, **samples[place], "answer": answers[place]}
            for place, item in enumerate(items)
        ],
        empty=count_empty(answers),
        unparsed=said.count(None) + sum(not any(map(str.isalpha, answers[place])) for place in descriptions),
        tally=Tally(units, sums, figures),
        decimals=dict.fromkeys((*metrics, *discriminative.FIGURES), 1) | {"amber_score": 2},
        tables={
            "yes/no questions": discriminative.table(sums.sum(0)[generative.COLUMNS :], kinds),
            "objects hallucinated most": _most_hallucinated(described),
        },
        baselines={f"all {word}": _constant(word, kinds, labels) for word in ("yes", "no") if questions},
        remarks=tuple(_remarks(mode, said, bool(descriptions) and None in (extract, similarity), images)),
    )


def _described(
    answers: Sequence[str],
    items: Sequence[Item],
    places: Sequence[int],
    lexicon: Lexicon | None,
    extract: Callable[[str], Sequence[str]] | None,
    similarity: Similarity | None,
) -> list[Described]:
    alike = similarity and functools.cache(similarity)
    found = []
    for place in places:
        words = nouns(answers[place], lexicon.vocabulary) if extract is None else extract(answers[place])
        found.append(generative.describe(words, items[place].truth, items[place].lures, lexicon, alike))
    return found


def _figures(
    total: Float[np.ndarray, " 33"], described: bool, kinds: Sequence[str]
) -> tuple[dict[str, float], dict[str, Statistic]]:
    """Metrics as reported, and how each comes from sums."""
    metrics: dict[str, float] = {}
    figures: dict[str, Statistic] = {}
    if described:
        metrics |= generative.reported(total[: generative.COLUMNS])
        figures |= generative.statistics()
    for group in discriminative.groups_of(kinds):
        values = discriminative.reported(total[generative.COLUMNS :], group)
        statistics = discriminative.statistics(group, generative.COLUMNS)
        for name, figure in _NAMES.get(group, {}).items():
            metrics[name], figures[name] = values[figure], statistics[figure]
    if {"chair", "f1"} <= metrics.keys():
        metrics["amber_score"] = round((100 - metrics["chair"] + metrics["f1"]) / 2, 2)
        chair, f1 = figures["chair"], figures["f1"]
        figures["amber_score"] = lambda sums: (100 - chair(sums) + f1(sums)) / 2
    return metrics, figures


# Which of a group's figures are metrics, under which names; all of them stand in a table.
_NAMES = {"all": {name: name for name in discriminative.FIGURES}} | {
    group: {f"{group}_{name}": name for name in ("accuracy", "f1")} for group in ("existence", "attribute", "relation")
}


def _constant(word: str, kinds: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    sums = discriminative.counts(kinds, labels, [word] * len(kinds)).sum(0)
    return _figures(np.concatenate([np.zeros(generative.COLUMNS), sums]), False, kinds)[0]


def _description_row(found: Described) -> dict[str, Any]:
    return {
        "nouns": found.nouns,
        "hallucinated": found.hallucinated,
        "objects_named": found.objects,
        "lures_named": found.lures,
        "fault": float(len(found.hallucinated)),
    }


def _most_hallucinated(described: Iterable[Described]) -> dict[str, dict[str, int]]:
    described = list(described)
    wrong = Counter(noun for found in described for noun in found.hallucinated)
    named = Counter(noun for found in described for noun in found.nouns)
    worst = sorted(wrong, key=lambda noun: (-wrong[noun], noun))[:_MOST]
    return {noun: {"hallucinated": wrong[noun], "mentions": named[noun]} for noun in worst}


def _remarks(mode: Mode, said: Sequence[str | None], own: bool, images: Mapping[str, str] | None) -> Iterator[str]:
    if own:
        yield "chair, cover, hal and cog are not the script's: nouns by a rule, and only equal words are alike"
    if mode == "first-word" and said:
        yield "yes/no answers were read by their first word, which the script does not do"
    elif None in said:
        yield (
            f"{said.count(None)} of {len(said)} yes/no answers are not Yes or No to the letter and count as wrong; "
            "mode first-word reads their first word"
        )
    if images is None and said:
        yield "intervals take the questions about an image as independent; the query file says which image is whose"
