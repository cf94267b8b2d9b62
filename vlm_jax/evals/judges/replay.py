"""Judgements that were made before, by us or by a benchmark's own script."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlm_jax.data.rows import Row, read_rows
from vlm_jax.data.tables import is_table, iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import row_id
from vlm_jax.evals.judges.cache import asked_of, judgement_of, sha256
from vlm_jax.evals.judges.completions import read_completion
from vlm_jax.evals.judges.interface import Finished, Judgement, JudgeRequest, unnoticed


class ReplayJudge:
    """Repeats a file's judgements.

        ours            ``judgements.jsonl``, see ``cache.py``: found by what the judge was told
        completions     chat completions in the order of the questions (MMHal-Bench's saved evaluations)
        reviews         ``{"question_id", "content" or "tuple"}`` (LLaVA-Bench): found by id; a pair of scores stands in
                        for a text that was not kept
        scores          ``{"question_id" or "index", "score"}``, with a ``gpt4_score`` of the reference's answer beside
                        it where that was scored too (VLMEvalKit's judged tables): found by id, and the same question

    Ours alone say what they were told (``reads_prompts``); nothing tells that others are of another model's answers.

    Args:
        path: JSON lines, a JSON list or a table.

    Raises:
        InputError: The file is none of these, or judges one thing in two ways.
    """

    def __init__(self, path: Path):
        rows = list(iter_table(path)) if is_table(path) else read_rows(path)
        self.identity: Mapping[str, str] = {"kind": "replay", "file": path.name}
        self.reads_prompts = "messages" in rows[0].values
        self._path = path
        self._in_order: list[Judgement] = []
        self._by_key: dict[str, Judgement] = {}
        self._questions: dict[str, str] = {}
        self._key_of = _asked_sha256 if self.reads_prompts else _id_of
        if "choices" in rows[0].values:
            self._in_order = [_completion(row) for row in rows]
        else:
            self._by_key = _distinct(rows, _ours if self.reads_prompts else _review)
            if "score" in rows[0].values:
                self._questions = {_review_id(row): row.string("question") for row in rows if "question" in row.values}

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        judgements = self._numbered(requests) if self._in_order else [self._find(request) for request in requests]
        for place, judgement in enumerate(judgements):
            finished(place, judgement)
        return judgements

    def _numbered(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        if len(self._in_order) != len(requests):
            found = f"{len(self._in_order)} chat completions"
            expected = f"one for each of the {len(requests)} questions, in their order"
            raise InputError(found, expected, file=str(self._path))
        return self._in_order

    def _find(self, request: JudgeRequest) -> Judgement:
        judgement = self._by_key.get(self._key_of(request))
        if judgement is None:
            expected = "judgements of these answers, made with the same questions, wording and options"
            raise InputError(f"no judgement of {request.id}", expected, file=str(self._path))
        if (question := self._questions.get(request.id, "")) not in request.user:
            found = f"a judgement of {request.id} about {question[:80]!r}"
            raise InputError(found, "judgements of these questions, under their ids", file=str(self._path))
        return judgement


def _asked_sha256(request: JudgeRequest) -> str:
    return sha256(asked_of(request))


def _id_of(request: JudgeRequest) -> str:
    return request.id


def _completion(row: Row) -> Judgement:
    try:
        return dataclasses.replace(read_completion(row.values), cached=True)
    except ValueError as error:
        raise row.wrong(str(error), "a chat completion") from None


def _ours(row: Row) -> tuple[str, Judgement]:
    asked = {name: row.require(name) for name in ("messages", "image", "temperature", "max_tokens")}
    return sha256(asked), judgement_of(row)


def _review(row: Row) -> tuple[str, Judgement]:
    if "content" in row.values:
        text = row.text(row.values["content"], "content")
    elif "score" in row.values:
        text = _scored(row)
    else:
        scores = row.require("tuple")
        if not isinstance(scores, list) or any(type(one) not in (int, float) for one in scores):
            raise row.wrong(f"tuple {scores!r:.40}", "a list of scores")
        # LLaVA's script writes a pair of -1 for a judgement that it could not read.
        text = "" if scores == [-1, -1] else " ".join(map(str, scores))
    return _review_id(row), Judgement(text, cached=True)


def _review_id(row: Row) -> str:
    return row_id(row, "index" if "index" in row.values and "question_id" not in row.values else "question_id")


def _scored(row: Row) -> str:
    """In the words that the benchmarks read: a rating, or the scores of the reference and of the model."""
    if "gpt4_score" not in row.values:
        return f"Rating: {_score(row, 'score'):g}"
    pair = _score(row, "gpt4_score"), _score(row, "score")
    # As in LLaVA's script, whose parser it is.
    return "" if pair == (-1, -1) else "{:g} {:g}".format(*pair)


def _score(row: Row, key: str) -> float:
    value = row.require(key)
    try:
        number = float(value) if isinstance(value, str) or type(value) in (int, float) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise row.wrong(f"{key} {value!r:.40}", f"{key} as a number")
    return number


def _distinct(rows: Sequence[Row], read: Callable[[Row], tuple[str, Judgement]]) -> dict[str, Judgement]:
    found: dict[str, Judgement] = {}
    for row in rows:
        key, judgement = read(row)
        if found.setdefault(key, judgement).text != judgement.text:
            raise row.wrong("another judgement of what was judged before", "one judge, one judgement each")
    return found
