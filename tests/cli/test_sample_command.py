"""`edit sample` as a command: dialogues, benchmarks' lists, rows that fail, a process that is killed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import training
from conftest import Runner, encode, pixels, rejects_of, rows_of, tree
from tiny_architectures import save_kontext

from edittools.nets.editor import EditRequest
from edittools.nets.load import load_editor
from edittools.sample.stage import row_seed, turn_identity
from edittools.stream import codec


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.random_run(tmp_path_factory.mktemp("runs") / "run")


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(codec.decode(data))


def table(folder: Path, rows: list[dict]) -> Path:
    """JSON lines; every source that a row names is made, unless its name says that it is bad."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        for k, name in enumerate(row["source"]):
            data = encode(pixels(len(row["id"]) + k, 20, 30), "PNG")
            (folder / name).write_bytes(data[:100] if "bad" in name else data)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CHAIN = [(-1, "invert the colors"), (0, "leave it alone"), (-1, "make it grey"), (1, "now invert it")]


def dialogue(parents_and_texts: list[tuple[int, str]]) -> list[dict]:
    return [{"parent": parent, "instruction": {"en": text}} for parent, text in parents_and_texts]


def test_a_dialogue_is_its_turns_run_by_hand(edit: Runner, model: Path, tmp_path: Path) -> None:
    """With a turn that goes back to the source and one that goes back to the turn before it; two sources in the row."""
    rows = [
        {"id": "talk", "source": ["a.png", "b.png"], "instruction": {"en": "all of it"}, "turns": dialogue(CHAIN)},
        {"id": "plain", "source": ["c.png"], "instruction": {"en": "invert"}, "turns": []},
        {"id": "short", "source": ["d.png"], "instruction": {"en": "x"}, "turns": dialogue(CHAIN[:2])},
    ]
    edit("sample", table(tmp_path, rows), "--model", model, "--steps", 2, "--seed", 5, "-o", tmp_path / "out")
    found = {row["id"]: row for row in rows_of(tmp_path / "out")}
    editor = load_editor(str(model), steps=2)
    for row in rows:
        sources = [decoded((tmp_path / name).read_bytes()) for name in row["source"]]
        made: list[np.ndarray] = []
        for k, turn in enumerate(row["turns"]):
            shown = sources if turn["parent"] < 0 else [made[turn["parent"]]]
            seed = row_seed(5, turn_identity(row["id"], k + 1))
            made += editor.edit([EditRequest(shown, turn["instruction"]["en"], seed)])
        if not made:
            assert not found[row["id"]]["result_turns"]
            made = editor.edit([EditRequest(sources, "invert", row_seed(5, "plain"))])
        else:
            written = [decoded(data) for data in found[row["id"]]["result_turns"]]
            assert len(written) == len(made)
            # in the command the turns of two rows share a batch: a level of rounding
            assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(written, made))
        assert np.abs(decoded(found[row["id"]]["result"]).astype(int) - made[-1]).max() <= 1
    turns = [decoded(data).astype(int) for data in found["talk"]["result_turns"]]
    assert min(np.abs(turns[a] - turns[b]).max() for a in range(4) for b in range(a)) > 10


def test_dialogues_that_cannot_be_followed(edit: Runner, model: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "later", "source": ["a.png"], "instruction": {"en": "x"}, "turns": dialogue([(-1, "a"), (1, "b")])},
        {"id": "mute", "source": ["a.png"], "instruction": {"en": "x"}, "turns": dialogue([(-1, "a")])},
        {"id": "good", "source": ["a.png"], "instruction": {"en": "x"}, "turns": dialogue([(-1, "a")])},
    ]
    rows[1]["turns"][0]["instruction"] = {"zh": "红"}
    path = table(tmp_path, rows)
    given = ["--model", model, "--language", "en", "--max-errors", "90%"]
    edit("sample", path, *given, "-o", tmp_path / "out")
    reasons = {reject["id"]: reject["reason"] for reject in rejects_of(tmp_path / "out")}
    assert reasons == {"later": "turn 2 edits a turn that is not before it", "mute": "no instruction in en"}
    edit("sample", path, *given, "--shuffle", "-o", tmp_path / "shuffled", check=3)
    assert {reject["id"] for reject in rejects_of(tmp_path / "shuffled")} == {"later", "mute", "good"}


def test_multi_turn_suite_up_to_the_study(edit: Runner, model: Path, tmp_path: Path) -> None:
    """A benchmark's list through a pipe; --export writes an image per turn, and the study of people reads them."""
    folder = tmp_path / "multiturn"
    folder.mkdir()
    (folder / "5.png").write_bytes(encode(pixels(5), "PNG"))
    turns = {"1": {"id": "5.png", "turn1": "Only green from now on.", "turn2": "Replace the tomato."}}
    (folder / "content_memory.json").write_text(json.dumps(turns))
    cases = ["eval", "cases", "imgedit", folder, "--suite", "multiturn"]
    listed = tmp_path / "cases.jsonl"
    listed.write_bytes(edit(*cases, "-f", "jsonl").stdout)
    for seed in (0, 1):
        edit.pipe(cases, ["sample", "--model", model, "--seed", seed, "-o", tmp_path / f"out{seed}"])
        edit("eval", "export", tmp_path / f"out{seed}", "-o", tmp_path / f"images{seed}")
    (row,) = rows_of(tmp_path / "out0")
    exported = {path.name: path.read_bytes() for path in (tmp_path / "images0").rglob("*.png")}
    assert exported == {f"{row['id']}.turn.{k + 1}.png": data for k, data in enumerate(row["result_turns"])}
    assert len(exported) == 2 and row["result"] == row["result_turns"][1]
    models = [word for k in (0, 1) for word in ("--model", f"m{k}={tmp_path / f'images{k}'}")]
    edit("eval", "study", "build", listed, *models, "--design", "turns", "-o", tmp_path / "study")
    assert "Replace the tomato." in (tmp_path / "study" / "study.html").read_text()


def test_a_benchmarks_list_to_its_official_layout(edit: Runner, tmp_path: Path) -> None:
    """With a published pipeline; the summary says images/s and TFLOP/s."""
    kontext = save_kontext(tmp_path / "kontext")
    listed = {str(k): {"id": f"{k}.png", "prompt": f"make it {k}", "edit_type": "add"} for k in range(3)}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "basic_edit.json").write_text(json.dumps(listed))
    for k in range(3):
        (tmp_path / "bench" / f"{k}.png").write_bytes(encode(pixels(k), "PNG"))
    # the pipeline works at 1024² unless it is told otherwise
    words = ["--model", kontext, "--steps", 2, "--resolution", 32]
    result = edit.pipe(["eval", "cases", "imgedit", tmp_path / "bench"], ["sample", *words, "-o", tmp_path / "out"])
    assert "images/s" in result[1].stderr and "model TFLOP/s" in result[1].stderr
    edit("eval", "export", tmp_path / "out", "-o", tmp_path / "images")
    found = {path.name: codec.probe(path.read_bytes()) for path in (tmp_path / "images").iterdir()}
    assert sorted(found) == ["0.png", "1.png", "2.png"]
    assert {(header.width, header.height) for header in found.values()} == {(32, 16)}  # 32² pixels of 40 x 32: 35 x 28


def test_a_device_that_is_not_there_and_a_number_that_is_none(edit: Runner, model: Path, tmp_path: Path) -> None:
    path = table(tmp_path, [{"id": "one", "source": ["a.png"], "instruction": {"en": "x"}}])
    command = ["sample", path, "--model", model, "-o", tmp_path / "out"]
    assert "--device nosuch: " in edit(*command, "--device", "nosuch", check=1).stderr
    assert "--guidance-scale nan: not a finite number" in edit(*command, "--guidance-scale", "nan", check=2).stderr


def test_sizes(edit: Runner, model: Path, tmp_path: Path) -> None:
    path = table(tmp_path, [{"id": "one", "source": ["a.png"], "instruction": {"en": "x"}}])
    for given, size in (("source", (20, 30)), ("24x8", (8, 24))):
        edit("sample", path, "--model", model, "--size", given, "-o", tmp_path / given)
        (row,) = rows_of(tmp_path / given)
        assert decoded(row["result"]).shape[:2] == size
    for given in ("24", "x", "0x8", "big"):
        assert "--size" in edit("sample", path, "--model", model, "--size", given, check=2).stderr
    assert "--cache" in edit("sample", path, "--model", model, "--cache-threshold", 0.1, check=2).stderr
    assert "--lora" in edit("sample", path, "--model", model, "--lora", tmp_path / "no.safetensors", check=1).stderr
    assert "--offload" in edit("sample", path, "--model", model, "--offload", check=2).stderr


def test_rows_that_fail_are_rejected_and_counted(edit: Runner, tmp_path: Path) -> None:
    kontext = save_kontext(tmp_path / "kontext")
    rows = [
        {"id": "good", "source": ["a.png"], "instruction": {"en": "make it red"}},
        {"id": "two", "source": ["a.png", "b.png"], "instruction": {"en": "make it red"}},
        {"id": "none", "source": [], "instruction": {"en": "make it red"}},
        {"id": "damaged", "source": ["bad.png"], "instruction": {"en": "make it red"}},
        {"id": "mute", "source": ["a.png"], "instruction": {}},
    ]
    path = table(tmp_path, rows)
    words = ["--model", kontext, "--steps", 1, "--resolution", 32]
    edit("sample", path, *words, "--max-errors", 3, "-o", tmp_path / "strict", check=3)
    edit("sample", path, *words, "--max-errors", 4, "-o", tmp_path / "out")
    edit("sample", path, *words, "--keep-going", "-o", tmp_path / "going")
    assert rows_of(tmp_path / "going") == rows_of(tmp_path / "out")
    assert rejects_of(tmp_path / "going") == rejects_of(tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["good"]
    reasons = {reject["id"]: reject["reason"] for reject in rejects_of(tmp_path / "out")}
    assert set(reasons) == {"two", "none", "damaged", "mute"}
    assert "one source" in reasons["two"] and "no source" in reasons["none"] and "no instruction" in reasons["mute"]
    (row,) = rows_of(tmp_path / "strict")
    assert row == rows_of(tmp_path / "out")[0]


def test_killed_and_run_again_gives_the_same_files(edit: Runner, model: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{k:02d}", "source": ["a.png"], "instruction": {"en": f"invert {k}"}} for k in range(24)]
    edit("shard", table(tmp_path, rows), "--rows", 3, "-o", tmp_path / "in")
    command = ["sample", tmp_path / "in", "--model", model, "--steps", 8, "--batch-size", 2]

    def started(out: Path) -> tuple[int, float]:
        with open(tmp_path / "errors", "wb") as errors, open("/dev/null", "r+b") as null:
            child = edit.start(*command, "-o", out, stdin=null.fileno(), stdout=null.fileno(), stderr=errors.fileno())
        began = time.monotonic()
        while not list(out.glob("*.parquet")) and time.monotonic() - began < 60:
            time.sleep(0.002)
        return child, time.monotonic() - began

    began = time.monotonic()
    edit(*command, "-o", tmp_path / "truth")
    whole = time.monotonic() - began
    truth, partly = tree(tmp_path / "truth"), 0
    for number in range(3):
        out = tmp_path / f"out{number}"
        child, first = started(out)
        time.sleep(max(0.0, whole - first) * number / 4)
        child.kill(signal.SIGKILL)
        child.wait()
        committed = list(out.glob("*.parquet"))
        partly += 0 < len(committed) < 8
        kept = {path: path.stat().st_mtime_ns for path in committed}
        edit(*command, "-o", out)
        assert tree(out) == truth
        assert all(path.stat().st_mtime_ns == at for path, at in kept.items())  # not made again
    assert partly, "not one kill hit between the first and the last shard"


def test_a_run_that_wrote_nothing_says_so(edit, model, tmp_path):
    rows = table(tmp_path, [{"id": "a", "source": ["a.png"], "instruction": "make it red"}])
    edit("shard", rows, "-o", tmp_path / "raw")
    edit("filter", tmp_path / "raw", "--min-side", 9999, "--image", "source", "-o", tmp_path / "empty")
    said = edit("sample", tmp_path / "empty", "--model", model, "--steps", 2, "-o", tmp_path / "out").stderr
    assert "sample: nothing written: no row came in" in said
