"""What one of several processes says on the standard error stream, passed on; and one line, where jax ends it.

jax's coordination service aborts a process from C++ as soon as another one is gone, after a stack trace of its own.
No Python runs then any more, hence this process, which ends with the one that it reads.
"""

import re
import signal
import sys
from collections.abc import Iterable, Iterator

_FATAL = re.compile(rb"^F\d{4} .*JAX distributed service detected fatal errors")
_SILENT = re.compile(rb"stopped sending heartbeats\):\n((?:.*\d+\n)+)")
_NUMBER = re.compile(rb"(\d+)\n")
_OF_THE_FIRST = b"Failed to send RPC to coordination service"


def passed_on(lines: Iterable[bytes], command: str) -> Iterator[bytes]:
    """The lines; what jax says at the end of a process that misses another one as one line.

    Args:
        lines: As they come, with their ends.
        command: As the user writes it.
    """
    lines = iter(lines)
    for line in lines:
        if _FATAL.match(line):
            yield f"{command}: {_who(b''.join([line, *lines]))}; the same command goes on from where it was\n".encode()
            return
        yield line


def _who(said: bytes) -> str:
    if (silent := _SILENT.search(said)) is not None:
        numbers = ", ".join(number.decode() for number in _NUMBER.findall(silent[1]))
        return f"no sign of life from process {numbers}"
    if _OF_THE_FIRST in said:
        return "process 0 is gone"
    return "another process is gone"


def main() -> None:
    # Who ends the process does not end what it says.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for line in passed_on(sys.stdin.buffer, sys.argv[1]):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
