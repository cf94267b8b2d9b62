"""``vlm-jax VERB ...``: dispatch to one module a verb. Only the chosen verb's module is imported, and that imports jax
only when it runs, so that help and mistakes answer at once."""

import importlib
import io
import os
import select
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

VERBS = {
    "demo": "align the tiny model that ships with the package, end to end, and write a report page",
    "scenes": "draw the synthetic world: images, instructions, prompts, captions, questions and their truth",
    "annotate": "sample two answers about each preference scene of a drawn world and let its annotators choose",
    "sft": "fine-tune a checkpoint on LLaVA-format conversations, with an adapter or all language weights",
    "reward": "train a Bradley-Terry reward model on preference pairs, with or without factual captions",
    "ppo": "optimise a policy against a reward model with PPO, images included",
    "plan": "whether a stage fits on GPUs or TPUs, and how long a step takes at best; no device is needed",
    "recipe": "figures for a preset and a stage, each with its source: list them, or show one",
    "sample": "several answers to each prompt about any images, scored by a reward model where one is named",
    "score": "a reward model's scores of pairs, or of any answers, about any images",
    "generate": "answer a prompt about an image",
    "convert": "turn any LLaVA-family torch checkpoint into our own layout, also in 8 or 4 bits",
    "export": "write a checkpoint or an adapter as torch people have them",
    "merge": "add an adapter into its base and say what that did to the logits",
    "checkpoint": "say what a folder of weights is and what it lacks",
    "eval": "a benchmark's scores, of a file of answers or of a checkpoint",
}

_RESUMABLE = ("demo", "sft", "reward", "ppo", "sample", "score", "convert", "eval")

_AGAIN = "the same command goes on from where it was"
# What a shell reports of a process that SIGTERM and SIGPIPE ended.
_TERMINATED, _READER_GONE = 128 + 15, 128 + 13

# Of paragraphs, see vlm_jax/terminal.py.
_HELP = """
usage: vlm-jax VERB [options]

Measure, explain and cure hallucination in vision-language models.

{names}

`vlm-jax help VERB` explains a verb's options. The usual road, on files at every step:

  vlm-jax scenes --out world
  vlm-jax annotate --checkpoint tiny --world world
  vlm-jax reward --checkpoint tiny --preferences world/preferences.json --images world/images \\
      --facts world/image_to_caption.json --out runs/reward
  vlm-jax ppo --checkpoint tiny --reward runs/reward/adapter --prompts world/prompts.json \\
      --images world/images --facts world/image_to_caption.json --out runs/ppo
  vlm-jax eval scenes --checkpoint tiny --adapter runs/ppo/adapter --world world \\
      --output runs/ppo/eval.json

`--checkpoint tiny` is the model that ships with the package; any folder in the HF LLaVA layout or from
`vlm-jax convert` can stand there.
"""

_EVAL_HELP = """
usage: vlm-jax eval NAME [options]

Score a file of answers, or let a checkpoint answer first.

{names}

`vlm-jax help eval NAME` explains its options.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exits with 2 and one line on a user's mistake, in the command line or in a file."""
    _ready_streams()
    try:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        except BaseException as error:
            # A result that cannot be written is no news any more.
            _flush()
            _leave(error)
            # What rich makes of a reader who is gone; nothing here ends with 1.
            if isinstance(error, SystemExit) and error.code == 1:
                sys.exit(_READER_GONE)
            raise
        if (error := _flush()) is not None:
            _stop(f"vlm-jax: the standard output cannot be used: {error.strerror}")
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout.fileno()):
            raise
        _leave_standard_output()
        sys.exit(_READER_GONE)


def _ready_streams() -> None:
    """A stream that was closed from the start (``>&-``) is a number that the next file would get, and with it whatever
    libraries write there by number; and Python has None in its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without a letter is shown how it is spelled.
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush() -> OSError | None:
    """What is left for the standard output; the error of one that takes no more, which is then left alone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _leave_standard_output()
        return error
    return None


def _leave_standard_output() -> None:
    """Python writes what is left at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nobody_reads(pipe: int) -> bool:
    """Whether the other end of a pipe is gone, ``| head`` say."""
    ends = select.poll()
    ends.register(pipe, select.POLLOUT)
    return any(event & select.POLLERR for _, event in ends.poll(0))


def _run(arguments: Sequence[str]) -> None:
    arguments = _help_last(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help(_HELP, VERBS)
        return
    if arguments[0] == "--version":
        from vlm_jax import __version__

        print(__version__)
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        _stop_unknown("vlm-jax", "verb", verb, VERBS)
    if verb == "eval":
        _run_benchmark(rest)
    else:
        _run_verb(verb, verb, rest)


def _help_last(arguments: Sequence[str]) -> Sequence[str]:
    """``help VERB`` as ``VERB --help``."""
    return _help_last([*arguments[1:], "--help"]) if arguments[:1] == ["help"] else arguments


def _print_help(text: str, names: Mapping[str, str]) -> None:
    from vlm_jax.terminal import listed, wrapped

    print(wrapped(text).replace("{names}", listed(names)))


def _run_benchmark(arguments: Sequence[str]) -> None:
    from vlm_jax.commands.eval import BENCHMARKS

    arguments = _help_last(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help(_EVAL_HELP, BENCHMARKS)
        return
    name, rest = arguments[0], arguments[1:]
    if name not in BENCHMARKS:
        _stop_unknown("vlm-jax eval", "benchmark", name, BENCHMARKS)
    _run_verb(f"eval {name}", f"eval.{name.replace('-', '_')}", rest)


def _run_verb(verb: str, module_name: str, arguments: Sequence[str]) -> None:
    from vlm_jax.commands.parsing import parse
    from vlm_jax.errors import PLACE_ERRORS, DivergedError, InputError, TerminatedError
    from vlm_jax.ranges import check_ranges

    module = importlib.import_module(f"vlm_jax.commands.{module_name}")
    try:
        options = parse(module, verb, arguments)
        check_ranges(options)
        _meet(options, verb)
        module.run(options)
    except (InputError, DivergedError) as error:
        _stop(f"vlm-jax {verb}: {error}")
    except TerminatedError as error:
        print(f"vlm-jax {verb}: {error}; {_AGAIN}", file=sys.stderr)
        sys.exit(_TERMINATED)
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        # Where there are two files, something was moved or copied from one to the other.
        place = error.filename2 or error.filename or "a file or the standard output"
        notes = getattr(error, "__notes__", ())
        _stop("; ".join([f"vlm-jax {verb}: {place} cannot be used: {error.strerror}", *notes]))
    except Exception as error:
        # jax's own class, which nothing here imports only to name it.
        if type(error).__name__ != "JaxRuntimeError" or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("RESOURCE_EXHAUSTED: ")[2].partition("\n")[0]
        _stop(f"vlm-jax {verb}: {reason} Expected a smaller batch, more parts (--microbatches), or shorter texts")
    except KeyboardInterrupt:
        again = f"; {_AGAIN}" if verb.split()[0] in _RESUMABLE else ""
        print(f"\nvlm-jax {verb}: stopped{again}", file=sys.stderr)
        sys.exit(130)


def _meet(options: object, verb: str) -> None:
    """The other processes of a run that has several."""
    from vlm_jax.parallel.hosts import refuse_several, start

    if hasattr(options, "hosts"):
        start(options.hosts, options.mesh, f"vlm-jax {verb}")
    else:
        refuse_several(os.environ)


def _leave(error: BaseException) -> None:
    """One of several processes does not end as a single one does."""
    if (hosts := sys.modules.get("vlm_jax.parallel.hosts")) is not None:
        hosts.leave(error)


def _stop_unknown(command: str, what: str, name: str, known: Iterable[str]) -> NoReturn:
    from vlm_jax.errors import did_you_mean

    _stop(f"{command}: no {what} {name!r}{did_you_mean(name, known)}; expected one of {', '.join(known)}")


def _stop(message: str) -> NoReturn:
    from vlm_jax.errors import one_line

    print(one_line(message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
