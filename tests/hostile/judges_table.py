"""Judges behind a URL that say anything but a judgement, and files of judgements that fit nothing."""

from collections.abc import Callable, Iterator
from typing import Any

from chat_server import ChatServer, completion
from good_commands import Ground, lines
from hostile_case import Case, instead, refused, written

# How a server answers every request; requests are tried once more, after a moment.
_SAYS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "html": (b"<html>login</html>", ("judge",)),
    "nothing": (b"", ("judge",)),
    "a-list": (b"[]", ("judge",)),
    "no-choices": ({"body": {"model": "m", "choices": []}}, ("judge",)),
    "choice-without-message": ({"body": {**completion(), "choices": [{}]}}, ("judge",)),
    "content-null": (completion(None), ("judge",)),
    "content-a-number": (completion(5), ("judge",)),
    "empty": (completion(""), ("empty",)),
    "chatter": (completion("I like it."), ("read",)),
    "wrong-key": ({"status": 401, "body": {"error": {"message": "no \x1b[31mkey\n\nat all"}}}, ("401",)),
    "not-found": ({"status": 404, "body": b"<html>gone</html>"}, ("404",)),
    "broken": ({"status": 500, "body": b"oops"}, ("500",)),
    "hangs-up": ({"reset": True}, ("judge",)),
    "drips": ({"body": completion(), "drip": 0.05}, ("judge",)),
}
_SERVERS: list[ChatServer] = []


def _url(said: Any) -> Callable[[Ground], str]:
    """Of a server that lives as long as the tests."""

    def make(ground: Ground) -> str:
        server = ChatServer(lambda number, body: said)
        server.__enter__()
        _SERVERS.append(server)
        return server.url

    return make


def _asked(judge: Any, **more: Any) -> Any:
    options = {"judge_model": "m", "judge_retries": 0, "judge_timeout": 1, "judge_cache": lambda g: g.folder / "cache"}
    return instead("eval mmhal", judge=judge, **options, **more)


def _cases() -> Iterator[Case]:
    for name, (said, words) in _SAYS.items():
        yield Case("eval mmhal", f"judge-says-{name}", _asked(_url(said)), refused(*words, keeps=("cache",)), slow=True)


_REPLAYED: dict[str, Any] = {
    "one-too-few": lines([completion()]),
    "one-too-many": lines([completion()] * 3),
    "no-choices": lines([{"choices": []}] * 2),
    "choices-null": lines([{"choices": None}] * 2),
    "text-missing": lines([{"choices": [{"message": {}}]}] * 2),
    "of-no-kind": lines([{"id": 1}, {"id": 2}]),
    "score-nan-as-text": lines([{"question_id": one, "score": "nan"} for one in range(2)]),
    "score-a-list": lines([{"question_id": one, "score": [5]} for one in range(2)]),
    "one-twice": lines([{"question_id": 0, "score": 5}, {"question_id": 0, "score": 1}]),
}


def _replays() -> Iterator[Case]:
    for number, (name, content) in enumerate(_REPLAYED.items()):
        file = written("replayed.jsonl", content)
        line = instead("eval mmhal", judge=lambda ground, file=file: f"replay:{file(ground)}")
        yield Case("eval mmhal", f"replay-{name}", line, refused(""), slow=number % 3 != 0)


CASES = [
    *_cases(),
    *_replays(),
    Case(
        "eval mmhal",
        "judge-refuses",
        _asked("http://127.0.0.1:9/v1"),
        refused("127.0.0.1", keeps=("cache",)),
        slow=True,
    ),
    Case("eval mmhal", "judge-no-host", _asked("http://"), refused("http", keeps=("cache",)), slow=True),
    Case("eval mmhal", "judge-odd-port", _asked("http://127.0.0.1:99999/v1"), refused("", keeps=("cache",)), slow=True),
    Case(
        "eval mmhal",
        "judge-password",
        _asked("http://me:secret@127.0.0.1:9/v1"),
        refused("", keeps=("cache",)),
        slow=True,
    ),
    Case(
        "eval mmhal", "judge-checkpoint-missing", instead("eval mmhal", judge="checkpoint:nowhere"), refused("nowhere")
    ),
    Case(
        "eval judge-bias",
        "judge-refuses",
        instead(
            "eval judge-bias",
            reward=None,
            checkpoint=None,
            judge="http://127.0.0.1:9/v1",
            judge_model="m",
            judge_retries=0,
        ),
        refused("127.0.0.1", keeps=("out.judgements",)),
        slow=True,
    ),
]
