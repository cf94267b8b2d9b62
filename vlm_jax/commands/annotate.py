"""Make preference data: sample two answers to one question about each preference scene of a drawn world, and let the
world's annotators, who know the truth but have their dials (slips, a taste for length), choose between them.

Writes WORLD/preferences.json in LLaVA-RLHF's layout. Pairs whose answers are the same are left out and counted.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.ranges import LARGEST_SEED, Range


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        world: Folder that `vlm-jax scenes` wrote.
        adapter: Adapter folder of the model that answers.
        temperature: Of the two samples.
        recipe: Where figures come from that are not given: a name of `vlm-jax recipe list`, or a TOML file; left out:
            the recipe of the checkpoint's preset.
        max_new_tokens: Limit of an answer.
        batch_size: Answers sampled at a time.
        prompt_lengths: Positions that prompts are padded to, each to the shortest that holds it; image included.
        seed: Of the samples and of the annotators.
        like: `transformers` reads pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` as LLaVA's training had them. Left out: as the adapter was trained, else as the checkpoint says,
            which is mostly `llava`.
        mesh: Layout of the devices.
    """

    checkpoint: str
    world: Path
    adapter: Path | None = None
    temperature: Annotated[float, Range(0, 100)] = 1.0
    recipe: str | None = None
    max_new_tokens: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    batch_size: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    prompt_lengths: Annotated[tuple[int, ...] | None, Range(1, 1 << 20)] = from_recipe()
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    like: Literal["llava", "transformers"] | None = None
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    import numpy as np

    from vlm_jax.checkpoints.opening import open_model, open_policy
    from vlm_jax.errors import InputError
    from vlm_jax.evals.scenes.scorer import ask
    from vlm_jax.files import require_writable, write_json
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.runs.begin import begin
    from vlm_jax.scenes.files import preference_row, prompt_question, read_scenes
    from vlm_jax.scenes.preferences import annotate

    options = with_recipe(options, "answer")
    sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    target = options.world / "preferences.json"
    begun = begin(options, target, target.with_suffix(".run.json"), options.checkpoint)
    if begun.finished():
        return
    scenes = {name: here for name, here in read_scenes(options.world).items() if here.split == "preference"}
    require_writable(target)
    if not scenes:
        raise InputError("no preference scenes", "a world drawn with --preference", file=str(options.world))
    model = open_model(options.checkpoint, options.mesh, adapter=options.adapter, like=options.like)
    lora = open_policy(model, options.adapter)
    asked = [(name, prompt_question(here)) for name, here in scenes.items()]
    twice = [(name, question.text) for name, question in asked for _ in range(2)]
    shape = options.batch_size, options.prompt_lengths
    answers = ask(model, lora, options.world, twice, sampling, *shape, options.seed, "annotate")
    rng = np.random.default_rng([options.seed, 1])
    rows = []
    for (name, question), first, second in zip(asked, answers[::2], answers[1::2], strict=True):
        if first != second and first and second:
            preference, hallucination = annotate(question, first, second, scenes[name], rng, scenes[name].dials)
            rows.append(preference_row(name, question, first, second, preference, hallucination))
    begun.claim_anew()
    write_json(target, rows)
    print(f"{target}: {len(rows)} pairs; {len(asked) - len(rows)} pairs with equal or empty answers left out")
