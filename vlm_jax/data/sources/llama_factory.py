"""LLaMA-Factory's ranking rows: a conversation that ends with a question, "chosen", "rejected" (a turn or its text)."""

from vlm_jax.data.rows import Row
from vlm_jax.data.sources.pairs import Pair
from vlm_jax.data.sources.turns import answer, conversation


def pair(row: Row) -> Pair:
    talk = conversation(row)
    if not talk.ends_with_a_question:
        raise row.wrong("a conversation that ends with an answer beside 'chosen'", "a question at the end")
    return Pair(talk, (answer(row, "chosen"), answer(row, "rejected")), 0)
