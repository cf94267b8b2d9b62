"""VQA's way to take punctuation off an answer (``vqaEval.py``), which other scorers took over, quirks included."""

import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
VQA_COMMA = re.compile(r"\d,\d")
# VQA's own: its look-behind is misspelt and never holds, so any period goes that no digit follows.
VQA_PERIOD = re.compile(r"\.(?!\d)")
# VLMEvalKit's: no digit on either side.
LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
# The scripts hand a flag over where ``re.sub`` takes a count, and so remove no more than this many.
_MOST_PERIODS = 32


def strip_punctuation(text: str, period: re.Pattern[str], comma: re.Pattern[str] = VQA_COMMA) -> str:
    """A mark goes where it stands at a space, or where the text has a comma between digits; elsewhere it becomes a
    space.

    Args:
        text: The answer.
        period: Which periods go: ``VQA_PERIOD`` or ``LONE_PERIOD``.
        comma: What a comma between digits looks like.
    """
    numbers = comma.search(text) is not None
    left = text
    for mark in _MARKS:
        if mark in text:
            left = left.replace(mark, "" if numbers or f"{mark} " in text or f" {mark}" in text else " ")
    return period.sub("", left, count=_MOST_PERIODS)
