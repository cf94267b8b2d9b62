"""Compiled programs between processes: found again, and a folder that is no use is worth a line."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vlm_jax.parallel import compile_cache

ROOT = Path(__file__).parents[2]
PROGRAM = """
from vlm_jax.parallel import compile_cache
compile_cache.start()
import jax
from jax import monitoring
seen = []
monitoring.register_event_listener(lambda name, **_: seen.append(name.rpartition("/")[2]))
found = jax.jit(lambda x: jax.numpy.sin(x @ x))(jax.numpy.ones((8, 8))).sum()
print(seen.count("cache_hits"), seen.count("cache_misses"), float(found))
"""


@pytest.fixture
def program(tmp_path):
    """Runs it in a process; hits, misses, what it computed, and lines of errors."""

    def run(**environment):
        own = {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore::UserWarning:jax",
        }
        line = [sys.executable, "-c", PROGRAM]
        ended = subprocess.run(line, env={**os.environ, **own, **environment}, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        hits, misses, value = ended.stdout.split()
        return int(hits), int(misses), value, ended.stderr.splitlines()

    return run


def test_a_second_process_compiles_nothing_and_a_damaged_folder_heals(program, tmp_path):
    hits, misses, value, said = program()
    assert hits == 0 < misses
    assert said == []
    assert program() == (misses, 0, value, [])
    (folder,) = (tmp_path / "cache" / "vlm_jax" / "compiled").iterdir()
    assert folder.name == compile_cache.processor()
    assert folder.stat().st_mode & 0o077 == 0
    for entry in folder.iterdir():
        entry.write_bytes(entry.read_bytes()[:99])
    hits, _, again, (line,) = program()
    assert (hits, again) == (0, value)
    assert line.startswith(f"note: {folder}: a compiled program cannot be read or kept, and is compiled anew: ")
    assert program() == (misses, 0, value, [])


def test_a_folder_that_cannot_be_made_is_worth_a_line(program, tmp_path):
    (tmp_path / "cache").write_text("a file")
    hits, _, _, (line,) = program()
    assert hits == 0
    assert line.startswith("note: compiled programs: are not kept: ")


def test_the_environment_goes_before(program, tmp_path):
    program(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert any((tmp_path / "mine").iterdir())
    program(JAX_ENABLE_COMPILATION_CACHE="False", XDG_CACHE_HOME=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "cache").exists()
    # A file in its place.
    (tmp_path / "file").write_text("")
    *_, (line,) = program(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file"))
    assert line.startswith(f"note: {tmp_path / 'file'}: a compiled program cannot be read or kept")


def test_kinds_of_processors_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "_PROCESSORS", tmp_path / "cpuinfo")
    seen = set()
    for model, flags, speed in ((1, "sse avx", 1000), (1, "sse avx", 2000), (2, "sse avx", 1000), (1, "sse", 1000)):
        one = f"processor\t: 0\nmodel\t\t: {model}\nflags\t\t: {flags}\ncpu MHz\t\t: {speed}\n"
        (tmp_path / "cpuinfo").write_text(one + "\n" + one.replace("processor\t: 0", "processor\t: 1"))
        seen.add(compile_cache.processor())
    assert len(seen) == 3
    (tmp_path / "cpuinfo").unlink()
    assert compile_cache.processor() not in seen


def test_other_warnings_are_shown_as_before(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: print(f"shown: {message}"))
    compile_cache.watch()
    compile_cache.watch()
    warnings.showwarning(UserWarning("something else"), UserWarning, "file", 1)
    assert capsys.readouterr().out == "shown: something else\n"


def test_nothing_is_kept_in_tests():
    before = dict(os.environ)
    compile_cache.start()
    assert os.environ == before
