"""Models that read images and a prompt and write text: what is asked, and what comes back.

One file per backend: an OpenAI-compatible endpoint (`endpoint`), a transformers checkpoint (`local`), and `echo`
for tests. A backend only has to answer one request; storing, retrying, rates and cost are the work of `requests`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

State = Literal["ok", "refused", "filtered", "failed", "unparsed"]

CUT_OFF = "the reply was cut off at its greatest length (--max-tokens)"


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image as it is sent: its bytes, what they are labelled as, such as `image/jpeg`, and how closely it
    is to be looked at (`detail` of the chat completions interface, such as `high`), where that is said.
    """

    data: bytes = field(repr=False)
    mime: str
    detail: str | None = None
    sha256: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # At once, and not when it is asked for: a cached property has one lock for the images of all threads.
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())

    @property
    def facts(self) -> list[str]:
        """The facts that decide what a model sees, for the key and the log."""
        return [self.mime, self.sha256, *([self.detail] if self.detail is not None else [])]


@dataclass(frozen=True)
class Request:
    """One user message: texts and images in the order in which they are sent, and the model's parameters.

    `parameters` are those of the chat completions interface (`max_tokens`, `temperature`, `top_p`, `seed`,
    `logprobs`, `top_logprobs`, `response_format`); what is not given is not sent. `attempt` tells repeated
    passes over the same question apart.
    """

    model: str
    parts: tuple[str | EncodedImage, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0

    @property
    def key(self) -> str:
        """SHA-256 of everything that decides the reply: what a stored reply is found by."""
        parts = [part if isinstance(part, str) else part.facts for part in self.parts]
        facts = [self.model, parts, self.parameters, self.attempt]
        text = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def prompt_hash(texts: Sequence[str]) -> str:
    """SHA-256 of a text that was sent; of several, of their hashes."""
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def json_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` for endpoints that hold a model to a JSON schema (put it into Request.parameters)."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


@dataclass(frozen=True)
class Reply:
    """What came back. `text` is what the model wrote; with the states `failed` and `unparsed`, what could not be used.

    `refused` is an answer that the model declined to give, `filtered` a content filter's block, `failed` everything
    that repeating did not cure (a reply that was cut off, too), `unparsed` an answer that does not say what was asked
    for; `error` then says what. `everywhere` is set where the cause is probably none of the request's, but a wrong key
    or address: what to look at. `logprobs` has, for each written token, tokens that were
    likely there and their natural log-probabilities, where the backend gives them: the written one first, then the
    others from the most likely on.
    """

    state: State
    text: str | None = None
    error: str | None = None
    model: str | None = None  # as the backend names the snapshot that answered
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: list[list[tuple[str, float]]] | None = None
    client: str | None = None  # the name of the VlmClient that was asked; `request_all` and the store fill it in
    everywhere: str | None = None


class TransientError(Exception):
    """The call may succeed if it is repeated (429, 5xx, a timeout, half a body); `after` is when, in seconds.

    `paid` is a reply that holds the tokens of a call which may have to be paid for all the same.
    """

    def __init__(self, message: str, after: float | None = None, *, paid: Reply | None = None) -> None:
        super().__init__(message)
        self.after, self.paid = after, paid


class UnreachableError(TransientError):
    """There was no connection to the backend, which may not have started yet."""


Begin = Callable[[], Awaitable[None]]


class VlmClient(Protocol):
    """A backend. `name` is what the history and every score row record (endpoint or folder, never a key)."""

    name: str

    def draws(self, request: Request) -> bool:
        """Whether another reply can come of this attempt than of those before it."""

    def prepare(self, request: Request) -> None:
        """Called in a thread before `ask`, for work that would hold up all other calls there."""

    async def ask(self, request: Request, begin: Begin) -> Reply:
        """Answer one request. Raises TransientError where the call should be repeated.

        `begin` is awaited when nothing is left to do but to send: it returns when there is room for one more call.
        A call that has begun may await it again, in vain.
        """

    async def close(self) -> None: ...
