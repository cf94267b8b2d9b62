"""Chat completions, as OpenAI's API and everything like it sends them and as scripts save them."""

import json
from typing import Any

from vlm_jax.evals.judges.interface import Judgement

_SHOWN = 200  # Characters of an odd reply that a complaint shows.


def read_completion(body: Any) -> Judgement:
    """The first choice of a completion.

    Raises:
        ValueError: It is none; says what it is.
    """
    if not isinstance(body, dict):
        raise ValueError(f"{_shown(body)}, no chat completion")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"a completion without choices, {_shown(body)}")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    # A judge that declines has null.
    text = (message.get("content") or "") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"a completion without text, {_shown(body)}")
    # JSON can spell half a surrogate pair, which no file can hold.
    text = text.encode(errors="replace").decode()
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Judgement(
        text=text,
        model=str(body.get("model") or ""),
        prompt_tokens=count_or_none(usage.get("prompt_tokens")),
        completion_tokens=count_or_none(usage.get("completion_tokens")),
        finish=text_or_none(choices[0].get("finish_reason")),
    )


def count_or_none(value: Any) -> int | None:
    """A number of tokens, where that is what it is."""
    return value if type(value) is int else None


def text_or_none(value: Any) -> str | None:
    """Text, where that is what it is."""
    return value if isinstance(value, str) else None


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:_SHOWN]
