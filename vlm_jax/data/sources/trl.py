"""TRL's rows: "prompt", "chosen", "rejected", each text or a list of messages; without a prompt "chosen" and "rejected"
are whole conversations that differ in the last answer. A prompt alone is one to answer."""

import re

from vlm_jax.data.rows import Row
from vlm_jax.data.sources.pairs import Pair
from vlm_jax.data.sources.turns import Talk, answer, talk_of

# A prompt as a chat template leaves it: the template would be put around it once more.
_RENDERED = re.compile(r"\bassistant\s*:\s*$|<\|im_start\|>|\[/INST\]\s*$", re.IGNORECASE)


def pair(row: Row) -> Pair:
    if row.values.get("prompt") is None:
        return _whole(row)
    return Pair(prompt(row), (answer(row, "chosen"), answer(row, "rejected")), 0)


def prompt(row: Row) -> Talk:
    """The turns before an answer."""
    value = row.require("prompt")
    if isinstance(value, list):
        talk = talk_of(row, value, "prompt")
        if not talk.ends_with_a_question:
            raise row.wrong("a prompt that ends with an answer", "a question at the end")
        return talk
    text = row.filled(value, "a prompt")
    if found := _RENDERED.search(text):
        raise row.wrong(f"a prompt with {found[0]!r:.40} in it", "the question alone, or a list of messages")
    return talk_of(row, [{"role": "user", "content": text}], "prompt")


def _whole(row: Row) -> Pair:
    chosen, rejected = (talk_of(row, row.require(key), key) for key in ("chosen", "rejected"))
    if chosen.ends_with_a_question or rejected.ends_with_a_question:
        raise row.wrong("chosen or rejected that ends with a question", "an answer at the end of both")
    if chosen.turns[:-1] != rejected.turns[:-1] or chosen.pictures != rejected.pictures:
        raise row.wrong("chosen and rejected that differ before their last answer", "one conversation, or a 'prompt'")
    return Pair(Talk(chosen.turns[:-1], chosen.pictures), (chosen.turns[-1].text, rejected.turns[-1].text), 0)
