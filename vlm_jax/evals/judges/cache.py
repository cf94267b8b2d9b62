"""Judgements on disk, by content: what was judged once is never paid for again, and a run that was killed goes on where
it was.

A folder holds ``judgements.jsonl``, one object a judgement, which is only ever appended to:

    {"key": SHA-256, "id": ..., "judge": {...}, "messages": [...], "image": SHA-256 or null, "temperature": ...,
     "max_tokens": ..., "text": ..., "model": ..., "prompt_tokens": ..., "completion_tokens": ..., "finish": ...}
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.errors import InputError
from vlm_jax.evals.judges.completions import count_or_none, text_or_none
from vlm_jax.evals.judges.interface import Finished, Judge, Judgement, JudgeRequest, unnoticed
from vlm_jax.files import hold

FILE = "judgements.jsonl"


class CachedJudge:
    """Asks another judge for what the folder lacks.

    Args:
        judge: Who is asked.
        folder: Made if need be; several judges and benchmarks may share one.

    Raises:
        InputError: The folder's file is broken anywhere but at its end.
    """

    def __init__(self, judge: Judge, folder: Path):
        self.identity, self.reads_prompts = judge.identity, judge.reads_prompts
        self._judge, self._path = judge, folder / FILE
        self._known = _read(self._path)

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        rows = [request_row(self.identity, request) for request in requests]
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row["key"], []).append(place)
        missing = [key for key in places if key not in self._known]
        found: dict[int, Judgement] = {}

        def tell(key: str, judgement: Judgement) -> None:
            for place in places[key]:
                found[place] = judgement
                finished(place, judgement)
                # The same request once more takes nothing.
                judgement = dataclasses.replace(judgement, prompt_tokens=0, completion_tokens=0, cached=True)

        def keep(number: int, judgement: Judgement) -> None:
            key = missing[number]
            # Nothing at all, a reply whose limit was spent on thinking say, is asked for again next time.
            if judgement.text.strip():
                _append(self._path, {**rows[places[key][0]], **_said(judgement)})
                self._known[key] = dataclasses.replace(judgement, cached=True)
            tell(key, judgement)

        for key in places.keys() - set(missing):
            tell(key, self._known[key])
        try:
            self._judge([requests[places[key][0]] for key in missing], keep)
        except InputError as error:
            said = f"{error.found}; {len(found)} of {len(rows)} judgements are kept in {self._path.parent}"
            raise InputError(said, error.expected, file=error.file, row=error.row) from None
        return [found[place] for place in range(len(rows))]


def request_row(identity: Mapping[str, str], request: JudgeRequest) -> dict[str, Any]:
    """What is stored of a request; ``key`` is a hash of all of it but the id, under which the same may be asked again.

    Raises:
        InputError: Its image cannot be read.
    """
    row = {"judge": dict(identity), **asked_of(request)}
    return {"key": sha256(row), "id": request.id, **row}


def asked_of(request: JudgeRequest) -> dict[str, Any]:
    """All that whichever judge is told; of the image its hash."""
    return {
        "messages": request.messages,
        "image": _image_sha256(request.image),
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }


def sha256(value: Any) -> str:
    """Of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def judgement_of(row: Row) -> Judgement:
    """The judgement in a stored row.

    Raises:
        InputError: It has no text.
    """
    values = row.values
    return Judgement(
        text=row.string("text"),
        model=row.text(values.get("model", ""), "model"),
        prompt_tokens=count_or_none(values.get("prompt_tokens")),
        completion_tokens=count_or_none(values.get("completion_tokens")),
        finish=text_or_none(values.get("finish")),
        cached=True,
    )


def _said(judgement: Judgement) -> dict[str, Any]:
    return {
        name: getattr(judgement, name) for name in ("text", "model", "prompt_tokens", "completion_tokens", "finish")
    }


def _read(path: Path) -> dict[str, Judgement]:
    if not path.exists():
        return {}
    _drop_cut_line(path)
    if not path.stat().st_size:
        return {}
    return {row.string("key"): judgement_of(row) for row in iter_rows(path)}


def _drop_cut_line(path: Path) -> None:
    """What a kill left of a line would spoil the next one."""
    with path.open("rb+") as file:
        hold(file)
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


def _append(path: Path, row: Mapping[str, Any]) -> None:
    # One write a line: a kill cuts the last line at most. Held, so that nobody takes half of it for such a cut.
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        hold(file)
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _image_sha256(image: Path | None) -> str | None:
    if image is None:
        return None
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"an image that cannot be read ({error.strerror})", "a file", file=str(image)) from None
