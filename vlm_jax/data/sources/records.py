"""What a row of a training file is after it was read."""

import dataclasses

from vlm_jax.data.conversation import Turn
from vlm_jax.data.images import Source
from vlm_jax.data.rows import Origin


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every row has.

    Attributes:
        id: The row's own id, or its number.
        image: Path (or, for records made in memory, encoded bytes or what opens a picture); None for a row without an
            image.
        turns: The conversation, human first, roles alternating; a system line of its own stands before it.
        origin: Where the row stands; None for records made in memory.
    """

    id: str
    image: Source | None
    turns: tuple[Turn, ...]
    origin: Origin | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instruction(Record):
    """A conversation to learn from; ends with an answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preference(Record):
    """A conversation that ends with a question, two answers to it, and the one that was preferred.

    Attributes:
        answers: The two, in the order of the file.
        choice: 0 or 1, the index of the better answer.
        hallucination: The annotators' flag where the row has one.
        facts: Captions of the image; None where the reader was given none.
    """

    answers: tuple[str, str]
    choice: int
    hallucination: bool | None = None
    facts: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Record):
    """One question to answer; ``turns`` ends with it.

    Attributes:
        caption_type: 1 open question, 2 to 5 the truth is option A to D, 6 the truth is no, 7 the truth is
            yes.
        length_bonus: Factor of the length reward.
        facts: Captions of the image (rationales for types 2 to 5); None where the reader was given none.
    """

    caption_type: int = 1
    length_bonus: float = 1.0
    facts: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Prompt):
    """A question and answers to it that are to be judged.

    Attributes:
        answers: One or more, in the order of the file; an answer may be empty.
        choice: Index of the one that was preferred, where the row says so.
    """

    answers: tuple[str, ...]
    choice: int | None = None
