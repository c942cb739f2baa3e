"""A scripted client for tests and documentation examples: no model, and everything it makes says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edittools.vlm import Begin, Reply, Request

HELP = "for tests, repeats what it is asked"
WHAT = "a test"


def load(model: str) -> EchoClient:
    return EchoClient()


class EchoClient:
    """Answers with `answer`: a fixed text, or a function of the request (text, a whole Reply, or an exception).

    Without one it repeats the request's texts. `Reply.model` is always "echo", so that no stored reply, score or
    report can be taken for a model's.
    """

    name = "echo"

    def __init__(self, answer: str | Callable[[Request], str | Reply] | None = None) -> None:
        self.answer = answer
        self.asked = 0  # requests, repeated ones too

    def draws(self, request: Request) -> bool:
        return True

    def prepare(self, request: Request) -> None:
        pass

    async def ask(self, request: Request, begin: Begin) -> Reply:
        await begin()
        self.asked += 1
        if self.answer is None:
            made: str | Reply = "[echo] " + " ".join(part for part in request.parts if isinstance(part, str))
        elif callable(self.answer):
            made = self.answer(request)
        else:
            made = self.answer
        return replace(made if isinstance(made, Reply) else Reply("ok", made), model="echo")

    async def close(self) -> None:
        pass
