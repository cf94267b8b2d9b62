"""MME: two yes/no questions about every image, in fourteen subtasks.

  vlm-jax eval mme --questions MME_Benchmark_release_version --answers answers.jsonl --output mme.json
  vlm-jax eval mme --answers results/ --output mme.json
  vlm-jax eval mme --questions MME_Benchmark_release_version --checkpoint DIR \\
      --images MME_Benchmark_release_version --output mme.json

Answers are LLaVA's lines, or a folder of results as MME's calculation.py wants it (SUBTASK.txt with image, question,
right answer and answer), which needs no questions beside it. Some of the subtasks are enough.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
        questions: MME's release, or JSON lines of question_id, category, question and answer.
        answers: LLaVA's lines (question_id, prompt, text), or a folder of results.
    """

    questions: Path | None = None
    answers: Path | None = None
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "short"


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.mme import scorer as mme
    from vlm_jax.evals.mme.files import bare, image_name, read_answers, read_questions

    source = options.questions or options.answers
    if source is None or (options.questions is None and not source.is_dir()):
        raise InputError("no --questions", "MME's questions, for anything but a folder of results")
    questions = read_questions(source)

    def score(path: Path) -> "Scored":
        answers = read_answers(path, questions, options.id_key)
        check_spoken(answers, path, options)
        return mme.score(answers, questions)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = [images and picture(images, image_name(images, one), options) for one in questions]
        return [ImageQuestion(one.id, bare(one.text), file) for one, file in zip(questions, files, strict=True)]

    conclude("MME", "official", options, score, to_ask)
