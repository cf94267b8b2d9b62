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
from typing import IO, Any

from vlm_jax.data.rows import Row, row_of
from vlm_jax.errors import InputError
from vlm_jax.evals.judges.completions import count_or_none, text_or_none
from vlm_jax.evals.judges.interface import Finished, Judge, Judgement, JudgeRequest, unnoticed
from vlm_jax.files import decode, file_sha256, hold

FILE = "judgements.jsonl"


class CachedJudge:
    """Asks another judge for what the folder lacks.

    Args:
        judge: Who is asked.
        folder: Made if need be; several judges and benchmarks may share one, also at the same time: of two judgements
            of one thing the first stands.

    Raises:
        InputError: The folder's file is broken anywhere but at its end.
    """

    def __init__(self, judge: Judge, folder: Path):
        self.identity, self.reads_prompts = judge.identity, judge.reads_prompts
        self._judge, self._store = judge, _Store(folder / FILE)

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        rows = [request_row(self.identity, request) for request in requests]
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row["key"], []).append(place)
        known = {key: self._store.known[key] for key in places if key in self._store.known}
        missing = [key for key in places if key not in known]
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
            said = self._store.add(rows[places[key][0]], judgement) if judgement.text.strip() else judgement
            tell(key, said)

        for key, judgement in known.items():
            tell(key, judgement)
        try:
            self._judge([requests[places[key][0]] for key in missing], keep)
        except InputError as error:
            kept = sum(row["key"] in self._store.known for row in rows)
            said = f"{error.found}; {kept} of {len(rows)} judgements are kept in {self._store.path.parent}"
            raise InputError(said, error.expected, file=error.file, row=error.row) from None
        return [found[place] for place in range(len(rows))]


class _Store:
    """The file, which others may be writing to as well; ``known`` holds what of it has been read, by key."""

    def __init__(self, path: Path):
        self.path, self.known = path, dict[str, Judgement]()
        self._end = self._rows = 0
        if path.exists():
            with path.open("rb+", buffering=0) as file:
                hold(file)
                self._catch_up(file)

    def add(self, asked: Mapping[str, Any], judgement: Judgement) -> Judgement:
        """Append a judgement; the one that stands, which is somebody else's if that was there first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as file:
            hold(file)
            self._catch_up(file)
            if (first := self.known.get(asked["key"])) is None:
                line = json.dumps({**asked, **_said(judgement)}, ensure_ascii=False) + "\n"
                self._write(file, line.encode())
                self.known[asked["key"]] = dataclasses.replace(judgement, cached=True)
                return judgement
        # Paid for all the same.
        tokens = {"prompt_tokens": judgement.prompt_tokens, "completion_tokens": judgement.completion_tokens}
        return dataclasses.replace(first, **tokens, cached=False)

    def _catch_up(self, file: IO[bytes]) -> None:
        file.seek(self._end)
        *lines, cut = file.read().split(b"\n")
        if cut:
            # What a kill left of a line would spoil the next one. Nobody is writing it: the file is held.
            file.truncate(self._end + sum(len(line) + 1 for line in lines))
        for line in lines:
            # Whoever looked at the file in an editor may have left a mark at its start, and empty lines.
            text = decode(line, self.path, self._end).removeprefix("\ufeff")
            self._rows, self._end = self._rows + 1, self._end + len(line) + 1
            if text.strip():
                row = row_of(text, str(self.path), self._rows)
                self.known.setdefault(row.string("key"), judgement_of(row))

    def _write(self, file: IO[bytes], line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            # Half a line of a full disk would spoil the next one too.
            file.truncate(self._end)
            error.filename = str(self.path)
            raise
        self._rows, self._end = self._rows + 1, self._end + len(line)


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
        "image": None if request.image is None else file_sha256(request.image).hex(),
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
