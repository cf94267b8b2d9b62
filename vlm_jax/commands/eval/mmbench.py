"""MMBench: questions with options, each asked again with its options rotated.

  vlm-jax eval mmbench --questions mmbench_dev_en.tsv --answers answers.jsonl --output mmbench.json
  vlm-jax eval mmbench --questions mmbench_dev_en.tsv --checkpoint DIR --output mmbench.json
  vlm-jax eval mmbench --questions mmbench_test_en.tsv --checkpoint DIR --submission upload.tsv --output mmbench.json

Answers are LLaVA's (with --all-rounds, or to a table that has the rotated questions itself), a table or JSON with index
and prediction (VLMEvalKit's .xlsx for one), or an lmms-eval log. A checkpoint is shown the images of the table, which
are written to NAME.images beside the output first; with --answers the page shows those in --images. Where the right
answers are hidden nothing is scored: --submission writes what the benchmark's server scores. The server wants an .xlsx,
and this writes the same columns as .tsv or .csv: save it as .xlsx with any spreadsheet.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.files import check_written
from vlm_jax.commands.eval.scoring import Scoring, answered, answers_of, check_spoken, conclude

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.mmbench.files import Question
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        questions: MMBench's table.
        mode: Whose rules read a letter out of an answer.
        circular: A question is right if it is with every rotation of its options; else it is asked once.
        unread: An answer without a letter: `wrong` is that, `static` looks for one in looser ways, `random` draws A
            to E with lmms-eval's seed, `own` is what the mode's scorer does offline (`wrong` in VLMEvalKit, `static` in
            lmms-eval).
        cells: With `text` an option may be called None or NA, and only an empty cell of the table is missing; with
            `pandas` such cells are missing too and end a question's options, a slip of the published scripts.
        submission: Write the answers for the benchmark's server to this .tsv or .csv.
    """

    questions: Path
    mode: Literal["vlmevalkit", "lmms-eval"] = "vlmevalkit"
    circular: bool = True
    unread: Literal["own", "wrong", "static", "random"] = "own"
    cells: Literal["text", "pandas"] = "text"
    submission: Path | None = None
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "letter"


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.mmbench import files as mmbench_files
    from vlm_jax.evals.mmbench import scorer as mmbench

    if options.submission is not None and options.submission.suffix.lower() not in (".tsv", ".csv"):
        raise InputError(f"--submission {options.submission}", "a name that ends in .tsv or .csv")
    questions = mmbench_files.read_questions(options.questions, options.cells)
    asked = mmbench_files.passes(questions, options.circular)

    def score(path: Path) -> "Scored":
        answers = mmbench_files.read_answers(path, asked, options.id_key)
        check_spoken(answers, path, options)
        scored = mmbench.score(answers, asked, options.mode, mmbench.matcher(options.unread, options.mode))
        return dataclasses.replace(scored, remarks=(*scored.remarks, *mmbench_files.slips(questions)))

    def to_ask(folder: Path | None) -> "Sequence[ImageQuestion]":
        files = [folder and one.image and folder / f"{one.image}.jpg" for one in asked]
        return [
            ImageQuestion(str(one.index), mmbench_files.prompt(one), file)
            for one, file in zip(asked, files, strict=True)
        ]

    if options.answering.checkpoint is not None:
        options = _with_images(options, asked)
    # Once answered, the answers are a file like any other.
    answers = answers_of(options, to_ask)
    if options.submission is not None:
        rows = mmbench_files.read_answers(answers, questions, options.id_key)
        by_index = {one.index: text for one, text in zip(questions, rows, strict=True)}
        mmbench_files.write_submission(options.questions, by_index, options.submission)
        print(options.submission)
    mode = options.mode if options.unread == "own" else f"{options.mode}, unread {options.unread}"
    mode += ", cells pandas" if options.cells == "pandas" else ""
    conclude("MMBench", mode, answered(options, answers), score, to_ask, options)


def _with_images(options: Options, asked: "Sequence[Question]") -> Options:
    """The images that a checkpoint is shown, written out of the table into a folder of their own."""
    from vlm_jax.errors import InputError
    from vlm_jax.evals.mmbench.files import write_images

    if options.answering.images is not None:
        raise InputError("--images with --checkpoint", "none: the images stand in the table")
    if lost := [one.index for one in asked if one.image is None]:
        raise InputError(f"no image of index {lost[0]}", "one for every question", file=str(options.questions))
    check_written(options)
    folder = options.output.with_suffix(".images")
    write_images(options.questions, folder, {one.image for one in asked})
    return dataclasses.replace(options, answering=dataclasses.replace(options.answering, images=folder))
