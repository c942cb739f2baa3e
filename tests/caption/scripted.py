"""Rows, and models that answer by a script, for tests of captions by models."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from conftest import image

from edittools.caption.config import CaptionConfig
from edittools.caption.model_stage import CutIsUnparsed, ModelCaptionStage
from edittools.caption.schemas import specimen
from edittools.record import COLUMNS
from edittools.stream.batch import Batch, Shard
from edittools.vlm import Reply, Request
from edittools.vlm.backends.echo import EchoClient
from edittools.vlm.requests import RequestPolicy, RequestStats, request_all
from edittools.vlm.store import ReplyStore

Answer = Callable[[Request], Any]


def reference(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "width": 40, "height": 32, "format": "jpeg"}


def row(number: int = 0, **given: Any) -> dict[str, Any]:
    """An edit row of two images; what is given replaces its columns."""
    return {
        "id": f"r{number}",
        "task": "color",
        "source": [reference(image(2 * number))],
        "target": reference(image(2 * number + 1)),
        "instruction": {"en": "Make the car red.", "zh": "把汽车变成红色。"},
    } | given


def batch_of(rows: list[dict[str, Any]], **columns: pa.DataType) -> Batch:
    types = {**COLUMNS, **columns}
    names = [name for name in types if any(name in one for one in rows)]
    arrays = [pa.array([one.get(name) for one in rows], types[name]) for name in names]
    return Batch(pa.record_batch(arrays, names=names), Shard(0, 1, "x"), last=True, seen=len(rows))


class Talk:
    """A run of the stage over rows, with a model that answers by `answer`: a JSON value, a text, or a Reply."""

    def __init__(self, folder: Path, answer: Answer, rows: list[dict[str, Any]] | Batch, **settings: Any) -> None:
        self.requests: list[Request] = []
        self.stats = RequestStats()
        batch = rows if isinstance(rows, Batch) else batch_of(rows)

        def reply(request: Request) -> str | Reply:
            self.requests.append(request)
            made = answer(request)
            return made if isinstance(made, str | Reply) else json.dumps(made, ensure_ascii=False)

        config = CaptionConfig(**{"model": "teller", **settings})
        self.writer = CutIsUnparsed(EchoClient(reply))
        store = ReplyStore(str(folder / "replies"))

        def ask(requests: Any, check: Any) -> Any:
            policy = RequestPolicy(repeats=0, concurrency=8)
            return request_all(requests, self.writer, store, policy, check=check, stats=self.stats)

        self.stage = ModelCaptionStage(config, ask)
        with contextlib.closing(store):
            batches = list(self.stage(iter([batch])))
        self.rows = [one for made in batches for one in made.rows.to_pylist()]
        self.rejects = [reject for made in batches for reject in made.rejects]

    @property
    def texts(self) -> list[str]:
        return [text_of(request) for request in self.requests]


def text_of(request: Request) -> str:
    return request.parts[-1] if isinstance(request.parts[-1], str) else ""


def schema_of(request: Request) -> dict[str, Any]:
    """The schema that a request holds its answer to."""
    return request.parameters["response_format"]["json_schema"]["schema"]


def smallest(request: Request) -> Any:
    """The smallest valid answer."""
    return in_language(specimen(schema_of(request)))


def in_language(value: Any) -> Any:
    """A specimen whose Chinese texts are Chinese."""
    if isinstance(value, dict):
        return {key: "文字" * 4 if key == "zh" else "some text in four words" if key == "en" else in_language(child)
                for key, child in value.items()}  # fmt: skip
    return [in_language(child) for child in value] if isinstance(value, list) else value


def task_of(text: str) -> list[str]:
    """The tasks of a common question."""
    return re.findall(r"^Task `([^`]+)`", text, re.MULTILINE)
