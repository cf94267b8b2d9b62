"""POPE: does the model say that absent objects are there?

Scores a file of answers, or lets a checkpoint answer first:

  vlm-jax eval pope --questions coco_pope_popular.json --answers answers.jsonl --output pope.json
  vlm-jax eval pope --questions coco_pope_popular.json --checkpoint DIR --images val2014 --output pope.json

Answers are LLaVA's lines, an lmms-eval log or VLMEvalKit's predictions. They are paired with questions by question_id,
or by order where they have none but repeat their question, as POPE's own files do. Published figures are often means
over the random, popular and adversarial files, each scored on its own: `vlm-jax eval pope-mean` takes their results.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, check_spoken, conclude, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: POPE's question file, its rows as on the Hugging Face hub, or VLMEvalKit's table.
        category: Of questions and answers that have several, random say, only these.
        mode: Whose rule reads the answers: POPE's own, or that of lmms-eval, VLMEvalKit, OPERA or VCD.
    """

    questions: Path
    category: str | None = None
    mode: Literal["official", "lmms-eval", "vlmevalkit", "opera", "vcd"] = "official"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "short"


def run(options: Options) -> None:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.pope import scorer as pope
    from vlm_jax.evals.pope.files import answers_for, read_questions

    questions = read_questions(options.questions, options.category)

    def score(path: Path) -> "Scored":
        answers, remarks = answers_for(path, questions, options.id_key, options.category)
        check_spoken(answers, path, options)
        scored = pope.score(answers, questions, options.mode)
        return dataclasses.replace(scored, remarks=(*scored.remarks, *remarks))

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        return [ImageQuestion(one.id, one.text, picture(images, one.image, options)) for one in questions]

    conclude("POPE", options.mode, options, score, to_ask)
