"""Laws that hold for any data: parts unite to the whole, and every format carries every column there and back."""

from __future__ import annotations

import io
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, image, pixels, rows_of, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

FEW = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TYPES = settings(FEW, max_examples=10)
IMAGES = [image(k, "PNG" if k % 2 else "JPEG", 8, 9) for k in range(6)]

# ---------------------------------------------------------------- tables of any type

LEAVES: list[tuple[pa.DataType, st.SearchStrategy]] = [
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.string(), st.text(st.characters(exclude_categories=("Cs",)), max_size=8)),
    (pa.large_string(), st.text(st.characters(exclude_categories=("Cs",)), max_size=4)),
    (pa.binary(), st.binary(max_size=8)),
    (pa.binary(4), st.binary(min_size=4, max_size=4)),
    (pa.timestamp("us"), st.integers(-(2**50), 2**50)),
    (pa.timestamp("ns", "UTC"), st.integers(-(2**62), 2**62)),
    (pa.date32(), st.integers(-(10**5), 10**5)),
    (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.duration("ms"), st.integers(-(2**40), 2**40)),
    (pa.decimal128(20, 3), st.decimals(-(10**15), 10**15, places=3)),
]


@st.composite
def typed(draw: st.DrawFn, depth: int = 2) -> tuple[pa.DataType, st.SearchStrategy]:
    """A type and a strategy for its values, nulls included."""
    kind = draw(st.sampled_from(["leaf", "leaf", "list", "struct"])) if depth else "leaf"
    if kind == "leaf":
        data_type, values = draw(st.sampled_from(LEAVES))
    elif kind == "list":
        inner, items = draw(typed(depth=depth - 1))
        data_type, values = pa.list_(inner), st.lists(items, max_size=3)
    else:
        known = st.sampled_from(["a", "b.c", "名", "x y", "member"])
        names = draw(st.lists(known, min_size=1, max_size=3, unique=True))
        fields = [(name, *draw(typed(depth=depth - 1))) for name in names]
        data_type = pa.struct([(name, inner) for name, inner, _ in fields])
        values = st.fixed_dictionaries({name: items for name, _, items in fields})
    return data_type, st.none() | values


def build(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array, its temporal leaves given as the integers that stand behind them."""

    def storage(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(storage(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([(field.name, storage(field.type)) for field in kind])
        if pa.types.is_temporal(kind):
            return pa.int32() if kind.bit_width == 32 else pa.int64()
        return kind

    return pa.array(values, type=storage(kind)).cast(kind)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    count = draw(st.integers(1, 6))
    names = draw(st.lists(st.sampled_from(["u", "v.w", "Ü", "数", "json"]), min_size=1, max_size=3, unique=True))
    characters = st.characters(exclude_categories=("Cs",))
    ids = draw(st.lists(st.text(characters, min_size=1, max_size=6), min_size=count, max_size=count, unique=True))
    columns: dict[str, pa.Array] = {"id": pa.array(ids)}
    chosen = draw(st.lists(st.sampled_from([*range(6), None]), min_size=count, max_size=count))
    columns["target"] = pa.array([None if k is None else IMAGES[k] for k in chosen], pa.binary())
    for name in names:
        kind, values = draw(typed())
        columns[name] = build(draw(st.lists(values, min_size=count, max_size=count)), kind)
    return pa.table(columns)


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def plain(table: pa.Table, name: str) -> list[Any]:
    """A column as integers, floats, text, bytes, lists and records, exact for every type."""

    def convert(array: pa.Array) -> list[Any]:
        kind = array.type
        if pa.types.is_list(kind):
            return [None if not item.is_valid else convert(item.values) for item in array]
        if pa.types.is_struct(kind):
            children = [convert(child) for child in array.flatten()]
            return [
                dict(zip([field.name for field in kind], row)) if ok else None
                for ok, *row in zip(array.is_valid().to_pylist(), *children)
            ]
        if pa.types.is_temporal(kind):
            return array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        return array.to_pylist()

    return [value for chunk in table.column(name).chunks for value in convert(chunk)]


@TYPES
@given(table=tables())
def test_every_format_carries_every_column(edit: Runner, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pq.write_table(table, base / "in.parquet", store_schema=True)
        first = table.column("target").combine_chunks()
        seen_as_images = first.null_count < len(first)  # the first value that is there is an image
        edit("cat", base / "in.parquet", "-o", base / "a.tar", "--max-errors", 0)
        edit("cat", base / "a.tar", "-o", f"{base}/set/")
        edit("cat", f"{base}/set", "-o", base / "b.arrows", "--inline")
        edit("cat", base / "b.arrows", "-o", base / "c.tar")
        edit("cat", base / "c.tar", "-o", base / "d.parquet")
        final = pq.read_table(base / "d.parquet")
        stored = pq.read_table(base / "set" / "00000.parquet")
        for name in table.column_names:
            if name == "target":
                continue
            for found in (final, stored):
                assert found.schema.field(name).type == table.schema.field(name).type, name
                assert same(plain(found, name), plain(table, name)), name
        data = [value.as_py() for value in final.column("target")]
        if seen_as_images:
            data = [value and value["bytes"] for value in data]
        assert data == first.to_pylist()


@FEW
@given(rows=st.integers(1, 9), parts=st.integers(1, 5), seed=st.integers(0, 99))
def test_tasks_unite_to_the_whole(edit: Runner, shards: Path, rows: int, parts: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        edit("shard", shards, "--rows", rows, "-o", f"{base}/whole/")
        for task in np.random.default_rng(seed).permutation(parts).tolist():
            edit("shard", shards, "--rows", rows, "-o", f"{base}/parts/", "--task", f"{task}/{parts}")
        assert tree(base / "parts") == tree(base / "whole")


@FEW
@given(side=st.integers(30, 50), low=st.integers(60, 130), width=st.integers(0, 80), jobs=st.integers(1, 3))
def test_two_filters_in_a_pipe_are_one_call_with_both(
    edit: Runner, mixed: Path, side: int, low: int, width: int, jobs: int
) -> None:
    sides = ["--min-side", side]
    bright = ["--brightness", f"{low}..{low + width}"]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        edit("filter", mixed, *sides, *bright, "-j", jobs, "-o", f"{base}/one/")
        for name, first, second in (("two", sides, bright), ("turned", bright, sides)):
            edit.pipe(["filter", mixed, *first, "-j", jobs], ["filter", *second, "-o", f"{base}/{name}/"])
        one, two, turned = (rows_of(base / name) for name in ("one", "two", "turned"))
        assert one == two
        without = [{key: value for key, value in row.items() if key != "scores"} for row in one]
        assert without == [{key: value for key, value in row.items() if key != "scores"} for row in turned]
        for row in one:
            assert low <= row["scores"]["brightness"] <= low + width
        # What is kept, from the pixels; near a bound the raster of the metric may decide otherwise.
        kept = {row["id"] for row in one}
        for row in rows_of(mixed):
            with Image.open(io.BytesIO(row["target"])) as image:
                luma = np.asarray(image.convert("L"), np.float64).mean()
                if min(abs(luma - low), abs(luma - low - width)) > 2:
                    assert (row["id"] in kept) == (min(image.size) >= side and low <= luma <= low + width)


@pytest.fixture(scope="module")
def mixed(session_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and of any brightness."""
    base = tmp_path_factory.mktemp("mixed")
    (base / "in").mkdir()
    for k in range(20):
        shade = np.clip(pixels(k, 28 + k, 40) * (k % 7 / 8 + 0.25), 0, 255).astype(np.uint8)
        (base / "in" / f"{k:02d}.png").write_bytes(encode(shade, "PNG"))
    session_edit("shard", base / "in", "-o", base / "set", "--rows", 7)
    return base / "set"


@FEW
@given(cuts=st.lists(st.integers(0, 24), max_size=8))
def test_batches_of_the_producer_do_not_matter(edit: Runner, shards: Path, cuts: list[int]) -> None:
    """The same shard sent in other batches gives the same bytes."""
    reader = pa.ipc.open_stream(edit("cat", shards, "--inline").stdout)
    rows = pa.Table.from_batches(list(reader)).replace_schema_metadata({"edit.version": "1"}).combine_chunks()
    whole = rows.to_batches()[0]

    def stream(bounds: list[int]) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
                place = {
                    "shard": 0,
                    "of": 1,
                    "digest": "d",
                    "last": k == len(bounds) - 2,
                    "seen": stop - start,
                    "rejects": [],
                }
                note = {"edit.batch": json.dumps(place)}
                writer.write_batch(whole.slice(start, stop - start), custom_metadata=note)
            end = {"rows": whole.num_rows, "kept": whole.num_rows, "failed": 0}
            writer.write_batch(whole.slice(0, 0), custom_metadata={"edit.end": json.dumps(end)})
        return sink.getvalue()

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        total = whole.num_rows
        edit("shard", "--verify", "-o", f"{base}/one/", stdin=stream([0, total]))
        edit("shard", "--verify", "-o", f"{base}/many/", stdin=stream([0, *sorted(cuts), total]))
        assert tree(base / "one") == tree(base / "many")
        assert rows_of(base / "one") == rows_of(base / "many")
