"""AMBER: what descriptions make up, and yes/no questions about existence, attributes and relations.

  vlm-jax eval amber --annotations annotations.json --answers responses.json --output amber.json
  vlm-jax eval amber --annotations annotations.json --questions query_all.json --checkpoint DIR --images image \\
      --output amber.json

Answers may be to AMBER's generative queries, its existence, attribute or relation queries, or to any of these together;
what is answered has to be answered whole. Descriptions are read without NLTK and spaCy, so their figures are near the
published ones but not the same. relation.json and safe_words.txt are looked for beside the annotations.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, check_spoken, conclude, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        annotations: AMBER's `annotations.json`, or some of its rows.
        questions: AMBER's `query_all.json` or another of its query files: what a checkpoint is asked, and which image
            a question is about.
        relations: AMBER's `relation.json`.
        safe_words: AMBER's `safe_words.txt`.
        mode: How yes/no answers are read: `official` Yes or No to the letter, `first-word` the answer's first word.
        yes_no_suffix: Put behind the yes/no questions, and behind them only, before the suffix.
    """

    ASKING = ("yes_no_suffix",)

    annotations: Path
    questions: Path | None = None
    relations: Path | None = None
    safe_words: Path | None = None
    mode: Literal["official", "first-word"] = "official"
    yes_no_suffix: Literal["none", "short", "short_literal", "one_word"] = "short"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=512)


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.amber import scorer as amber
    from vlm_jax.evals.amber.generative import read_lexicon
    from vlm_jax.evals.answering.answer_files import Pairing, answers_to, read_answers
    from vlm_jax.evals.answering.runner import SUFFIXES, ImageQuestion

    items = amber.read_annotations(options.annotations)
    pairing = Pairing(("id",), {item.id for item in items}, options.id_key)
    queries = None if options.questions is None else amber.read_queries(options.questions)
    # Those of the first file of answers: another model's have to be to the same questions.
    answered: list[amber.Item] = []

    def score(path: Path) -> "Scored":
        answers = read_answers(path, pairing)
        answered[:] = answered or amber.answered(items, answers)
        asked = [] if queries is None else amber.queries_of(answered, queries, options.questions)
        texts = answers_to([item.id for item in answered], answers, path, {one.id: one.text for one in asked})
        check_spoken(texts, path, options)
        lexicon = None
        if any(item.kind == amber.GENERATIVE for item in answered):
            relations, safe_words = (
                path if path is not None else _beside(options, name)
                for path, name in ((options.relations, "relation.json"), (options.safe_words, "safe_words.txt"))
            )
            lexicon = read_lexicon(relations, safe_words)
        images = None if queries is None else {one.id: one.image for one in asked}
        scored = amber.score(texts, answered, lexicon, options.mode, images)
        questions = {one.id: {"question": one.text} for one in asked}
        rows = [row | questions.get(row["id"], {}) for row in scored.per_sample]
        return dataclasses.replace(scored, per_sample=rows)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        if queries is None:
            raise InputError("no --questions", "the query file that the checkpoint is to answer")
        asked = amber.answered(items, queries)
        suffixes = ["" if item.kind == amber.GENERATIVE else SUFFIXES[options.yes_no_suffix] for item in asked]
        return [
            ImageQuestion(one.id, one.text + suffix, picture(images, one.image, options))
            for one, suffix in zip(amber.queries_of(asked, queries, options.questions), suffixes, strict=True)
        ]

    conclude("AMBER", options.mode, options, score, to_ask)


def _beside(options: Options, name: str) -> Path:
    from vlm_jax.errors import InputError

    path = options.annotations.with_name(name)
    if not path.exists():
        raise InputError("no such file beside the annotations", "--relations and --safe-words", file=str(path))
    return path
