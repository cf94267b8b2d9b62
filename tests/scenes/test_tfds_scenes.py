import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from vlm_jax.files import read_json, write_json
from vlm_jax.scenes.draw import boxes, draw
from vlm_jax.scenes.language import captions
from vlm_jax.scenes.world import KINDS, Dials, scene

ROOT = Path(__file__).parents[2]


def test_write_and_read(tmp_path):
    from vlm_jax.scenes.tfds_scenes import Scenes, ScenesConfig

    dials = Dials(pixel_noise=3.0)
    config = ScenesConfig(name="tiny", train=5, preference=1, prompts=1, validation=2, test=3, seed=2, dials=dials)
    builder = Scenes(data_dir=tmp_path, config=config)
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


WITHOUT_TENSORFLOW = """
import sys

from importlib.machinery import PathFinder


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *place):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, *place)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without

import grain
import tensorflow_datasets as tfds
import vlm_jax.scenes.tfds_scenes

source = tfds.data_source("scenes/small", split="test", data_dir=sys.argv[1])
(batch,) = grain.MapDataset.source(source).map(lambda example: example["image"]).batch(len(source))
assert "tensorflow" not in sys.modules
print(batch.shape, batch.dtype)
"""


def test_without_tensorflow(tmp_path):
    """By the name alone, written and read; the second time it is read."""
    for _ in range(2):
        line = [sys.executable, "-c", WITHOUT_TENSORFLOW, tmp_path]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        # tfds prints there too.
        assert done.stdout.endswith("(16, 48, 48, 3) uint8\n")


def test_files_of_another_format_stay(tmp_path):
    """Somebody who has TensorFlow may have written them."""
    from vlm_jax.scenes.tfds_scenes import Scenes, ScenesConfig

    config = ScenesConfig(name="one", train=1, preference=1, prompts=1, validation=1, test=1)
    builder = Scenes(data_dir=tmp_path, config=config)
    assert builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD
    builder.download_and_prepare()
    info = builder.data_path / "dataset_info.json"
    write_json(str(info), read_json(str(info)) | {"fileFormat": "tfrecord"})
    assert Scenes(data_dir=tmp_path, config=config).info.file_format is tfds.core.FileFormat.TFRECORD
    assert Scenes(data_dir=tmp_path / "new", config=config, file_format="tfrecord").info.file_format.value == "tfrecord"
