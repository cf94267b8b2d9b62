"""How wide answers are measured and updated: as the longest of them, rounded up, in place of their limit."""

from vlm_jax.arrays import Generation

# Each width in use is compiled once, and narrower ones than the step save less than that costs.
_STEP = 64
_MOST_WIDTHS = 4


def width_for(longest: int, limit: int) -> int:
    """The narrowest of at most four widths, multiples of 64 and ``limit`` itself, that holds the longest answer."""
    step = _STEP * -(-limit // (_STEP * _MOST_WIDTHS))
    return min(step * -(-longest // step), limit)


def cut(answer: Generation, width: int) -> Generation:
    """The first ``width`` slots. Nothing is lost where no answer is longer."""
    narrow = {name: getattr(answer, name)[:, :width] for name in ("tokens", "log_probs", "mask")}
    return answer.replace(**narrow)
