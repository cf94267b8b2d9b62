"""What lmms-eval's ``--log_samples`` writes: one JSON object a line, in older versions one object with all of them
under ``logs``.

    {"doc_id": 0, "doc": {"question_id": "1", ...}, "arguments": ["Is there ...?", {}], "filtered_resps": ["Yes"], ...}
    {"doc_id": 0, "input": "Is there ...?", "filtered_resps": "Yes", "pope_accuracy": {"question_id": "1", ...}, ...}

The document (``doc``) is the data set's row; newer versions leave it out, and what is left of it stands in the entries
of the metrics. An answer's id is the one that the benchmark goes by: a document may well have others beside it that
mean nothing, a running number for one.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.data.rows import Row, iter_listed
from vlm_jax.files import read_lines

_OLD = re.compile(r'\s*\{\s*"(args|model_configs|logs)"\s*:')
_FIRST_LINES = 3  # Of a file that may be laid out over many.
_RESPONSES = ("filtered_resps", "resps")
# What a document may hold that is no answer of the model's: the right one, a caption by people.
_NOT_THE_MODELS = ("text", "caption", "response", "model_answer", "model_prediction", "prediction", "answer")


def is_old_log(path: Path) -> bool:
    """Whether a file is one object with all samples in it."""
    return bool(_OLD.match("".join(itertools.islice(read_lines(path), _FIRST_LINES))))


def old_log(path: Path) -> Iterator[Row]:
    """The samples of such a file; errors as in ``data.rows.iter_listed``."""
    return iter_listed(path, "logs")


def is_sample(row: Row) -> bool:
    """Whether a row is one of lmms-eval's samples."""
    return "doc_id" in row.values and any(key in row.values for key in _RESPONSES)


def plain_sample(row: Row, ids: Sequence[str], keys: Sequence[str]) -> Row:
    """A sample as LLaVA would have written it: ``text``, ``prompt``, its id, and what else is known of the document;
    ``doc_id``, its place in the data set, stays.

    Args:
        row: A sample.
        ids: All keys that may hold an id.
        keys: Those that the benchmark goes by, the first that is there counts.

    Raises:
        InputError: It has no single text as its answer.
    """
    document = _document(row)
    own = next((key for key in keys if key in document), None)
    kept = {
        key: value
        for key, value in document.items()
        if key not in _NOT_THE_MODELS and (key not in ids or own in (None, key))
    }
    asked = row.values.get("input", _first(row.values.get("arguments")))
    prompt = asked if isinstance(asked, str) else document.get("question")
    said = {"doc_id": row.values["doc_id"], "text": _response(row)}
    return Row(row.origin, kept | said | ({"prompt": prompt} if isinstance(prompt, str) else {}))


def _document(row: Row) -> dict[str, Any]:
    entries = [value for key, value in row.values.items() if isinstance(value, dict) and key != "doc"]
    document = row.values.get("doc")
    found: dict[str, Any] = {}
    for entry in (*entries, document if isinstance(document, dict) else {}):
        found |= {key: value for key, value in entry.items() if isinstance(value, str | int | float) or value is None}
    return found


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _response(row: Row) -> str:
    value = next(row.values[key] for key in _RESPONSES if key in row.values)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise row.wrong(f"responses {str(value)[:60]}", "one text: the log of a task that lets the model write")
    return value
