"""`edit sample --processes N`: several processes make what one does; and images are encoded beside the model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import training
from conftest import TESTS, Runner, encode, pixels, rejects_of, rows_of, tree
from things import Piecewise, Thing

from edittools.errors import EditError, TooManyFailed, UsageError
from edittools.nets.editor import EditRequest, Work
from edittools.sample import stage as stage_module
from edittools.sample.config import SampleConfig
from edittools.sample.stage import WINDOW, SampleStage, row_seed
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard
from edittools.stream.row_images import image_value
from edittools.train.encode import follow_all
from edittools.workers import Workers, devices


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.random_run(tmp_path_factory.mktemp("runs") / "run")


def rows_file(folder: Path, count: int) -> Path:
    """Rows of several shapes, one with a source that is cut off, one with two turns."""
    import json

    folder.mkdir()
    lines = []
    for k in range(count):
        data = encode(pixels(k, 20 + 4 * (k % 3), 30), "PNG")
        (folder / f"{k}.png").write_bytes(data[:60] if k == 5 else data)
        row = {"id": f"{k:03d}", "source": [f"{k}.png"], "instruction": {"en": f"word{k % 4} invert"}, "turns": []}
        if k == 7:
            row["turns"] = [{"parent": p, "instruction": {"en": t}} for p, t in ((-1, "grey"), (0, "invert"))]
        lines.append(json.dumps(row) + "\n")
    path = folder / "rows.jsonl"
    path.write_text("".join(lines))
    return path


def workers_of(pid: int) -> list[int]:
    """The processes that a command has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in children.read_text().split()] if children.exists() else []
    return [child for child in found if b"edittools.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]


def gone(pids: list[int], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


GIVEN = ["--steps", 8, "--batch-size", 1, "--max-errors", 2]


@pytest.fixture(scope="module")
def alone(edit: Runner, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set` of six shards, and `one`, which one process made of it."""
    folder = tmp_path_factory.mktemp("alone")
    edit("shard", rows_file(folder / "in", 22), "--rows", 4, "-o", folder / "set")
    edit("sample", folder / "set", "--model", model, *GIVEN, "-o", folder / "one")
    return folder


def test_several_processes_make_what_one_does(edit: Runner, model: Path, alone: Path, tmp_path: Path) -> None:
    """Byte for byte, with rejects and dialogues, and with one summary; here as an array task that has every shard."""
    given = ["--model", model, *GIVEN, "--processes", 2, "--task", "0/1", "-o", tmp_path / "two"]
    said = edit("sample", alone / "set", *given).stderr
    assert tree(alone / "one") == tree(tmp_path / "two")
    assert len(rows_of(tmp_path / "two")) == 21 and len(rejects_of(tmp_path / "two")) == 1
    first, last = said.splitlines()
    assert first == "sample: 2 processes: cpu, float32, TF32 off, attention native, not compiled"
    assert last.startswith("sample: 22 rows in; 21 out; rejected: 1 ") and "images/s" in last


def test_a_process_that_dies_ends_the_run_with_one_line(edit: Runner, model: Path, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "in", 60)
    with (tmp_path / "err").open("wb") as errors, open(os.devnull, "rb") as nothing:
        child = edit.start(
            "sample", rows, "--model", model, "--steps", 500, "--batch-size", 1, "--processes", 2,
            "-o", tmp_path / "out", stdin=nothing.fileno(), stdout=errors.fileno(), stderr=errors.fileno(),
        )  # fmt: skip
        while len(found := workers_of(child.pid)) < 2:
            time.sleep(0.05)
        os.kill(found[1], signal.SIGKILL)
        assert child.wait() == 1
    assert (tmp_path / "err").read_text().splitlines() == [
        "edit sample: the process on cpu (process 1) ended (SIGKILL)",
        "hint: out of main memory?",
    ]
    assert gone(found)


def test_ctrl_c_ends_all_and_the_same_command_goes_on(edit: Runner, model: Path, alone: Path, tmp_path: Path) -> None:
    for attempt in range(5):  # on a busy machine all may be done before the signal comes
        out = tmp_path / str(attempt)
        given = ["sample", alone / "set", "--model", model, *GIVEN, "-o", out]
        with (tmp_path / "err").open("wb") as errors, open(os.devnull, "rb") as nothing:
            child = edit.start(
                *given, "--processes", 2, stdin=nothing.fileno(), stdout=errors.fileno(), stderr=errors.fileno(),
                group=0,
            )  # fmt: skip
            while not list(out.glob("*.parquet")):
                assert Path(f"/proc/{child.pid}").exists(), (tmp_path / "err").read_text()
                time.sleep(0.002)
            found = workers_of(child.pid)
            os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of them
            code = child.wait()
        assert gone(found)
        assert "Traceback" not in (tmp_path / "err").read_text()
        if code == -signal.SIGINT and len(found) == 2 and not (out / "_end.json").exists():
            break
    else:
        pytest.fail("no signal came in the middle")
    edit(*given)
    assert tree(out) == tree(alone / "one")


def test_what_cannot_be_is_said_before_anything_is_started(edit: Runner, model: Path, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "in", 6)
    for more, said in (
        (["--device", "cuda:1"], "each process has a device of its own"),
        (["--device", "cuda"], "this machine has "),
        (["--ray=local", "-o", f"{tmp_path}/out/"], "a task of a cluster has one GPU"),
    ):
        if more[1] == "cuda" and devices_there() >= 64:
            continue
        failed = edit("sample", rows, "--model", model, "--processes", 64, *more, check=2)
        assert said in failed.stderr and len(failed.stderr.splitlines()) <= 2


def devices_there() -> int:
    import torch

    return torch.cuda.device_count()


def test_devices() -> None:
    assert devices("cpu", 2) == ["cpu", "cpu"]
    with pytest.raises(UsageError, match="a device of its own"):
        devices("mps", 2)


# ---------------------------------------------------------------------------------------------- the processes


def test_workers_answer_fail_and_end() -> None:
    with Workers(Thing, [(10,), (20,)], ["a", "b"]) as workers:
        pids = [worker.process.pid for worker in workers.all]
        with workers.free() as first, workers.free() as second:
            found = [first.call("add", 1), second.call("add", 1)]
        assert sorted(found) == sorted([(11, pids[0]), (21, pids[1])])
        with pytest.raises(EditError, match="not so") as told:
            workers.call("fail", "edit")
        assert told.value.hint == "but so"
        with pytest.raises(LookupError, match="nowhere") as lost:
            workers.call("fail", "plain")
        assert "in fail" in lost.value.__notes__[0]  # where it was
        with pytest.raises(EditError, match="Odd: 1 and 2"):
            workers.call("fail", "odd")
        (row,) = workers.call("rows")
        assert (row.reason, row.value, str(row)) == ("too long", 7, "too long: 7")
    assert gone(pids)
    with pytest.raises(UsageError, match="below 0") as wrong:
        Workers(Thing, [(1,), (-1,)], ["a", "b"])
    assert wrong.value.hint == "say more"


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from edittools.workers import Workers; from things import Thing\n"
        "workers = Workers(Thing, [(1,), (2,)], ['a', 'b'])\n"
        "print(*[w.process.pid for w in workers.all], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=TESTS)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    assert gone(pids)


# --------------------------------------------------------------------------------- encoding beside the model


class Stub:
    """Gives images that say which row they are of."""

    batch_size = 1

    def __init__(self, at_once: int = 1) -> None:
        self.at_once, self.calls, self.work = at_once, 0, Work()

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
        self.calls += 1
        return [np.full((4, 5, 3), request.seed % 251, np.uint8) for request in requests]


def staged(editor: Stub, rows: int, sources: int = 1) -> tuple[SampleStage, Batch]:
    stage = SampleStage(SampleConfig(model="", max_pixels=1000), editor)  # type: ignore[arg-type]
    source = image_value(np.zeros((4, 5, 3), np.uint8))
    table = pa.RecordBatch.from_pylist(
        [{"id": str(k), "source": [source] * sources, "instruction": {"en": "x", "zh": None}} for k in range(rows)],
        schema=pa.schema(
            [("id", pa.string()), ("source", pa.list_(stage_module.IMAGE)),
             ("instruction", pa.struct([("en", pa.string()), ("zh", pa.string())]))]
        ),
    )  # fmt: skip
    stage.schema(table.schema)
    return stage, Batch(table, Shard(0, 1, ""), True, rows)


def test_the_model_goes_on_while_images_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first window's images are not ready before the second window is edited: with encoding in the model's way
    this would wait for ever."""
    second = threading.Event()

    class Watched(Stub):
        def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
            if self.calls == 1:
                second.set()
            return super().edit(requests)

    def slow(pixels: np.ndarray) -> dict:
        assert second.wait(30)
        return image_value(pixels)

    monkeypatch.setattr(stage_module, "image_value", slow)
    stage, batch = staged(Watched(), 2 * WINDOW)
    found = [value for part in stage([batch].__iter__()) for value in part.rows["result"].to_pylist()]
    wanted = [np.full((4, 5, 3), row_seed(0, str(k)) % 251, np.uint8) for k in range(2 * WINDOW)]
    assert [value["bytes"] for value in found] == [codec.encode_png(image) for image in wanted]


def test_rows_without_sources_are_for_models_that_make_images_of_text_alone() -> None:
    """Its alpha is kept; for another model they are rejected."""

    class OfText(Stub):
        from_text = True

        def edit(self, requests: list[EditRequest]) -> list[np.ndarray]:
            assert not any(request.sources for request in requests)
            return [np.full((4, 5, 4), 7, np.uint8) for _ in requests]

    stage, batch = staged(OfText(), 2, sources=0)
    [value, _] = [value for part in stage([batch].__iter__()) for value in part.rows["result"].to_pylist()]
    assert value["bytes"] == codec.encode_png(np.full((4, 5, 4), 7, np.uint8))
    stage, batch = staged(Stub(), 2, sources=0)
    [part] = stage([batch].__iter__())
    assert part.rows.num_rows == 0 and {str(reject.reason) for reject in part.rejects} == {"no source picture"}


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_is_edited_than_is_taken(at_once: int) -> None:
    editor = Stub(at_once)
    stage, batch = staged(editor, 20 * WINDOW)
    made = stage([batch].__iter__())
    ids = []
    for taken, part in enumerate(made, 1):
        time.sleep(0.02)
        assert editor.calls <= taken + 2 * at_once
        ids += part.rows["id"].to_pylist()
    assert ids == [str(k) for k in range(20 * WINDOW)]


# ------------------------------------------------------------------------------------ edit train --precompute


@pytest.mark.parametrize("how", ["a process dies", "a row too many", "Ctrl-C"])
def test_what_is_done_is_stored_whatever_stops_the_rest(tmp_path: Path, how: str) -> None:
    """Each part says when it stores; the first has one step that kills it, or the teller has had enough."""
    interrupted = threading.Event()
    told, threads = [], set()  # a thread for each part: one that has not begun has nothing to store

    def tell(what: object) -> None:
        told.append(what)
        threads.add(threading.get_ident())
        if len(told) == 6 and how == "a row too many":
            raise TooManyFailed("enough")
        if len(told) >= 6 and len(threads) == 2 and how == "Ctrl-C" and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    dies = 3 if how == "a process dies" else 0
    given = [(tmp_path / "0", dies), (tmp_path / "1", 0)]
    expected = {"a process dies": EditError, "a row too many": TooManyFailed, "Ctrl-C": KeyboardInterrupt}[how]
    with pytest.raises(expected) as raised, Workers(Piecewise, given, ["a", "b"]) as workers:
        follow_all(workers.all, tell)  # type: ignore[arg-type]
    assert len(told) < 20_000
    assert (tmp_path / "1").read_text() == "stored"
    assert (tmp_path / "0").exists() == (how != "a process dies")
    if how == "a process dies":
        assert str(raised.value) == "the process on a ended (exit status 7)"


def test_parts_that_end_at_different_times_are_all_told(tmp_path: Path) -> None:
    told: list[int] = []
    with Workers(Piecewise, [(tmp_path / "0", 0, 3), (tmp_path / "1", 0, 40)], ["a", "b"]) as workers:
        follow_all(workers.all, lambda each: told.append(each.samples))
    assert sum(told) == 43
