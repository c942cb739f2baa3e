"""Rows that training cannot use: known before the first step where that can be, skipped and counted where not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import encode, pixels, tree
from training import MemoryRows, edit_row, pairs, run, tiny

from edittools.errors import EditError, RowError, TooManyFailed, UsageError
from edittools.nets import load_edit_model
from edittools.train import checkpoint
from edittools.train.bucket_sampler import BucketSampler, choose_text
from edittools.train.features import FeatureStore, FeatureWriter, Keys, Stored, precompute
from edittools.train.rejects import Rejects, Unusable

DEMO = ["--recipe", "demo", "--set", "steps=3", "--set", "batch_tokens=72", "--set", "checkpoint_every=1"]


class Damaged(MemoryRows):
    """Some rows' images cannot be decoded."""

    def __init__(self, rows, damaged):
        super().__init__(rows)
        self.damaged, self.asked = damaged, []

    def image(self, index, which, shape=None):
        self.asked.append(index)
        if index in self.damaged:
            raise Unusable(self[index].id, RowError("cannot decode", f"image of {index}"))
        return super().image(index, which, shape)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_damaged_rows_are_skipped_counted_and_written_down(tmp_path, capsys):
    rows = Damaged(pairs(), {3, 11})
    assert run(tiny(), rows, tmp_path, rejects=Rejects("2")).steps == 12
    reasons = {line["id"]: line["reason"] for line in lines(tmp_path / "rejects.jsonl")}
    assert reasons == {f"row-{k}": f"cannot decode: image of {k}" for k in (3, 11)}
    assert lines(tmp_path / "log.jsonl")[-1]["rejected"] == 2
    assert "row row-3 cannot be used" in capsys.readouterr().err
    # every batch is as large as without them: six rows a step
    assert lines(tmp_path / "log.jsonl")[-1]["samples"] == 12 * 6


def test_what_takes_the_place_of_a_damaged_row_is_a_function_of_the_data(tmp_path):
    """So a run that was interrupted ends with the same weights, bit for bit."""

    class Kill(BaseException):
        pass

    def kill(report):
        if report.step == 7:
            raise Kill

    run(tiny(), Damaged(pairs(), {3, 11}), tmp_path / "whole", rejects=Rejects("10%"))
    with pytest.raises(Kill):
        run(tiny(), Damaged(pairs(), {3, 11}), tmp_path / "parts", rejects=Rejects("10%"), on_step=kill)
    run(tiny(), Damaged(pairs(), {3, 11}), tmp_path / "parts", rejects=Rejects("10%"))
    whole, parts = (tree(tmp_path / name, "*/*.safetensors") for name in ("whole", "parts"))
    assert whole == parts and whole


def test_too_many_stop_the_run_and_it_goes_on_without_them(tmp_path):
    with pytest.raises(TooManyFailed, match=r"2 of 20 rows cannot be used, more than --max-errors 5%; the last: row r"):
        run(tiny(), Damaged(pairs(), {3, 11}), tmp_path, rejects=Rejects("5%"))
    assert len(lines(tmp_path / "rejects.jsonl")) == 2
    kept = [pair for k, pair in enumerate(pairs()) if k not in (3, 11)]
    first = checkpoint.newest(tmp_path)
    assert run(tiny(), MemoryRows(kept), tmp_path).resumed_from == (0 if first is None else checkpoint.step_of(first))


def test_where_all_rows_of_a_bucket_are_damaged_that_is_said(tmp_path):
    with pytest.raises(EditError, match="no row of a bucket can be used: 20 cannot decode"):
        run(tiny(), Damaged(pairs(), set(range(20))), tmp_path, rejects=Rejects("100%"))


def test_a_damaged_mask_costs_its_row(tmp_path):
    class Masked(MemoryRows):
        def mask(self, index):
            if index == 7:
                raise Unusable(self[index].id, RowError("cannot decode", "its mask"))
            return super().mask(index)

    masks = {k: np.full((16, 16, 3), 255, np.uint8) for k in range(0, 20, 2)}
    assert run(tiny(mask_weight=3.0), Masked(pairs(), masks=masks), tmp_path / "run", rejects=Rejects("1")).steps == 12
    (line,) = lines(tmp_path / "run" / "rejects.jsonl")
    assert line == {"id": "row-7", "reason": "cannot decode: its mask"}
    with pytest.raises(TooManyFailed, match="row-7"):
        run(tiny(mask_weight=3.0), Masked(pairs(), masks=masks), tmp_path / "none")


def test_a_damaged_held_out_row_is_left_out_of_the_loss(tmp_path, capsys):
    """Which is that of the same rows without it: every row's noise is its own."""
    held = pairs(28)[20:]
    recipe = tiny(steps=2, heldout_every=1, sample_every=2, sample_rows=3, sample_steps=1, heldout_times=[0.5])
    allowed = Rejects("1", "held-out")
    run(recipe, MemoryRows(pairs()), tmp_path / "run", heldout=Damaged(held, {1}), held_rejects=allowed)
    run(recipe, MemoryRows(pairs()), tmp_path / "without", heldout=MemoryRows([held[0], *held[2:]]))
    ours, theirs = (lines(tmp_path / name / "heldout.jsonl") for name in ("run", "without"))
    assert [line["rows"] for line in ours] == [7, 7, 7]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert lines(tmp_path / "run" / "rejects.jsonl") == [
        {"id": "row-21", "reason": "cannot decode: image of 1", "of": "held-out"}
    ]
    assert lines(tmp_path / "run" / "log.jsonl")[-1]["rejected"] == 0
    assert "held-out row row-21 cannot be used" in capsys.readouterr().err
    sheets = [json.loads((tmp_path / name / "samples" / "00000002.json").read_text()) for name in ("run", "without")]
    assert sheets[0] == sheets[1] and len(sheets[0]) == 3
    with pytest.raises(TooManyFailed, match="1 of 8 held-out rows cannot be used, more than --max-errors 0"):
        run(recipe, MemoryRows(pairs()), tmp_path / "none", heldout=Damaged(held, {1}))
    with pytest.raises(EditError, match="no held-out row can be used: 8 cannot decode"):
        run(recipe, MemoryRows(pairs()), tmp_path / "no", heldout=Damaged(held, set(range(8))))


def test_a_damaged_preview_row_is_left_out_of_the_sheet(tmp_path):
    recipe = tiny(steps=2, sample_every=1, sample_ids=["row-3", "row-4"], sample_steps=1, batch_tokens=16)
    rows = Damaged(pairs(), {3})
    run(recipe, rows, tmp_path / "run", rejects=Rejects("1"))
    (shown,) = json.loads((tmp_path / "run" / "samples" / "00000001.json").read_text())
    assert shown["id"] == "row-4" and [line["id"] for line in lines(tmp_path / "run" / "rejects.jsonl")] == ["row-3"]
    with pytest.raises(TooManyFailed, match="row-3"):
        run(recipe, Damaged(pairs(), {3}), tmp_path / "none")


def test_rows_with_too_many_tokens_are_known_before_the_first_step():
    """32 tokens are eight images of 16², or a target and seven references."""
    rows = MemoryRows(pairs(20, references=lambda k: 9 if k in (4, 5) else 1))
    recipe = tiny(batch_tokens=32)
    rejects = Rejects("2")
    sampler = BucketSampler(recipe, rows, 8, 8, rejects=rejects)
    reason = "a row of 9 references has 40 image tokens, and `batch_tokens` is 32"
    assert rejects.reasons == {"row-4": reason, "row-5": reason}
    drawn = {sampler.samples[draw.sample].row for _, batches in zip(range(9), sampler.steps(0)) for batch in batches
             for draw in batch}  # fmt: skip
    assert drawn == set(range(20)) - {4, 5}
    few = Rejects("5%")
    few.rows = 20
    with pytest.raises(TooManyFailed, match="2 of 20 rows"):
        BucketSampler(recipe, rows, 8, 8, rejects=few)
    with pytest.raises(UsageError, match="batch_tokens"):
        BucketSampler(tiny(batch_tokens=4), rows, 8, 8, rejects=Rejects("100%"))


def test_precomputing_skips_them_and_training_reads_why(tmp_path):
    rows = Damaged(pairs(8), {2})
    recipe = tiny(steps=4, batch_tokens=16)
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["invert"])
    from edittools.train.features import Encoder

    sampler = BucketSampler(recipe, rows, 8, 8)
    keys, rejects = Keys(system.encoding(), rows, {}), Rejects("1")
    keys.content = lambda row, which: f"{row} {which}"
    import torch

    writer = FeatureWriter(tmp_path / "store", torch.float32)
    list(precompute(Encoder(system, rows), keys, sampler.samples, FeatureStore(tmp_path / "store"), writer, rejects))
    assert rejects.reasons == {"row-2": "cannot decode: image of 2"}
    store = FeatureStore(tmp_path / "store")
    assert store.rejected == rejects.reasons
    stored = Stored(store, keys)
    stored.check(sampler.samples)
    with pytest.raises(Unusable, match="row row-2: cannot decode: image of 2"):
        stored(next(sample for sample in sampler.samples if sample.row == 2))
    with pytest.raises(TooManyFailed):
        list(precompute(Encoder(system, rows), keys, sampler.samples, FeatureStore(tmp_path / "new"),
                        FeatureWriter(tmp_path / "new", torch.float32), Rejects("0")))  # fmt: skip


def test_a_row_that_has_been_mended_is_used_again(tmp_path):
    """And what a store says of a row is not said of another set's row with the same id."""
    import torch

    from edittools.train.features import Encoder

    recipe = tiny(steps=4, batch_tokens=16)
    edit_model = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["invert"])
    store = tmp_path / "store"

    def stored(damaged):
        rows = Damaged(pairs(8), damaged)
        sampler, keys = BucketSampler(recipe, rows, 8, 8), Keys(edit_model.encoding(), rows, {})
        keys.content = lambda row, which: f"{row} {which} {row in damaged}"
        writer = FeatureWriter(store, torch.float32)
        list(precompute(Encoder(edit_model, rows), keys, sampler.samples, FeatureStore(store), writer, Rejects("1")))
        return Stored(FeatureStore(store), keys), sampler.samples[2]

    before, sample = stored({2})
    with pytest.raises(Unusable, match="row-2: cannot decode"):
        before(sample)
    mended, sample = stored(set())
    mended.check([sample])
    assert mended(sample).target.shape == (3, 16, 16)


# ------------------------------------------------------------------------------------------------ as a command


@pytest.fixture
def images(tmp_path):
    for k in range(10):
        (tmp_path / f"{k}.png").write_bytes(encode(pixels(k, 60, 60), "PNG"))
    return tmp_path


def write(folder, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_rows(count=8):
    return [{"id": f"r{k}", "source": [f"{k}.png"], "target": f"{(k + 1) % 10}.png", "instruction": f"do {k}"}
            for k in range(count)]  # fmt: skip


CASES = {
    "a reference is missing": ({"source": ["1.png", None, "2.png"]}, "source 2 of 3 is missing"),
    "no source": ({"source": []}, "an instruction without a source"),
    "null source": ({"source": None}, "an instruction without a source"),
}


@pytest.mark.parametrize("name", CASES)
def test_unfit_rows_are_said_before_the_first_step(name, images, model_edit):
    change, reason = CASES[name]
    write(images, [{**row, **change} if k == 3 else row for k, row in enumerate(edit_rows())])
    said = model_edit("train", "rows.jsonl", *DEMO, "-q", "-o", "run/", cwd=images, check=3).stderr
    assert "1 of 8 rows cannot be used, more than --max-errors 1%" in said and reason in said
    assert not (images / "run").exists()
    said = model_edit("train", "rows.jsonl", *DEMO, "--max-errors", "1", "-o", "run/", cwd=images).stderr
    assert "7 rows, 3 steps" in said and f"row r3 cannot be used: {reason}" in said
    assert [line["id"] for line in lines(images / "run" / "rejects.jsonl")] == ["r3"]


def test_rows_without_a_target_or_a_text_are_said_by_kind(images, model_edit):
    rows = edit_rows()
    rows[1]["target"] = None
    rows[2]["instruction"] = "  "
    rows[4] = {**rows[4], "instruction": None, "caption": "an image"}
    write(images, rows)
    said = model_edit("train", "rows.jsonl", *DEMO, "-o", "run/", cwd=images).stderr
    assert "1 rows without a target left out" in said and "1 rows without a text left out" in said
    assert "1 edits have no instruction: their caption is the text" in said


def test_a_damaged_image_stops_a_run_that_goes_on_without_it(images, model_edit):
    data = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(data[: len(data) // 2])
    write(images, edit_rows())
    said = model_edit("train", "rows.jsonl", *DEMO, "-q", "-o", "run/", cwd=images, check=3).stderr
    assert "row r" in said and said.count("\n") <= 4
    write(images, [row for row in edit_rows() if "3.png" not in (row["source"][0], row["target"])])
    model_edit("train", "rows.jsonl", *DEMO, "-q", "-o", "run/", cwd=images)
    write(images, edit_rows())
    said = model_edit("train", "rows.jsonl", *DEMO, "--max-errors", "30%", "-o", "other/", cwd=images).stderr
    assert {line["id"] for line in lines(images / "other" / "rejects.jsonl")} == {"r2", "r3"}


def test_a_damaged_held_out_image_counts_against_max_errors(images, model_edit):
    data = (images / "9.png").read_bytes()
    write(images, edit_rows())
    held = [{**row, "id": f"h{k}"} for k, row in enumerate(edit_rows())]
    held[2] = {**held[2], "source": ["bad.png"]}
    held[5]["source"] = ["8.png", None]  # which is known before the first step
    (images / "bad.png").write_bytes(data[: len(data) // 2])
    (images / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    asked = ["train", "rows.jsonl", *DEMO, "--heldout", "held.jsonl", "-q", "--set", "heldout_every=1"]
    said = model_edit(*asked, "--max-errors", "1", "-o", "run/", cwd=images, check=3).stderr
    assert "2 of 8 held-out rows cannot be used, more than --max-errors 1" in said
    model_edit(*asked, "--max-errors", "2", "-o", "run/", cwd=images)
    found = {(line["id"], line["of"]) for line in lines(images / "run" / "rejects.jsonl")}
    assert found == {("h2", "held-out"), ("h5", "held-out")}
    assert {line["rows"] for line in lines(images / "run" / "heldout.jsonl")} == {6}


def test_the_same_text_is_learned_and_sampled(images, model_edit):
    """A pair's .txt is its instruction, in a folder and in a tar; an edit with a caption alone is learned by it."""
    raw = images / "raw"
    raw.mkdir()
    for k in range(4):
        for role, number in (("source", k), ("target", k + 1)):
            (raw / f"{k}.{role}.png").write_bytes((images / f"{number}.png").read_bytes())
        (raw / f"{k}.txt").write_text(f"invert {k}\n")
    (raw / "alone.png").write_bytes((images / "9.png").read_bytes())
    (raw / "alone.txt").write_text("what is on it")
    import tarfile

    with tarfile.open(images / "raw.tar", "w") as tar:
        for path in sorted(raw.iterdir()):
            tar.add(path, path.name)
    for name in ("raw/", "raw.tar"):
        model_edit("shard", name, "-o", "d/", "--overwrite", "-q", cwd=images)
        rows = model_edit("cat", "d/", "-f", "jsonl", cwd=images).lines
        said = sorted(row["instruction"]["en"] for row in rows if row.get("source"))
        assert said == [f"invert {k}" for k in range(4)]
        assert [row["caption"]["en"] for row in rows if not row.get("source")] == ["what is on it"]
        assert not any(row.get("caption") for row in rows if row.get("source"))
    rows = [{"caption": row.pop("instruction"), **row} for row in edit_rows(4)]
    write(images, rows)
    said = model_edit("train", "rows.jsonl", *DEMO, "--set", "batch_tokens=18", "-o", "run/", cwd=images).stderr
    assert "4 edits have no instruction: their caption is the text" in said
    said = model_edit("sample", "rows.jsonl", "--model", "run/", "-o", "s/", cwd=images).stderr
    assert "4 rows without an instruction: their caption was the text" in said
    rows[0]["source"] = ["1.png", None]
    write(images, rows)
    model_edit("sample", "rows.jsonl", "--model", "run/", "-q", "-o", "t/", cwd=images, check=3)
    assert "source 2 of 2 is missing" in next((images / "t" / "_rejects").glob("*.jsonl")).read_text()


def test_an_edits_text_is_its_instruction_then_its_caption():
    recipe = tiny(captions={"structured": 1.0})
    for texts, wanted in (
        ({("original", "en"): "seen", ("instruction", "en"): "do"}, "do"),
        ({("original", "en"): "seen", ("instructive", "en"): "do"}, "do"),
        ({("original", "en"): "seen"}, "seen"),
    ):
        row, _ = edit_row("r", [np.zeros((16, 16, 3), np.uint8)], np.zeros((16, 16, 3), np.uint8), "x")
        row = type(row)(row.id, row.task, row.template, texts, row.sources, row.target)
        assert {choose_text(recipe, row, variant)[0] for variant in range(9)} == {wanted}


def test_a_kind_of_caption_that_is_not_there_is_refused(images, model_edit):
    rows = [{"target": f"{k}.png", "caption": f"grey {k}", "caption_structured": {"en": "s"}} for k in range(8)]
    write(images, rows)
    said = model_edit("train", "rows.jsonl", *DEMO, "--set", "captions={orignal=90,structured=10}", "-o", "run/",
                      cwd=images, check=2).stderr  # fmt: skip
    assert "orignal" in said and "original, structured, instructive" in said
