"""Files and folders are complete or absent, whatever an earlier process left beside them."""

import os
import stat

import pytest

from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, write_bytes


def test_leftovers_of_a_killed_process_with_the_same_number_do_not_matter(tmp_path):
    """In a container every process may have the number 1."""
    (tmp_path / f".folder.partial-{os.getpid()}").mkdir()
    (tmp_path / f".file.partial-{os.getpid()}").mkdir()
    with new_folder(tmp_path / "folder") as partial:
        (partial / "one").touch()
    write_bytes(tmp_path / "file", b"two")
    assert (tmp_path / "folder" / "one").is_file()
    assert (tmp_path / "file").read_bytes() == b"two"


def test_results_have_the_usual_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        with new_folder(tmp_path / "folder"):
            pass
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_somebody_made_meanwhile_stays(tmp_path):
    def make():
        with new_folder(tmp_path / "folder") as partial:
            (partial / "mine").touch()
            (tmp_path / "folder").mkdir()

    with pytest.raises(InputError, match="exists already"):
        make()
    assert not list((tmp_path / "folder").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
