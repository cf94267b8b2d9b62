"""Places that cannot be written to end with one line that names them, and nothing half-written is left unsaid."""

import errno
import os
import subprocess
import sys

import pytest

from vlm_jax.cli import main


@pytest.fixture
def refused(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize(("verb", "number"), [("convert", errno.ENOTDIR), ("export", errno.EEXIST)])
def test_a_file_in_place_of_a_folder(verb, number, refused, checkpoint, tmp_path):
    (tmp_path / "file").touch()
    line = refused(verb, checkpoint, tmp_path / "file" / "out")
    assert line.startswith(f"vlm-jax {verb}: {tmp_path / 'file'}")
    assert line.endswith(f"cannot be used: {os.strerror(number)}")


def test_a_copy_names_what_was_written(refused, checkpoint, tmp_path, monkeypatch):
    """copyfile names the file that it reads first."""

    def full(source, target):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(source), None, str(target))

    monkeypatch.setattr("vlm_jax.checkpoints.tokenizer_files.shutil.copyfile", full)
    line = refused("export", checkpoint, tmp_path / "out")
    assert line == f"vlm-jax export: {tmp_path / 'out'} cannot be used: Disk quota exceeded"
    assert not list(tmp_path.iterdir())


# Set by the process itself: to fork a process with jax's threads, as preexec_fn does, may hang.
LIMITED = """
import resource, sys
from vlm_jax.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
main(sys.argv[1:])
"""


def limited(*arguments):
    """The command in a process that may write no file of more than a million bytes, as on a full disk."""
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


def test_convert_says_what_it_leaves_and_goes_on(checkpoint, tmp_path):
    done = limited("convert", checkpoint, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    partial = tmp_path / ".out.converting"
    assert done.stderr.splitlines() == [
        f"vlm-jax convert: {partial / 'checkpoint' / 'weights.safetensors'} cannot be used: File too large; what is "
        f"done lies in {partial}: the same command goes on, or delete it"
    ]
    main(["convert", str(checkpoint), str(tmp_path / "out")])
    assert not partial.exists()


def test_export_names_what_was_too_large(checkpoint, tmp_path):
    done = limited("export", checkpoint, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [f"vlm-jax export: {tmp_path / 'out'} cannot be used: File too large"]
    assert not list(tmp_path.iterdir())
