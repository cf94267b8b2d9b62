"""What only a process of its own can meet: streams that are closed, full, gone or of few letters, and signals."""

import os
import shlex
import subprocess
import sys

import pytest
from hostile_case import instead

VLM_JAX = f"{shlex.quote(sys.executable)} -m vlm_jax.cli"


def shell(line, **environment):
    """The line as a shell runs it; V is the command."""
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        ["bash", "-c", f'V() {{ {VLM_JAX} "$@"; }}; {line}'],
        env=variables | environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def command(verb, ground, **options):
    return f"V {verb} {shlex.join(map(str, instead(verb, **options)(ground)))}"


def one_line(said, *words):
    (line,) = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert "Traceback" not in said
    for word in words:
        assert word in line


def test_a_full_disk_behind_the_output(ground):
    code, _, said = shell("V recipe list > /dev/full")
    assert code == 2
    one_line(said, "the standard output cannot be used: No space left on device")


@pytest.mark.hostile
def test_a_mistake_and_a_full_disk(ground):
    code, _, said = shell(f"{command('sft', ground, data='gone.json')} > /dev/full")
    assert code == 2
    one_line(said, "vlm-jax sft: ")


@pytest.mark.hostile
@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", ">&- 2>&- <&-", "2>&-"])
def test_closed_streams_leave_files_whole(streams, ground):
    """Else the first file would have their number, and what is printed would stand in it."""
    line = command("eval pope", ground)
    code, out, said = shell(f"{line} {streams}")
    assert (code, out if ">&- 2" in streams else "", said) == (0, "", "")
    closed = {path.name: path.read_bytes() for path in ground.folder.glob("out*")}
    for path in ground.folder.glob("out*"):
        path.unlink()
    assert shell(line)[0] == 0
    assert {path.name: path.read_bytes() for path in ground.folder.glob("out*")} == closed


@pytest.mark.hostile
@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-"])
def test_a_mistake_under_closed_streams(streams, ground):
    code, out, said = shell(f"{command('sft', ground, data='gone.json')} {streams}")
    assert (code, out) == (2, "")
    if "2>" not in streams:
        one_line(said, "gone.json")
    assert not ground.out.exists()


@pytest.mark.hostile
@pytest.mark.parametrize("verb", ["recipe", "checkpoint", "eval pope", "export"])
def test_a_reader_who_goes(verb, ground):
    """`| head -0`: no word of it, and the code of a process that a closed pipe ended, or that was done before."""
    code, _, said = shell(f"set -o pipefail; {command(verb, ground)} | exec true")
    assert code in (0, 141)
    assert said == ""


@pytest.mark.hostile
def test_a_terminal_of_few_letters(ground):
    output = ground.folder / "\u00e9.json"
    code, out, said = shell(command("eval pope", ground, output=output), PYTHONIOENCODING="ascii")
    assert (code, said) == (0, "")
    assert "\\xe9.json" in out
    assert output.is_file()


@pytest.mark.hostile
def test_arguments_that_are_no_utf_8(ground):
    code, _, said = shell("V sft --data $'caf\\xe9.json' --checkpoint tiny --images . --out x")
    assert code == 2
    one_line(said, "UTF-8", "caf\\xe9.json")


@pytest.mark.hostile
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_other_locales(locale, ground):
    code, _, said = shell(command("sft", ground, data="caf\u00e9.json"), LC_ALL=locale, LANG=locale)
    assert code == 2
    one_line(said, "caf")


@pytest.mark.hostile
def test_output_under_proc(ground):
    for verb, options in (("scenes", {"out": "/proc/x"}), ("eval pope", {"output": "/proc/x.json"})):
        code, _, said = shell(command(verb, ground, **options))
        assert code == 2
        one_line(said, "/proc/")


@pytest.mark.hostile
def test_a_folder_that_is_gone_from_below(ground):
    """The working directory was deleted."""
    (ground.folder / "here").mkdir()
    line = command("eval pope", ground, output="out.json")
    code, _, said = shell(
        f"cd {shlex.quote(str(ground.folder / 'here'))} && rmdir ../here && {line}", PYTHONPATH=os.getcwd()
    )
    assert code == 2
    one_line(said)


@pytest.mark.hostile
def test_no_place_for_a_temporary_file(ground):
    """A read-only or full /tmp is none of ours: everything is written beside its target."""
    code, _, said = shell(command("eval pope", ground), TMPDIR="/proc/nowhere")
    assert (code, said) == (0, "")
    assert ground.output.is_file()
