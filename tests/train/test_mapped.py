"""What is known of rows lies in files: memory by measurement, contents against plain lists and dictionaries."""

import gc
import io
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from edittools.errors import EditError
from edittools.record import IMAGE
from edittools.train import mapped
from edittools.train.features import FeatureStore, FeatureWriter
from edittools.train.laid import Laid
from edittools.train.mapped import Array, Columns, Contents, MappedTable, digest

COUNT = 25_000


def numbered(count, each):
    """Batches of `each` rows."""
    schema = pa.schema([("number", pa.int64()), ("text", pa.string()), ("list", pa.list_(pa.int32()))])
    for first in range(0, count, each):
        some = range(first, min(first + each, count))
        columns = [some, [None if k % 5 == 0 else "é" * (k % 7) for k in some], [list(range(k % 3)) for k in some]]
        yield pa.record_batch([pa.array(list(c), f.type) for c, f in zip(columns, schema)], schema)


SCHEMA = next(numbered(1, 1)).schema


def content(table):
    found = [table.find(k) for k in range(len(table))]
    return [{name: column[k].as_py() for name, column in piece.items()} for piece, k in found]


@pytest.mark.parametrize("at_once", [1, 50, 1 << 14])
def test_columns_are_a_list_of_rows_also_for_who_opens_them_later(monkeypatch, at_once):
    monkeypatch.setattr(mapped, "_ROWS_AT_ONCE", at_once)
    truth = [row for batch in numbered(300, 7) for row in batch.to_pylist()]
    table = Columns(numbered(300, 7), SCHEMA)
    assert len(table) == 300 and content(table) == truth
    assert len(table.pieces) == {1: 43, 50: 6, 1 << 14: 1}[at_once]
    assert [table.find(-1)[0]["number"][table.find(-1)[1]].as_py(), *table.find(0)[1:]] == [299, 0]
    for wrong in (300, -301):
        with pytest.raises(IndexError):
            table.find(wrong)
    data = pickle.dumps(table)
    assert len(data) < 500 and content(pickle.loads(data)) == truth
    assert not len(Columns(iter(()), SCHEMA))


def test_another_process_opens_the_same_file_and_keeps_it():
    table = Columns(numbered(300, 7), SCHEMA)
    program = """
        import pickle, sys
        table = pickle.loads(sys.stdin.buffer.read())
        print(sum(sum(piece["number"].to_pylist()) for piece in table.pieces))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    child = subprocess.run(command, input=pickle.dumps(table), capture_output=True)
    assert int(child.stdout) == 299 * 150, child.stderr
    data, kept = pickle.dumps(table), pickle.loads(pickle.dumps(table))
    before = content(kept)
    table.file.file.close()
    del table
    gc.collect()
    assert content(kept) == before  # whoever made it is gone
    with pytest.raises(OSError):
        pickle.loads(data)


def test_no_room_is_one_line(monkeypatch):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(EditError, match="No space left on device") as caught:
        Columns(numbered(10, 10), SCHEMA)
    assert "TMPDIR" in caught.value.hint


def test_tables_find_what_a_dictionary_finds():
    random = np.random.default_rng(0)
    table, truth = MappedTable(np.int64), {}
    for _ in range(3):
        names = [f"name {random.integers(400)}" for _ in range(200)]
        values = random.integers(0, 1000, len(names))
        table.add(np.array([digest(name) for name in names], "S16"), values)
        for name, value in zip(names, values.tolist()):
            truth.setdefault(name, []).append(value)
    for k in range(400):
        assert table.find(digest(f"name {k}")).tolist() == truth.get(f"name {k}", [])
    zeros = [bytes(16), bytes(15) + b"a", b"a" + bytes(15)]  # numpy's strings end where zeros begin
    ends = MappedTable(np.int64)
    ends.add(np.array(zeros, "S16"), np.arange(3))
    assert [ends.find(each).tolist() for each in zeros] == [[0], [1], [2]]


def test_an_array_for_which_there_is_no_room_is_an_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(EditError, match="File too large"):
            Array(np.arange(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(Array(np.arange(100)).values, np.arange(100))


def test_contents_are_found_and_what_is_new_is_told_apart():
    contents = Contents()
    contents.learn(["a", "b"], ["1" * 32, "2" * 32])
    contents.learn(["c"], ["3" * 64])
    contents["d"] = "4"
    assert [contents[place] for place in "abcd"] == ["1" * 32, "2" * 32, "3" * 64, "4"] and dict(contents) == {"d": "4"}
    with pytest.raises(KeyError):
        contents["e"]


def test_a_store_keeps_little_of_an_entry(tmp_path, monkeypatch):
    """Latents of an image, states and a mask of a text, the contents of two images."""
    count = 8_000
    monkeypatch.setattr("edittools.train.features._FILE_BYTES", 1 << 20)
    writer = FeatureWriter(tmp_path, torch.bfloat16)
    small = torch.zeros(1, dtype=torch.bfloat16)
    for k in range(count):
        writer.add(f"{k:032x}", {"latents": small.clone()})
        writer.add(f"{k + count:032x}", {"states": small.repeat(1 + k % 9, 1), "mask": torch.ones(1, dtype=torch.bool)})
    writer.flush()
    writer.remember({f"{k:032x}/a/b/0/{k}": f"{k:032x}" for k in range(2 * count)})
    gc.collect()
    tracemalloc.start()
    try:
        store = FeatureStore(tmp_path)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / (count) < 40, held
    for k in range(0, count, 997):
        assert store.length(f"{k + count:032x}") == 1 + k % 9 and f"{k:032x}" in store
        assert {name: tuple(x.shape) for name, x in store.get(f"{k + count:032x}").items()} == {
            "states": (1 + k % 9, 1), "mask": (1,)}  # fmt: skip
        assert store.contents[f"{k:032x}/a/b/0/{k}"] == f"{k:032x}"
    assert f"{count * 9:032x}" not in store


SHARE = """
    import json, os, sys
    from pathlib import Path
    import numpy as np
    from edittools.errors import UsageError
    from edittools.train.mapped import MappedTable, once_a_machine
    from edittools.train.parallel import start

    parallel, folder = start("ddp", "cpu"), Path(sys.argv[1])

    def make():
        with (folder / "made").open("a") as file:
            file.write(f"{parallel.rank} ")
        table = MappedTable(np.int64)
        table.add(np.array([b"a", b"b"], "S16"), np.array([3, 4]))
        return table

    def wrong():
        raise UsageError(f"of {parallel.rank}", hint="so")

    table = once_a_machine(parallel, make)
    try:
        once_a_machine(parallel, wrong)
    except UsageError as error:
        said = f"{error}, {error.hint}"
    inode = os.fstat(table._records.file.file.fileno()).st_ino
    (folder / f"{parallel.rank}.json").write_text(json.dumps([table.find(b"b").tolist(), said, inode]))
    parallel.close()
"""


def started(forge, script, arguments, folder, machines=1):
    """What two processes of one machine, or of two, leave in RANK.json."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    every = []
    for rank in range(2):
        here = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0 if machines == 2 else rank,
                "LOCAL_WORLD_SIZE": 2 // machines, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        env = {name: str(value) for name, value in here.items()}
        with open(os.devnull) as nothing:
            every.append(forge.start([*map(str, arguments)], stdin=nothing.fileno(), stdout=1, stderr=2, env=env,
                                     script=script))  # fmt: skip
    assert [child.wait(240) for child in every] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("machines", [1, 2])
def test_processes_of_a_machine_share_what_one_of_them_made(model_forge, tmp_path, machines):
    (tmp_path / "share.py").write_text(textwrap.dedent(SHARE))
    told = started(model_forge, tmp_path / "share.py", [tmp_path], tmp_path, machines)
    makers = sorted((tmp_path / "made").read_text().split())
    assert [found for found, _, _ in told] == [[4], [4]]
    if machines == 1:
        assert makers == ["0"] and [said for _, said, _ in told] == ["of 0, so"] * 2 and told[0][2] == told[1][2]
    else:
        assert makers == ["0", "1"] and [said for _, said, _ in told] == ["of 0, so", "of 1, so"]


def test_a_store_of_features_is_the_same_for_another_process(tmp_path):
    writer = FeatureWriter(tmp_path, torch.float32)
    for k in range(4):
        writer.add(f"{k:032x}", {"latents": torch.full((k + 1, 2), float(k))})
        writer.flush()
    writer.remember({"place": "content"})
    writer.reject({"bad": "why"})
    store = FeatureStore(tmp_path)
    other = pickle.loads(pickle.dumps(store))
    for k in range(4):
        assert torch.equal(other.get(f"{k:032x}")["latents"], torch.full((k + 1, 2), float(k)))
    assert other.contents["place"] == "content" and other.rejected == {"bad": "why"}
    writer.add(f"{9:032x}", {"latents": torch.zeros(1)})
    writer.flush()
    other.refresh()
    assert f"{9:032x}" in other and f"{9:032x}" not in store


MEASURE = """
    import gc, json, resource, sys
    from pathlib import Path
    from edittools.stream.run import RunOptions, open_input
    from edittools.train import load_recipe
    from edittools.train.console import open_rows
    from edittools.train.folder import Data
    from edittools.train.bucket_sampler import BucketSampler

    def own():  # memory of this process alone: files that are mapped or cached are none
        gc.collect()
        fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        return int(fields["Anonymous"].split()[0]) * 1024

    def opened(path):
        recipe = load_recipe("demo", {"batch_tokens": 4096})
        rows = open_rows(recipe, open_input([path], RunOptions()), 10**9)
        return rows, Data.of(rows), BucketSampler(recipe, rows, 8, 8)

    kept = [opened(sys.argv[1])]  # what is loaded once
    for path in sys.argv[2:]:
        before = own()
        kept.append(opened(path))
        rows = kept[-1][0]
        print(json.dumps([len(rows), own() - before, rows[len(rows) - 1].id]))
"""


def write_rows(path, count):
    """Rows whose images are named and never read."""
    fields = ("width", "height", "format")

    def place(k, name):
        return {"file": f"/data/{k // 1000:05d}.tar", "offset": 512 * k + len(name),
                "length": 100_000, **dict(zip(fields, (640 + k % 300, 480 + k % 200, "JPEG")))}  # fmt: skip

    with pq.ParquetWriter(path, ROWS) as writer:
        for first in range(0, count, 10_000):
            some = range(first, min(first + 10_000, count))
            writer.write_table(
                pa.table(
                    {
                        "id": [f"{k:024d}" for k in some],
                        "task": ["add"] * len(some),
                        "instruction": [{"en": f"please add a thing of kind {k} at the left"} for k in some],
                        "source": [[place(k, "source")] for k in some],
                        "target": [place(k, "target") for k in some],
                    },
                    ROWS,
                )
            )


ROWS = pa.schema(
    [("id", pa.string()), ("task", pa.string()), ("instruction", pa.struct([("en", pa.string())])),
     ("source", pa.list_(IMAGE)), ("target", IMAGE)]
)  # fmt: skip


def test_a_process_keeps_little_of_a_row(tmp_path):
    """By difference: what is held for any number of rows at all (about 30 MB) is none of a row's."""
    counts = (100, COUNT, 2 * COUNT)
    for count in counts:
        write_rows(tmp_path / f"{count}.parquet", count)
    files = [str(tmp_path / f"{count}.parquet") for count in counts]
    made = subprocess.run([sys.executable, "-c", textwrap.dedent(MEASURE), *files], capture_output=True, text=True)
    assert not made.returncode, made.stderr
    found = [json.loads(line) for line in made.stdout.splitlines()]
    assert [(rows, last) for rows, _, last in found] == [(count, f"{count - 1:024d}") for count in counts[1:]]
    assert (found[1][1] - found[0][1]) / COUNT < 250, found


HELD = """
    import ctypes, hashlib, json, os, sys, threading
    from pathlib import Path
    import torch
    from edittools.nets import load_edit_model
    from edittools.train.laid import module_once_a_machine
    from edittools.train.parallel import start

    parallel, folder, shared = start("ddp", "cpu"), Path(sys.argv[1]), sys.argv[2] == "shared"
    settings = dict(patch=8, layers=4, heads=8, head_dim=64, rope=[16, 24, 24], text_width=64, text_heads=2,
                    text_layers=1, max_words=8)

    def own():  # bytes that no other process has
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024

    def load(seed, **more):
        once = (lambda make: module_once_a_machine(parallel, make)) if shared else None
        return load_edit_model("small", {**settings, **more}, seed=seed, texts=lambda: ["a b"], once=once).network

    load(0, layers=1)  # libraries have their own
    over, most = threading.Event(), [own()]

    def watch():
        while not over.wait(0.002):
            most[0] = max(most[0], own())

    ctypes.CDLL(None).malloc_trim(0)
    before, thread = own(), threading.Thread(target=watch)
    thread.start()
    network = load(1)
    ctypes.CDLL(None).malloc_trim(0)
    kept = own() - before
    over.set()
    thread.join()
    size = sum(p.nbytes for p in network.parameters())

    def digest():
        rotations = network.transformer.pos_embed.pos_freqs
        found = hashlib.sha256(torch.view_as_real(rotations).numpy().tobytes())
        for name, value in sorted({**dict(network.named_parameters()), **dict(network.named_buffers())}.items()):
            found.update(value.detach().numpy().tobytes())
        return found.hexdigest()

    made = digest()
    parallel.wait()
    if parallel.rank == 1:
        for p in network.parameters():
            p.data.zero_()
    parallel.wait()
    if parallel.rank == 0:  # what one changes no other sees
        made = digest()
    trains = [name for name, p in network.named_parameters() if p.requires_grad]
    (folder / f"{parallel.rank}.json").write_text(json.dumps(
        [size, (most[0] - before) / size, kept / size, made, trains]))
    parallel.close()
"""


def held_by_two(forge, folder, how):
    folder.mkdir()
    (folder / "held.py").write_text(textwrap.dedent(HELD))
    return started(forge, folder / "held.py", [folder, how], folder)


def test_a_new_network_is_made_once_a_machine(model_forge, tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    shared, each = (held_by_two(model_forge, tmp_path / how, how) for how in ("shared", "each"))
    assert shared[0][0] == each[0][0] > 50e6
    assert {found[3] for found in shared} == {each[0][3]} and shared[1][4] == each[0][4]
    maker, other = shared
    assert maker[1] < 1.3 and maker[2] < 0.1  # while it makes it, and afterwards
    assert other[1] < 0.1
    assert all(most > 0.9 and kept > 0.9 for _, most, kept, *_ in each)


def test_where_there_is_no_proc_files_have_names_until_their_maker_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "DESCRIPTORS", "/nowhere/{}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    schema = pa.schema([("x", pa.int64())])
    columns = mapped.Columns(iter([pa.record_batch([pa.array([1, 2, 3])], schema=schema)]), schema)
    table, layer = MappedTable(np.int64), Laid(torch.nn.Linear(2, 1))
    table.add(np.array([b"a", b"b"], "S16"), np.array([3, 4]))
    assert len([*tmp_path.iterdir()]) == 4
    code = """
        import pickle, sys
        columns, table, layer = pickle.load(sys.stdin.buffer)
        print(len(columns), *table.find(b"b"), *layer.module().weight[0].tolist())
    """
    held = pickle.dumps([columns, table, layer])
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], input=held, capture_output=True, check=True)
    assert [*map(float, said.stdout.split())] == [3, 4, *layer.module().weight[0].tolist()]
    del columns, table, layer
    gc.collect()
    assert not [*tmp_path.iterdir()]
