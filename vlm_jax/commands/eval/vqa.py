"""VQA-v2: how many of ten annotators give the model's answer?

  vlm-jax eval vqa --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --answers answers.json --output vqa.json
  vlm-jax eval vqa --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --checkpoint DIR --images val2014 --output vqa.json

Answers in VQA's own format, [{"question_id": 1, "answer": "yes"}, ...], or in LLaVA's; every annotated question needs
one. Published figures are test-dev's and test-standard's, whose annotations only the benchmark's server has.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, conclude, image_file

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: VQA's questions.
        annotations: The annotators' answers to them.
        mode: Before they are compared, answers are normalised: `official` only where the annotators differ, as VQA's
            script has it, `evalai` always and by EvalAI's processor (TextVQA's scorer), `lmms-eval` always.
        image_name: An image's file by its id.
    """

    questions: Path
    annotations: Path
    mode: Literal["official", "evalai", "lmms-eval"] = "official"
    image_name: str = "COCO_val2014_{:012d}.jpg"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(suffix="short", max_new_tokens=16)


def run(options: Options) -> None:
    from vlm_jax.evals.answering.answer_files import answers_to, read_answers
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.vqa import scorer as vqa

    questions = vqa.read_questions(options.questions, options.annotations)

    def score(path: Path) -> "Scored":
        texts = {one.id: one.text for one in questions}
        return vqa.score(answers_to(list(texts), read_answers(path), path, texts), questions, options.mode)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = [image_file(options.image_name, one.image) for one in questions]
        return [
            ImageQuestion(one.id, one.text, images and images / file)
            for one, file in zip(questions, files, strict=True)
        ]

    conclude("VQA-v2", options.mode, options, score, to_ask)
