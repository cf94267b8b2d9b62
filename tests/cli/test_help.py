"""Help and mistakes on the command line: quick, short, and without the heavy libraries."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import tempfile
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


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"], ["help", "help"]])
def test_help_names_every_verb(arguments, capsys):
    main(arguments)
    said = capsys.readouterr().out
    assert said.startswith("usage: vlm-jax")
    for verb, what in VERBS.items():
        assert f" {verb} {what} " in " ".join(said.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_names_every_benchmark(arguments, capsys):
    main(["eval", *arguments])
    said = capsys.readouterr().out
    assert said.startswith("usage: vlm-jax eval NAME")
    for name, what in BENCHMARKS.items():
        assert f" {name} {what} " in " ".join(said.split())


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        (["help", "sft"], ["sft", "--help"]),
        (["help", "eval"], ["eval", "--help"]),
        (["help", "eval", "pope"], ["eval", "pope", "--help"]),
        (["eval", "help", "pope"], ["eval", "pope", "--help"]),
        (["help", "eval", "help"], ["eval", "--help"]),
    ],
    ids=" ".join,
)
def test_help_in_front(asked, same, capsys):
    said = []
    for arguments in (asked, same):
        with contextlib.suppress(SystemExit):
            main(arguments)
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    assert said[0].out.startswith("usage: vlm-jax ")
    assert not said[0].err


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
    without = ("annotate", "plan", "recipe", "generate", "convert", "export", "merge", "checkpoint")
    assert "--out" in text or verb[0] in without


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


@pytest.mark.parametrize("verb", [[], ["eval"], *COMMANDS], ids=" ".join)
def test_help_fits_the_terminal(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        main([*verb, "--help"])
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]


def test_help_keeps_its_commands_whole(capsys, monkeypatch):
    """Their lines go on behind a backslash, as a shell wants it; prose is filled, not cut where the source is."""
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main(["eval", "pope", "--help"])
    said = capsys.readouterr().out
    assert (
        "  vlm-jax eval pope --questions coco_pope_popular.json \\\n"
        "      --answers answers.jsonl --output pope.json\n"
        "  vlm-jax eval pope --questions"
    ) in said
    assert "Answers are LLaVA's lines, an lmms-eval log or VLMEvalKit's\npredictions. They are" in said


def test_help_says_where_a_recipe_speaks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = {}
    for verb in ("ppo", "score"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        said[verb] = " ".join(capsys.readouterr().out.replace("│", " ").split())
    # Of the options themselves, of those that verbs share, and of nested ones.
    for option in ("--kl-estimator", "--learning-rate", "--reward-prompt"):
        assert re.search(rf"{option} [^(]*(\([^)]*\) [^(]*)?\(recipe\)", said["ppo"]), option
    assert re.search(r"--resolution INT [^(]*\(default: None\)", said["ppo"])
    assert "(recipe)" not in said["score"]


def on_a_terminal(*arguments, streams=("stdout", "stderr"), **variables):
    """What a command prints where these streams are a terminal, and what it prints to a file where one is not."""
    outside, inside = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    with tempfile.TemporaryFile() as file:
        ends = {name: inside if name in streams else file for name in ("stdout", "stderr")}
        line = [sys.executable, "-m", "vlm_jax.cli", *arguments]
        process = subprocess.Popen(line, cwd=ROOT, stdin=inside, env={**environment, **variables}, **ends)
        os.close(inside)
        shown = bytearray()
        with contextlib.suppress(OSError):  # The other end is closed.
            while part := os.read(outside, 1 << 16):
                shown += part
        os.close(outside)
        process.wait(60)
        file.seek(0)
        return shown.decode(), file.read().decode()


SPOKEN = [["sft", "--help"], ["sft", "--nope"], ["--help"], ["evla"]]


@pytest.mark.parametrize("arguments", SPOKEN, ids=" ".join)
@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colours(arguments, variables):
    shown, _ = on_a_terminal(*arguments, **{"TERM": "xterm-256color"} | variables)
    assert "vlm-jax" in shown
    assert "\x1b" not in shown


def test_colours_on_a_terminal():
    """An empty NO_COLOR counts as none, see no-color.org."""
    shown, _ = on_a_terminal("sft", "--help", TERM="xterm-256color", NO_COLOR="")
    assert "\x1b[" in shown


@pytest.mark.parametrize("columns", ["60", "80"])
def test_colours_take_no_room(columns):
    options = {"TERM": "xterm-256color", "COLUMNS": columns}
    shown = [on_a_terminal("eval", "pope", "--help", **options, **more)[0] for more in ({}, {"NO_COLOR": "1"})]
    coloured, plain = (re.sub(r"\x1b\[[\d;]*m", "", one) for one in shown)
    assert coloured == plain
    assert plain.splitlines()[0] == "usage: vlm-jax eval pope [-h] [OPTIONS]"


@pytest.mark.parametrize("arguments", [["sft", "--help"], ["sft", "--nope"]], ids=" ".join)
@pytest.mark.parametrize("streams", [["stdout"], ["stderr"]], ids=str)
def test_no_colours_in_a_file(arguments, streams):
    shown, filed = on_a_terminal(*arguments, streams=streams, TERM="xterm-256color")
    assert "vlm-jax sft" in shown + filed
    assert "\x1b" not in filed


def test_an_unknown_verb():
    done = vlm_jax("train", "--steps", "3")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "no verb 'train'" in line
    assert all(verb in line for verb in VERBS)
    assert "did you mean" not in line


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["evla"], "vlm-jax: no verb 'evla' (did you mean 'eval'?); expected one of demo, "),
        (["help", "genrate"], "vlm-jax: no verb 'genrate' (did you mean 'generate'?); expected one of demo, "),
        (["eval", "POPE"], "vlm-jax eval: no benchmark 'POPE' (did you mean 'pope'?); expected one of scenes, "),
        (["eval", "judge_bias"], "vlm-jax eval: no benchmark 'judge_bias' (did you mean 'judge-bias'?); expected one"),
        (
            ["recipe", "show", "llava-1.5-7b/sft"],
            "vlm-jax recipe: found recipe 'llava-1.5-7b/sft' (did you mean 'llava-1.5-7b/sft-lora'?); expected a .toml",
        ),
    ],
    ids=str,
)
def test_a_mistyped_name(arguments, start, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith(start)


def test_a_mistyped_option(capsys):
    """tyro's own word."""
    with pytest.raises(SystemExit) as stopped:
        main(["sft", "--checkpoint=tiny", "--data=x", "--images=y", "--out=z", "--learnin-rate=3"])
    assert stopped.value.code == 2
    assert re.search(r"perhaps you meant:\W+--learning-rate FLOAT", capsys.readouterr().err)


LONG = "/tmp/" + "a_really_long_folder,or_part of one/" * 4 + "of  two   blanks │ and ───.json"
WHOLE = ["--checkpoint=tiny", "--data=x", "--images=y", "--out=z"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*WHOLE, LONG], [f"found unrecognized options: {LONG};"]),
        ([*WHOLE, "--nope", LONG, "---", "│"], [f"found unrecognized options: --nope, {LONG}, ---, │;"]),
        ([*WHOLE, "--lora-rank", LONG], ["found error parsing --lora-rank: no type matching INT", f"['{LONG}']."]),
        ([*WHOLE, "--schedule", LONG], [f"found invalid choice '{LONG}' for argument '--schedule'. Expected one of"]),
        ([*WHOLE, "--learnin-rate", LONG], [f"{LONG}; perhaps you meant: --learning-rate FLOAT;"]),
        (
            ["--nope", LONG, "---", "│", "───", " " * 9 + "deep"],
            [
                "found missing from vlm-jax sft: --checkpoint STR --out PATH --data PATH --images PATH;",
                f"; unrecognized options: --nope {LONG} --- │ ─── deep;",
            ],
        ),
    ],
    ids=["word", "words", "number", "choice", "mistyped", "missing"],
)
def test_a_complaint_repeats_what_was_typed_however_wide_the_terminal(arguments, said, capsys, monkeypatch):
    lines = set()
    for columns in ("40", "80", "400"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit):
            main(["sft", *arguments])
        assert os.environ["COLUMNS"] == columns
        lines.add(capsys.readouterr().err)
    (line,) = lines
    assert line.count("\n") == 1
    assert line.endswith("; expected options as `vlm-jax sft --help` has them\n")
    assert all(part in line for part in said), line


@pytest.mark.parametrize(
    "arguments",
    [["sft"], ["sft", "--nope", "1"], ["generate", "--checkpoint", "x", "--prompt", "y", "--top-k", "many"]],
)
def test_wrong_options_stop_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "vlm-jax" in capsys.readouterr().err
