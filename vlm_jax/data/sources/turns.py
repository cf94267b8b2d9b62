"""Conversations as people write them down, to turns.

Two spellings of a turn are read, wherever turns are listed:

    {"from": "human" | "gpt" | "system", "value": text}                    LLaVA, ShareGPT
    {"role": "user" | "assistant" | "system", "content": text or parts}    chat messages

Parts are {"type": "text", "text": ...} and {"type": "image"}; an image may bring its file name ("image" or "path").
A system line of its own becomes the first turn, and stands in place of the template's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.rows import Row

_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
_SPELLINGS = '{"from": ..., "value": ...} or {"role": ..., "content": ...}'
_PARTS = '{"type": "text", "text": ...} or {"type": "image"}, one picture a row (no video, no sound)'


class Talk(NamedTuple):
    """Turns, roles alternating and human first (behind a system line), and the pictures that they name themselves."""

    turns: list[Turn]
    pictures: list[str]

    @property
    def ends_with_a_question(self) -> bool:
        return self.turns[-1].role == "human"


def conversation(row: Row, only_first: bool = False) -> Talk:
    """The turns under "conversations" or "messages", all or the first question alone.

    Raises:
        InputError: There is neither or both, or a turn is none, or roles do not alternate.
    """
    listed = [key for key in ("conversations", "messages") if row.values.get(key) is not None]
    if len(listed) != 1:
        found = "both 'conversations' and 'messages'" if listed else f"the keys {sorted(row.values)}"
        raise row.wrong(found, "a conversation under 'conversations' or 'messages'")
    return talk_of(row, row.values[listed[0]], listed[0], only_first)


def talk_of(row: Row, listed: Any, what: str, only_first: bool = False) -> Talk:
    """A list of turns; ``what`` names it. The row's own system line stands before it. A first turn in LLaVA's spelling
    that is the assistant's is dropped, as LLaVA does.

    Raises:
        InputError: As in :func:`conversation`.
    """
    if not isinstance(listed, list):
        raise row.wrong(f"{what} of type {type(listed).__name__}", f"{what} as a list of turns")
    if row.values.get("tools"):
        raise row.wrong("'tools'", "a conversation without tools")
    spoken, pictures = [], []
    for one in listed:
        role, text, shown = _spoken(row, one)
        pictures += shown
        spoken.append((role, text))
    if spoken and spoken[0][0] == "gpt" and "from" in listed[0]:
        spoken = spoken[1:]
    system = _system(row, spoken)
    if not spoken:
        raise row.wrong(f"{what} without a human turn", "at least one")
    if only_first:
        spoken = _first(row, spoken)
    for number, (role, _) in enumerate(spoken):
        if role != ("human", "gpt")[number % 2]:
            found = f"two {role!r} turns in a row" if number else f"{what} that start with a turn of {role!r}"
            raise row.wrong(found, "roles 'human' and 'gpt' alternating")
    return Talk([*system, *(_turn(row, *one) for one in spoken)], pictures)


def _first(row: Row, spoken: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The first turn; the others are not looked at, but none of them may have the picture."""
    marked = [isinstance(text, str) and IMAGE in text for _, text in spoken]
    if any(marked) and not marked[0]:
        raise row.wrong(f"{IMAGE} in a later turn", "it in the first question, which alone is asked")
    return spoken[:1]


def _turn(row: Row, role: str, text: Any) -> Turn:
    if role == "gpt":
        return Turn("gpt", written(row, text, "an answer"))
    return Turn("human", row.filled(text, "a question"))


def written(row: Row, value: Any, what: str) -> str:
    """An answer's text.

    Raises:
        InputError: It is empty or no text, or shows a picture.
    """
    if not isinstance(value, str) or not value.strip():
        raise row.wrong(f"{what} without text ({value!r:.40})", "a written answer")
    if IMAGE in row.text(value, what):
        raise row.wrong(f"{IMAGE} in {what}", "it in a question")
    return value


def answer(row: Row, key: str) -> str:
    """The answer under ``key``: text, a turn of the assistant's, or a list of one.

    Raises:
        InputError: It is none of these.
    """
    value = row.require(key)
    if isinstance(value, list):
        if len(value) != 1:
            raise row.wrong(f"{key} of {len(value)} turns", f"{key} as one answer")
        (value,) = value
    if isinstance(value, str):
        return written(row, value, f"an answer {key}")
    if not isinstance(value, dict):
        raise row.wrong(f"{key} {value!r:.40}", f"{key} as text or a turn {_SPELLINGS}")
    role, text, _ = _spoken(row, value)
    if role != "gpt":
        raise row.wrong(f"{key} by {role!r}", f"{key} by the assistant")
    return written(row, text, f"an answer {key}")


def _system(row: Row, spoken: list[tuple[str, Any]]) -> list[Turn]:
    """The row's own system line, taken from the column "system" or the front of ``spoken``."""
    lines = [row.filled(spoken.pop(0)[1], "a system line")] if spoken and spoken[0][0] == "system" else []
    if row.values.get("system"):
        lines.append(row.filled(row.values["system"], "a system line"))
    if len(set(lines)) > 1:
        raise row.wrong(f"two system lines, {lines[0]!r:.40} and {lines[1]!r:.40}", "one")
    if any(IMAGE in line for line in lines):
        raise row.wrong(f"{IMAGE} in a system line", "it in a question")
    return [Turn("system", line) for line in lines[:1]]


def _spoken(row: Row, turn: Any) -> tuple[str, Any, list[str]]:
    """Role, text and named pictures of a turn in either spelling."""
    names = ("from", "value") if isinstance(turn, dict) and "from" in turn else ("role", "content")
    if not isinstance(turn, dict) or not turn.keys() >= set(names):
        raise row.wrong(f"a turn {turn!r:.60}", f"a turn {_SPELLINGS}")
    role, content = (turn[name] for name in names)
    if not isinstance(role, str) or role not in _ROLES:
        raise row.wrong(f"a turn from {role!r:.40}", "'human' or 'gpt', 'user' or 'assistant', 'system' at the front")
    if isinstance(content, list) and names[0] == "role":
        return _ROLES[role], *_joined(row, content)
    return _ROLES[role], content, []


def _joined(row: Row, parts: Sequence[Any]) -> tuple[str, list[str]]:
    """Content parts as one text, pictures first and each text on a line of its own, as LLaVA's chat template at
    Hugging Face writes them."""
    texts, markers, pictures = [], [], []
    for part in parts:
        # Tables of one type for all parts fill the others' fields with null.
        known = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        kind = known.pop("type", None)
        if kind == "text" and known.keys() == {"text"}:
            texts.append(row.text(known["text"], "a text part"))
        elif kind == "image" and (not known or known.keys() in ({"image"}, {"path"})):
            markers.append(IMAGE)
            pictures += [row.filled(name, "an image name") for name in known.values()]
        else:
            raise row.wrong(f"a part {part!r:.60}", f"parts {_PARTS}")
    return "\n".join([*markers, *texts]), pictures
