"""Names that stand in files stay below the folder that they are relative to."""

import os

import pytest

from vlm_jax.errors import InputError
from vlm_jax.files import below


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "1.png").write_bytes(b"")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "images"


@pytest.mark.parametrize("name", ["train/1.png", "train/../train/1.png", "not_there.png", "..hidden.png"])
def test_a_name_below(folder, name):
    assert below(folder, name) == folder / name


def test_an_absolute_name_below(folder):
    assert below(folder, str(folder / "train" / "1.png")) == folder / "train" / "1.png"


@pytest.mark.parametrize("name", ["../secret.txt", "train/../../secret.txt", "/etc/passwd", "..", ".", ""])
def test_a_name_elsewhere(folder, name):
    with pytest.raises(InputError, match="--allow-outside") as stopped:
        below(folder, name)
    assert repr(name) in stopped.value.found
    assert str(folder) in stopped.value.found
    assert below(folder, name, allow_outside=True) == folder / name


def test_a_folder_whose_name_only_begins_alike(folder):
    (folder.parent / "images2").mkdir()
    with pytest.raises(InputError, match="does not lie below"):
        below(folder, "../images2/1.png")


def test_links_are_followed(folder):
    os.symlink(folder.parent / "secret.txt", folder / "link.png")
    os.symlink(folder.parent, folder / "up")
    os.symlink("train", folder / "val")
    for name in ("link.png", "up/secret.txt"):
        with pytest.raises(InputError, match="does not lie below"):
            below(folder, name)
    assert below(folder, "val/1.png") == folder / "val" / "1.png"


def test_the_folder_itself_may_be_a_link(folder):
    os.symlink(folder, folder.parent / "data")
    assert below(folder.parent / "data", "train/1.png") == folder.parent / "data" / "train" / "1.png"


def test_a_relative_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert below(type(folder)("images"), "train/1.png").read_bytes() == b""
    with pytest.raises(InputError, match="does not lie below"):
        below(type(folder)("images"), "../secret.txt")


def test_no_name(folder):
    with pytest.raises(InputError, match="the name of a file"):
        below(folder, "a\0b")
