"""LLaVA-RLHF's comparisons: a conversation, "output_1", "output_2", "preference" (1 or 2), "hallucination".

The last answer of the conversation is the one that both outputs replace; a file may leave it out.
"""

from typing import Any

from vlm_jax.data.rows import Row
from vlm_jax.data.sources.pairs import Pair
from vlm_jax.data.sources.turns import Talk, conversation, written


def pair(row: Row) -> Pair:
    return Pair(*outputs(row), row.integer("preference", range(1, 3)) - 1, _hallucination(row))


def outputs(row: Row) -> tuple[Talk, tuple[str, str]]:
    """What is asked and the two answers, whichever is preferred."""
    talk = conversation(row)
    turns = talk.turns if talk.ends_with_a_question else talk.turns[:-1]
    return Talk(turns, talk.pictures), (_output(row, "output_1"), _output(row, "output_2"))


def _output(row: Row, key: str) -> str:
    output = row.require(key)
    if not isinstance(output, dict) or "value" not in output:
        raise row.wrong(f"{key} {output!r:.40}", f'{key} as {{"from": "gpt", "value": text}}')
    return written(row, output["value"], f"an answer {key}")


def _hallucination(row: Row) -> bool | None:
    value: Any = row.values.get("hallucination")
    if value is not None and not isinstance(value, bool):
        raise row.wrong(f"hallucination {value!r:.40}", "true or false")
    return value
