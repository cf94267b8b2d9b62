from vlm_jax.report.gallery import DIFFER, EVEN, choose_gallery, pictures
from vlm_jax.scenes.files import file_name, write_world
from vlm_jax.scenes.language import join
from vlm_jax.scenes.world import absent_kinds, present_kinds, scene

SCENES = {file_name("test", i): scene("test", i) for i in range(20)}
TRUE = {name: f"There is a {join(present_kinds(here))}." for name, here in SCENES.items()}


def with_absent(file, count):
    return f"There is a {join(present_kinds(SCENES[file]) + absent_kinds(SCENES[file])[:count])}."


def test_half_differ_most_and_the_rest_lies_at_even_steps():
    one, three, *_ = files = list(SCENES)
    other = TRUE | {one: with_absent(one, 1), three: with_absent(three, 3)}
    chosen = choose_gallery({"a": TRUE, "b": other}, SCENES, 4)
    # The 18 files without a difference, halves of which have their middles at 4 and 13.
    assert list(chosen.items()) == [(three, DIFFER), (one, DIFFER), (files[2 + 4], EVEN), (files[2 + 13], EVEN)]
    assert choose_gallery({"a": other, "b": TRUE}, SCENES, 4) == chosen


def test_a_missed_object_is_a_difference_too():
    silent = TRUE | {file_name("test", 9): "Nothing."}
    assert choose_gallery({"a": TRUE, "b": silent}, SCENES, 1) == {file_name("test", 9): DIFFER}


def test_the_order_of_the_files_does_not_matter():
    other = {name: with_absent(name, i % 3) for i, name in enumerate(SCENES)}
    backwards = dict(reversed(SCENES.items()))
    assert list(choose_gallery({"a": TRUE, "b": other}, SCENES, 7).items()) == list(
        choose_gallery({"a": dict(reversed(TRUE.items())), "b": other}, backwards, 7).items()
    )


def test_no_difference_and_too_few_images():
    assert set(choose_gallery({"a": TRUE}, SCENES, 5).values()) == {EVEN}
    assert len(choose_gallery({"a": TRUE}, SCENES, 5)) == 5
    assert sorted(choose_gallery({"a": TRUE}, SCENES, 100)) == sorted(SCENES)
    assert choose_gallery({"a": TRUE, "b": {}}, SCENES, 5) == {}


def test_pictures_come_from_the_world(tmp_path):
    scenes = write_world(tmp_path, {"test": 8})
    texts = {"a": dict.fromkeys(scenes, "A ball."), "b": dict.fromkeys(scenes, "A kite.")}
    found = pictures(tmp_path, texts, 4)
    assert len({picture.file for picture in found}) == 4
    for picture in found:
        assert picture.png == (tmp_path / "images" / picture.file).read_bytes()
        assert picture.scene == scenes[picture.file]
        assert picture.descriptions == {"a": "A ball.", "b": "A kite."}
