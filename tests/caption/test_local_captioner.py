"""Models of random weights in this process, held to the schemas of kinds: valid records, or rejects that say why."""

from __future__ import annotations

import collections
import contextlib
from pathlib import Path

import pytest
from scripted import batch_of, row
from tiny_vlm import tiny_model

from edittools.caption.config import CaptionConfig
from edittools.caption.model_stage import CutIsUnparsed, ModelCaptionStage
from edittools.caption.schemas import choice, listing, record, text, whole, yes_no
from edittools.record import TASKS
from edittools.vlm.requests import RequestPolicy, request_all
from edittools.vlm.store import ReplyStore

OWN = """
reads = "pair"
prompt = "What differs?"

[columns]
what = "in one word"
times = { type = "integer", low = 0, high = 24, says = "how often" }
sure = { type = "boolean", says = "are you" }
where = { choices = ["left", "right"] }
"""


@pytest.fixture(scope="module", params=["Qwen2_5_VL", "Qwen3VL"])
def client(request, tmp_path_factory):
    pytest.importorskip("llguidance")
    from edittools.vlm.backends.local import LocalClient

    folder = tiny_model(tmp_path_factory.mktemp("captioner") / request.param, request.param)
    return LocalClient(str(folder), batch_size=32, max_pixels=3136)


@pytest.mark.parametrize("rows", [pytest.param(8), pytest.param(1000, marks=pytest.mark.long)])
def test_random_weights_write_valid_records_or_named_rejects(client, tmp_path: Path, rows: int) -> None:
    """Drawn tokens of a model that knows nothing: whoever ends within the room is valid by jsonschema, the others are
    rejected as cut off; nothing invalid is stored as an answer.
    """
    import jsonschema

    (tmp_path / "own.toml").write_text(OWN)
    kinds = f"{tmp_path}/own.toml,classify"
    # Both kinds look at the pair: one request asks them both.
    config = CaptionConfig(model="random", kinds=kinds, temperature=1.0, max_tokens=400, attempts=2)
    store = ReplyStore(str(tmp_path / "replies"))
    client_ = CutIsUnparsed(client)

    def ask(requests, check):
        return request_all(requests, client_, store, RequestPolicy(repeats=0, concurrency=64), check=check)

    stage = ModelCaptionStage(config, ask, bounded=True)
    with contextlib.closing(store):
        batches = list(stage(iter([batch_of([row(k) for k in range(rows)])])))
    written = [one for batch in batches for one in batch.rows.to_pylist()]
    rejects = [reject for batch in batches for reject in batch.rejects]
    assert len(written) + len(rejects) == rows
    schema = record(
        what=text("in one word"), times=whole(0, 24), sure=yes_no(), where=choice(("left", "right")),
        text_regions=listing(record(text=text("", 200), right=yes_no()), 20),
    )  # fmt: skip
    for one in written:
        said = {name: one[name] for name in schema["properties"]} | {"what": one["what"]["en"]}
        jsonschema.validate(said, schema)
        assert one["task"] in TASKS and one["task"] != "t2i"
        assert {a["state"] for a in one["annotations"]} == {"ok"}
    reasons = collections.Counter(reject.reason for reject in rejects)
    assert set(reasons) <= {"own: unparsed", "classify: unparsed"} and all(r.value for r in rejects)
    print(
        f"{rows} rows: {len(written)} valid, {dict(reasons)}, {collections.Counter(str(r.value)[:40] for r in rejects)}"
    )
    assert len(written) >= rows // 4
