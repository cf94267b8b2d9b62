"""POPE: does the model say that absent objects are there?

Scores a file of answers, or lets a checkpoint answer first:

  vlm-jax eval pope --questions coco_pope_popular.json --answers answers.jsonl --output pope.json
  vlm-jax eval pope --questions coco_pope_popular.json --checkpoint DIR --images val2014 --output pope.json

Answers are paired with questions by question_id, or by order where they have none but repeat their question, as POPE's
own files do. Published figures are often means over the random, popular and adversarial files, each scored on its own:
`vlm-jax eval pope-mean` takes their results.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, conclude

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: POPE's question file.
        mode: Whose rule reads the answers: POPE's own, or that of lmms-eval, VLMEvalKit, OPERA or VCD.
    """

    questions: Path
    mode: Literal["official", "lmms-eval", "vlmevalkit", "opera", "vcd"] = "official"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(suffix="short", max_new_tokens=16)


def run(options: Options) -> None:
    from vlm_jax.evals.answering.answer_files import answers_to, read_answers
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.pope import scorer as pope

    questions = pope.read_questions(options.questions)

    def score(path: Path) -> "Scored":
        texts = {one.id: one.text for one in questions}
        answers = answers_to(list(texts), read_answers(path, list(texts)), path, texts)
        return pope.score(answers, questions, options.mode)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        return [ImageQuestion(one.id, one.text, images and images / one.image) for one in questions]

    conclude("POPE", options.mode, options, score, to_ask)
