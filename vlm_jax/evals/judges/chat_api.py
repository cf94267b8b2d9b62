"""A judge behind a URL that speaks OpenAI's chat completions: OpenAI, Azure's and Google's compatible ends, vLLM,
llama.cpp, Ollama.

Time-outs, lost connections and HTTP 408, 409, 429 and 5xx are tried again by the ``openai`` library, with exponential
back-off and jitter or when ``Retry-After`` says; every other 4xx ends the run. A reply that cannot be used (cut off by
a gateway, an error under HTTP 200) is tried again here, since the library takes it for success.
"""

import asyncio
import base64
import json
import mimetypes
import os
import random
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from vlm_jax.errors import InputError
from vlm_jax.evals.judges.completions import read_completion
from vlm_jax.evals.judges.interface import Finished, Judgement, JudgeRequest, unnoticed

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # Seconds, as the library has them.
_AGAIN = "a judge that answers; the same command asks only for what is missing"


class ChatApiJudge:
    """Asks a chat completions API.

    Args:
        url: Base of the API, to which ``/chat/completions`` is added.
        model: Name of the model there.
        key_variable: Environment variable with the key; local servers mostly need none.
        concurrency: Requests on their way at one time.
        timeout: Seconds until a request is given up.
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
            max_retries=self._retries,
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
            content = await self._reply(client, body, request)
            try:
                return read_completion(json.loads(content))
            except ValueError as error:
                odd = str(error)
            if attempt < self._retries:
                pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.75, 1))
        raise InputError(f"{odd} from {self._whom(request)}", _AGAIN)

    async def _reply(self, client: Any, body: dict[str, Any], request: JudgeRequest) -> str:
        limit = self._limit
        limited = {} if request.max_tokens is None else {limit: request.max_tokens}
        try:
            reply = await client.chat.completions.with_raw_response.create(**body, **limited)
        except self._library.BadRequestError as error:
            if limited and limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"
                return await self._reply(client, body, request)
            raise self._failure(error, request) from None
        except self._library.APIError as error:
            raise self._failure(error, request) from None
        return self._without_key(reply.content.decode(errors="replace"))

    def _failure(self, error: Exception, request: JudgeRequest) -> InputError:
        whom, library = self._whom(request), self._library
        if isinstance(error, library.APITimeoutError):
            return InputError(f"no reply within {self._timeout:g} s from {whom}", _AGAIN)
        if isinstance(error, library.APIConnectionError):
            return InputError(f"no connection ({self._without_key(repr(error.__cause__))[:100]}) to {whom}", _AGAIN)
        status = getattr(error, "status_code", None)
        said = error.body.get("message") if isinstance(getattr(error, "body", None), dict) else None
        # First the key, then the rest: half a key is too much as well.
        said = self._without_key(str(said or error))[:300]
        found = f"HTTP {status} ({said}) from {whom}"
        if status in (401, 403):
            state = "is set, but to something else" if self._key else "is not set"
            return InputError(found, f"its key in the environment variable {self._key_variable}, which {state}")
        if status == 404:
            return InputError(found, "the base of its API (it mostly ends in /v1) and a model that it has")
        return InputError(found, "a request that it takes" if status in (400, 413, 422) else _AGAIN)

    def _whom(self, request: JudgeRequest) -> str:
        return f"the judge {self.identity['model']} at {self.identity['url']}, asked about {request.id}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


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
    try:
        content = request.image.read_bytes()
    except OSError as error:
        raise InputError(
            f"an image that cannot be read ({error.strerror})", "a file", file=str(request.image)
        ) from None
    kind = mimetypes.guess_type(request.image.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
