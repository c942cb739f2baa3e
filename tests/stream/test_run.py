"""Exits and the run loop: refusals, resuming, tasks, signals, late write errors. Real processes, real pipes."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EDIT, Runner, digest, image, make_crawl, rejects_of, rows_of, tree
from PIL import Image

from edittools.stream.progress import Progress


def mtimes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("0*.*")}


# ---------------------------------------------------------------- usage


def test_usage_errors(edit: Runner, shards: Path, tmp_path: Path) -> None:
    cases = [
        ["cat"],
        ["cat", "-", "-"],
        ["cat", "-", shards],
        ["cat", shards, "--limit", 3, "--task", "0/2", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--task", "0/2", "-o", tmp_path / "x.tar"],
        ["cat", shards, "--task", "0/2", "--rejects", tmp_path / "r", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--task", "2/2", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--task", "1", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--task", "-1/2", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--task", "auto", "-o", f"{tmp_path}/x/"],
        ["cat", shards, "--max-errors", "200%"],
        ["cat", shards, "--max-errors", "some"],
        ["cat", shards, "-o", tmp_path / "x.zip"],
        ["cat", shards, "-f", "shards"],
        ["cat", shards, "--no-such-option"],
        ["shard", shards, "--map", "a=no_such_column", "-o", f"{tmp_path}/x/"],
        ["shard", shards, "--map", "nonsense", "-o", f"{tmp_path}/x/"],
        ["shard", shards, "--map", "caption=target", "-o", f"{tmp_path}/x/"],
        ["shard", shards, "--rows", 2, "--bytes", "1M", "-o", f"{tmp_path}/x/"],
        ["shard", shards, "--rows", 0, "-o", f"{tmp_path}/x/"],
        ["shard", shards, "--bytes", "many", "-o", f"{tmp_path}/x/"],
        ["no-such-command"],
    ]
    for case in cases:
        result = edit(*case, check=2)
        assert result.stderr.startswith("edit"), case
        assert len(result.stderr.splitlines()) <= 2 and result.stdout == b"", case
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.tar").exists(), "refused before anything is made"


def test_no_input_on_a_terminal_does_not_wait(edit: Runner) -> None:
    ours, theirs = pty.openpty()
    try:
        assert "no INPUT" in edit("cat", stdin=theirs, check=2).stderr
    finally:
        os.close(ours)
        os.close(theirs)


def test_binary_never_goes_to_a_terminal(edit: Runner, shards: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        edit("cat", shards, "-f", "arrows", stdout=theirs, check=2)
        edit("cat", shards, "-f", "tar", stdout=theirs, check=2)
        edit("cat", shards, stdout=theirs)
        table = os.read(ours, 1 << 16)
        assert b"24 rows" in table or b"target" in table
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_installed_script(shards: Path, tmp_path: Path) -> None:
    """Once without the test's own way of starting commands."""
    done = subprocess.run([EDIT, "cat", shards, "-f", "jsonl"], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 24
    done = subprocess.run([EDIT, "cat", tmp_path / "nothing"], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stderr.count(b"\n") <= 2
    done = subprocess.run(
        f"'{EDIT}' cat '{shards}' -f jsonl | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable=shutil.which("bash"),
        capture_output=True,
    )
    assert done.stdout.splitlines()[-1] == b"0" and done.stderr == b""


def test_a_message_is_one_line_whatever_a_file_is_called(edit: Runner, tmp_path: Path) -> None:
    result = edit("cat", tmp_path / "two\nlines \x1b[31m名", check=1)
    assert len(result.stderr.splitlines()) == 1 and "\x1b" not in result.stderr and "名" in result.stderr


def test_messages_of_the_command_line_are_one_line_too(edit: Runner) -> None:
    for words in (["eval", "cases"], ["eval", "nothing"], ["man", "--no-such"]):
        lines = edit(*words, check=2).stderr.splitlines()
        assert len(lines) == 2 and "\\n" not in lines[0] and lines[1].startswith("hint: "), lines
    shown = edit(check=2).stderr
    assert shown.startswith("Usage: edit ") and "\n  shard  " in shown, "without a command: the help"


def test_a_store_that_cannot_be_reached(edit: Runner, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    away = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL")
    env = dict.fromkeys(away, "") | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    for words in (["s3://no-such-bucket/x"], [shards, "-o", "s3://no-such-bucket/x/"]):
        assert "credentials" in edit("cat", *words, env=env, check=1).stderr


def test_missing_and_unreadable_inputs(edit: Runner, shards: Path, tmp_path: Path) -> None:
    assert "no such file" in edit("cat", tmp_path / "nothing", check=1).stderr
    assert "nothing matches" in edit("cat", tmp_path / "*.tar", check=1).stderr
    (tmp_path / "x.bin").write_bytes(b"\x1f\x8b some compressed thing")
    assert "hint: unpack it first" in edit("cat", tmp_path / "x.bin", check=1).stderr
    (tmp_path / "empty").mkdir()
    assert edit("cat", tmp_path / "empty", "-f", "jsonl").stdout == b""


# ---------------------------------------------------------------- refusing, overwriting, resuming


def test_existing_output_is_refused(edit: Runner, shards: Path, tmp_path: Path) -> None:
    for name in ("x.tar", "x.parquet", "x.arrows", "x.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"precious")
        assert "--overwrite" in edit("cat", shards, "-o", path, check=1).stderr
        assert path.read_bytes() == b"precious"
        edit("cat", shards, "-o", path, "--overwrite")
        assert path.read_bytes() != b"precious"
    rejects = tmp_path / "rejects"
    rejects.write_bytes(b"precious")
    edit("cat", shards, "-o", tmp_path / "y.tar", "--rejects", rejects, check=1)
    assert rejects.read_bytes() == b"precious" and not (tmp_path / "y.tar").exists()
    assert not list(tmp_path.glob(".tmp-*"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("precious")
    edit("cat", shards, "-o", f"{tmp_path}/mine/", check=1)
    assert tree(tmp_path / "mine") == {"letter.txt": digest(b"precious")}
    (tmp_path / "file").write_text("x")
    edit("cat", shards, "-o", f"{tmp_path}/file/", check=1)


def test_run_again_is_resume(edit: Runner, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit("cat", shards, "-o", out)
    before, whole = mtimes(out), tree(out)
    edit("cat", shards, "-o", out)
    assert mtimes(out) == before and tree(out) == whole
    for name in ("00001.parquet", "00002.tar", "00002.parquet", "_end.json"):
        (out / name).unlink()
    edit("cat", shards, "-o", out)
    assert tree(out) == whole
    assert mtimes(out)["00000.tar"] == before["00000.tar"], "a finished shard is not written again"
    # The same as the reader of a pipe, which learns of a shard only as it comes.
    (out / "00001.parquet").unlink()
    edit.pipe(["cat", shards], ["cat", "-o", tmp_path / "piped"])
    piped = tree(tmp_path / "piped")
    (tmp_path / "piped" / "00001.parquet").unlink()
    edit.pipe(["cat", shards], ["cat", "-o", tmp_path / "piped"])
    assert tree(tmp_path / "piped") == piped


def test_columns_are_looked_at_before_anything_is_started(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """Not after a first pass that may take hours."""
    for words in (
        ["dedup", "--mark", "target"],
        ["filter", "--sharpness", "q10", "--mark", "target"],
        ["filter", "--sharpness", "..", "--mark", "scores"],
    ):
        assert "--mark" in edit(*words, shards, "-o", tmp_path / "out", check=2).stderr
        assert not (tmp_path / "out").exists()


def test_other_settings_and_inputs_are_refused(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit("shard", crawl, "-o", out, "--rows", 8)
    whole = tree(out)
    for options in (["--rows", 9], ["--rows", 8, "--verify"], ["--rows", 8, "--limit", 5]):
        assert "--overwrite" in edit("shard", crawl, "-o", out, *options, check=1).stderr
        assert tree(out) == whole
    copy = tmp_path / "crawl"
    shutil.copytree(crawl, copy)
    (copy / "zz.jpg").write_bytes(image(99))
    (copy / "a/p000.jpg").write_bytes(image(98))  # more files alone would be further shards
    edit("shard", copy, "-o", out, "--rows", 8, check=1)
    assert tree(out) == whole
    edit("shard", copy, "-o", out, "--rows", 16, "--overwrite")
    edit("shard", copy, "-o", tmp_path / "fresh", "--rows", 16)
    assert tree(out) == tree(tmp_path / "fresh"), "a smaller set leaves nothing of the larger one"


def test_what_came_through_a_pipe_is_known_by_its_content(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """The same commands over other rows: finished shards are neither taken for theirs nor made again."""
    first = edit("cat", shards).stdout
    some, none = (edit("filter", shards, "--min-side", side).stdout for side in (1, 999))
    tars = [path.read_bytes() for path in sorted(shards.glob("*.tar"))]
    halves = [edit("cat", shards / f"0000{k}.tar", "-f", "arrows").stdout for k in (0, 1)]
    cases = (
        ("streams", ["cat"], edit("cat", stdin=some + some).stdout, edit("cat", stdin=some + none).stdout),
        ("concatenated", ["cat"], first + edit("cat", shards).stdout, first + edit("cat", shards, "--limit", 5).stdout),
        ("tars", ["cat"], tars[0], tars[1]),
        ("recut", ["shard", "--rows", 3], *halves),
        ("recut-tars", ["shard", "--rows", 3], tars[0], tars[1]),
    )
    for name, command, one, other in cases:
        out = tmp_path / name
        edit(*command, "-o", out, stdin=one)
        whole, before = tree(out), mtimes(out)
        edit(*command, "-o", out, stdin=one)
        assert tree(out) == whole and mtimes(out) == before, name
        assert "--overwrite" in edit(*command, "-o", out, stdin=other, check=1).stderr, name
        assert tree(out) == whole, name
        edit(*command, "-o", out, "--overwrite", stdin=other)
        edit(*command, "-o", f"{out}-fresh", stdin=other)
        assert tree(out) == tree(tmp_path / f"{name}-fresh"), name


def test_lines_whose_images_change_are_other_input(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(image(0))
    odd = '{"source": 7}\n{"target": "\\ud800.jpg"}\n{"source": {"a": 1}, "target": null}\n'
    (tmp_path / "x.jsonl").write_text('{"id": "a", "source": ["p.jpg"], "target": "p.jpg"}\n' + odd)
    for _ in range(2):
        edit("cat", tmp_path / "x.jsonl", "-o", tmp_path / "out", "--max-errors", "100%")
    assert rejects_of(tmp_path / "out")[0]["value"] == "\ufffd.jpg", "a name that is not text"
    (tmp_path / "p.jpg").write_bytes(image(1))
    assert "--overwrite" in edit("cat", tmp_path / "x.jsonl", "-o", tmp_path / "out", check=1).stderr


def test_zero_is_a_setting(edit: Runner, shards: Path, tmp_path: Path) -> None:
    stream = edit("cat", shards).stdout
    edit("cat", "--limit", 0, "-o", tmp_path / "out", stdin=stream)
    assert "--overwrite" in edit("cat", "-o", tmp_path / "out", stdin=stream, check=1).stderr
    edit("dedup", shards, "--distance", 0, "-o", tmp_path / "unique")
    history = json.loads(pq.read_schema(tmp_path / "unique/00000.parquet").metadata[b"edit.history"])
    assert history["nodes"][-1]["settings"]["distance"] == 0
    edit("caption", shards, "--seed", 0, "-o", tmp_path / "captioned")
    history = json.loads(pq.read_schema(tmp_path / "captioned/00000.parquet").metadata[b"edit.history"])
    assert "seed" not in history["nodes"][-1]["settings"], "what stands there anyway"


def test_options_of_models_are_no_settings_without_one(edit: Runner, shards: Path, tmp_path: Path) -> None:
    for name, words in (("filter", ["--min-side", 1]), ("dedup", [])):
        out = tmp_path / name
        edit(name, shards, *words, "-o", out)
        edit(name, shards, *words, "-o", out, "--device", "cpu", "--dtype", "float32", "--batch-size", 3)


# ---------------------------------------------------------------- tasks and threads


def test_tasks_unite_to_the_whole(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("shard", shards, "-o", tmp_path / "whole", "--rows", 4, "-j", 1)
    assert len(list((tmp_path / "whole").glob("*.tar"))) == 6
    edit("shard", shards, "-o", tmp_path / "threads", "--rows", 4, "-j", 4)
    assert tree(tmp_path / "threads") == tree(tmp_path / "whole")
    for task in (2, 0, 1):
        assert not (tmp_path / "parts" / "_end.json").exists()
        edit("shard", shards, "-o", tmp_path / "parts", "--rows", 4, "--task", f"{task}/3")
        found = sorted(int(p.stem) for p in (tmp_path / "parts").glob("*.parquet"))
        assert {k for k in found if k % 3 == task} == {task, task + 3}
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    for task in range(4):  # numbered from 5, as `--array=5-8` does
        env = {"SLURM_ARRAY_TASK_ID": str(5 + task), "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
        edit("shard", shards, "-o", tmp_path / "slurm", "--rows", 4, "--task", "auto", env=env)
    assert tree(tmp_path / "slurm") == tree(tmp_path / "whole")
    edit(
        "shard",
        shards,
        "-o",
        tmp_path / "retry",
        "--rows",
        4,
        "--task",
        "auto",
        env={
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_MIN": "3",
            "SLURM_ARRAY_TASK_COUNT": "1",
            "EDITTOOLS_TASKS": "4",
        },
    )
    assert [p.name for p in (tmp_path / "retry").glob("*.tar")] == ["00003.tar"]
    edit("shard", shards, "-o", tmp_path / "many", "--rows", 24, "--task", "3/5")
    assert not list((tmp_path / "many").glob("0*")), "a task without a shard writes none"
    edit("cat", "--task", "0/2", "-o", f"{tmp_path}/pipe/", stdin=edit("cat", shards).stdout, check=2)


def test_tasks_through_pipes_unite_to_the_whole(edit: Runner, shards: Path, tmp_path: Path) -> None:
    count = len(list(shards.glob("*.parquet")))
    edit.pipe(["cat", shards], ["cat", "-o", tmp_path / "whole"])
    for task in (count + 1, *range(count), count, count + 1):  # also tasks without a shard: first, and after all others
        words = ["-o", tmp_path / "parts", *(["--overwrite"] if task > count else [])]
        edit.pipe(["cat", shards, "--task", f"{task}/{count + 2}"], ["cat", *words])
        assert (tmp_path / "parts" / "_end.json").exists() == (tree(tmp_path / "parts") == tree(tmp_path / "whole"))
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_streams_in_files_are_joined(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("cat", shards, "-o", tmp_path / "a.arrows")
    edit("filter", shards, "--brightness", "0..", "-o", tmp_path / "b.arrows")
    rows = edit("cat", tmp_path / "a.arrows", tmp_path / "b.arrows", "-f", "jsonl").lines
    assert [row["id"] for row in rows] == 2 * [row["id"] for row in rows_of(shards)]
    assert [row.get("scores") is None for row in rows] == [True] * 24 + [False] * 24
    both = edit("cat", tmp_path / "a.arrows", tmp_path / "b.arrows", "-f", "arrows").stdout
    assert edit("cat", "-f", "jsonl", stdin=both).lines == rows
    assert "other kinds" in edit("cat", tmp_path / "a.arrows", shards, "-f", "jsonl", check=2).stderr


def test_a_crawl_does_not_hold_its_own_output(edit: Runner, tmp_path: Path) -> None:
    make_crawl(tmp_path / "crawl", 4)
    for folder in ("crawl/raw", "crawl", "crawl/a/deep/er"):
        assert "choose an -o outside" in edit("shard", tmp_path / "crawl", "-o", tmp_path / folder, check=2).stderr
    assert "outside" in edit("shard", ".", "-o", "raw/", cwd=tmp_path / "crawl", check=2).stderr
    assert "outside" in edit("shard", tmp_path / "crawl", "-o", tmp_path / "crawl/raw", "-n", check=2).stderr
    assert not (tmp_path / "crawl/raw").exists()
    edit("shard", tmp_path / "crawl", "-o", tmp_path / "crawl-raw")


def test_the_same_image_in_several_crawls(edit: Runner, tmp_path: Path) -> None:
    for folder in ("one/img", "two/img", "more/one/img"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.jpg").write_bytes(image(1))
    edit("shard", tmp_path / "one", tmp_path / "two", tmp_path / "more/one", "-o", tmp_path / "set")
    rows = rows_of(tmp_path / "set")
    assert len({row["id"] for row in rows}) == 3 and len({row["provenance"]["sha256"] for row in rows}) == 1
    assert [row["provenance"]["path"] for row in rows] == ["0-one/img/x.jpg", "two/img/x.jpg", "2-one/img/x.jpg"]
    edit("shard", tmp_path / "two", "-o", tmp_path / "alone")
    assert [row["provenance"]["path"] for row in rows_of(tmp_path / "alone")] == ["img/x.jpg"]


def test_limit_is_the_first_rows(edit: Runner, shards: Path, tmp_path: Path) -> None:
    ids = [row["id"] for row in rows_of(shards)]
    for limit in (0, 1, 8, 9, 24, 100):
        assert [r["id"] for r in edit("cat", shards, "--limit", limit, "-f", "jsonl").lines] == ids[:limit]
        piped = edit.pipe(["cat", shards], ["cat", "--limit", limit, "-f", "jsonl"], check=[None, 0])
        assert [r["id"] for r in piped[-1].lines] == ids[:limit]
        assert piped[0].code == 0
        edit.pipe(["cat", shards], ["cat", "--limit", limit, "-o", f"{tmp_path}/{limit}/"], check=[0, 0])
        assert [r["id"] for r in rows_of(tmp_path / f"{limit}")] == ids[:limit]
        edit("cat", shards, "--limit", limit, "-o", f"{tmp_path}/files-{limit}/")
        for name in (f"{limit}", f"files-{limit}"):  # sets that are whole, an empty one included
            assert [r["id"] for r in edit("cat", tmp_path / name, "-f", "jsonl").lines] == ids[:limit]
            edit("cat", tmp_path / name, "--check")
    assert "writes nothing" in edit("cat", shards, "--check", "-o", tmp_path / "x", check=2).stderr


# ---------------------------------------------------------------- failed rows


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """20 images and 2 files that are none."""
    folder = tmp_path / "damaged"
    make_crawl(folder, 20)
    (folder / "a.jpg").write_bytes(b"no picture")
    (folder / "b.jpg").write_bytes(b"")
    return folder


def test_max_errors(edit: Runner, damaged: Path, tmp_path: Path) -> None:
    for allowed, code in (("0", 3), ("1", 3), ("2", 0), ("0%", 3), ("9%", 3), ("10%", 0), ("100%", 0)):
        result = edit(
            "shard",
            damaged,
            "-o",
            f"{tmp_path}/{allowed.strip('%')}-{code}/",
            "--max-errors",
            allowed,
            "--overwrite",
            check=code,
        )
        assert ("2 of 22 rows failed" in result.stderr) == (code == 3)
    assert (tmp_path / "0-3" / "_end.json").exists(), "the work is done"
    edit("shard", damaged, "-o", f"{tmp_path}/0-3/", "--max-errors", 0, check=3)  # and says so again
    edit.pipe(["shard", damaged, "--max-errors", 0], ["cat", "-o", tmp_path / "piped"], check=[0, 3])
    edit.pipe(["shard", damaged], ["cat", "--max-errors", 2, "-o", tmp_path / "piped2"], check=[0, 0])
    edit("shard", damaged, check=0)  # into a pipe: the last command judges
    for format in ("jsonl", "tar", "parquet"):  # which carry no rejects: whoever reads them cannot judge
        assert "2 of 22 rows failed" in edit("shard", damaged, "-f", format, check=3).stderr


def test_rejects_file(edit: Runner, damaged: Path, tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    edit("shard", damaged, "-o", tmp_path / "x.tar", "--rejects", path, check=3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["path"], r["reason"], r["stage"], r["failed"]) for r in lines] == [
        ("a.jpg", "not an image", "shard", True),
        ("b.jpg", "empty file", "shard", True),
    ]
    edit("shard", damaged, "-o", tmp_path / "set", check=3)
    assert rejects_of(tmp_path / "set") == lines


def test_rejects_and_output_are_two_files(edit: Runner, damaged: Path, tmp_path: Path) -> None:
    for rejects in ("x.jsonl", tmp_path / "x.jsonl", f"file://{tmp_path}/x.jsonl"):
        edit("shard", damaged, "-o", "x.jsonl", "--rejects", rejects, cwd=tmp_path, check=2)
    assert not (tmp_path / "x.jsonl").exists()
    assert "name a file" in edit("cat", damaged, "-o", "x.jsonl", "--rejects", "-", cwd=tmp_path, check=2).stderr
    edit("shard", damaged, "-o", "x.jsonl", "--rejects", "new/folder/r.jsonl", *["--max-errors", "100%"], cwd=tmp_path)
    assert (tmp_path / "new/folder/r.jsonl").stat().st_size


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 images, and a page of HTML among them that is called one."""
    folder = tmp_path_factory.mktemp("good")
    generator = np.random.default_rng(0)
    for k in range(1500):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{k:04d}.jpg")
    (folder / "0200x.jpg").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["dedup"],
        ["dedup", "--method", "exact"],
        ["filter", "--min-side", "16"],
        ["filter", "--sharpness", ".."],
        ["filter", "--brightness", "q00.."],
    ],
)
def test_one_bad_file_costs_one_row(edit: Runner, good: Path, tmp_path: Path, command: list[str]) -> None:
    result = edit(command[0], good, *command[1:], "-o", tmp_path / "out", check=0)
    assert len(rows_of(tmp_path / "out")) == 1500
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["path"], reject["reason"], reject["failed"]) == ("0200x.jpg", "not an image", True)
    assert "1501 rows in; 1500 out; rejected: 1 not an image" in result.stderr


# ---------------------------------------------------------------- ends


@pytest.fixture(scope="module")
def wide(session_edit: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set whose inline stream is many times larger than a pipe."""
    base = tmp_path_factory.mktemp("wide")
    (base / "in").mkdir()
    for k in range(60):
        (base / "in" / f"{k:02d}.png").write_bytes(image(k, "PNG", 160, 200))
    session_edit("shard", base / "in", "-o", base / "set", "--rows", 10)
    return base / "set"


@pytest.mark.parametrize("format", ["arrows", "tar", "jsonl", "parquet"])
def test_a_reader_that_leaves_is_no_error(edit: Runner, wide: Path, tmp_path: Path, format: str) -> None:
    reader, writer = os.pipe()
    with open(tmp_path / "err", "wb") as errors, open(os.devnull, "rb") as null:
        child = edit.start(
            "cat", wide, "-f", format, "--inline", stdin=null.fileno(), stdout=writer, stderr=errors.fileno()
        )
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        assert child.wait() == 0
    assert (tmp_path / "err").read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("format", ["arrows", "tar", "jsonl", "parquet"])
def test_a_full_disk_is_a_failure(edit: Runner, shards: Path, wide: Path, format: str) -> None:
    for folder in (shards, wide):
        with open("/dev/full", "wb") as full:
            result = edit("cat", folder, "-f", format, stdout=full.fileno(), check=1)
        assert "No space left" in result.stderr and len(result.stderr.splitlines()) == 1


def test_half_a_parquet_file_does_not_read_as_a_whole_one(edit: Runner, shards: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(shards, own)
    stream = edit("cat", own).stdout
    (own / "00002.tar").unlink()
    half = edit("cat", "-f", "parquet", stdin=stream, check=1)
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(io.BytesIO(half.stdout))
    edit("cat", "-o", tmp_path / "out", stdin=half.stdout, check=1)
    edit("cat", "-o", tmp_path / "x.parquet", stdin=stream, check=1)
    assert not (tmp_path / "x.parquet").exists()


def test_an_unwritable_folder(edit: Runner, shards: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = "/proc/edittools-cannot-be-made"
    else:
        (tmp_path / "closed").mkdir()
        (tmp_path / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
        target = f"{tmp_path}/closed/out"
    for name in (f"{target}/", f"{target}.tar", f"{target}.parquet"):
        result = edit("cat", shards, "-o", name, check=1)
        assert target in result.stderr and len(result.stderr.splitlines()) <= 2


def hold(edit: Runner, data: bytes, out: Path, errors: Path) -> tuple:
    """A command in the middle of its work: it has read `data` from a pipe that stays open."""
    reader, writer = os.pipe()
    with open(errors, "wb") as err, open(os.devnull, "wb") as null:
        child = edit.start("cat", "-o", f"{out}/", stdin=reader, stdout=null.fileno(), stderr=err.fileno(), group=0)
    os.close(reader)
    with open(writer, "wb", buffering=0, closefd=False) as feeder:
        feeder.write(data)
    return child, writer


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_finished_shards_and_nothing_else(edit: Runner, wide: Path, tmp_path: Path, signum: int) -> None:
    stream = edit("cat", wide, "--inline").stdout
    out = tmp_path / "out"
    child, writer = hold(edit, stream[: len(stream) // 2], out, tmp_path / "err")
    finished = {p.name for p in out.glob("*.parquet")}
    assert finished, "half of the stream holds whole shards"
    os.killpg(child.pid, signum)
    assert child.wait() == -signum
    os.close(writer)
    assert (tmp_path / "err").read_bytes() == b""
    assert not [p for p in out.rglob("*") if p.name.startswith(".tmp-")]
    assert not (out / "_end.json").exists() and {p.name for p in out.glob("*.parquet")} >= finished
    edit("cat", out, "-f", "jsonl", check=4)
    edit("cat", "-o", f"{out}/", stdin=stream)
    edit("cat", "-o", f"{tmp_path}/fresh/", stdin=stream)
    assert tree(out) == tree(tmp_path / "fresh")


def test_a_writer_that_dies_fails_the_reader(edit: Runner, wide: Path, tmp_path: Path) -> None:
    stream = edit("cat", wide, "--inline").stdout
    child, writer = hold(edit, stream[: len(stream) // 2], tmp_path / "out", tmp_path / "err")
    os.close(writer)
    assert child.wait() == 4
    assert not (tmp_path / "out" / "_end.json").exists()
    assert "hint:" in (tmp_path / "err").read_text()


def test_a_shard_that_changes_is_an_error(edit: Runner, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    stream = edit("cat", copy).stdout
    data = bytearray((copy / "00001.tar").read_bytes())
    data[len(data) // 2] ^= 255
    (copy / "00001.tar").write_bytes(data)
    os.utime(copy / "00001.tar", ns=(1, 1))
    for options in (["-o", tmp_path / "x.tar"], ["-o", f"{tmp_path}/set/"], ["--inline"]):
        result = edit("cat", *options, stdin=stream, check=1)
        assert "changed" in result.stderr
    assert not (tmp_path / "x.tar").exists() and not (tmp_path / "set" / "_end.json").exists()
    assert len(rows_of(tmp_path / "set")) == 8, "the shard before it is whole"
    (copy / "00001.tar").unlink()
    assert "--inline" in edit("cat", "-o", tmp_path / "y.tar", stdin=stream, check=1).stderr


def test_incomplete_sets(edit: Runner, shards: Path, tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(shards, copy)
        return copy

    gone = damaged("gone")
    (gone / "00001.parquet").unlink()
    assert "00001" in edit("cat", gone, "-f", "jsonl", check=4).stderr
    assert len(edit("cat", gone, "--partial", "-f", "jsonl").lines) == 16
    edit("cat", gone, "--partial", "-o", tmp_path / "kept")  # shards keep their numbers, and the set stays incomplete
    assert {p.name for p in (tmp_path / "kept").glob("*.tar")} == {"00000.tar", "00002.tar"}
    edit("cat", tmp_path / "kept", "-f", "jsonl", check=4)
    edit("cat", shards, "-o", tmp_path / "kept")
    edit("cat", shards, "-o", tmp_path / "whole")
    assert tree(tmp_path / "kept") == tree(tmp_path / "whole")
    last = damaged("last")
    (last / "00002.parquet").unlink()
    (last / "_end.json").unlink()
    edit("cat", last, "-f", "jsonl", check=4)
    assert len(edit("cat", last, "--partial", "-f", "jsonl").lines) == 16
    no_end = damaged("no_end")
    (no_end / "_end.json").unlink()
    assert "_end.json" in edit("cat", no_end, "-f", "jsonl", check=4).stderr
    no_tar = damaged("no_tar")
    (no_tar / "00001.tar").unlink()
    edit("cat", no_tar, "-o", tmp_path / "x.tar", check=4)
    short = damaged("short")
    with open(short / "00001.tar", "r+b") as file:
        file.truncate(1024)
    edit("cat", short, "-o", tmp_path / "x.tar", check=4)
    assert not (tmp_path / "x.tar").exists()
    extra = damaged("extra")
    for ending in ("tar", "parquet"):
        shutil.copy(extra / f"00002.{ending}", extra / f"00003.{ending}")
    edit("cat", extra, "-f", "jsonl", check=1)
    swapped = damaged("swapped")
    shutil.copy(swapped / "00001.tar", swapped / "00000.tar")
    if (shards / "00000.tar").stat().st_size == (shards / "00001.tar").stat().st_size:
        assert "digest" in edit("cat", "--check", swapped, check=1).stderr
    else:
        edit("cat", swapped, "-f", "jsonl", check=4)


def test_temporaries_are_never_read(edit: Runner, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (copy / ".tmp-00003.parquet-abcd").write_bytes(b"half")
    assert len(edit("cat", copy, "-f", "jsonl").lines) == 24


def test_dry_run_writes_nothing(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    result = edit("shard", crawl, "-o", f"{tmp_path}/out/", "-n")
    assert b"24 rows" in result.stdout and not (tmp_path / "out").exists()
    result = edit("cat", crawl, "-o", tmp_path / "new/x.tar", "-n")
    assert b"new/x.tar" in result.stdout and not (tmp_path / "new").exists()


def test_one_file_is_no_folder(edit: Runner, shards: Path, tmp_path: Path) -> None:
    for kind in ("jsonl", "tar", "parquet", "arrows"):
        result = edit("cat", shards, "-f", kind, "-o", f"{tmp_path}/w/dir/", check=2)
        assert f"-f {kind} is one file" in result.stderr and not (tmp_path / "w").exists()
    edit("cat", shards, "-f", "shards", "-o", f"{tmp_path}/w/dir/")


def test_dry_run_refuses_the_output_that_the_run_would(edit: Runner, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_bytes(b"")
    for output, status, said in (
        (tmp_path / "x.foo", 2, "not clear from its name"),
        (tmp_path / "new/x.foo", 2, "not clear from its name"),
        (shards, 2, "the input is read from there"),
        (tmp_path / "there.tar", 1, "--overwrite"),
    ):
        assert said in edit("caption", shards, "-o", output, check=status).stderr
        assert said in edit("caption", shards, "-o", output, "-n", check=status).stderr


def test_config_file(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[shard]\nrows = 5\nmax-errors = "0"\n[cat]\nlimit = 3\n')
    edit("shard", crawl, "-o", f"{tmp_path}/a/", "--config", tmp_path / "c.toml")
    assert pq.read_metadata(tmp_path / "a" / "00000.parquet").num_rows == 5
    edit("shard", crawl, "-o", f"{tmp_path}/b/", "--config", tmp_path / "c.toml", "--rows", 7)
    assert pq.read_metadata(tmp_path / "b" / "00000.parquet").num_rows == 7, "the command line wins"
    (tmp_path / "bad.toml").write_text("[shard]\nrowz = 5\n")
    assert "rowz" in edit("shard", crawl, "-o", f"{tmp_path}/c/", "--config", tmp_path / "bad.toml", check=2).stderr
    edit("shard", crawl, "-o", f"{tmp_path}/c/", "--config", tmp_path / "none.toml", check=2)
    for text, said in (
        (b"shard = 5", "`shard` stands in no table"),
        (b"[shard]\nrows = 7 # \xff", "utf-8"),
        (b"[shard]\nrows = [7]", "`rows` takes no such value"),
        (b"[shard]\nmap = [['a=b']]", "`map` takes no such value"),
    ):
        (tmp_path / "bad.toml").write_bytes(text)
        result = edit("shard", crawl, "-o", f"{tmp_path}/c/", "--config", tmp_path / "bad.toml", check=2)
        assert said in result.stderr


def test_config_file_has_the_options_names(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[shard]\nmap = 'words=caption'\n")
    edit("shard", crawl, "-o", f"{tmp_path}/a/", "--config", tmp_path / "c.toml")
    edit("shard", crawl, "-o", f"{tmp_path}/b/", "--map", "words=caption")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") and "words" in rows_of(tmp_path / "a")[0]
    for name in ("min-side", "min_side", "short_side"):  # the last is not an option's name, but was read before
        (tmp_path / "f.toml").write_text(f"[filter]\n{name} = 33\n")
        edit("filter", f"{tmp_path}/a/", "-o", f"{tmp_path}/{name}/", "--config", tmp_path / "f.toml")
        assert not rows_of(tmp_path / name)


def test_a_task_is_two_numbers(edit: Runner, crawl: Path, tmp_path: Path) -> None:
    for task in ("\u00b2/3", "1/\u00b2", "1", "3/3", "x/3"):
        assert "--task" in edit("shard", crawl, "--task", task, "-o", f"{tmp_path}/a/", check=2).stderr


def test_an_output_that_is_the_input_is_refused_before_anything_is_touched(
    edit: Runner, shards: Path, tmp_path: Path
) -> None:
    """With --overwrite the first shard would be gone before it is read; of a pipe, once it comes."""
    own, link = tmp_path / "own", tmp_path / "link"
    shutil.copytree(shards, own)
    link.symlink_to(own)
    before = tree(own)
    for words in (["-o", own], ["-o", f"{link}/", "--overwrite"]):
        assert "the input is read from there" in edit("filter", "--min-side", 1, own, *words, check=2).stderr
    pipe = [["cat", own], ["filter", "--min-side", 1, "-o", link, "--overwrite"]]
    assert "the input is read from there" in edit.pipe(*pipe, check=[None, 2])[-1].stderr
    assert "the input is read from there" in edit("shard", own, "-o", own, "--overwrite", check=2).stderr
    error = edit("cat", own, "-o", f"{link}/00000.tar", "--overwrite", check=2).stderr
    assert f"{link}/00000.tar: a shard of the input" in error
    for read, written in ((own, f"file://{own}/"), (f"file://{own}", own)):
        assert "the input is read from there" in edit("cat", read, "-o", written, "--overwrite", check=2).stderr
    assert tree(own) == before


def test_lines_of_progress_count_what_was_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pass that counts nothing else, too."""
    monkeypatch.setattr("edittools.stream.progress._LINE_EVERY", 0)
    progress = Progress("filter, first pass", 30, shown=True, note=lambda: "all well")
    progress.step(10)
    progress.step(5)
    said = ["filter, first pass: 10 of 30 rows; all well", "filter, first pass: 15 of 30 rows; all well"]
    assert capsys.readouterr().err.splitlines() == said
