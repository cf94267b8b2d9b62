"""CHAIR (Rohrbach et al. 2018): how many of the objects that a caption names are not in the image.

official    CHAIR's own script, slips included; with its ``synonyms.txt`` the published figures
corrected   the same without the slips (``coco_objects.py`` says which)
unique      corrected, an object counts once a caption: near to Object HalBench, which has a language model find the
            objects and is not reproducible offline
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.errors import InputError
from vlm_jax.evals.chair.coco_objects import Mention, ObjectNames, Reader
from vlm_jax.evals.statistics.bootstrap import Statistic, interval, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

Mode = Literal["official", "corrected", "unique"]
MODES: tuple[Mode, ...] = get_args(Mode)


def tally(mentions: Sequence[Sequence[str]], present: Sequence[Set[str]], images: Sequence[str] | None = None) -> Tally:
    """CHAIR over captions whose objects have been found already: ``chair_i`` (hallucinated mentions / mentions),
    ``chair_s`` (captions with one / captions), ``recall`` (present objects named / present objects).

    Args:
        mentions: For each caption, the objects it names, in the image's vocabulary; one entry a mention.
        present: For each caption, the objects that are in its image.
        images: For each caption, its image; none means an image of its own.

    Raises:
        ValueError: The lists differ in length.
    """
    if len(mentions) != len(present):
        raise ValueError(f"CHAIR needs one set of objects a caption, got {len(mentions)} and {len(present)}")
    rows = np.zeros((len(mentions), 6))
    for row, named, here in zip(rows, mentions, present, strict=True):
        wrong = sum(one not in here for one in named)
        row[:] = wrong, len(named), wrong > 0, 1, len(set(named) & set(here)), len(here)
    if images is None:
        return Tally([str(place) for place in range(len(rows))], rows, _FIGURES)
    return Tally(*unit_counts(images, rows), _FIGURES)


def _rate(top: int, bottom: int) -> Statistic:
    def rate(sums: Float[np.ndarray, "r 6"]) -> Float[np.ndarray, " r"]:
        return safe_ratio(sums[:, top], sums[:, bottom])

    return rate


_FIGURES = {"chair_i": _rate(0, 1), "chair_s": _rate(2, 3), "recall": _rate(4, 5)}


def score(
    captions: Mapping[str, str], objects: Mapping[str, Set[str]], names: ObjectNames, mode: Mode = "official"
) -> Scored:
    """CHAIR of captions of COCO's images.

    Args:
        captions: Image id -> caption.
        objects: Image id -> the objects in it; at least those with a caption.
        names: What the objects are called.
        mode: How captions are read and counted.

    Returns:
        ``chair_s``, ``chair_i``, ``recall``, ``mentions``, ``hallucinated`` and ``mean_words`` (tokens a caption).
        ``unparsed`` counts captions without a word; captions that name no object count in ``chair_s``, as in the
        script.

    Raises:
        InputError: A caption's image is not among the objects'.
    """
    reader = Reader(names, "official" if mode == "official" else "corrected")
    rows, found, lengths = [], [], []
    for image, caption in captions.items():
        if image not in objects:
            raise InputError(
                f"a caption of image {image}", f"an image among the {len(objects)} whose objects are known"
            )
        words, places = reader.words(caption)
        mentions = reader.mentions_among(words, places)
        if mode == "unique":
            mentions = list({mention.object: mention for mention in reversed(mentions)}.values())[::-1]
        found.append([mention.object for mention in mentions])
        lengths.append(len(words))
        rows.append(_row(image, caption, mentions, objects[image]))
    sums = tally(found, [objects[image] for image in captions], list(captions))
    wrong, named = sums.counts.sum(0)[:2].astype(int)
    counts = {"mentions": int(named), "hallucinated": int(wrong), "mean_words": float(np.mean(lengths or [0]))}
    return Scored(
        metrics=sums.values() | counts,
        per_sample=rows,
        empty=count_empty(captions.values()),
        unparsed=sum(not any(map(str.isalpha, caption)) for caption in captions.values()),
        tally=sums,
        tables={"objects hallucinated most": _by_object(found, [objects[image] for image in captions])},
        remarks=(*_REMARKS[mode], *_coverage(captions, objects)),
    )


_REMARKS = {
    "official": (),
    "corrected": ("not comparable with published figures: the script's slips are mended",),
    "unique": ("unique mentions: near to Object HalBench, not the same",),
}
_MOST = 10


def _coverage(captions: Mapping[str, str], objects: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """CHAIR's script asks for a caption of every image; ground truth of a whole data set is usual too."""
    if len(captions) == len(objects):
        return ()
    return (f"captions of {len(captions)} of the {len(objects)} images whose objects are known",)


def _row(image: str, caption: str, mentions: Sequence[Mention], here: Set[str]) -> dict[str, Any]:
    wrong = [mention for mention in mentions if mention.object not in here]
    return {
        "image_id": image,
        "caption": caption,
        "chair_s": int(bool(wrong)),
        "chair_i": len(wrong) / len(mentions) if mentions else 0.0,
        "generated": [mention.object for mention in mentions],
        "hallucinated": [[mention.word, mention.object] for mention in wrong],
        "hallucinated_places": [mention.place for mention in wrong],
        "present": sorted(here),
        "fault": float(len(wrong)),
    }


def _by_object(found: Sequence[Sequence[str]], present: Sequence[Set[str]]) -> dict[str, dict[str, float | int]]:
    """Mentions by object, those with most wrong ones first."""
    counts: dict[str, list[int]] = {}
    for named, here in zip(found, present, strict=True):
        for one in named:
            place = counts.setdefault(one, [0, 0])
            place[0] += one not in here
            place[1] += 1
    worst = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:_MOST]
    return {one: {"hallucinated": wrong, "mentions": all_} for one, (wrong, all_) in worst if wrong}


def change_interval(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """95 % bootstrap interval of CHAIR_i after minus before, both from :func:`report` over the same images in one
    order: every image is drawn with both of its captions."""
    columns = [scores[key] for scores in (before, after) for key in ("wrong_by_caption", "named_by_caption")]

    def change(sums):
        return safe_ratio(sums[:, 2], sums[:, 3]) - safe_ratio(sums[:, 0], sums[:, 1])

    return interval(np.array(columns, float).T, change)


def report(mentions: Sequence[Sequence[str]], present: Sequence[Set[str]]) -> dict[str, Any]:
    """:func:`tally` as plain figures: those with their intervals, ``mentions`` and ``hallucinated`` counts, and
    ``wrong_by_caption`` and ``named_by_caption``."""
    found = tally(mentions, present)
    wrong, named = found.counts[:, 0].astype(int), found.counts[:, 1].astype(int)
    return found.report() | {
        "mentions": int(named.sum()),
        "hallucinated": int(wrong.sum()),
        "wrong_by_caption": wrong.tolist(),
        "named_by_caption": named.tolist(),
    }
