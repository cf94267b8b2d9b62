import json

import numpy as np
import tensorflow_datasets as tfds

from vlm_jax.scenes.draw import boxes, draw
from vlm_jax.scenes.language import captions
from vlm_jax.scenes.world import KINDS, Dials, scene


def test_write_and_read(tmp_path):
    from vlm_jax.scenes.tfds_scenes import Scenes, ScenesConfig

    dials = Dials(pixel_noise=3.0)
    config = ScenesConfig(name="tiny", train=5, preference=1, prompts=1, validation=2, test=3, seed=2, dials=dials)
    builder = Scenes(data_dir=tmp_path, config=config, file_format="array_record")
    builder.download_and_prepare()
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 5, "preference": 1, "prompts": 1, "validation": 2, "test": 3
    }  # fmt: skip
    source = tfds.data_source("scenes", split="test", data_dir=tmp_path, builder_kwargs={"config": config})
    assert len(source) == 3
    found = set()
    for example in source:
        index = int(example["image/filename"].decode().removeprefix("test_").removesuffix(".png"))
        here = scene("test", index, dials, seed=2)
        found.add(index)
        np.testing.assert_array_equal(example["image"], draw(here))
        assert [c.decode() for c in example["captions"]] == list(captions(here))
        assert [KINDS[k] for k in example["things"]["kind"]] == [t.kind for t in here.things]
        bbox = np.array(example["things"]["bbox"])[:, [1, 0, 3, 2]] * 48
        np.testing.assert_allclose(bbox, boxes(here), atol=1e-4)
        assert json.loads(example["conversations"])[0]["value"].startswith("<image>\n")
    assert found == {0, 1, 2}
