"""Editing models as painters: a real pipeline class on tiny random weights, and an endpoint's images/edits."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import photo

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.editor import EditRequest, Work
from edittools.painters import PaintRequest, load_painter
from edittools.painters.backends.editor import EditorPainter


class Halving:
    """An editor that halves the brightness, at half the size, and refuses what it is told to refuse."""

    batch_size, at_once = 3, 1

    def __init__(self) -> None:
        self.work = Work()
        self.asked: list[EditRequest] = []

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        self.asked += requests
        return [RowError("no") if r.instruction == "no" else (r.sources[0] // 2)[::2, ::2] for r in requests]


def test_an_editor_follows_the_instruction_and_not_the_prompt() -> None:
    editor = Halving()
    painter = EditorPainter(editor)
    image, other, mask = np.full((32, 48, 3), 80, np.uint8), photo(1), np.ones((32, 48), bool)
    made, refused = painter.paint([
        PaintRequest(image, mask, prompt="a dog", instruction="Add a dog.", references=(other,), seed=7),
        PaintRequest(image, mask, instruction="no"),
    ])  # fmt: skip
    assert isinstance(made, np.ndarray) and made.shape == image.shape and (made == 40).all()
    assert isinstance(refused, RowError)
    one = editor.asked[0]
    assert (one.instruction, one.seed, one.height, one.width) == ("Add a dog.", 7, 32, 48)
    assert len(one.sources) == 2 and one.sources[1] is other
    with pytest.raises(EditError):
        load_painter("editor=/nowhere/at/all")


# ---------------------------------------------------------------- images/edits


class Service:
    """Inverts the first image; answers by the words of the prompt."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[bytes]]] = []
        self.keys: list[str | None] = []
        self.busy = 1
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/images/edits"
                body = self.rfile.read(int(self.headers["content-length"]))
                head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
                parts: dict[str, list[bytes]] = {}
                for part in email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body).iter_parts():
                    name = str(part.get_param("name", header="content-disposition")).removesuffix("[]")
                    parts.setdefault(name, []).append(part.get_payload(decode=True))
                service.asked.append(parts)
                service.keys.append(self.headers["authorization"])
                status, said = service.answer(parts)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *parts: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, parts: dict[str, list[bytes]]) -> tuple[int, dict[str, Any]]:
        prompt = parts["prompt"][0].decode()
        if prompt == "later" and self.busy:
            self.busy -= 1
            return 500, {"error": {"message": "busy"}}
        if prompt == "forbidden":
            return 400, {"error": {"message": "not that one", "code": "moderation_blocked"}}
        if prompt == "key":
            return 401, {"error": {"message": "wrong key"}}
        if prompt == "empty":
            return 200, {"created": 1, "data": []}
        image = 255 - np.asarray(Image.open(io.BytesIO(parts["image"][0])))
        buffer = io.BytesIO()
        Image.fromarray(image).resize((90, 60)).save(buffer, "PNG")
        return 200, {"created": 1, "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service()
    monkeypatch.setenv("EDITTOOLS_API_BASE", made.url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-1")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_endpoint_is_sent_images_instruction_and_mask(service: Service) -> None:
    painter = load_painter("endpoint=editor-1")
    image, mask = np.full((40, 60, 3), 50, np.uint8), np.zeros((40, 60), bool)
    mask[5:20, 10:30] = True
    whole, region, later, forbidden, empty = painter.paint([
        PaintRequest(image, np.ones_like(mask), instruction="invert it", references=(photo(2),)),
        PaintRequest(image, mask, instruction="invert this"),
        PaintRequest(image, mask, instruction="later"), PaintRequest(image, mask, instruction="forbidden"),
        PaintRequest(image, mask, instruction="empty"),
    ])  # fmt: skip
    for made in (whole, region, later):
        assert isinstance(made, np.ndarray) and made.shape == image.shape and (made == 205).all()
    assert isinstance(forbidden, RowError) and "not that one" in str(forbidden.value)
    assert isinstance(empty, RowError) and empty.reason == "the endpoint sent no image"
    asked = {one["prompt"][0].decode(): one for one in service.asked}
    assert len(asked["invert it"]["image"]) == 2 and "mask" not in asked["invert it"]
    assert (np.asarray(Image.open(io.BytesIO(asked["invert this"]["image"][0]))) == image).all()
    sent = np.asarray(Image.open(io.BytesIO(asked["invert this"]["mask"][0])))
    assert ((sent[..., 3] == 0) == mask).all(), "transparent where it is to be painted"
    assert asked["invert it"]["model"] == [b"editor-1"] and set(service.keys) == {"Bearer secret-1"}
    with pytest.raises(EditError, match="HTTP 401") as error:
        painter.paint([PaintRequest(image, mask, instruction="key")])
    assert "secret" not in str(error.value)


def test_what_an_endpoint_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDITTOOLS_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="names no model"):
        load_painter("endpoint")
    with pytest.raises(EditError, match="the key"):
        load_painter("endpoint=m")
