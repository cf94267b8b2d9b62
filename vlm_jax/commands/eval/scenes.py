"""Score a checkpoint, or an adapter over it, on a drawn world: POPE, CHAIR, MMHal-style ratings by a rule that knows
the truth. Prints a table and writes everything, 95 % intervals included, to a JSON file.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.ranges import Range


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        world: Folder that `vlm-jax scenes` wrote.
        output: JSON file for the scores and the descriptions.
        adapter: Adapter folder, as `sft` and `ppo` write it.
        split: Choose settings on validation, report test.
        recipe: Where figures come from that are not given: a name of `vlm-jax recipe list`, or a TOML file; left out:
            the recipe of the checkpoint's preset.
        batch_size: Answers at a time.
        max_new_tokens: Limit of a description.
        prompt_lengths: Positions that prompts are padded to, each to the shortest that holds it; image included.
        allow_empty: Score even where every answer is empty, which is mostly a model that is broken.
        preset: Refuse a checkpoint that is not this preset.
        like: `transformers` reads pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` as LLaVA's training had them. Left out: as the adapter was trained, else as the checkpoint says,
            which is mostly `llava`.
        mesh: Layout of the devices.
    """

    checkpoint: str
    world: Path
    output: Path
    adapter: Path | None = None
    split: Literal["validation", "test"] = "test"
    recipe: str | None = None
    batch_size: Annotated[int | None, Range(1, 65536)] = from_recipe()
    max_new_tokens: Annotated[int | None, Range(1, 65536)] = from_recipe()
    prompt_lengths: Annotated[tuple[int, ...] | None, Range(1, 65536)] = from_recipe()
    allow_empty: bool = False
    preset: str | None = None
    like: Literal["llava", "transformers"] | None = None
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.evals.statistics.tally import count_empty
    from vlm_jax.report.tables import print_scores

    scores = measure(options)
    texts = scores["descriptions"].values()
    if count_empty(texts) > len(texts) / 2:
        print(
            f"Note: {count_empty(texts)} OF {len(texts)} DESCRIPTIONS ARE EMPTY: the figures are those of a model "
            "that says nothing."
        )
    print_scores({str(options.adapter or options.checkpoint): scores})


def measure(options: Options) -> dict:
    """The scores, from the file where it holds these very ones."""
    from vlm_jax.checkpoints.opening import open_model, open_policy
    from vlm_jax.evals.scenes.scorer import evaluate
    from vlm_jax.files import read_json, require_writable, write_json
    from vlm_jax.runs.begin import begin

    options = with_recipe(options, "answer")
    record = options.output.with_suffix(".run.json")
    # All answers are the most likely ones, which do not depend on their batch.
    begun = begin(options, options.output, record, options.checkpoint, without_effect=("batch_size",))
    if begun.finished():
        return read_json(options.output)
    require_writable(options.output)
    model = open_model(options.checkpoint, options.mesh, options.preset, options.adapter, like=options.like)
    lora = open_policy(model, options.adapter)
    limits = options.batch_size, options.prompt_lengths, options.max_new_tokens, options.allow_empty
    scores = evaluate(model, lora, options.world, options.split, *limits)
    begun.claim_anew()
    write_json(options.output, scores)
    return scores
