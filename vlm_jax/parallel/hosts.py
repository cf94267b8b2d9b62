"""One run in several processes, one a host: how they meet, and how each ends when another one fails.

    start      all meet at process 0's address, or none of them begins
    leave      a process that fails ends at once; jax makes every other one end as soon as it misses it

jax ends a process from within where another one is gone, with a screen of text: ``last_words`` makes one line of that.
"""

import dataclasses
import math
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Annotated, Any

from vlm_jax.errors import InputError
from vlm_jax.ranges import Range

# What the options are called in the environment; jax itself reads the first.
_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}
# Seconds: until a process that sends no sign of life counts as gone; that others may wait for the one that writes the
# result; for the others' own last words, when the first leaves and takes along what they hold on to.
_HEARTBEAT, _ENDING, _WORDS = 30, 24 * 3600, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions:
    """How the processes of one run meet. With nothing asked a run is one process.

    Attributes:
        coordinator: HOST:PORT of process 0, any free port, the same on all hosts; else of JAX_COORDINATOR_ADDRESS.
        processes: How many there are; else JAX_NUM_PROCESSES.
        process: Which one this is, from 0; else JAX_PROCESS_ID.
        detect: Let jax find all that on a TPU pod, in GKE, under SLURM or Open MPI.
        wait: Seconds until a run without all of its processes is given up.
    """

    coordinator: str | None = None
    processes: Annotated[int | None, Range(1, 1 << 20)] = None
    process: Annotated[int | None, Range(0, (1 << 20) - 1)] = None
    detect: bool = False
    wait: Annotated[int, Range(1, 24 * 3600)] = 50


def with_environment(options: HostOptions, environment: Mapping[str, str]) -> HostOptions:
    """The options, with what is left out as the environment has it; of which an address alone asks for nothing.

    Raises:
        InputError: The environment has no number where one belongs.
    """
    found: dict[str, Any] = {}
    for name, variable in _VARIABLES.items():
        value = getattr(options, name)
        if value is None and (said := environment.get(variable)):
            value = said if name == "coordinator" else _number(variable, said)
        found[name] = value
    if found["processes"] is found["process"] is None:
        found["coordinator"] = options.coordinator
    return dataclasses.replace(options, **found)


def _number(variable: str, said: str) -> int:
    if not said.isascii() or not said.isdecimal():
        raise InputError(f"{variable}={said!r}", "a number from 0")
    return int(said)


def check(options: HostOptions) -> bool:
    """Whether complete options ask for several processes.

    Raises:
        InputError: They name one part and leave another out, or no process among as many as there are.
    """
    given = {name: getattr(options, name) for name in _VARIABLES}
    if options.detect:
        if odd := [name for name, value in given.items() if value is not None]:
            raise InputError(f"--hosts.detect beside --hosts.{odd[0]} (or {_VARIABLES[odd[0]]})", "one of both")
        return True
    if options.processes == 1 or not any(value is not None for value in given.values()):
        if options.process:
            raise InputError(f"process {options.process} of 1", "0")
        return False
    if missing := [f"--hosts.{name} (or {_VARIABLES[name]})" for name, value in given.items() if value is None]:
        raise InputError(f"several processes without {', '.join(missing)}", "all three, or --hosts.detect")
    if options.process >= options.processes:
        raise InputError(f"process {options.process} of {options.processes}", f"from 0 to {options.processes - 1}")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"--hosts.coordinator {options.coordinator}", "HOST:PORT of process 0")
    return True


def refuse_several(environment: Mapping[str, str]) -> None:
    """Of a verb that is done by one process.

    Raises:
        InputError: The environment says that this is one of several.
    """
    if (count := with_environment(HostOptions(), environment).processes or 1) > 1:
        raise InputError(f"several processes (JAX_NUM_PROCESSES={count})", "one, or a verb that trains")


# Whether this is one of several processes, once it has begun to look for the others; and the one that all hold on to.
_several = _first = False


def start(options: HostOptions, mesh: Any, command: str) -> None:
    """Meet the other processes; returns at once where there are none. Before jax is used for anything.

    From here on only process 0 writes on the standard output.

    Args:
        options: As given; the environment has the rest.
        mesh: ``MeshOptions``; takes all devices of all processes.
        command: As the user writes it, for last words.

    Raises:
        InputError: The options are wrong, not all processes come in time, or the mesh leaves devices out.
    """
    global _several, _first
    options = with_environment(options, os.environ)
    if not check(options):
        return
    _several, _first = True, options.process == 0
    # What C++ says beside an error, a screen for each; before it is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _hand_over_stderr(command)
    _meet(options)
    import jax

    _first = jax.process_index() == 0
    if not _first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    used = math.prod(dataclasses.asdict(mesh).values())
    if used != jax.device_count():
        found = f"a mesh of {used} devices over {jax.process_count()} processes that have {jax.device_count()}"
        raise InputError(found, f"--mesh.* whose product is {jax.device_count()}")


def _hand_over_stderr(command: str) -> None:
    """Let a process of its own read what this one and its libraries say as errors, and say it."""
    reader = subprocess.Popen([sys.executable, "-m", "vlm_jax.parallel.last_words", command], stdin=subprocess.PIPE)
    sys.stderr.flush()
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()


def _meet(options: HostOptions) -> None:
    """jax's own start, which would end the process in its own way where somebody does not come."""
    import jax

    # It would answer SIGTERM in Python's place, and what orbax asks it from a thread of its own confuses its count of
    # steps; the loop has `any_process`.
    jax.config.update("jax_enable_preemption_service", False)
    failed: list[Exception] = []
    given = {} if options.detect else {"cluster_detection_method": "deactivate"}

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                options.coordinator,
                options.processes,
                options.process,
                # Never before this process has given up itself.
                initialization_timeout=2 * options.wait + 60,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_ENDING,
                **given,
            )
        except Exception as error:
            failed.append(error)

    meeting = threading.Thread(target=initialize, daemon=True)
    meeting.start()
    meeting.join(options.wait)
    if failed:
        wanted = "a cluster that jax knows" if options.detect else "processes that can meet"
        raise InputError(f"{type(failed[0]).__name__} of jax.distributed: {failed[0]}", wanted) from failed[0]
    if meeting.is_alive():
        raise InputError(*_missed(options))


def _missed(options: HostOptions) -> tuple[str, str]:
    """Who did not come: found and expected."""
    within = f"within {options.wait} s (--hosts.wait)"
    if options.detect:
        return f"not all processes of the cluster {within}", "all of them, started at the same time"
    if options.process and not _answers(options.coordinator):
        wanted = f"process 0 of {options.processes} there (--hosts.coordinator)"
        return f"nobody who answers at {options.coordinator} {within}", wanted
    others = ", ".join(str(number) for number in range(options.processes) if number != options.process)
    found = f"not all {options.processes} processes at {options.coordinator} {within}"
    return found, f"beside this one, {options.process}, all of {others}, started at the same time"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def require_met() -> None:
    """Raises:
    InputError: There are several processes (a TPU pod has them by itself) that did not begin with :func:`start`.
    """
    import jax

    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise InputError(f"one of {jax.process_count()} processes that have not met", "--hosts.detect, on all hosts")


def leave(error: BaseException) -> None:
    """End the process, if it is one of several, with the code that ``error`` would end it with; says what it is.

    jax waits for all processes when one ends, and the others may be waiting for this one in the middle of a step.
    """
    if not _several:
        return
    if isinstance(error, SystemExit):
        code = error.code or 0
    else:
        # Where another process is gone, sums over all devices fail at once, each in a way of its own; a moment later
        # jax knows of it and ends this process.
        time.sleep(_HEARTBEAT + 20)
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if _first:
        time.sleep(_WORDS)
    os._exit(code if isinstance(code, int) else 1)
