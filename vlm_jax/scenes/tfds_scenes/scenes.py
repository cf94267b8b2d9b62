"""Builder ``scenes``: images, boxes, captions, and one conversation a scene, in array_record files."""

import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vlm_jax.scenes.conversations import image_conversation
from vlm_jax.scenes.draw import boxes, draw
from vlm_jax.scenes.files import encode, file_name
from vlm_jax.scenes.language import captions
from vlm_jax.scenes.world import (
    COLOURS,
    GROUNDS,
    IMAGE_SIZE,
    KINDS,
    SIZES,
    SPLITS,
    STANDARD_DIALS,
    Dials,
    Scene,
    generator_for,
    scene,
)


@dataclasses.dataclass
class ScenesConfig(tfds.core.BuilderConfig):
    """How many scenes each split holds, and the dials they are drawn with."""

    train: int = 2000
    preference: int = 500
    prompts: int = 500
    validation: int = 300
    test: int = 300
    seed: int = 0
    dials: Dials = STANDARD_DIALS


class Scenes(tfds.core.GeneratorBasedBuilder):
    """``tfds.data_source("scenes/small", split="test")``, once this package is imported."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        ScenesConfig(name="standard"),
        ScenesConfig(name="small", train=64, preference=16, prompts=16, validation=16, test=16),
    ]

    def __init__(self, *, file_format: str | tfds.core.FileFormat | None = None, **options: Any):
        super().__init__(file_format=file_format, **options)
        # Where a folder is named tfds means TFRecord, which only TensorFlow writes. What is written stays what it is.
        if file_format is None and not self.info.initialized:
            self.info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD, override=True)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"),
                "image/filename": tfds.features.Text(),
                "ground": tfds.features.ClassLabel(names=list(GROUNDS)),
                "letter": tfds.features.Text(),  # Empty where there is none.
                "things": tfds.features.Sequence(
                    {
                        "kind": tfds.features.ClassLabel(names=list(KINDS)),
                        "colour": tfds.features.ClassLabel(names=list(COLOURS)),
                        "size": tfds.features.ClassLabel(names=list(SIZES)),
                        "bbox": tfds.features.BBoxFeature(),
                        "visibility": np.float32,
                    }
                ),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "conversations": tfds.features.Text(),  # JSON, as in LLaVA's files.
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, description="A drawn world with exact truth and dials for hallucination.", features=features
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for index in range(getattr(config, split)):
            here = scene(split, index, config.dials, config.seed)
            yield file_name(split, index), _example(here)


def _example(here: Scene) -> dict:
    conversation = image_conversation(here, generator_for(here, "instructions"))
    return {
        # Without TensorFlow, images have to be handed over as encoded files.
        "image": io.BytesIO(encode(draw(here))),
        "image/filename": file_name(here.split, here.index),
        "ground": here.ground,
        "letter": here.letter or "",
        "things": [
            {
                "kind": thing.kind,
                "colour": thing.colour,
                "size": thing.size,
                "bbox": tfds.features.BBox(
                    ymin=y0 / IMAGE_SIZE, xmin=x0 / IMAGE_SIZE, ymax=y1 / IMAGE_SIZE, xmax=x1 / IMAGE_SIZE
                ),
                "visibility": thing.visibility,
            }
            for thing, (x0, y0, x1, y1) in zip(here.things, boxes(here), strict=True)
        ],
        "captions": list(captions(here)),
        "conversations": json.dumps(conversation),
    }
