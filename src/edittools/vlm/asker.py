"""A VLM that is asked from ordinary code, in threads, without a store: one call for one answer."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from edittools.errors import EditError, UsageError
from edittools.vlm import EncodedImage, Request, TransientError, UnreachableError, VlmClient

_TRIES = 4


class Asker:
    """A client in a loop of its own, whatever threads ask."""

    def __init__(self, client: VlmClient, model: str, option: str) -> None:
        """`option` is what messages call it by."""
        self.client, self.model, self.option = client, model, option
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """What the model writes to each; "" where it writes nothing of use. Raises EditError where nobody answers."""

        async def every() -> list[str]:
            return list(await asyncio.gather(*map(self._one, requests)))

        return asyncio.run_coroutine_threadsafe(every(), self.loop).result()

    async def _one(self, request: Request) -> str:
        for attempt in range(_TRIES):
            try:
                reply = await self.client.ask(request, _at_once)
            except TransientError as error:
                if attempt < _TRIES - 1:
                    await asyncio.sleep(error.after or 2**attempt)
                elif isinstance(error, UnreachableError):
                    raise EditError(f"{self.option}: {error}") from error
            else:
                if reply.everywhere:
                    raise EditError(f"{self.option}: {reply.error}", hint=reply.everywhere)
                return (reply.text or "") if reply.state == "ok" else ""
        return ""


def load_asker(model: str, option: str, device: str = "cpu", dtype: str = "float32") -> Asker:
    """A folder is a model in this process, else it is an endpoint's, whose address is EDITTOOLS_API_BASE. Raises
    UsageError without a model."""
    from edittools.vlm.load import choose_backend, load_client

    if not model:
        raise UsageError(f"{option} names no model", hint=f"{option}=MODEL")
    return Asker(load_client(model, choose_backend(model), device=device, dtype=dtype), model, f"{option}={model}")


def encoded(pixels: np.ndarray, longest: int) -> EncodedImage:
    """An image as it is sent: PNG, its longer side at most `longest` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return EncodedImage(buffer.getvalue(), "image/png")


async def _at_once() -> None:
    return None
