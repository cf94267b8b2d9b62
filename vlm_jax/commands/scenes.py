"""Draw the synthetic world into a folder, in the file layouts of the real data sets.

The folder gets images/ (PNG), instructions.json (LLaVA format), prompts.json (PPO), image_to_caption.json (facts),
mmhal_*.json, pope_*.jsonl, scenes.json (the whole truth) and world.json (how it was drawn). Splits never share a scene.
The dials plant the causes of hallucination. A folder is drawn whole or not at all, and never drawn over.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from vlm_jax.ranges import LARGEST_SEED, Range
from vlm_jax.scenes.world import STANDARD_DIALS, Dials

# All scenes are held to the end. With its captions one takes 1700 bytes; this is a floor.
_SCENE_BYTES = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder to write.
        train: Scenes for instruction data.
        preference: Scenes whose answers are compared by annotators (see `vlm-jax annotate`).
        prompts: Scenes that PPO asks about.
        validation: Scenes for choosing settings.
        test: Scenes for the figures that are reported.
        seed: Another seed draws another world.
        dials: Planted causes of hallucination.
    """

    out: Path
    train: Annotated[int, Range(0, 10_000_000)] = 2000
    preference: Annotated[int, Range(0, 10_000_000)] = 2000
    prompts: Annotated[int, Range(0, 10_000_000)] = 2000
    validation: Annotated[int, Range(0, 10_000_000)] = 300
    test: Annotated[int, Range(0, 10_000_000)] = 300
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    dials: Dials = STANDARD_DIALS


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.files import new_folder, write_json
    from vlm_jax.parallel.memory import require_host_fits
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.progress import Meter
    from vlm_jax.scenes.files import write_world
    from vlm_jax.scenes.world import SPLITS

    sizes = {split: getattr(options, split) for split in SPLITS}
    if not any(sizes.values()):
        raise InputError("a world without a scene", f"at least one of --{', --'.join(SPLITS)}")
    require_host_fits({"scenes": _SCENE_BYTES * sum(sizes.values())}, "fewer scenes")
    begun = begin(options, options.out, options.out / "world.json")
    if begun.finished():
        return
    with new_folder(options.out) as partial, Meter("scenes", sum(sizes.values())) as meter:
        write_world(partial, sizes, options.dials, options.seed, lambda done, _: meter.update(done))
        write_json(partial / "world.json", begun.made)
    print(options.out)
