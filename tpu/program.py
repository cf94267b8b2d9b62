"""What a compiled program moves between chips, read from its text.

The text says once what a loop does, and its condition how often: everything is counted as often as it runs.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

# Bytes of an element; of what is smaller two share one.
_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_WIDTHS |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_LINE = re.compile(r"\s+(ROOT )?%?(\S+) = (.*)$")
_CALLERS = "calls|body|to_apply|true_computation|false_computation|branch_computations"
_CALLED = re.compile(rf"\b(?:{_CALLERS})=(\{{[^{{}}]*\}}|%?[\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")
_TRANSFERS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``result`` is the type as it is written, ``given`` what stands in brackets: operands, or a number; ``rest`` is
    everything behind it."""

    name: str
    result: str
    kind: str
    given: str
    rest: str

    @functools.cached_property
    def operands(self) -> list[str]:
        return _NAME.findall(self.given)

    @functools.cached_property
    def called(self) -> list[str]:
        """Computations that run within."""
        names = [names.strip("{}").split(",") for names in _CALLED.findall(self.rest)]
        return [name.strip().lstrip("%") for some in names for name in some]

    @property
    def number(self) -> int | None:
        """Of a parameter its place, of a constant its value."""
        inside = self.given.strip("()")
        return int(inside) if self.kind in ("constant", "parameter") and inside.lstrip("-").isdecimal() else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order; the last one written as ROOT is what comes out."""

    instructions: Mapping[str, Instruction]
    root: Instruction


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One between chips: what each of them ends up with, as shapes and bytes, and how often."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    times: int


def arrays(written: str) -> list[tuple[tuple[int, ...], int]]:
    """Shape and bytes of every array of a type."""
    found = []
    for kind, sizes in _ARRAY.findall(written):
        if kind in _WIDTHS:
            shape = tuple(int(size) for size in sizes.split(",") if size)
            found.append((shape, math.ceil(math.prod(shape) * _WIDTHS[kind])))
    return found


def _bytes(written: str) -> int:
    return sum(size for _, size in arrays(written))


class Program:
    """A compiled program, from its text."""

    def __init__(self, text: str):
        self._computations, self._entry = _parsed(text)

    def _times(self) -> Counter:
        """How often each computation runs."""
        times: Counter = Counter()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for instruction in self._computations[name].instructions.values():
                loops = self._trips(instruction) if instruction.kind == "while" else 1
                for called in instruction.called:
                    visit(called, count * loops)

        visit(self._entry, 1)
        return times

    def bytes_by_kind(self) -> dict[str, tuple[int, int]]:
        """Transfers by their kind: how many there are, and bytes that reach a chip; what is summed travels twice."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.transfers():
            count, size = found.get(one.kind, (0, 0))
            ways = 2 if one.kind == "all-reduce" else 1
            found[one.kind] = (count + one.times, size + ways * one.times * one.bytes)
        return found

    def _trips(self, loop: Instruction) -> int:
        """Of a loop that counts up to a constant; one that may end earlier counts as if it did not."""
        condition, body = (re.search(rf"{name}=%?([\w.\-]+)", loop.rest)[1] for name in ("condition", "body"))
        inside = self._computations[condition].instructions
        compared = next((one for one in inside.values() if one.kind == "compare" and "direction=LT" in one.rest), None)
        if compared is not None:
            counter, bound = (inside[name] for name in compared.operands)
            if bound.kind == "constant" and counter.kind == "get-tuple-element":
                return -(-bound.number // self._stride(body, counter))
        # What the condition asks beside, or within a fused part: the bound is its only number that is large.
        return max((one.number for one in self._all(condition) if one.kind == "constant" and one.number), default=1)

    def _stride(self, body: str, counter: Instruction) -> int:
        """By how much a loop's counter grows each time."""
        made = self._computations[body]
        place = int(re.search(r"index=(\d+)", counter.rest)[1])
        update = made.instructions[made.root.operands[place]]
        steps = [made.instructions[name] for name in update.operands] if update.kind == "add" else []
        return next((step.number for step in steps if step.kind == "constant" and step.number), 1)

    def _all(self, name: str) -> Iterator[Instruction]:
        """Instructions of a computation and of those that it calls."""
        for instruction in self._computations[name].instructions.values():
            yield instruction
            for called in instruction.called:
                yield from self._all(called)

    def transfers(self) -> list[Transfer]:
        """All transfers between chips. One that is spread over several fused steps, to run beside them, is one."""
        found, seen = [], set()
        for name, times in self._times().items():
            computation = self._computations[name]
            for instruction in computation.instructions.values():
                kind = instruction.kind.removesuffix("-start")
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                if kind not in _TRANSFERS or (channel and channel[1] in seen):
                    continue
                seen.add(channel and channel[1])
                found.append(_transfer(computation, instruction, kind, name, times))
        return found


def _parsed(text: str) -> tuple[dict[str, Computation], str]:
    computations, entry, name, lines = {}, "", "", []
    for line in text.splitlines():
        # Not what closes a constant of several lines.
        if line.rstrip() == "}":
            instructions = {one.name: one for one, _ in lines}
            root = next((one for one, is_root in lines if is_root), None)
            if root is not None:
                computations[name] = Computation(instructions, root)
            lines = []
        elif line.endswith("{") and line.startswith(("%", "ENTRY ")):
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            entry = name if line.startswith("ENTRY ") else entry
        elif (found := _LINE.match(line)) is not None:
            lines.append((_instruction(found[2], found[3]), bool(found[1])))
    return computations, entry


def _instruction(name: str, written: str) -> Instruction:
    result, rest = _first(written)
    kind, _, rest = rest.partition("(")
    operands, rest = _first(f"({rest}")
    return Instruction(name.lstrip("%"), result, kind.strip(), operands, rest)


def _first(written: str) -> tuple[str, str]:
    """A type, or a list in brackets, and what follows it."""
    if not written.startswith("("):
        first, _, rest = written.partition(" ")
        return first, rest
    depth = 0
    for place, letter in enumerate(written):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return written[: place + 1], written[place + 1 :].lstrip()
    # A constant goes on in the next lines.
    return written, ""


def _transfer(computation: Computation, instruction: Instruction, kind: str, name: str, times: int) -> Transfer:
    result = arrays(instruction.result)
    size = sum(one for _, one in result)
    given = sum(_bytes(computation.instructions[operand].result) for operand in instruction.operands)
    if instruction.kind.endswith("-start") and kind != "all-reduce":
        size -= given
    if kind == "all-reduce" and "all-reduce-scatter" in name:
        kind = "reduce-scatter"
    if kind == "reduce-scatter":
        size = max(given, size)
    return Transfer(kind, tuple(shape for shape, _ in result), size, times)
