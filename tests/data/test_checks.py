"""Every row is looked at before the first step."""

import pytest
from PIL import Image

from vlm_jax.data.checks import check_images, fitting
from vlm_jax.data.conversation import Turn
from vlm_jax.data.rows import Origin
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError, TooLongError


def prompt(number, image=None):
    return Prompt(id=str(number), image=image, turns=(Turn("human", "hi"),), origin=Origin("made.json", number))


def encode(record):
    """The third and the fifth are too long, the eighth is wrong in another way."""
    if record.id in ("3", "5"):
        raise TooLongError("a prompt of 9 positions", "at most 8").at(*record.origin)
    if record.id == "8":
        raise InputError("nonsense", "sense").at(*record.origin)


ROWS = [prompt(number) for number in range(1, 8)]


def test_the_first_row_that_is_too_long_is_named():
    told = []
    with pytest.raises(TooLongError, match=r"made\.json, row 3: found a prompt of 9 positions; expected at most 8"):
        fitting(ROWS, encode, False, told.append)
    assert told == [1, 2]


def test_rows_that_are_too_long_may_be_left_out():
    told = []
    assert [row.id for row in fitting(ROWS, encode, True, told.append)] == ["1", "2", "4", "6", "7"]
    assert told == list(range(1, 8))


def test_nothing_else_is_left_out():
    with pytest.raises(InputError, match=r"row 8: found nonsense"):
        fitting([*ROWS, prompt(8)], encode, True, lambda done: None)


def test_a_file_of_rows_that_are_all_too_long():
    with pytest.raises(InputError, match="found 2 rows that are all too long"):
        fitting([prompt(3), prompt(5)], encode, True, lambda done: None)


def test_pictures_are_decoded_once_and_the_first_row_with_a_broken_one_is_named(tmp_path):
    for name in ("a.png", "b.jpg", "c.jpg"):
        Image.radial_gradient("L").convert("RGB").save(tmp_path / name)
    told = []
    paths = [tmp_path / "a.png", None, tmp_path / "b.jpg", tmp_path / "a.png", tmp_path / "c.jpg", tmp_path / "c.jpg"]
    rows = [prompt(number, image) for number, image in enumerate(paths, 1)]
    check_images(rows, told.append)
    assert told == [1, 2, 3]
    for name in ("b.jpg", "c.jpg"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"made\.json, row 3: found an image that cannot be decoded"):
        check_images(rows, told.append)
    with pytest.raises(InputError, match=r"made\.json, row 5: "):
        check_images(rows[3:], told.append)
