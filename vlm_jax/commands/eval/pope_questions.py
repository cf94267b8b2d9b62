"""Make POPE's questions about images whose objects are known.

  vlm-jax eval pope-questions --objects objects.json --setting adversarial --output pope_adversarial.jsonl

The objects come from `vlm-jax eval chair-objects`, or as rows {"image": "a.jpg", "objects": ["dog", "cup", ...]}.
POPE's own files ask about 500 images, three objects each.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        objects: JSON of image -> objects, or rows of image and objects.
        output: JSON lines of questions.
        setting: How absent objects are picked: at random, by frequency, or by what stands beside the object asked for.
        images: Most images to ask about.
        per_image: Objects of an image to ask for; as many absent ones are added.
        image_name: An image's file by its name among the objects; for COCO's ids COCO_val2014_{:012d}.jpg.
        legacy_typo: Misspell as the files of 2023 do ("in the imange").
        seed: Of the draws.
    """

    objects: Path
    output: Path
    setting: Literal["random", "popular", "adversarial"] = "random"
    images: Annotated[int, Range(1, LARGEST_COUNT)] = 500
    per_image: Annotated[int, Range(1, LARGEST_COUNT)] = 3
    image_name: str = "{}"
    legacy_typo: bool = False
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0


def run(options: Options) -> None:
    import random

    from vlm_jax.commands.eval.scoring import image_file
    from vlm_jax.evals.pope.questions import build, read_annotations, sample_images
    from vlm_jax.files import refuse_existing, write_json_lines

    refuse_existing(options.output)
    rng = random.Random(options.seed)
    images = sample_images(read_annotations(options.objects), options.images, options.per_image, rng)
    rows = build(images, options.setting, rng, options.per_image, options.legacy_typo)
    write_json_lines(options.output, ({**row, "image": image_file(options.image_name, row["image"])} for row in rows))
    print(f"{options.output}: {len(rows)} questions about {len(images)} images")
