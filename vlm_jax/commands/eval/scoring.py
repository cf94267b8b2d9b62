"""What every benchmark's command shares: answers from a file or from a checkpoint, the result file, the table."""

import dataclasses
import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import tyro

from vlm_jax.commands.eval.answering import Answering, answer, known_suffix
from vlm_jax.commands.eval.files import check_written, making

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """Options of every benchmark.

    Attributes:
        output: JSON file for the result; beside it `NAME.samples.jsonl` gets a row for every sample and `NAME.html` the
            worst ones, with pictures where --images says where they are.
        answers: Answers as LLaVA or the benchmark's own scripts write them, JSON or JSON lines; lmms-eval's logs and
            VLMEvalKit's tables where the README says so.
        against: Answers of another model to the same questions: both are compared, sample by sample.
        id_key: The key of the answers' ids, where a row has several that name different questions.
        allow_empty: Score even where every answer is empty, which is mostly a model that is broken.
        answering: Instead of answers.
    """

    # A benchmark's own options that say how a checkpoint is asked.
    ASKING: ClassVar[tuple[str, ...]] = ()

    output: Path
    answers: Path | None = None
    against: Path | None = None
    id_key: str | None = None
    allow_empty: bool = False
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering()

    def usual_suffix(self) -> "Suffix":
        """What LLaVA-1.5 has behind this benchmark's questions."""
        return "none"

    def judged_by_checkpoint(self) -> bool:
        """Whether a judge lies on the mesh."""
        return False


AnyScoring = TypeVar("AnyScoring", bound=Scoring)


def conclude(
    benchmark: str,
    mode: str,
    options: Scoring,
    score: Callable[[Path], "Scored"],
    to_ask: Callable[[Path | None], Sequence["ImageQuestion"]],
    given: Scoring | None = None,
) -> None:
    """Score the answers (made first where a checkpoint is named), compare, write and print.

    Args:
        benchmark: Name for the reader.
        mode: Which variant was computed.
        options: Of the command.
        score: Scores a file of answers.
        to_ask: The questions, with their images in a folder.
        given: The options that the result tells of, where answers were made by them before.
    """
    from vlm_jax.evals.result import result_of, write_result
    from vlm_jax.report.benchmark import print_result
    from vlm_jax.report.cases import write_cases

    answers = answers_of(options, to_ask)
    folder = options.answering.images
    given = with_suffix(given or options)
    images = {ask.id: ask.image for ask in to_ask(folder) if ask.image is not None} if folder is not None else {}
    scored = score(answers)
    other = None if options.against is None else score(options.against)
    made = making(dataclasses.replace(given, answers=answers))
    result = result_of(benchmark, mode, scored, made, other, _better_suffix(given))
    write_result(options.output, result, scored.per_sample)
    page = options.output.with_suffix(".html")
    write_cases(page, result, scored.per_sample, images)
    print_result(result)
    print(f"{options.output}\n{page}")


def answers_of(options: Scoring, to_ask: Callable[[Path | None], Sequence["ImageQuestion"]]) -> Path:
    """The file of answers, which a checkpoint writes first if that is asked for.

    Raises:
        InputError: Both or neither are given, or the checkpoint cannot answer.
    """
    from vlm_jax.errors import InputError

    if (options.answers is None) == (options.answering.checkpoint is None):
        found = "neither" if options.answers is None else "both"
        raise InputError(f"{found} of --answers and --checkpoint", "one of them")
    check_written(options)
    # Before hours of answering.
    if options.against is not None and not options.against.exists():
        raise InputError("no such file", "a file of answers", file=str(options.against))
    images = options.answering.images
    if images is not None and not images.is_dir():
        raise InputError("no such folder", "the folder of the benchmark's images", file=str(images))
    if options.answers is not None:
        _check_nothing_answers(options)
        return options.answers
    if images is None:
        raise InputError("no --images", "the folder of the benchmark's images")
    target = options.output.with_suffix(".answers.jsonl")
    answer(with_suffix(options).answering, target, to_ask(images))
    return target


def with_suffix(options: AnyScoring) -> AnyScoring:
    """The options with the suffix that is meant by `own`.

    Raises:
        InputError: The checkpoint's config is missing or broken.
    """
    answering = options.answering
    if answering.checkpoint is None or answering.suffix != "own":
        return options
    known = known_suffix(answering.checkpoint, options.usual_suffix())
    return dataclasses.replace(options, answering=dataclasses.replace(answering, suffix=known))


def _better_suffix(options: Scoring) -> str:
    """What to ask with instead, where a checkpoint was asked with something else than it knows."""
    answering = options.answering
    if answering.checkpoint is None:
        return ""
    known = known_suffix(answering.checkpoint, options.usual_suffix())
    return "" if known == answering.suffix else f"ask with --suffix {known}"


def answered(options: AnyScoring, answers: Path) -> AnyScoring:
    """The options for a file of answers: of answering is left what the page and a judge use."""
    given = options.answering
    kept = dataclasses.replace(_usual(options, "answering"), images=given.images, allow_outside=given.allow_outside)
    if options.judged_by_checkpoint():
        kept = dataclasses.replace(kept, mesh=options.answering.mesh)
    return dataclasses.replace(options, answers=answers, answering=kept)


def check_spoken(answers: Iterable[str], file: Path, options: Scoring) -> None:
    """A model that says nothing at all hallucinates nothing either, and to some rules silence means yes.

    Raises:
        InputError: Every answer is empty, and nobody said that this is meant.
    """
    from vlm_jax.errors import InputError

    answers = list(answers)
    if answers and not options.allow_empty and not any(map(str.strip, answers)):
        raise InputError(f"{len(answers)} answers, all of them empty", "answers, or --allow-empty", file=str(file))


def picture(images: Path | None, name: str | Path, options: Scoring) -> Path | None:
    """Where the image of this name lies; None without a folder of images.

    Raises:
        InputError: Not below the folder, and nobody said that it may.
    """
    from vlm_jax.files import below

    return images and below(images, name, allow_outside=options.answering.allow_outside)


def _usual(options: Scoring, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(options) if field.name == name)


def _check_nothing_answers(options: Scoring) -> None:
    """Whoever sets a temperature beside a file of answers believes that it changes something."""
    from vlm_jax.errors import InputError

    usual = answered(options, options.answers).answering
    names = [field.name for field in dataclasses.fields(Answering)]
    odd = [name for name in names if getattr(options.answering, name) != getattr(usual, name)]
    odd += [name for name in options.ASKING if getattr(options, name) != _usual(options, name)]
    if odd:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        raise InputError(f"{given} with --answers", "--checkpoint, which they are for")


def image_file(pattern: str, image: str) -> str:
    """File name of an image by its id, which is a number where the pattern wants one.

    Raises:
        InputError: They do not go together.
    """
    from vlm_jax.errors import InputError

    try:
        places = [(name, form) for _, name, form, _ in string.Formatter().parse(pattern) if name is not None]
        # One place, and not that of an attribute or an item of it; in no width that only fills memory.
        if [name for name, _ in places] not in ([""], ["0"]) or re.search(r"\d{4}", places[0][1] or ""):
            raise IndexError
        return pattern.format(int(image) if image.isdecimal() else image)
    except (ValueError, IndexError, KeyError):
        raise InputError(f"--image-name {pattern!r} for image {image!r}", "a pattern with one place for it") from None
