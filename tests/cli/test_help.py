"""Help and mistakes on the command line: quick, short, and without the heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from vlm_jax import __version__
from vlm_jax.cli import VERBS, main
from vlm_jax.commands.eval import BENCHMARKS

ROOT = Path(__file__).parents[2]
HEAVY = {"jax", "flax", "transformers", "orbax", "grain", "torch"}
COMMANDS = [*([verb] for verb in VERBS if verb != "eval"), *(["eval", name] for name in BENCHMARKS)]


def python(code, *arguments):
    """A fresh interpreter, without the hook that checks types in tests."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def vlm_jax(*arguments):
    return python("import sys; from vlm_jax.cli import main; main(sys.argv[1:])", *arguments)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_verb(arguments, capsys):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: vlm-jax")
    for verb, what in VERBS.items():
        assert f"  {verb:11}{what}" in lines


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "pope", "--help"]], ids=str)
def test_a_reader_who_has_seen_enough(arguments):
    """As `| head` has."""
    code = "import sys; from vlm_jax.cli import main; sys.stdin.read(); main(sys.argv[1:])"
    line = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(
        line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    process.stdin.close()
    assert (process.wait(60), process.stderr.read()) == (141, "")
    process.stderr.close()


def test_nobody_reads_from_the_start():
    """As a service may be started: without any output."""
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m vlm_jax.cli --version >&-"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_imports_nothing_heavy():
    done = python("import sys; from vlm_jax.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)")
    assert done.returncode == 0
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "vlm_jax" in loaded
    assert not loaded & (HEAVY | {"numpy", "tyro"})


def test_scoring_answers_imports_nothing_heavy(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "a.png", "text": "Is it?", "label": "yes"}')
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "text": "Yes"}')
    files = ("--questions", tmp_path / "q.jsonl", "--answers", tmp_path / "a.jsonl", "--output", tmp_path / "o.json")
    code = "import sys; from vlm_jax.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = python(code, "eval", "pope", *map(str, files))
    assert done.returncode == 0, done.stderr
    assert not {name.partition(".")[0] for name in done.stderr.split()} & HEAVY


@pytest.mark.parametrize("verb", COMMANDS, ids=" ".join)
def test_help_of_a_verb(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*verb, "--help"])
    assert not stopped.value.code
    text = capsys.readouterr().out
    assert f"usage: vlm-jax {' '.join(verb)}" in text
    assert "--out" in text or verb[0] in ("annotate", "recipe", "generate", "convert", "export", "merge", "checkpoint")


def test_help_of_verbs_imports_nothing_heavy():
    code = """
import contextlib, io, sys
from vlm_jax.cli import VERBS, main
from vlm_jax.commands.eval import BENCHMARKS
for verb in [*([verb] for verb in VERBS), *(["eval", name] for name in BENCHMARKS)]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*verb, "--help"])
print(*sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & HEAVY


def test_a_verb_in_a_process_of_its_own():
    done = vlm_jax("sft", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--trainable" in done.stdout


def test_an_unknown_verb():
    done = vlm_jax("train", "--steps", "3")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "no verb 'train'" in line
    assert all(verb in line for verb in VERBS)


@pytest.mark.parametrize(
    "arguments",
    [["sft"], ["sft", "--nope", "1"], ["generate", "--checkpoint", "x", "--prompt", "y", "--top-k", "many"]],
)
def test_wrong_options_stop_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "vlm-jax" in capsys.readouterr().err
