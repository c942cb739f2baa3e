"""The HTTP client that openai's client sends with: many calls at a time, all to one address."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

import httpx2
import openai

from edittools.vlm import Begin

begin: ContextVar[Begin] = ContextVar("begin")  # of the call that the running task is about to send
_parsed = functools.lru_cache(httpx2.URL)  # every call of a run goes to the same address


class HttpClient(openai.DefaultAioHttpClient):
    """Sends a request when there is room for one more call in flight: until then others use that room."""

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """openai's headers are complete and its address is whole: there is nothing to merge."""
        headers, content, limits = options["headers"], options["content"], options["timeout"].as_dict()
        return httpx2.Request(method, _parsed(url), headers=headers, content=content, extensions={"timeout": limits})

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        await begin.get()()
        return await super().send(request, **options)
