"""A-OKVQA: questions that need knowledge of the world, with four choices or a direct answer.

  vlm-jax eval aokvqa --questions aokvqa_v1p0_val.json --answers predictions.json --output aokvqa.json
  vlm-jax eval aokvqa --questions aokvqa_v1p0_val.json --checkpoint DIR --images val2017 --output aokvqa.json

Predictions in A-OKVQA's own format, {"ID": {"multiple_choice": "cat", "direct_answer": "cat"}, ...}, are compared as
they stand, both kinds if there are both. Free text in LLaVA's format is read first, as --mode says.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, answered, answers_of, check_spoken, conclude, image_file, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: A-OKVQA's questions with their answers.
        task: What free text answers, and what a checkpoint is asked: `multiple_choice` names the choices and asks for
            a letter, `direct_answer` leaves them out and asks for a word or phrase.
        mode: How free text is read: a letter or choice by the rules of VLMEvalKit or lmms-eval for MMBench, and a
            direct answer as VQA's server cleans it; or `exact`, as it stands.
        strict: Every question needs a prediction, and a multiple_choice in A-OKVQA's own format has to be one of the
            choices; otherwise these are wrong answers, as in A-OKVQA's command.
        image_name: An image's file by its id.
    """

    questions: Path
    task: Literal["multiple_choice", "direct_answer"] = "multiple_choice"
    mode: Literal["vlmevalkit", "lmms-eval", "exact"] = "vlmevalkit"
    strict: bool = True
    image_name: str = "{:012d}.jpg"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "letter" if self.task == "multiple_choice" else "short"


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.aokvqa import scorer as aokvqa

    questions = aokvqa.read_questions(options.questions)

    def read(path: Path) -> aokvqa.Answers:
        return aokvqa.read_predictions(path, questions, options.task, options.mode, options.strict, options.id_key)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = [image_file(options.image_name, one.image) for one in questions]
        return [
            ImageQuestion(
                one.id, one.prompt if options.task == "multiple_choice" else one.text, picture(images, file, options)
            )
            for one, file in zip(questions, files, strict=True)
        ]

    answers = answers_of(options, to_ask)
    first = read(answers)

    def score(path: Path) -> "Scored":
        found = read(path)
        if found.tasks.keys() != first.tasks.keys():
            raise InputError(" and ".join(found.tasks), " and ".join(first.tasks), file=str(path))
        check_spoken(found.said, path, options)
        return aokvqa.score(found.tasks, questions, found.texts)

    # Once answered, the answers are a file like any other.
    conclude("A-OKVQA", first.mode, answered(options, answers), score, to_ask, options)
