"""Any endpoint that speaks OpenAI's chat completions: OpenAI, Gemini's compatible address, vLLM, SGLang, ..."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from edittools.errors import EditError, missing_extra
from edittools.models.writers import Begin, Picture, Reply, Request, State, TransientError, UnreachableError

_OPENAI = "https://api.openai.com/v1"
_CONNECTING = 30.0  # seconds; less than the whole call may take, or it would not be known what took so long
_LONGEST_AFTER = 600.0  # seconds; a server that asks for more is asked again all the same
_SHORTEST_SECRET = 12  # characters; shorter keys are placeholders ("EMPTY") that may be part of an honest reply
_FILTERS = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation", "moderation_blocked")
_UNSUPPORTED = ("unsupported_parameter", "unsupported_value")
# Client errors that every other request of the run would meet too, whatever their status.
_HOPELESS = (*_UNSUPPORTED, "unknown_parameter", "insufficient_quota", "API_KEY_INVALID")
_OPTIONAL = ("temperature", "top_p", "seed")  # how a reply is drawn: reasoning models have their own way
# What the client tells about this machine. Nobody's business, and a good part of what a call costs here.
_TOLD = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
_TRANSIENT = (408, 409, 425, 429)


class _AskDifferently(Exception):
    """The endpoint does not take a parameter as it was sent; `instead` now says how to do without."""


class EndpointWriter:
    """Asks over HTTP. The key comes from the environment only and is never part of a message or a reply.

    An endpoint that does not know `response_format` or log-probabilities, or says that its model does not take
    `temperature`, `top_p` or `seed`, is asked without them from then on, and one that calls `max_tokens` otherwise by
    its own name: stderr says so once.
    """

    def __init__(self, base_url: str | None = None, *, key_from: str | None = None, timeout: float = 300.0) -> None:
        """`base_url` replaces EDITTOOLS_API_BASE, which replaces OPENAI_BASE_URL, which replaces OpenAI's own
        address. `key_from` names the environment variable that holds the key if it is not OPENAI_API_KEY.
        `timeout` is for a whole call, in seconds.

        Raises EditError where a package of the extra `vlm`, the key or a usable address is missing.
        """
        try:
            import aiohttp  # noqa: F401  (openai's faster transport needs it)
            import httpx2
            import openai
            import pybase64  # noqa: F401

            from edittools.models.writers import client
        except ImportError as error:
            raise missing_extra(error.name or "openai", "vlm", "asking an endpoint") from error
        address = base_url or os.environ.get("EDITTOOLS_API_BASE") or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        self.name = _public_address(address)
        variable = key_from or "OPENAI_API_KEY"
        self.variable, self.key = variable, os.environ.get(variable, "").strip()
        if not self.key and (key_from or self.name == _OPENAI):
            raise EditError(f"the key for {self.name} is missing", hint=f"set the environment variable {variable}")
        self.timeout = timeout
        self.instead: dict[str, str | None] = {}  # what a parameter is called here; None: it is not taken at all
        self.openai: Any = openai
        self.httpx: Any = httpx2
        self.sending = client
        self.client: Any = self._connect()  # now, because its certificates take a while, and all calls would wait

    def _connect(self) -> Any:
        # How many calls are in flight is the business of `ask_all`. A redirect would carry the key elsewhere.
        transport = self.sending.Client(
            timeout=self.httpx.Timeout(self.timeout, connect=min(_CONNECTING, self.timeout / 2)),
            limits=self.httpx.Limits(max_connections=1024, max_keepalive_connections=1024),
            follow_redirects=False,
        )
        client = self.openai.AsyncOpenAI(
            base_url=self.name,
            api_key=self.key or "none",
            default_headers={f"X-Stainless-{name}": self.openai.Omit() for name in _TOLD},
            http_client=transport,
        )
        # Unset, every call of the first wave has a thread find out what this machine is, which is not sent either.
        client._platform = "Unknown"
        return client

    def prepare(self, request: Request) -> None:
        vars(request)["messages"] = _messages(request)  # as long as the request waits

    async def ask(self, request: Request, begin: Begin) -> Reply:
        """One call. Raises TransientError, and EditError for what every other request would meet too."""
        while True:
            with contextlib.suppress(_AskDifferently):
                return await self._ask(request, begin)

    async def _ask(self, request: Request, begin: Begin) -> Reply:
        openai, instead = self.openai, self.instead
        self.client = self.client or self._connect()
        names = {name: instead.get(name, name) for name in request.parameters}
        sent = {new: request.parameters[name] for name, new in names.items() if new is not None}
        messages = vars(request).pop("messages", None) or _messages(request)
        request = dataclasses.replace(request, parameters=sent)
        try:
            async with asyncio.timeout(None) as limit:

                async def begin_this() -> None:
                    await begin()
                    if self.instead is not instead:  # another call learned meanwhile how to ask
                        raise _AskDifferently
                    # The client's own timeout bounds the time between two bytes only.
                    limit.reschedule(asyncio.get_running_loop().time() + self.timeout)

                self.sending.begin.set(begin_this)
                # Our own bytes in, the plain response out: the client's classes would take most of a core at 64 calls.
                answer = await self.client.post(
                    f"{self.name}/chat/completions",
                    cast_to=self.httpx.Response,
                    content=_body(request, messages),
                    options={  # the client copies the defaults of those that are not given, for every call
                        "headers": {f"X-Stainless-{name}": openai.Omit() for name in ("Retry-Count", "Read-Timeout")},
                        "max_retries": 0,
                        "timeout": self.client.timeout,
                        "idempotency_key": "",  # the client would draw one, and not send it
                    },
                )
        except openai.APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            facts = error.body if isinstance(error.body, dict) else {}
            return self._refusal(status, facts, error.response.text, headers, request)
        except (TimeoutError, openai.APIConnectionError) as error:
            cause = error.__cause__ or error
            # aiohttp's transport calls every connection that it cannot make a timeout, also a refused one
            if isinstance(cause, (self.httpx.ConnectTimeout, self.httpx.ConnectError)):
                raise UnreachableError(self._clean(str(cause))) from error
            if isinstance(error, (TimeoutError, openai.APITimeoutError)):
                raise TransientError(f"no reply within {self.timeout:g} s") from error
            raise TransientError(self._clean(f"{type(cause).__name__}: {cause}")) from error
        return self._reply(answer.content.decode("utf-8", "replace"), request)

    async def close(self) -> None:
        """Close the connections; the next `ask` opens others, in whatever loop it runs."""
        if self.client is not None:
            client, self.client = self.client, None
            await client.close()

    def _reply(self, text: str, request: Request) -> Reply:
        """What a body with status 200 says."""
        try:
            body = json.loads(self._without_key(text))
        except ValueError as error:
            raise TransientError(self._clean(f"the reply is not JSON: {text}")) from error
        if not isinstance(body, dict):
            raise TransientError(self._clean(f"the reply is not a JSON object: {text}"))
        if isinstance(body.get("error"), dict) and not body.get("choices"):  # how some gateways report errors
            code = body["error"].get("code")
            status = code if isinstance(code, int) else 500
            return self._refusal(status, body["error"], str(body["error"].get("message")), {}, request)
        try:
            choice = body["choices"][0]
            message = choice["message"]
            usage = body.get("usage") or {}
            finish = str(choice.get("finish_reason"))
            written = message.get("content")
            if isinstance(written, list):
                written = "".join(part.get("text") or "" for part in written)
            if written:  # JSON can escape half of a surrogate pair, which no file can hold
                written = written.encode("utf-8", "replace").decode()
            refusal = message.get("refusal")
            facts: dict[str, Any] = {
                "model": body.get("model"),
                "prompt_tokens": usage.get("prompt_tokens"),
                "completion_tokens": usage.get("completion_tokens"),
                "logprobs": _logprobs(choice.get("logprobs")),
            }
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise TransientError(self._clean(f"the reply has no choices with a message: {text}")) from error
        state: State = "ok"
        if finish.lower().startswith("content_filter"):
            state, written, problem = "filtered", None, f"finish_reason {finish}"
        elif refusal:
            state, written, problem = "refused", str(refusal), None
        elif not written:
            state, written, problem = "failed", None, f"empty reply, finish_reason {finish}"
        else:
            problem = None
        return Reply(state, written, problem, **facts)

    def _refusal(
        self, status: int, facts: dict[str, Any], text: str, headers: Mapping[str, str], request: Request
    ) -> Reply:
        """What an error status says: a Reply if it is about this request, raised otherwise."""
        inner = facts.get("error") if isinstance(facts.get("error"), dict) else facts
        assert isinstance(inner, dict)
        message = self._clean(f"HTTP {status}: {inner.get('message') or text}")
        codes = {str(inner.get("code")), str(inner.get("type"))}
        if isinstance(inner.get("innererror"), dict):
            codes.add(str(inner["innererror"].get("code")))
        if codes & set(_FILTERS):
            return Reply("filtered", error=message)
        if status in (400, 403, 422):  # 403: OpenAI's, for log-probabilities of a model that keeps them to itself
            complaint = f"{inner.get('param')} {inner.get('message') or text}"
            unsupported = str(inner.get("param")) if codes & set(_UNSUPPORTED) else None
            self._adapt(request, message, complaint, unsupported)
        if codes & set(_HOPELESS) or "API_KEY_INVALID" in text or "API key not valid" in text:
            raise EditError(f"{self.name}: {message}")
        if status in _TRANSIENT or status >= 500:
            raise TransientError(message, _after(headers))
        if status in (401, 403):  # the body of a 401 may quote the key
            raise EditError(
                f"{self.name} does not accept the key (HTTP {status})",
                hint=f"the key is read from the environment variable {self.variable}",
            )
        if status == 404:
            raise EditError(f"{self.name} has no model `{request.model}` (HTTP 404), or is not the endpoint's address")
        if status in (400, 413, 415, 422):
            return Reply("failed", error=message)
        raise EditError(f"{self.name}: {message}")

    def _adapt(self, request: Request, message: str, text: str, unsupported: str | None) -> None:
        """Raises _AskDifferently where `text` complains of a parameter that was sent and can be left out or renamed.

        `unsupported` is the parameter that the endpoint says it does not take, or not with this value.
        """
        text = text.lower()
        changes: dict[str, str | None] = {}
        if "max_completion_tokens" in text:
            changes["max_tokens"] = "max_completion_tokens"
        if "response_format" in text:
            changes["response_format"] = None
        if "logprobs" in text:  # the written tokens' own would pass for a distribution
            changes["logprobs"] = changes["top_logprobs"] = None
        if unsupported in _OPTIONAL:
            changes[unsupported] = None
        changes = {name: new for name, new in changes.items() if name in request.parameters}
        if not changes:
            return
        if changes.keys() - self.instead.keys():  # not the same answer to another call in flight
            self.instead = self.instead | changes
            fates = (f"`{old}` " + (f"becomes `{new}`" if new else "is left out") for old, new in changes.items())
            said = ", ".join(fates)
            print(f"{self.name}: from now on {said} ({message})", file=sys.stderr, flush=True)
        raise _AskDifferently

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if len(self.key) >= _SHORTEST_SECRET else text

    def _clean(self, text: str) -> str:
        """One line of at most 300 characters without the key."""
        if self.key:
            text = text.replace(self.key, "[key]")
        return " ".join(text.split())[:300]


def _public_address(address: str) -> str:
    """The address as it may be recorded. Raises EditError, which does not repeat what may be a secret."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EditError("the endpoint's address is not an http:// or https:// URL")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EditError("the endpoint's address holds a user, a password or a query; keys come from the environment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")


def _body(request: Request, messages: list[bytes]) -> bytes:
    """The request as JSON."""
    rest = json.dumps({"model": request.model, **request.parameters}).encode()
    return b"".join((rest[:-1], b',"messages":', *messages, b"}"))


def _messages(request: Request) -> list[bytes]:
    """The message as JSON, in pieces. Pictures are as they are: a JSON encoder looks at every one of their letters."""
    from pybase64 import b64encode  # many times as fast as Python's own

    pieces = [b'[{"role":"user","content":[']
    for number, part in enumerate(request.parts):
        pieces.append(b"," if number else b"")
        if isinstance(part, Picture):
            label = json.dumps(f"data:{part.mime};base64,").encode()[:-1]
            pieces += [b'{"type":"image_url","image_url":{"url":', label, b64encode(part.data), b'"']
            pieces.append(b"}}" if part.detail is None else f',"detail":{json.dumps(part.detail)}}}}}'.encode())
        else:
            pieces.append(json.dumps({"type": "text", "text": part}).encode())
    pieces.append(b"]}]")
    return pieces


def _logprobs(found: Any) -> list[list[tuple[str, float]]] | None:
    if not found or not found.get("content"):
        return None
    steps = []
    for step in found["content"]:
        written = (step["token"], step["logprob"])
        others = [(other["token"], other["logprob"]) for other in step.get("top_logprobs") or []]
        steps.append([written, *(other for other in others if other[0] != written[0])])
    return steps


def _after(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds from now: a number, or a date."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_AFTER) if math.isfinite(seconds) else None
