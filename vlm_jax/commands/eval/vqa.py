"""VQA-v2: how many of ten annotators give the model's answer?

  vlm-jax eval vqa --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --answers answers.json --output vqa.json
  vlm-jax eval vqa --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --checkpoint DIR --images val2014 --output vqa.json

Answers in VQA's own format, [{"question_id": 1, "answer": "yes"}, ...], are taken as they stand. Those in LLaVA's, and
a checkpoint's, are normalised first, as LLaVA's script does before it hands them in: VQA's own script alone gives "Yes"
nothing where all annotators say "yes". Every annotated question needs an answer. Published figures are test-dev's and
test-standard's, whose annotations only the benchmark's server has.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, answered, answers_of, check_spoken, conclude, image_file, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.answer_files import Answer
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.statistics.tally import Scored
    from vlm_jax.evals.vqa.scorer import Mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: VQA's questions.
        annotations: The annotators' answers to them.
        mode: Before they are compared, answers are normalised: `official` only where the annotators differ, as VQA's
            script has it; `llava` by EvalAI's processor, then by that script; `evalai` on both sides and by EvalAI's
            processor (TextVQA's scorer); `lmms-eval` always, on both sides; `own` is `official` for VQA's format and
            `llava` for all else.
        image_name: An image's file by its id.
    """

    questions: Path
    annotations: Path
    mode: Literal["own", "official", "llava", "evalai", "lmms-eval"] = "own"
    image_name: str = "COCO_val2014_{:012d}.jpg"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "short"


def run(options: Options) -> None:
    from vlm_jax.evals.answering.answer_files import Pairing, answers_to, read_answers
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.vqa import scorer as vqa

    questions = vqa.read_questions(options.questions, options.annotations)
    texts = {one.id: one.text for one in questions}
    pairing = Pairing(("question_id",), texts, options.id_key)

    def score(path: Path) -> "Scored":
        found = read_answers(path, pairing)
        answers = answers_to(list(texts), found, path, texts)
        check_spoken(answers, path, options)
        return vqa.score(answers, questions, _mode(options, found.values()))

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = [image_file(options.image_name, one.image) for one in questions]
        return [
            ImageQuestion(one.id, one.text, picture(images, file, options))
            for one, file in zip(questions, files, strict=True)
        ]

    answers = answers_of(options, to_ask)
    mode = _mode(options, read_answers(answers, pairing).values())
    # Once answered, the answers are a file like any other.
    conclude("VQA-v2", mode, answered(options, answers), score, to_ask, options)


def _mode(options: Options, answers: "Iterable[Answer]") -> "Mode":
    """By the file, where nobody said: VQA's format is handed in as it stands, and has its answers under a key of its
    own."""
    if options.mode != "own":
        return options.mode
    return "official" if all(answer.key == "answer" for answer in answers) else "llava"
