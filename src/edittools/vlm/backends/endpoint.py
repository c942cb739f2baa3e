"""Any endpoint that speaks OpenAI's chat completions or Responses API: OpenAI, Azure, Gemini's compatible address,
vLLM, SGLang, ...
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from edittools.errors import EditError, missing_extra
from edittools.vlm import CUT_OFF, Begin, EncodedImage, Reply, Request, TransientError, UnreachableError
from edittools.vlm.refusals import MOST_TOKENS, Refusal, after
from edittools.vlm.replies import Said, read_json, read_reply

HELP = "any OpenAI-compatible one"
WHAT = "an endpoint"
TAKES = ("api_base", "api_key_env", "timeout")
HINTS = {"image_pixels": "an endpoint scales images as its server is set up to"}

_OPENAI = "https://api.openai.com/v1"
_CONNECTING = 30.0  # seconds; less than the whole call may take, or it would not be known what took so long
_SHORTEST_SECRET = 12  # characters; shorter keys are placeholders ("EMPTY") that may be part of an honest reply
# What the client tells about this machine. Nobody's business, and a good part of what a call costs here.
_TOLD = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
# Why a model stopped, as the services call it. A reply that ended for a reason that is not here is no answer.
_ENDED = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "tool_calls",
          "function_call", "finish_reason_unspecified", "normal")  # fmt: skip
_CUT = ("length", "max_tokens", "model_length", "max_output_tokens", "max_completion_tokens", "token_limit")
_FILTERED = ("content_filter", "content_filtered", "safety", "image_safety", "recitation", "image_recitation",
             "blocklist", "prohibited_content", "image_prohibited_content", "spii", "sensitive", "censored", "refusal",
             "content_blocked", "guardrail", "guardrail_intervened")  # fmt: skip
_LOOKED_THROUGH = 2000  # characters of a message
_KEYLIKE = re.compile(r"\S*\*{3,}\S*|\bsk-[\w-]{8,}")  # how services quote a key

Interface = Literal["chat/completions", "responses"]
Manner = tuple[dict[str, str | None], bool, Interface]


def load(model: str, api_base: str | None = None, **told: Any) -> EndpointClient:
    return EndpointClient(api_base, **told)


class _AskDifferently(Exception):
    """The endpoint does not take the request as it was sent; `instead` or `interface` now says how to do without, or
    `request` is how it may take this one.
    """

    def __init__(self, request: Request | None = None) -> None:
        self.request = request


@dataclass(frozen=True)
class Address:
    """Where calls go. `name` is what is recorded: nothing of it is secret."""

    base: str  # without the interface
    version: str | None  # Azure's `api-version`
    interface: Interface

    @property
    def name(self) -> str:
        return self.base

    def of(self, interface: Interface) -> str:
        query = f"?{urlencode({'api-version': self.version})}" if self.version else ""
        return f"{self.base}/{interface}{query}"

    @property
    def account(self) -> str:
        """Where files and batches are: at Azure not with a deployment."""
        return re.sub(r"/deployments/[^/]+$", "", self.base) if self.version else self.base

    def batched(self, interface: Interface) -> str:
        """How a batch names the interface: by the version that the address ends in, or `/v1`; Azure by none."""
        ending = re.search(r"/v\d+$", self.base)
        return f"{'' if self.version else ending[0] if ending else '/v1'}/{interface}"


class EndpointClient:
    """Asks over HTTP. The key comes from the environment only and is never part of a message or a reply.

    A parameter that the endpoint's model does not take (by its code or its words) is left out from then on, or sent
    under the name that it wants; a model that only streams, or only has the Responses API, is asked that way. stderr
    says so once.
    """

    def __init__(self, base_url: str | None = None, *, api_key_env: str | None = None, timeout: float = 300.0) -> None:
        """`base_url` replaces EDITTOOLS_API_BASE, which replaces OPENAI_BASE_URL, which replaces OpenAI's own
        address; it may be the whole address of an interface (`.../chat/completions`, `.../responses`) and have Azure's
        `?api-version=`. `api_key_env` names the environment variable that holds the key if it is not OPENAI_API_KEY.
        `timeout` is for a whole call, in seconds.

        Raises EditError where a package of the extra `vlm`, the key or a usable address is missing.
        """
        try:
            import aiohttp  # openai's faster transport needs it
            import httpx2
            import openai
            import pybase64  # noqa: F401

            from edittools.vlm import http_client
        except ImportError as error:
            raise missing_extra(error.name or "openai", "vlm", "asking an endpoint") from error
        given = base_url or os.environ.get("EDITTOOLS_API_BASE") or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        self.address = read_address(given)
        self.name, self.interface = self.address.name, self.address.interface
        variable = api_key_env or "OPENAI_API_KEY"
        self.variable, self.key = variable, os.environ.get(variable, "").strip()
        if not self.key and (api_key_env or self.name == _OPENAI):
            raise EditError(f"the key for {self.name} is missing", hint=f"set the environment variable {variable}")
        self.timeout = timeout
        self.instead: dict[str, str | None] = {}  # what a parameter is called here; None: it is not taken at all
        self.said_crowded = False  # that a request for which that is too much goes without a bound of its own
        self.streams = False  # the model gives its replies as streams only
        self.unsent = ["X-Stainless-Retry-Count", "X-Stainless-Read-Timeout"]  # the client's headers, of every call
        if self.address.version:
            self.unsent.append("Authorization")
        self.openai: Any = openai
        self.httpx: Any = httpx2
        self.aiohttp: Any = aiohttp
        self.sending = http_client
        self.client: Any = self._connect()  # now, because its certificates take a while, and all calls would wait

    def _connect(self) -> Any:
        # How many calls are in flight is the business of `request_all`. A redirect would carry the key elsewhere.
        transport = self.sending.HttpClient(
            timeout=self.httpx.Timeout(self.timeout, connect=min(_CONNECTING, self.timeout / 2)),
            limits=self.httpx.Limits(max_connections=1024, max_keepalive_connections=1024),
            follow_redirects=False,
        )
        headers: dict[str, Any] = {f"X-Stainless-{name}": self.openai.Omit() for name in _TOLD}
        if self.address.version:  # Azure takes a key by its own header, and a token of Entra ID by the usual one
            headers["api-key"] = self.key
        client = self.openai.AsyncOpenAI(
            base_url=self.name,
            api_key=self.key or "none",
            default_headers=headers,
            http_client=transport,
        )
        # Unset, every call of the first wave has a thread find out what this machine is, which is not sent either.
        client._platform = "Unknown"
        return client

    def draws(self, request: Request) -> bool:
        return True  # servers do not write the same twice, at temperature 0 either

    def prepare(self, request: Request) -> None:
        form = self._form()
        vars(request)["messages"] = form, _messages(request, *form)  # as long as the request waits

    async def ask(self, request: Request, begin: Begin) -> Reply:
        """One call. Raises TransientError where it may be repeated."""
        while True:
            try:
                return await self._ask(request, begin)
            except _AskDifferently as otherwise:
                request = otherwise.request or request

    async def _ask(self, request: Request, begin: Begin) -> Reply:
        openai, manner = self.openai, self.manner()
        self.client = self.client or self._connect()
        body = self.body(request)
        sent = False
        try:
            async with asyncio.timeout(None) as limit:

                async def begin_this() -> None:
                    nonlocal sent
                    await begin()
                    if self.manner() != manner:  # another call learned meanwhile how to ask
                        raise _AskDifferently
                    sent = True
                    # The client's own timeout bounds the time between two bytes only.
                    limit.reschedule(asyncio.get_running_loop().time() + self.timeout)

                self.sending.begin.set(begin_this)
                # Our own bytes in, the plain response out: the client's classes would take most of a core at 64 calls.
                answer = await self.client.post(
                    self.address.of(self.interface),
                    cast_to=self.httpx.Response,
                    content=body,
                    options={  # the client copies the defaults of those that are not given, for every call
                        "headers": dict.fromkeys(self.unsent, openai.Omit()),
                        "max_retries": 0,
                        "timeout": self.client.timeout,
                        "idempotency_key": "",  # the client would draw one, and not send it
                    },
                )
        except openai.APIStatusError as error:
            response = error.response
            return self._refused(error.status_code, response.content, response.headers, request, manner)
        except (TimeoutError, openai.APIConnectionError, self.aiohttp.ClientError) as error:  # the last: not HTTP
            cause = error.__cause__ or error
            # aiohttp's transport calls every connection that it cannot make a timeout, also a refused one, and even one
            # that the server closed instead of answering
            closed = isinstance(cause.__cause__, self.aiohttp.ServerDisconnectedError)
            if isinstance(cause, (self.httpx.ConnectTimeout, self.httpx.ConnectError)) and not closed:
                raise UnreachableError(self.clean(str(cause))) from error
            paid = Reply("failed") if sent else None  # the model may have worked for it
            if isinstance(error, (TimeoutError, openai.APITimeoutError)) and not closed:
                raise TransientError(f"no reply within {self.timeout:g} s", paid=paid) from error
            raise TransientError(self.clean(f"{type(cause).__name__}: {cause}"), paid=paid) from error
        return self._read(answer.content, answer.headers, request, manner)

    async def close(self) -> None:
        """Close the connections; the next `ask` opens others, in whatever loop it runs."""
        if self.client is not None:
            client, self.client = self.client, None
            await client.close()

    # ---------------------------------------------------------------- what is sent

    def body(self, request: Request) -> bytes:
        """The request as JSON, with what the endpoint is known not to take left out."""
        form = self._form()
        made, messages = vars(request).pop("messages", (None, []))
        if made != form:
            messages = _messages(request, *form)
        return _body(request.model, self._parameters(request), messages, self.interface)

    @contextlib.contextmanager
    def sdk(self) -> Iterator[Any]:
        """openai's own client, for what is no call of a model: files and batches. Its errors become EditError."""
        openai = self.openai
        client = openai.OpenAI(
            base_url=self.address.account,
            api_key=self.key or "none",
            default_headers=self.client.default_headers if self.address.version else None,
            default_query={"api-version": self.address.version} if self.address.version else None,
            timeout=self.timeout,
        )
        try:
            with client:
                yield client
        except openai.APIStatusError as error:
            refusal = _refusal(error.status_code, self._without_key(error.response.content))
            hint = self._advice(error.status_code) if refusal.kind == "run" else None
            raise EditError(f"{self.name}: {self.clean(f'HTTP {error.status_code}: {refusal.words}')}", hint) from error
        except openai.APIError as error:
            raise EditError(f"{self.name}: {self.clean(str(error.__cause__ or error))}") from error

    def manner(self) -> Manner:
        """How requests are made at the moment."""
        return self.instead, self.streams, self.interface

    def _form(self) -> tuple[Interface, bool]:
        """The fields of an image that decide the message."""
        return self.interface, "detail" not in self.instead

    def _parameters(self, request: Request) -> dict[str, Any]:
        """The request's parameters as this endpoint takes them."""
        named = {
            new: value
            for name, value in request.parameters.items()
            if (new := self.instead.get(name, name)) is not None
        }
        if self.streams:
            named |= {"stream": True, "stream_options": {"include_usage": True}}
            if self.instead.get("stream_options", "") is None or self.interface == "responses":
                del named["stream_options"]
        return named

    # ---------------------------------------------------------------- what came back

    def read(self, status: int, data: bytes, request: Request, manner: Manner) -> Reply:
        """What a response says that came another way, to a request that was made in this `manner`. Raises
        TransientError where the call may be repeated.
        """
        try:
            if status == 200:
                return self._read(data, {}, request, manner)
            return self._refused(status, data, {}, request, manner)
        except _AskDifferently as otherwise:
            if otherwise.request is None:
                raise TransientError(f"HTTP {status}: the request has to be sent otherwise") from None
            words = _refusal(status, self._without_key(data)).words  # it would be sent as it is the next time, too
            return Reply("failed", error=self.clean(f"HTTP {status}: {words}"), **UNPAID)

    def _read(self, data: bytes, headers: Mapping[str, str], request: Request, manner: Manner) -> Reply:
        """Parse a body with status 200."""
        text = self._without_key(data)
        try:
            body = read_json(text)
        except ValueError:
            if re.match(rb"\s*<(!doctype|html|head|body)", data, re.IGNORECASE):
                return self._refused(200, data, headers, request, manner)
            raise TransientError(self.clean(f"the reply is not JSON: {text.decode('utf-8', 'replace')}")) from None
        if not isinstance(body, dict):
            raise TransientError(self.clean(f"the reply is not a JSON object: {text.decode('utf-8', 'replace')}"))
        said = read_reply(body)
        if not said.answered and not said.blocked and (body.get("error") or "base_resp" in body):
            refusal = Refusal(200, body, text.decode("utf-8", "replace"))  # how some gateways report errors
            code = refusal.error.get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            return self._refused(status, data, headers, request, manner, said)
        return self._reply(said, body)

    def _reply(self, said: Said, body: dict[str, Any]) -> Reply:
        facts: dict[str, Any] = {"model": said.model, "logprobs": said.logprobs}
        facts |= {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
        finish = said.finish
        if said.blocked or (finish or "").partition(":")[0] in _FILTERED:
            return Reply("filtered", None, said.blocked or f"finish_reason {finish}", **facts)
        if not said.answered:
            problem = f"the reply has no choices with a message: {json.dumps(body)}"
            raise TransientError(self.clean(problem), paid=_paid(said) if said.paid else None)
        if said.refusal:
            return Reply("refused", said.refusal, None, **facts)
        if finish in _CUT:
            return Reply("failed", said.text or None, f"{CUT_OFF}, finish_reason {finish}", **facts)
        if finish not in _ENDED:  # an error upstream, a stream that broke off, an abort
            choices = body.get("choices")
            error = (choices[0].get("error") if isinstance(choices, list) and choices else None) or body.get("error")
            refusal = Refusal(400, {"error": error}, "") if error else None
            problem = self.clean(f"finish_reason {finish}" + (f": {refusal.words}" if refusal else ""))
            if refusal is not None and refusal.kind == "filtered":  # that cut in while the model was writing
                return Reply("filtered", None, problem, **facts)
            raise TransientError(problem, paid=_paid(said))
        if not said.text or not said.text.strip():
            what = "a thought and no answer" if said.thought else "empty reply"
            return Reply("failed", None, f"{what}, finish_reason {finish}", **facts)
        return Reply("ok", said.text, None, **facts)

    def _refused(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str],
        request: Request,
        manner: Manner,
        said: Said | None = None,
    ) -> Reply:
        """What an answer that is no reply says: a Reply of another state, or raised where something can be done."""
        refusal = _refusal(status, self._without_key(data))
        message = self.clean(f"HTTP {status}: {refusal.words}")
        self._adapt(refusal, message, request, manner)
        if refusal.kind == "filtered":
            return Reply("filtered", error=message, **UNPAID)
        if refusal.kind == "transient":
            paid = _paid(said) if said is not None and said.paid else None
            raise TransientError(message, after(headers, refusal.error), paid=paid)
        advice = self._advice(status) if refusal.kind == "run" else None
        return Reply("failed", error=message, everywhere=advice, **UNPAID)

    def _advice(self, status: int) -> str:
        """A hint for an endpoint that refuses everything."""
        if status in (401, 403, 407):
            return f"the key is read from the environment variable {self.variable}"
        if status in (402, 429):
            return "the account's balance and limits"
        address = self.address.of(self.interface)
        return f"is the model's name right, and the address? Calls go to {address}"

    def _adapt(self, refusal: Refusal, message: str, request: Request, manner: Manner) -> None:
        """Raises _AskDifferently where the endpoint wants to be asked in another way than `manner`, and that is
        possible. Calls that were in flight together meet the same answer: what is known by then is not said again.
        """
        instead, streams, interface = manner
        if refusal.needs_responses and interface != "responses":
            if self.interface != "responses":
                self.interface = "responses"
                self._say("the Responses API is asked", message)
            raise _AskDifferently
        if refusal.needs_stream and not streams:
            if not self.streams:
                self.streams = True
                self._say("replies come as streams", message)
            raise _AskDifferently
        bounds = [name for name in request.parameters if name in MOST_TOKENS and instead.get(name, name) is not None]
        if refusal.crowded and bounds:
            if not self.said_crowded:
                self.said_crowded = True
                self._say(f"a request goes without `{bounds[0]}` where that does not fit behind its prompt", message)
            rest = {name: value for name, value in request.parameters.items() if name not in bounds}
            raise _AskDifferently(dataclasses.replace(request, parameters=rest))
        sent = {new: old for old in request.parameters if (new := instead.get(old, old)) is not None}
        if any(isinstance(part, EncodedImage) and part.detail for part in request.parts):
            sent["detail"] = "detail"
        if streams:
            sent["stream_options"] = "stream_options"
        changes = {
            sent[name]: new for name, new in refusal.declined(sent).items() if instead.get(sent[name], "") is not None
        }
        if not changes:
            return
        if changes.keys() - self.instead.keys() or any(self.instead[old] != new for old, new in changes.items()):
            self.instead = self.instead | changes
            fates = (
                f"`{old}` " + (f"becomes `{changes[old]}`" if changes[old] else "is left out")
                for old in sorted(changes)
            )
            self._say(", ".join(fates), message)
        raise _AskDifferently

    def _say(self, change: str, message: str) -> None:
        print(f"{self.name}: from now on {change} ({message})", file=sys.stderr, flush=True)

    def _without_key(self, data: bytes) -> bytes:
        return data.replace(self.key.encode(), b"[key]") if len(self.key) >= _SHORTEST_SECRET else data

    def clean(self, text: str) -> str:
        """One line of at most 300 characters without the key."""
        if self.key:
            text = text.replace(self.key, "[key]")
        # Some servers repeat the whole request, images and all: looked through for keys as far as it may be said.
        return _KEYLIKE.sub("[key]", " ".join(text[:_LOOKED_THROUGH].split()))[:300]


# Nobody is billed for a request that was turned away; where no tokens are told, they would be estimated.
UNPAID: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0}


def _refusal(status: int, data: bytes) -> Refusal:
    try:
        body = read_json(data)
    except ValueError:
        body = None
    return Refusal(status, body, data.decode("utf-8", "replace"))


def _paid(said: Said) -> Reply:
    """The tokens of a call that gave no reply."""
    return Reply("failed", prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens)


def read_address(address: str) -> Address:
    """The address of an endpoint. Raises EditError, which does not repeat what may be a secret."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EditError("the endpoint's address is not an http:// or https:// URL")
    query = dict(parse_qsl(parts.query))
    version = query.pop("api-version", None)
    if "@" in parts.netloc or query or (parts.query and version is None) or parts.fragment:
        raise EditError(
            "the endpoint's address holds a user, a password or a query other than api-version; keys come from the "
            "environment"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")
    interface: Interface = "chat/completions"
    for ending in ("chat/completions", "responses"):
        if base.endswith(f"/{ending}"):
            base, interface = base.removesuffix(f"/{ending}").rstrip("/"), ending  # type: ignore[assignment]
    return Address(base, version, interface)


_RESPONSES = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}


def _body(model: str, parameters: Mapping[str, Any], messages: list[bytes], interface: Interface) -> bytes:
    """The request as JSON."""
    named: dict[str, Any] = {"model": model, **parameters}
    if interface == "responses":
        named = {_RESPONSES.get(name, name): value for name, value in named.items() if name not in ("seed", "logprobs")}
        if named.get("top_logprobs"):
            named["include"] = ["message.output_text.logprobs"]
        if (wanted := named.pop("response_format", None)) is not None:
            schema = wanted.get("json_schema") if isinstance(wanted, dict) else None
            named["text"] = {"format": {"type": "json_schema", **schema} if isinstance(schema, dict) else wanted}
        named["store"] = False  # nobody else is to keep the images
    rest = json.dumps(named).encode()
    key = b"input" if interface == "responses" else b"messages"
    return b"".join((rest[:-1], b',"', key, b'":', *messages, b"}"))


def _messages(request: Request, interface: Interface = "chat/completions", detail: bool = True) -> list[bytes]:
    """The message as JSON, in pieces. Images are as they are: a JSON encoder looks at every one of their letters."""
    from pybase64 import b64encode  # many times as fast as Python's own

    chat = interface == "chat/completions"
    text, opening, closing = ("text", b'{"type":"image_url","image_url":{"url":', b"}}") if chat else (
        "input_text", b'{"type":"input_image","image_url":', b"}")  # fmt: skip
    pieces = [b'[{"role":"user","content":[']
    for number, part in enumerate(request.parts):
        pieces.append(b"," if number else b"")
        if isinstance(part, EncodedImage):
            label = json.dumps(f"data:{part.mime};base64,").encode()[:-1]
            pieces += [opening, label, b64encode(part.data), b'"']
            if detail and part.detail is not None:
                pieces.append(f',"detail":{json.dumps(part.detail)}'.encode())
            pieces.append(closing)
        else:
            pieces.append(json.dumps({"type": text, "text": part}).encode())
    pieces.append(b"]}]")
    return pieces
