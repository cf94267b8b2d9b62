"""What every layout of pairs of answers says."""

from typing import NamedTuple

from vlm_jax.data.sources.turns import Talk


class Pair(NamedTuple):
    """A conversation that ends with a question, two answers, the index of the better one, the annotators' flag."""

    talk: Talk
    answers: tuple[str, str]
    choice: int
    hallucination: bool | None = None
