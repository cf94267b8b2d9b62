"""The judge behind a URL, against a server that misbehaves in every way that servers do."""

import json
import signal
import time
from email.utils import formatdate

import pytest
from chat_server import ChatServer, completion
from PIL import Image

from vlm_jax.errors import InputError
from vlm_jax.evals.judges import chat_api
from vlm_jax.evals.judges.cache import CachedJudge
from vlm_jax.evals.judges.chat_api import ChatApiJudge
from vlm_jax.evals.judges.interface import Judgement, JudgeRequest

KEY = "sk-very-secret"
QUICK = {"Retry-After-Ms": "1"}  # What the library waits where the server says so.


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(chat_api, "_FIRST_PAUSE", 0.01)


def asked(count=1, **changes):
    return [JudgeRequest(id=f"q{i}", user=f"Question {i}", **changes) for i in range(count)]


def judged(script, requests=None, **options):
    """(judgements, server)."""
    with ChatServer(script) as server:
        judge = ChatApiJudge(server.url, "judge", **{"retries": 2, "timeout": 5.0, **options})
        return judge(requests or asked()), server


def refused(script, requests=None, **options):
    """(message, server)."""
    with ChatServer(script) as server:
        judge = ChatApiJudge(server.url, "judge", **{"retries": 2, "timeout": 5.0, **options})
        with pytest.raises(InputError) as error:
            judge(requests or asked())
    return str(error.value), server


def test_what_is_asked_and_what_comes_back():
    requests = asked(1, system="Be fair.", temperature=0.2, max_tokens=77)
    (judgement,), server = judged(lambda number, body: completion("Rating: 4"), requests)
    assert server.bodies == [
        {
            "model": "judge",
            "messages": [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "Question 0"}],
            "temperature": 0.2,
            "max_tokens": 77,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert judgement == Judgement("Rating: 4", "judge-2", 100, 10, "stop")


def test_no_system_line_and_no_limit_are_left_out():
    _, server = judged(lambda number, body: completion())
    assert server.bodies[0].keys() == {"model", "messages", "temperature"}
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Question 0"}]


def test_the_image_goes_along(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    requests = asked(1, system="Be fair.", image=tmp_path / "a.png")
    _, server = judged(lambda number, body: completion(), requests)
    image, text = server.bodies[0]["messages"][1]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "Question 0"}
    gone = asked(1, image=tmp_path / "gone.png")
    message, server = refused(lambda number, body: completion(), gone)
    assert f"{tmp_path / 'gone.png'}: found an image that cannot be read" in message
    assert not server.bodies


def test_judgements_come_in_the_order_of_the_requests():
    def script(number, body):
        place = int(body["messages"][0]["content"].split()[1])
        return {"delay": 0 if place else 0.3, "body": completion(f"about {place}")}

    order = []
    with ChatServer(script) as server:
        judge = ChatApiJudge(server.url, "judge")
        judgements = judge(asked(6), lambda place, judgement: order.append(place))
    assert [one.text for one in judgements] == [f"about {i}" for i in range(6)]
    assert sorted(order) == list(range(6))
    assert order[-1] == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_at_a_time_than_allowed(concurrency):
    judgements, server = judged(lambda number, body: {"delay": 0.03}, asked(9), concurrency=concurrency)
    assert len(judgements) == len(server.bodies) == 9
    assert server.most == concurrency


@pytest.mark.parametrize("status", [500, 503, 408, 409, 429])
def test_a_passing_failure_is_tried_again(status):
    (judgement,), server = judged(
        lambda number, body: {"status": status, "headers": QUICK, "body": {}} if number < 2 else completion("at last")
    )
    assert judgement.text == "at last"
    assert len(server.bodies) == 3


def test_retries_end():
    message, server = refused(lambda number, body: {"status": 503, "headers": QUICK, "body": {}})
    assert len(server.bodies) == 3
    assert "found HTTP 503" in message
    assert "asked about q0" in message
    assert "the same command asks only for what is missing" in message


def test_the_server_says_when_to_come_again():
    def script(number, body):
        return {"status": 429, "headers": {"Retry-After": "1"}, "body": {}} if number == 0 else completion()

    _, server = judged(script)
    # Twice what the library would wait by itself.
    assert 0.99 < server.times[1] - server.times[0] < 3


def test_back_off_grows(monkeypatch):
    monkeypatch.setattr(chat_api, "_FIRST_PAUSE", 0.4)

    def script(number, body):
        return {"status": 500, "body": {}} if number < 2 else completion()

    _, server = judged(script)
    first, second = (after - before for before, after in zip(server.times, server.times[1:], strict=False))
    assert 0.3 <= first < second


@pytest.mark.parametrize("status", [400, 404, 422])
def test_other_mistakes_are_not_tried_again(status):
    error = {"error": {"message": "no such thing", "type": "invalid_request_error"}}
    message, server = refused(lambda number, body: {"status": status, "body": error})
    assert len(server.bodies) == 1
    assert f"found HTTP {status} (no such thing) from the judge judge at {server.url}" in message


def test_a_wrong_key_is_not_told(capfd):
    error = {"error": {"message": f"Incorrect API key provided: {KEY}."}}
    message, server = refused(lambda number, body: {"status": 401, "body": error})
    assert len(server.bodies) == 1
    assert "environment variable OPENAI_API_KEY" in message
    assert KEY not in message
    assert KEY not in "".join(capfd.readouterr())


def test_a_key_at_the_end_of_a_long_message_is_not_told_in_part():
    for said in ("x" * 290 + KEY, "x" * 190 + KEY):
        for script in ({"status": 400, "body": {"error": {"message": said}}}, {"body": {"error": said}}):
            message, _ = refused(lambda number, body, script=script: script, retries=0)
            assert KEY[:5] not in message


def test_keys_that_no_header_holds(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    _, server = judged(lambda number, body: completion())
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    for key in ("sk-\u2026", "sk-a\nb"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(InputError, match="characters in OPENAI_API_KEY that no HTTP header can hold"):
            ChatApiJudge("http://127.0.0.1:9/v1", "judge")


def test_another_variable_holds_the_key(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    _, server = judged(lambda number, body: completion(), key_variable="OTHER_KEY")
    assert server.headers[0]["Authorization"] == "Bearer sk-other"
    # Another service's key is not sent in its place.
    _, server = judged(lambda number, body: completion(), key_variable="UNSET_KEY")
    assert KEY not in json.dumps(server.headers)
    message, _ = refused(lambda number, body: {"status": 401, "body": {}}, key_variable="UNSET_KEY")
    assert "UNSET_KEY, which is not set" in message


def test_a_request_that_takes_too_long():
    (judgement,), server = judged(lambda number, body: {"delay": 0.7 if number == 0 else 0}, timeout=0.4)
    assert judgement.text == "Rating: 5"
    assert len(server.bodies) > 1
    message, server = refused(lambda number, body: {"delay": 0.5}, timeout=0.1, retries=0)
    assert "found no whole reply within 0.1 s from the judge" in message
    assert len(server.bodies) == 1


def test_a_server_that_drips():
    """Every byte comes in time, and the reply never."""
    start = time.monotonic()
    message, server = refused(lambda number, body: {"drip": 0.05}, timeout=0.3, retries=1)
    assert time.monotonic() - start < 5
    assert "found no whole reply within 0.3 s from the judge" in message
    assert len(server.bodies) == 2
    (judgement,), _ = judged(lambda number, body: {"drip": 0.05} if number == 0 else completion(), timeout=0.3)
    assert judgement.text == "Rating: 5"
    # A slow one has its time.
    (judgement,), server = judged(lambda number, body: {"drip": 0.001}, timeout=5.0)
    assert (judgement.text, len(server.bodies)) == ("Rating: 5", 1)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>Welcome</html>", b"\n\xef\xbb\xbf <html></html>"])
def test_html_is_named_as_such(page):
    message, server = refused(lambda number, body: page, retries=1)
    assert f"found HTML from the judge judge at {server.url}" in message
    assert "is the URL the API's base" in message
    assert len(server.bodies) == 2
    for status, bodies in ((405, 1), (404, 1), (502, 2)):
        message, server = refused(
            lambda number, body, status=status: {"status": status, "headers": QUICK, "body": page}, retries=1
        )
        assert f"found HTTP {status} (HTML) from the judge" in message
        assert ("base" in message) == (status < 500)
        assert len(server.bodies) == bodies


def test_a_server_that_says_whether_to_come_again():
    """A quota that is used up is no rush hour."""
    message, server = refused(lambda number, body: {"status": 429, "headers": {"X-Should-Retry": "false"}, "body": {}})
    assert "HTTP 429" in message
    assert len(server.bodies) == 1


def test_the_server_names_a_date():
    def script(number, body):
        date = formatdate(time.time() + 2, usegmt=True)
        return {"status": 429, "headers": {"Retry-After": date}, "body": {}} if number == 0 else completion()

    _, server = judged(script)
    # Dates are whole seconds.
    assert 0.9 < server.times[1] - server.times[0] < 5


def test_a_pause_that_nobody_would_make():
    def script(number, body):
        return {"status": 503, "headers": {"Retry-After": "86400"}, "body": {}} if number == 0 else completion()

    start = time.monotonic()
    judged(script)
    assert time.monotonic() - start < 5


def test_only_images_are_sent(tmp_path):
    for content in (b"root:x:0:0", b"", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "a.png").write_bytes(content)
        message, server = refused(lambda number, body: completion(), asked(1, image=tmp_path / "a.png"))
        assert f"{tmp_path / 'a.png'}: found an image that cannot be decoded" in message
        assert not server.bodies


def test_a_connection_that_breaks():
    (judgement,), server = judged(lambda number, body: {"reset": True} if number == 0 else completion())
    assert judgement.text == "Rating: 5"
    assert len(server.bodies) == 2
    message, _ = refused(lambda number, body: {"reset": True}, retries=0)
    assert "found no connection" in message


def test_nobody_is_there():
    with ChatServer(lambda number, body: completion()) as server:
        pass
    with pytest.raises(InputError, match="no connection"):
        ChatApiJudge(server.url, "judge", retries=0)(asked())


ODD = {
    "cut JSON": b'{"choices": [{"message": {"con',
    "a page": b"<html>502</html>",
    "nothing": b"",
    "a list": b"[]",
    "no choices": {"body": {"error": {"message": "overloaded"}}},
    "empty choices": {"body": completion(choices=[])},
    "odd choices": {"body": completion(choices=["x"])},
    "no message": {"body": completion(choices=[{"index": 0}])},
    "odd content": {"body": completion(choices=[{"message": {"content": 5}}])},
}


@pytest.mark.parametrize("kind", ODD)
def test_a_reply_that_is_none_is_tried_again(kind):
    (judgement,), server = judged(lambda number, body: ODD[kind] if number < 2 else completion("at last"))
    assert judgement.text == "at last"
    assert len(server.bodies) == 3
    message, server = refused(lambda number, body: ODD[kind])
    assert len(server.bodies) == 3
    assert f"from the judge judge at {server.url}, asked about q0" in message


def test_an_error_under_200_is_shown():
    message, _ = refused(lambda number, body: ODD["no choices"], retries=0)
    assert "overloaded" in message


def test_a_judge_that_declines_says_nothing():
    null = completion(
        choices=[{"message": {"content": None}, "finish_reason": "content_filter"}], usage=None, model=None
    )
    (judgement,), server = judged(lambda number, body: null)
    assert judgement == Judgement("", finish="content_filter")
    assert len(server.bodies) == 1


def test_half_a_surrogate_pair_becomes_something_that_files_hold():
    (judgement,), _ = judged(lambda number, body: json.dumps(completion("Rating: 5 \ud83d")).encode())
    assert judgement.text == "Rating: 5 ?"


def test_models_that_call_the_limit_by_another_name():
    def script(number, body):
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return {"status": 400, "body": {"error": {"message": said, "param": "max_tokens"}}}
        return completion()

    judgements, server = judged(script, asked(4, max_tokens=50), concurrency=1)
    assert len(judgements) == 4
    # Found out once.
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False, False, False]
    assert server.bodies[-1]["max_completion_tokens"] == 50


def test_a_failure_in_the_middle_keeps_what_is_finished(tmp_path):
    def fails(number, body):
        if body["messages"][0]["content"] == "Question 5":
            return {"status": 400, "body": {"error": {"message": "bad luck"}}}
        # The failure is known before the others are through.
        return {"delay": 0.2, "body": completion("whole")}

    with ChatServer(fails) as server:
        judge = CachedJudge(ChatApiJudge(server.url, "judge", concurrency=3), tmp_path)
        with pytest.raises(InputError, match=f"5 of 9 judgements are kept in {tmp_path}"):
            judge(asked(9))
        # Those on their way were waited for, no further ones begun.
        assert len(server.bodies) == 6
        server.script = lambda number, body: completion("later")
        again = CachedJudge(ChatApiJudge(server.url, "judge"), tmp_path)(asked(9))
        assert len(server.bodies) == 6 + 4
    assert [one.text for one in again] == ["whole"] * 5 + ["later"] * 4
    assert [one.cached for one in again] == [True] * 5 + [False] * 4
    kept = (tmp_path / "judgements.jsonl").read_text()
    assert KEY not in kept


def test_nothing_to_judge_asks_nobody():
    assert ChatApiJudge("http://127.0.0.1:9/v1", "judge")([]) == []


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "http://", "https:host", "http://[x/v1", "http://host:abc/v1", "http://a@ho\u2100st/v1"]
)
def test_a_url_that_is_none(url):
    with pytest.raises(InputError, match="expected http://HOST"):
        ChatApiJudge(url, "judge")


@pytest.mark.parametrize("url", ["https://me:sk-1@host/v1", "https://host/v1?key=sk-1"])
def test_a_key_in_the_url_is_refused_and_not_told(url):
    with pytest.raises(InputError, match="password or a query") as error:
        ChatApiJudge(url, "judge")
    assert "sk-1" not in str(error.value)


@pytest.mark.parametrize("url", ["htp://me:sk-1@host/v1", "me:sk-1@host", "ftp://host/v1?key=sk-1"])
def test_nor_is_one_in_what_is_no_url(url):
    with pytest.raises(InputError, match=r"the URL '.*\*\*\*") as error:
        ChatApiJudge(url, "judge")
    assert "sk-1" not in str(error.value)


@pytest.fixture
def interruptible():
    """A shell starts what runs in its background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_being_stopped_stops_at_once():
    """Whoever presses Ctrl-C does not wait for time-outs and pauses."""

    def stop(place, judgement):
        signal.raise_signal(signal.SIGINT)

    def script(number, body):
        return completion() if number == 0 else {"delay": 3.0}

    with ChatServer(script) as server:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ChatApiJudge(server.url, "judge", concurrency=2)(asked(4), stop)
        assert time.monotonic() - start < 2
