"""Pictures under every key that people use: the one that is read, and rows that would silently become text."""

import pytest

from vlm_jax.data.rows import Origin, Row
from vlm_jax.data.sources import read_instructions, read_preferences, read_prompts
from vlm_jax.data.sources.pictures import picture_name
from vlm_jax.errors import InputError

TALK = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a ball"}]
OUTPUTS = {f"output_{i}": {"from": "gpt", "value": f"answer {i}"} for i in (1, 2)}
READERS = {
    "instructions": (read_instructions, {"conversations": TALK}),
    "pairs": (read_preferences, {"conversations": TALK[:1], **OUTPUTS, "preference": 1}),
    "ranking": (read_preferences, {"conversations": TALK[:1], "chosen": "a", "rejected": "b"}),
    "question": (read_preferences, {"question": "what?", "chosen": "a", "rejected": "b"}),
    "prompts": (read_prompts, {"conversations": TALK}),
    "prompt": (read_prompts, {"prompt": "what?"}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "columns",
    [
        {"image": "1.png"},
        {"image": ["1.png"]},
        {"images": ["1.png"]},
        {"images": "1.png"},
        {"image": "1.png", "images": ["1.png"]},
        {"images": ["1.png"], "videos": [], "audio": None, "image_id": 7, "image_size": [8, 8], "has_image": True},
        {"image": "1.png", "image_path": "train/1.png", "image_url": "https://x.org/9.png", "image_quality": "high"},
    ],
    ids=str,
)
def test_one_picture_is_read(columns, reader, write, images):
    if reader == "question" and "image_path" in columns:
        columns = {**columns, "image_path": "1.png"}
    read, row = READERS[reader]
    (record,) = read(write([{**row, **columns}]), images)
    assert record.image == images / "1.png"
    assert record.turns[0].text == "<image>\nwhat?"


NOT_READ = [
    {"image_file": "1.png"},
    {"img": "1.png"},
    {"img": {"bytes": None, "path": "1.png"}},
    {"imagePath": "1.png"},
    {"IMG_PATH": "gone.png"},
    {"image_1": "1.png", "image_2": "2.png"},
    {"image_id": 123},
    {"num_images": 1},
    {"picture": "1.png"},
    {"photos": ["1.png"]},
    {"pixel_values": [[[0.1, 0.2], [0.3, 0.4]]]},
    {"video": "v.mp4"},
    {"videos": ["v.mp4"]},
    {"audio": "a.wav"},
    {"audios": [{"path": "a.wav"}]},
    {"file_name": "1.jpg"},
    {"source": "clips/7.WEBM"},
    {"media": ["x"]},
    {"image": "1.png", "video": "v"},
    {"image": "1.png", "image_path": "2.png"},
    {"images": ["1.png"], "image2": "2.png"},
    {"image": "1.png", "pixel_values": [[[0.5]]]},
    {"image": "1.png", "other_images": ["2.png"]},
    {"image": "1.png", "images": ["2.png"]},
    {"images": ["1.png", "2.png"]},
    {"image": {"bytes": None, "path": "1.png"}},
    {"meta": {"image": "1.png"}},
    {"attachments": [{"type": "x"}, {"video": "v.mp4"}]},
    {"images": ["1.png"], "meta": {"image": "2.png"}},
    {"image": ["1.png", "1.png"]},
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("columns", NOT_READ, ids=str)
def test_what_is_not_read_is_refused_at_its_row(columns, reader, write, images):
    read, row = READERS[reader]
    with pytest.raises(InputError, match="row 2: found ") as error:
        read(write([row, {**row, **columns}]), images)
    assert "one picture a row, its file name under 'image' or alone in a list 'images'" in error.value.expected


@pytest.mark.parametrize("reader", READERS)
def test_a_row_of_text(reader, write, images):
    read, row = READERS[reader]
    said = {"images": [], "video": None, "audios": "", "captions": ["a ball"], "image_caption": "a ball", "model": "x"}
    said |= {"imagination": "much", "source": "chat", "note": "it was saved as ball.png", "meta": {"images": []}}
    (record,) = read(write([{**row, **said}]), images)
    assert record.image is None
    assert "<image>" not in record.turns[0].text


@pytest.mark.parametrize("columns", [{}, {"image": "1.png"}])
@pytest.mark.parametrize("turn", [{"image": "2.png"}, {"images": ["2.png"]}, {"videos": ["v.mp4"]}], ids=str)
def test_pictures_of_a_turn(turn, columns, write, images):
    rows = [{**columns, "conversations": [{**TALK[0], **turn}, TALK[1]]}]
    with pytest.raises(InputError, match="row 1: found '") as error:
        read_instructions(write(rows), images)
    assert "one picture a row" in error.value.expected


def test_encoded_pictures_beside_the_one_that_is_read():
    row = Row(Origin("x.json", 1), {"image": "1.png", "image_b64": "A" * 5000})
    with pytest.raises(InputError, match=r"x.json, row 1: found 'image_b64' 'AAAA"):
        picture_name(row)


@pytest.mark.parametrize("name", ["../out.png", "sub/../../out.png", "link.png", "linked/out.png", "{out}"])
def test_names_stay_below_the_folder(name, write, images, tmp_path):
    out = tmp_path / "out.png"
    out.write_bytes((images / "1.png").read_bytes())
    (images / "link.png").symlink_to(out)
    (images / "sub").mkdir()
    (images / "linked").symlink_to(tmp_path, target_is_directory=True)
    name = name.format(out=out)
    rows = write([{"image": "1.png", "conversations": TALK}, {"image": name, "conversations": TALK}])
    with pytest.raises(InputError) as error:
        read_instructions(rows, images)
    assert f"data.json, row 2: found {name!r}" in str(error.value)
    assert str(images) in str(error.value)
    assert read_instructions(rows, images, allow_outside=True)[1].image == images / name


def test_names_that_lead_back_into_the_folder(write, images, tmp_path):
    (images / "sub").mkdir()
    (images / "again.png").symlink_to(images / "1.png")
    (tmp_path / "elsewhere").symlink_to(images, target_is_directory=True)
    names = ["sub/../1.png", "again.png", str(images / "1.png"), "./1.png"]
    rows = write([{"image": name, "conversations": TALK} for name in names])
    for folder in (images, tmp_path / "elsewhere"):
        found = [record.image for record in read_instructions(rows, folder)]
        # The name is the row's: captions and scores count by it.
        assert found == [folder / name for name in names]


@pytest.mark.parametrize("name", ["a" * 255 + ".png", "x/" * 3000 + "1.png", "1.png\0", "sub", "", " "])
def test_odd_names_are_one_line(name, write, images):
    (images / "sub").mkdir()
    for allow_outside in (False, True):
        with pytest.raises(InputError) as error:
            read_instructions(write([{"image": name, "conversations": TALK}]), images, allow_outside=allow_outside)
        assert "data.json, row 1: found " in str(error.value)
