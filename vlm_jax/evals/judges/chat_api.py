"""A judge behind a URL that speaks OpenAI's chat completions: OpenAI, Azure's and Google's compatible ends, vLLM,
llama.cpp, Ollama.

Time-outs, lost connections, HTTP 408, 409, 429 and 5xx, and replies that cannot be used (cut off by a gateway, an error
under HTTP 200) are tried again, with exponential back-off and jitter or when ``Retry-After`` says; every other 4xx ends
the run. Not by the ``openai`` library, which takes such replies for success and whose time-out is one of silence: a
server that sends a byte now and then would keep it for ever.
"""

import asyncio
import base64
import io
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from vlm_jax.errors import InputError
from vlm_jax.evals.judges.completions import read_completion
from vlm_jax.evals.judges.interface import Finished, Judgement, JudgeRequest, unnoticed

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # Seconds, as the library has them.
_LONGEST_WANTED = 60.0  # That a server may ask for; also the library's.
_BASE = "chat completions: is the URL the API's base (it mostly ends in /v1)?"
_AGAIN = "a judge that answers; the same command asks only for what is missing"


class ChatApiJudge:
    """Asks a chat completions API.

    Args:
        url: Base of the API, to which ``/chat/completions`` is added.
        model: Name of the model there.
        key_variable: Environment variable with the key; local servers mostly need none.
        concurrency: Requests on their way at one time.
        timeout: Seconds until a request is given up, its whole reply included.
        retries: Tries after the first one.

    Raises:
        InputError: The library is missing, the URL is none that may be written down, or the key is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
    ):
        self._library = _library()
        self.identity: Mapping[str, str] = {"kind": "api", "url": _plain_url(url), "model": model}
        self.reads_prompts = True
        self._key_variable, self._key = key_variable, _key(key_variable)
        self._concurrency, self._timeout, self._retries = concurrency, float(timeout), retries
        # Older servers know the first name only, OpenAI's reasoning models the second only.
        self._limit = "max_tokens"

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        return asyncio.run(self._all(requests, finished)) if requests else []

    async def _all(self, requests: Sequence[JudgeRequest], finished: Finished) -> list[Judgement]:
        made: dict[int, Judgement] = {}
        failures: list[InputError] = []
        waiting = iter(enumerate(requests))

        async def work() -> None:
            while not failures and (following := next(waiting, None)):
                place, request = following
                try:
                    made[place] = await self._ask(client, request)
                except InputError as error:
                    failures.append(error)
                else:
                    finished(place, made[place])

        client = self._library.AsyncOpenAI(
            base_url=self.identity["url"],
            # Without one the library would look for a key by itself, and send another service's.
            api_key=self._key or "none",
            timeout=self._timeout,
            max_retries=0,
        )
        async with client:
            # Each goes on to the end of what it has begun: a reply on its way is paid for.
            await asyncio.gather(*(work() for _ in range(min(self._concurrency, len(requests)))))
        if failures:
            raise failures[0]
        return [made[place] for place in range(len(requests))]

    async def _ask(self, client: Any, request: JudgeRequest) -> Judgement:
        body = {
            "model": self.identity["model"],
            "messages": _messages(request),
            "temperature": request.temperature,
        }
        for attempt in range(self._retries + 1):
            wanted = None
            try:
                content = await self._reply(client, body, request)
                if not _is_html(content):
                    return read_completion(json.loads(content))
                failure = InputError(f"HTML from {self._whom(request)}", _BASE)
            except ValueError as error:
                failure = InputError(f"{error} from {self._whom(request)}", _AGAIN)
            except TimeoutError:
                failure = self._too_late(request)
            except self._library.APIError as error:
                failure = self._failure(error, request)
                if not _passes(error):
                    raise failure from None
                wanted = _wanted_pause(error)
            if attempt < self._retries:
                pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.75, 1)
                await asyncio.sleep(pause if wanted is None else wanted)
        raise failure

    async def _reply(self, client: Any, body: dict[str, Any], request: JudgeRequest) -> str:
        limit = self._limit
        limited = {} if request.max_tokens is None else {limit: request.max_tokens}
        try:
            # Of the library's own time-out every byte is a new beginning.
            async with asyncio.timeout(self._timeout):
                reply = await client.chat.completions.with_raw_response.create(**body, **limited)
        except self._library.BadRequestError as error:
            if limited and limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"
                return await self._reply(client, body, request)
            raise
        return self._without_key(reply.content.decode(errors="replace"))

    def _too_late(self, request: JudgeRequest) -> InputError:
        return InputError(f"no whole reply within {self._timeout:g} s from {self._whom(request)}", _AGAIN)

    def _failure(self, error: Exception, request: JudgeRequest) -> InputError:
        whom, library = self._whom(request), self._library
        if isinstance(error, library.APITimeoutError):
            return self._too_late(request)
        if isinstance(error, library.APIConnectionError):
            return InputError(f"no connection ({self._without_key(repr(error.__cause__))[:100]}) to {whom}", _AGAIN)
        status = getattr(error, "status_code", None)
        said = error.body.get("message") if isinstance(getattr(error, "body", None), dict) else None
        page = _is_html(getattr(getattr(error, "response", None), "text", ""))
        # First the key, then the rest: half a key is too much as well.
        said = self._without_key(str(said or error))[:300]
        said = "HTML" if page else said
        found = f"HTTP {status} ({said}) from {whom}"
        if status in (401, 403):
            state = "is set, but to something else" if self._key else "is not set"
            return InputError(found, f"its key in the environment variable {self._key_variable}, which {state}")
        if status == 404:
            return InputError(found, "the base of its API (it mostly ends in /v1) and a model that it has")
        if page and status < 500:
            return InputError(found, _BASE)
        return InputError(found, "a request that it takes" if status in (400, 413, 422) else _AGAIN)

    def _whom(self, request: JudgeRequest) -> str:
        return f"the judge {self.identity['model']} at {self.identity['url']}, asked about {request.id}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _is_html(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _passes(error: Exception) -> bool:
    """Whether a failure may be gone the next time; a server may say so itself."""
    status, headers = getattr(error, "status_code", None), _headers(error)
    if "x-should-retry" in headers:
        return headers["x-should-retry"] == "true"
    return status is None or status in (408, 409, 429) or status >= 500


def _wanted_pause(error: Exception) -> float | None:
    """Seconds that the server asks to wait, where these are no more than anybody would; None where it does not ask."""
    headers = _headers(error)
    wanted = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            pause = float(headers["retry-after-ms"]) / 1000
        elif wanted.endswith("GMT"):
            pause = parsedate_to_datetime(wanted).timestamp() - time.time()
        else:
            pause = float(wanted)
    except ValueError:
        return None
    return pause if 0 <= pause <= _LONGEST_WANTED else None


def _headers(error: Exception) -> Mapping[str, str]:
    return getattr(getattr(error, "response", None), "headers", {})


def _library() -> ModuleType:
    try:
        import openai
    except ImportError:
        raise InputError(
            "no openai library, which a judge behind a URL needs", "pip install 'vlm-jax[judge]'"
        ) from None
    return openai


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"characters in {variable} that no HTTP header can hold", "the API's key")
    return key


def without_password(url: str) -> str:
    """A URL, or what was meant for one, as it may be shown."""
    return re.sub(r"\?.*", "?***", re.sub(r"[^/]*@", "***@", url))


def _plain_url(url: str) -> str:
    wrong = InputError(f"the URL {without_password(url)!r}", "http://HOST/... or https://HOST/...")
    try:
        parts = urlsplit(url)
        # Looked at, since only that says whether it is a number.
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if not known:
        raise wrong
    if parts.username or parts.password or parts.query:
        raise InputError("a password or a query in the judge's URL", "a bare URL; the key stands in the environment")
    return url.rstrip("/")


def _messages(request: JudgeRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = list(request.messages)
    if request.image is not None:
        shown = {"type": "image_url", "image_url": {"url": _data_url(request)}}
        messages[-1] = {"role": "user", "content": [shown, {"type": "text", "text": request.user}]}
    return messages


def _data_url(request: JudgeRequest) -> str:
    """The file as it is, once it is known to be an image: names come from files of questions, and what is sent is
    somebody else's."""
    from PIL import Image

    from vlm_jax.data.images import load_image

    try:
        content = request.image.read_bytes()
    except OSError as error:
        raise InputError(
            f"an image that cannot be read ({error.strerror})", "a file", file=str(request.image)
        ) from None
    try:
        load_image(content)
    except InputError as error:
        raise error.at(str(request.image)) from None
    with Image.open(io.BytesIO(content)) as image:
        kind = Image.MIME.get(image.format, "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
