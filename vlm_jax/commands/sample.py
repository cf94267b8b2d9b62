"""Sample several answers to each prompt about any images, and, with `--reward`, score them: for best-of-n, or to choose
what to train on.

OUTPUT gets a JSON line for each prompt: `id`, `row`, `image`, `question` (of a conversation of several turns `prompt`,
as TRL has it) and `answers`; with `--reward` also `scores` and `best`, the place of the highest one, counted from 0.
`vlm-jax score` reads such a file too. Figures that are left out are the recipe's (`vlm-jax recipe list`). The same
command goes on where it was stopped, and ends with the answers that an unstopped one would have drawn.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.commands.reward_view import RewardView, reading_of
from vlm_jax.commands.row_output import check_output, make_rows
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from vlm_jax.checkpoints.reward_view import TrainedView
    from vlm_jax.data.sources import Prompt

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        prompts: Questions, as `ppo` reads them.
        images: Folder that the rows' image names are relative to.
        allow_outside: Images may lie outside that folder, where names or links lead out of it.
        output: File for the answers, JSON lines.
        adapter: Adapter folder of the model that answers.
        n: Answers to each prompt.
        temperature: Of the draws.
        top_p: Draw from the most likely tokens that reach this probability.
        top_k: Draw from this many most likely tokens; 0 from all.
        seed: Of the draws.
        reward: Adapter folder of a reward model that scores the answers.
        facts: JSON of image name -> captions, for a reward model that reads facts.
        recipe: Where figures come from that are not given: a name of `vlm-jax recipe list`, or a TOML file; left out:
            the recipe of the checkpoint's preset.
        max_new_tokens: Limit of an answer.
        batch_size: Answers at a time.
        prompt_lengths: Positions that prompts are padded to, each to the shortest that holds it; image included.
        like: `transformers` reads pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` as LLaVA's training had them. Left out: as the adapter was trained, else as the checkpoint says,
            which is mostly `llava`.
        dtype: Arithmetic; the checkpoint's own without.
        attention: What computes it: `auto` is cuDNN's kernel on GPUs, Pallas' on TPUs, XLA elsewhere and in float32.
        mesh: Layout of the devices.
    """

    checkpoint: str
    prompts: Path
    images: Path
    allow_outside: bool = False
    output: Path
    adapter: Path | None = None
    n: Annotated[int, Range(1, 1024)] = 4
    temperature: Annotated[float, Range(1e-3, 100)] = 1.0
    top_p: Annotated[float, Range(0, 1, open=True)] = 1.0
    top_k: Annotated[int, Range(0, LARGEST_COUNT)] = 0
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    reward: Path | None = None
    facts: Path | None = None
    recipe: str | None = None
    max_new_tokens: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    batch_size: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    prompt_lengths: Annotated[tuple[int, ...] | None, Range(1, 1 << 20)] = from_recipe()
    like: Literal["llava", "transformers"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.checkpoints.reward_view import written_view
    from vlm_jax.data.sources import read_captions, read_prompts
    from vlm_jax.errors import InputError
    from vlm_jax.runs.row_files import make_once

    check_output(options.output)
    if options.reward is None and options.facts is not None:
        raise InputError("--facts without --reward", "the reward model that reads them")
    options = with_recipe(options, "answer")
    view = None if options.reward is None else reading_of(RewardView(options.facts), options.reward)
    facts = None if options.facts is None else read_captions(options.facts)
    records = read_prompts(options.prompts, options.images, facts, allow_outside=options.allow_outside)
    if view is None:
        sample(options, options.output, records)
    else:
        answers = options.output.with_suffix(".answers.jsonl")

        def make() -> None:
            sample(dataclasses.replace(options, reward=None, facts=None), answers, records)
            rate(options, answers, records, view)

        make_once(options.output, options, options.checkpoint, make, view=lambda: written_view(view))
    print(f"{options.output}: {options.n} answers to each of {len(records)} prompts")


def sample(options: Options, target: Path, records: "Sequence[Prompt]") -> None:
    """Write the answers, or go on, or find them.

    Raises:
        InputError: A picture cannot be read, a prompt is too long, or something else stands in ``target``.
    """
    make_rows(target, options, records, lambda: write_answers(options, target, records))


def write_answers(options: Options, target: Path, records: "Sequence[Prompt]") -> None:
    """Draw every answer once. A draw depends on the seed, its batch and its row in it, and on nothing before it."""
    from vlm_jax.checkpoints.opening import open_model, open_policy
    from vlm_jax.data.pipelines import image_prompts
    from vlm_jax.generate.answers import answer_batches
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.parallel.memory import require_answering
    from vlm_jax.runs.row_files import Row, Skip, write_rows

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, options.top_k)
    how = {"adapter": options.adapter, "dtype": options.dtype, "attention": options.attention, "like": options.like}
    model = open_model(options.checkpoint, options.mesh, **how)
    lora = open_policy(model, options.adapter)
    asked = [record for record in records for _ in range(options.n)]
    # All answers to a prompt are in batches of one length, one after the other: where a batch cuts them, it cuts so.
    copies = math.gcd(options.n, options.batch_size)
    shape = options.batch_size, options.prompt_lengths
    require_answering(model, options.batch_size, min(options.prompt_lengths), sampling.max_new_tokens)
    prompts = image_prompts(asked, model.tokenizer, model.config, model.template, *shape)

    def batches(skip: Skip) -> "Iterator[dict[int, Row]]":
        for answers in answer_batches(model, lora, prompts, sampling, options.seed, skip, copies=copies):
            yield {place: {"answer": place, "text": text} for place, text in answers.items()}

    def join(rows: list[Row]) -> "Iterator[Row]":
        said = iter([row["text"] for row in rows])
        for record in records:
            yield asked_row(record, options.images) | {"answers": [next(said) for _ in range(options.n)]}

    write_rows(target, "answer", range(len(asked)), batches, "answers", join)


def asked_row(record: "Prompt", images: Path) -> "dict[str, Any]":
    """What was asked, as `vlm-jax score` reads it: the image's name, and the question alone where that is all."""
    from vlm_jax.data.conversation import IMAGE, place_image

    row = {
        "id": record.id,
        "row": record.origin.row,
        "image": None if record.image is None else Path(os.path.relpath(record.image, images)).as_posix(),
    }
    if len(record.turns) == 1:
        return row | {"question": place_image(record.turns)[0].text.removeprefix(f"{IMAGE}\n")}
    return row | {"prompt": [{"role": _ROLES[turn.role], "content": turn.text} for turn in record.turns]}


def rate(options: Options, answers: Path, records: "Sequence[Prompt]", view: "TrainedView") -> None:
    """Score what was drawn, and write both."""
    from vlm_jax.commands.score import best_of, open_reward, write_scores
    from vlm_jax.data.sources import Answered
    from vlm_jax.files import read_json_lines

    drawn = {row["row"]: row for row in read_json_lines(answers)}

    def answered(record: "Prompt") -> Answered:
        fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        return Answered(**fields, answers=tuple(drawn[record.origin.row]["answers"]))

    def row_of(record: Answered, scores: "Sequence[float]") -> "dict[str, Any]":
        return drawn[record.origin.row] | {"scores": scores, "best": best_of(scores)}

    model, judged = open_reward(options, view), [answered(record) for record in records]
    write_scores(options.output, model, judged, options.batch_size, row_of)
