"""RLHF-V's and RLAIF-V's pairs: "question", "chosen", "rejected"; RLHF-V holds the three as JSON in "text"."""

import json

from vlm_jax.data.rows import Row
from vlm_jax.data.sources import pictures
from vlm_jax.data.sources.pairs import Pair
from vlm_jax.data.sources.turns import answer, talk_of

KEYS = (*pictures.KEYS, "image_path")

_COLUMNS = ("question", "chosen", "rejected")


def rlaif_v_pair(row: Row) -> Pair:
    question = row.filled(row.require("question"), "a question")
    talk = talk_of(row, [{"role": "user", "content": question}], "question")
    return Pair(talk, (answer(row, "chosen"), answer(row, "rejected")), 0)


def rlhf_v_pair(row: Row) -> Pair:
    text = row.string("text")
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.wrong(f"'text' that is no JSON ({str(error)[:60]})", f"JSON with {', '.join(_COLUMNS)}") from None
    if not isinstance(inner, dict) or not inner.keys() >= set(_COLUMNS):
        raise row.wrong(f"'text' {text!r:.60}", f"JSON with {', '.join(_COLUMNS)}")
    return rlaif_v_pair(Row(row.origin, {name: inner[name] for name in _COLUMNS}))
