"""An endpoint with OpenAI's interface `images/edits`, asked by the instruction; of a region it is sent the mask."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import EditError, RowError, UsageError, describe, missing_extra
from edittools.painters import PaintRequest
from edittools.painters.backends.editor import fitted

HELP = "an endpoint's images/edits (endpoint=MODEL; EDITTOOLS_API_BASE, OPENAI_API_KEY), by its instruction"
WEIGHTS = ""
_AT_ONCE = 8
_RETRIES = 5
_SECONDS = 600.0
_BASE = "https://api.openai.com/v1"


def load(weights: str, device: str = "cpu", dtype: str = "float32") -> Endpoint:
    """The key comes from the environment only. Raises UsageError without a model, EditError without a key."""
    if not weights:
        raise UsageError("--painter endpoint names no model", hint="--painter endpoint=MODEL")
    try:
        import openai
    except ImportError:
        raise missing_extra("openai", "vlm", "asking an endpoint") from None
    base = os.environ.get("EDITTOOLS_API_BASE") or os.environ.get("OPENAI_BASE_URL") or _BASE
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and base == _BASE:
        raise EditError(f"the key for {base} is missing", hint="set the environment variable OPENAI_API_KEY")
    client = openai.OpenAI(base_url=base, api_key=key or "none", max_retries=_RETRIES, timeout=_SECONDS)
    return Endpoint(client, weights)


class Endpoint:
    """Several requests are in flight at a time; what is refused for good costs its row. The service has no seed:
    another attempt is another draw by itself."""

    batch_size, multiple, area = _AT_ONCE, 16, 2**20
    wants = frozenset({"prompt", "instruction"})

    def __init__(self, client: Any, model: str) -> None:
        self.client, self.model = client, model
        self.pool = ThreadPoolExecutor(_AT_ONCE)

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        return list(self.pool.map(self._one, requests))

    def _one(self, request: PaintRequest) -> np.ndarray | RowError:
        import openai

        images = [_file(f"{k}.png", _png(one)) for k, one in enumerate((request.image, *request.references), 1)]
        more = {} if request.mask.all() else {"mask": _file("mask.png", _mask(request.mask))}
        try:
            said = self.client.images.edit(model=self.model, image=images, prompt=request.instruction, n=1, **more)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise EditError(f"--painter endpoint={self.model}: HTTP {error.status_code}: {_words(error)}") from None
        except openai.APIStatusError as error:
            return RowError("the endpoint does not edit it", f"HTTP {error.status_code}: {_words(error)}")
        except openai.APIConnectionError as error:
            raise EditError(f"--painter endpoint={self.model}: {describe(error.__cause__ or error)}") from None
        return _read(said, request)


def _read(said: Any, request: PaintRequest) -> np.ndarray | RowError:
    data = said.data[0].b64_json if getattr(said, "data", None) else None
    if not data:
        return RowError("the endpoint sent no image", "only base64 is read")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    except (ValueError, OSError) as error:
        return RowError("the endpoint sent no image", describe(error))
    return fitted(np.asarray(image), request)


def _words(error: Any) -> str:
    """What a refusal says, without what was sent."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)[:300]


def _file(name: str, data: bytes) -> tuple[str, bytes, str]:
    return name, data, "image/png"


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _mask(mask: np.ndarray) -> bytes:
    """Transparent where it is to be painted."""
    shown = np.zeros((*mask.shape, 4), np.uint8)
    shown[..., 3] = np.where(mask, 0, 255)
    return _png(shown)
