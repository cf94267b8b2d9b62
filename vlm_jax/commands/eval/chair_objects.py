"""Find the objects of COCO's images, once, for `vlm-jax eval chair` and `vlm-jax eval pope-questions`.

  vlm-jax eval chair-objects --instances instances_train2014.json instances_val2014.json \\
      --captions captions_train2014.json captions_val2014.json --output objects.json

An image has the objects that COCO's annotators outlined and those that its five captions name, as CHAIR has it.
"""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        instances: COCO's instances files.
        captions: COCO's captions files.
        output: JSON of image id -> objects.
        synonyms: What the objects are called: CHAIR's `synonyms.txt`, or JSON of object -> other names.
        mode: How captions are read: as CHAIR's script does, or without its slips.
    """

    instances: tuple[Path, ...]
    captions: tuple[Path, ...]
    output: Path
    synonyms: Path | None = None
    mode: Literal["official", "corrected"] = "official"


def run(options: Options) -> None:
    from vlm_jax.evals.chair.coco_files import read_captions, read_instances
    from vlm_jax.evals.chair.coco_objects import NAMES_FILE, Reader, objects_of_images, read_names
    from vlm_jax.files import refuse_existing, write_json
    from vlm_jax.runs.progress import Meter

    refuse_existing(options.output)
    reader = Reader(read_names(options.synonyms or NAMES_FILE), options.mode)
    outlined = [one for path in options.instances for one in read_instances(path)]
    described = [one for path in options.captions for one in read_captions(path)]
    with Meter("captions", len(described)) as meter:
        objects = objects_of_images(outlined, described, reader, meter.update)
    write_json(options.output, objects)
    print(f"{options.output}: objects of {len(objects)} images")
