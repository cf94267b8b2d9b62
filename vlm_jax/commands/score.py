"""Score answers with a trained reward model: pairs, single answers, or several answers a question, about any images.

The reward model reads exactly what its training read (evaluation turn, resolution, facts or none), but cuts no answer;
where its folder does not tell, `--reward-prompt` and `--resolution` say it. OUTPUT gets a JSON line for each row:
`score` of one answer, or `scores` and `best` (counted from 0) of several; of two also `prefers` (1 or 2; of equal
scores the second, as in training), and `agrees` where the row says which one was preferred. The same command goes on
where it was stopped.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.reward_view import RewardView, reading_of
from vlm_jax.commands.row_output import check_output, make_rows
from vlm_jax.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from vlm_jax.checkpoints.reward_view import TrainedView
    from vlm_jax.data.sources import Answered
    from vlm_jax.scripting.model import Vlm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        reward: Adapter folder of the reward model.
        data: Rows with answers: pairs as `reward` reads them (LLaVA-RLHF's also without `preference`), conversations
            that end with an answer, or `question` or `prompt` with `answer` or a list of `answers`.
        images: Folder that the rows' image names are relative to.
        allow_outside: Images may lie outside that folder, where names or links lead out of it.
        output: File for the scores, JSON lines.
        view: What the reward model reads beside the answer.
        batch_size: Answers at a time.
        dtype: Arithmetic; the checkpoint's own without.
        attention: What computes it: `auto` is cuDNN's kernel on GPUs, Pallas' on TPUs, XLA elsewhere and in float32.
        mesh: Layout of the devices.
    """

    checkpoint: str
    reward: Path
    data: Path
    images: Path
    allow_outside: bool = False
    output: Path
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    batch_size: Annotated[int, Range(1, 1 << 20)] = 16
    dtype: Literal["float32", "bfloat16"] | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.checkpoints.reward_view import written_view
    from vlm_jax.data.sources import read_answered, read_captions
    from vlm_jax.files import read_json_lines

    check_output(options.output)
    view = reading_of(options.view, options.reward)
    facts = read_captions(options.view.facts) if options.view.facts else None
    records = read_answered(options.data, options.images, facts, allow_outside=options.allow_outside)

    def make() -> None:
        write_scores(options.output, open_reward(options, view), records, options.batch_size, scored)

    # An answer's score is that of the answer alone, whatever stands beside it.
    free = ("batch_size",)
    make_rows(options.output, options, records, make, without_effect=free, view=lambda: written_view(view))
    print(f"{options.output}: {summary(read_json_lines(options.output), records)}")


def open_reward(options: "Any", view: "TrainedView") -> "Vlm":
    """The reward model of a verb's options over their checkpoint, told what it reads."""
    from vlm_jax.scripting.model import load

    model = load(
        options.checkpoint, options.reward, dtype=options.dtype, attention=options.attention, mesh=options.mesh
    )
    return dataclasses.replace(model, view=view)


def write_scores(
    target: Path,
    model: "Vlm",
    records: "Sequence[Answered]",
    batch_size: int,
    row_of: "Callable[[Answered, Sequence[float]], Mapping[str, Any]]",
) -> None:
    """Score every answer once and write a line a record.

    Args:
        target: The file.
        model: A reward model.
        records: Questions with their answers.
        batch_size: Answers at a time.
        row_of: A record's line, from its answers' scores.

    Raises:
        InputError: Facts are not as in the training, a text is too long, or a score is not finite.
    """
    import math

    from vlm_jax.data.assemble import placed
    from vlm_jax.errors import InputError
    from vlm_jax.runs.row_files import Row, Skip, write_rows

    asked = [record for record in records for _ in record.answers]
    said = [text for record in records for text in record.answers]

    def batches(skip: Skip) -> "Iterator[dict[int, Row]]":
        for scores in model.score_batches(asked, said, batch_size=batch_size, skip=skip):
            for place, score in scores.items():
                if not math.isfinite(score):
                    with placed(asked[place]):
                        raise InputError(f"a score that is {score}", "weights and an adapter without NaN or infinity")
            yield {place: {"answer": place, "score": score} for place, score in scores.items()}

    def join(rows: list[Row]) -> "Iterator[Row]":
        scores = iter([row["score"] for row in rows])
        return (row_of(record, [next(scores) for _ in record.answers]) for record in records)

    write_rows(target, "answer", range(len(said)), batches, "scores", join)


def scored(record: "Answered", scores: "Sequence[float]") -> "Mapping[str, Any]":
    """A line of the result."""
    row = {"id": record.id, "row": record.origin.row}
    if len(scores) == 1:
        return row | {"score": scores[0]}
    row |= {"scores": scores, "best": best_of(scores)}
    if len(scores) == 2:
        # As in the reward model's training: of equal scores the second one.
        preferred = int(scores[1] >= scores[0])
        row["prefers"] = preferred + 1
        if record.choice is not None:
            row |= {"preference": record.choice + 1, "agrees": preferred == record.choice}
    return row


def best_of(scores: "Sequence[float]") -> int:
    """Place of the highest score, the first of equal ones."""
    return max(range(len(scores)), key=scores.__getitem__)


def summary(rows: "Sequence[Mapping[str, Any]]", records: "Sequence[Answered]") -> str:
    """How many answers, mean and standard deviation of their scores; over pairs with a preference the share in which
    the model agrees, with its 95 % bootstrap interval over images."""
    import numpy as np

    from vlm_jax.evals.statistics.bootstrap import interval, safe_ratio
    from vlm_jax.evals.statistics.tally import unit_counts

    scores = np.array([score for row in rows for score in row.get("scores", [row.get("score")])])
    told = f"{len(scores)} answers in {len(rows)} rows, score {scores.mean():.3f} +- {scores.std():.3f}"
    judged = [
        (str(record.image or f"row {record.origin.row}"), row["agrees"])
        for record, row in zip(records, rows, strict=True)
        if "agrees" in row
    ]
    if not judged:
        return told
    images, counts = unit_counts(
        [image for image, _ in judged], np.array([[agrees, 1.0] for _, agrees in judged], np.float64)
    )
    told += f"; agrees with {100 * counts[:, 0].sum() / len(judged):.1f} % of {len(judged)} preferences"
    # From a single image nothing can be said of others.
    if len(images) > 1:
        low, high = interval(counts, lambda sums: safe_ratio(sums[:, 0], sums[:, 1]))
        told += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return told
