"""The table of hostile inputs: whatever is read or asked for ends as one line and code 2, or gives the right result."""

import contextlib
import re
import signal
import stat

import pytest
from good_commands import VERBS_AND_BENCHMARKS
from hostile_case import Ended, Refused, instead
from hostile_table import TABLE
from shared_ground import contents

from vlm_jax.cli import VERBS, main
from vlm_jax.commands.eval import BENCHMARKS

# Seconds; what hangs is found by it.
_LIMIT = 120
# All that steers a terminal, but the end of a line.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@contextlib.contextmanager
def time_limit(seconds):
    def stop(number, frame):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(case, ground, capsys):
    arguments = [*case.verb.split(), *map(str, case.arguments(ground))]
    before = contents(ground.folder)
    capsys.readouterr()
    code = 0
    with time_limit(_LIMIT):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    found = capsys.readouterr()
    return Ended(code, found.out, found.err, ground), before


def mended(folder):
    """Folders that a case has locked can be read and taken away again."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRWXU)


def marked(case):
    marks = [pytest.mark.hostile] if case.slow else []
    if case.skip:
        marks.append(pytest.mark.skip(reason=case.skip))
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in TABLE])
def test_hostile(case, ground, capsys):
    ended, before = run(case, ground, capsys)
    assert not _CONTROL.search(ended.err), ended.err
    if isinstance(case.expected, Refused):
        lines = [line for line in ended.err.splitlines() if not line.startswith("note: ")]
        assert (ended.code, len(lines)) == (2, 1), (ended.code, ended.err[-2000:], ended.out[-500:])
        assert lines[0].startswith(f"vlm-jax {case.verb}: ")
        for word in case.expected.words:
            word = word(ground) if callable(word) else word
            assert word in lines[0]
        after = contents(ground.folder)
        new = {name for name in after.keys() - before.keys() if not name.startswith(case.expected.keeps or ("\0",))}
        assert not new, new
        assert {name: after.get(name) for name in before} == before
    else:
        assert ended.code == 0, ended.err[-2000:]
        case.expected.check(ended)


def test_the_table_is_large():
    assert len(TABLE) >= 300
    assert len({case.id for case in TABLE}) == len(TABLE)
    counted = {verb: sum(case.verb == verb for case in TABLE) for verb in VERBS_AND_BENCHMARKS}
    assert set(counted) == {verb for verb in VERBS if verb != "eval"} | {f"eval {name}" for name in BENCHMARKS}
    assert min(counted.values()) >= 3, counted
    assert {case.verb for case in TABLE} == set(counted)


QUICK = ("recipe", "checkpoint", "export", *(verb for verb in VERBS_AND_BENCHMARKS if verb.startswith("eval ")))


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(
            verb, marks=() if verb in QUICK and "scenes" not in verb and "bias" not in verb else pytest.mark.hostile
        )
        for verb in VERBS_AND_BENCHMARKS
        if verb not in ("demo", "annotate")
    ],
)
def test_what_the_cases_change_works(verb, ground, capsys):
    """Else they might be refused for another reason."""
    main([*verb.split(), *map(str, instead(verb)(ground))])
    assert not [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
