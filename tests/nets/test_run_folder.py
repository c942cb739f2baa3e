"""Run folders: nothing is lost, whatever ends a run, and a run goes on where its settings or its rows have changed."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, pixels, tree
from safetensors.torch import load_file
from training import MemoryRows, pairs, run, tiny

from edittools import api
from edittools.cli import train
from edittools.errors import EditError, UsageError
from edittools.nets.load import load_editor
from edittools.nets.run_folder import load as load_run
from edittools.stream import files
from edittools.stream.run import RunOptions, open_input
from edittools.train import checkpoint, console, folder, loop
from edittools.train.export import link_best
from edittools.train.folder import Data
from edittools.train.log import append, read_lines
from edittools.train.rejects import Rejects
from edittools.train.rows import ShardRows


class Kill(BaseException):
    """As sudden as a kill: nothing is saved."""


def until(step, what=Kill):
    """An `on_step` that ends the run after a step."""

    def tell(report):
        if report.step == step:
            raise what(f"at {step}")

    return tell


def stopped(out, step, recipe=None, rows=None, what=Kill, **options):
    with pytest.raises(what):
        run(recipe or tiny(), rows or MemoryRows(pairs()), out, on_step=until(step, what), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed: to compare with."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(tiny(), MemoryRows(pairs()), out)
    return out


@pytest.fixture(scope="module")
def killed_after_nine(tmp_path_factory):
    """Makes of a folder a run that was killed after nine steps: copies of one."""
    first = tmp_path_factory.mktemp("killed") / "run"
    stopped(first, 9)

    def copy(out):
        shutil.copytree(first, out, symlinks=True, dirs_exist_ok=True)

    return copy


def names(out):
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def weights(path):
    return tree(path, "*/*.safetensors")


def config(out):
    return json.loads((out / "config.json").read_text())


# --------------------------------------------------------------------------------------------------- kept models


def test_every_kept_step_is_the_model_that_a_run_of_so_many_steps_leaves(tmp_path):
    """decay_from = 1: what a step does depends on no later one, so shorter runs are an independent truth."""
    settings = {"decay_from": 1.0, "ema_from": 0.0, "sample_steps": 2}
    run(tiny(steps=9, keep_every=3, checkpoint_every=4, **settings), MemoryRows(pairs()), tmp_path / "run")
    assert names(tmp_path / "run") == ["step-00000003", "step-00000006", "step-00000009"]
    for step in (3, 6, 9):
        run(tiny(steps=step, **settings), MemoryRows(pairs()), tmp_path / f"{step}")
        kept = tmp_path / "run" / f"@{step}"
        assert weights(kept) == weights(tmp_path / f"{step}") and weights(kept)
        assert json.loads((kept / "_end.json").read_text())["steps"] == step
        load_run(kept, "cpu", "float32")
    link_best(tmp_path / "run", 3)
    link_best(tmp_path / "run", 6)
    assert os.readlink(tmp_path / "run" / "@best") == "@6"
    with pytest.raises(EditError, match="@5") as caught:
        load_editor(str(tmp_path / "run" / "@5"))
    assert "@3, @6, @9" in caught.value.hint


def test_a_run_that_died_while_it_kept_a_model_keeps_it_when_it_goes_on(tmp_path):
    stopped(tmp_path, 7, tiny(keep_every=3, checkpoint_every=100))
    (tmp_path / "@6").rename(tmp_path / ".tmp-@6")
    (tmp_path / "checkpoints" / ".tmp-step-00000007").mkdir()
    run(tiny(keep_every=3, checkpoint_every=100), MemoryRows(pairs()), tmp_path)
    assert sorted(p.name for p in tmp_path.glob("@*")) == ["@12", "@3", "@6", "@9"]
    assert not [*tmp_path.rglob(".*")]


# -------------------------------------------------------------------------------------------------- checkpoints


def test_the_last_checkpoints_are_kept_and_no_others(tmp_path):
    stopped(tmp_path / "two", 11, tiny(checkpoint_every=2))
    assert names(tmp_path / "two") == ["step-00000008", "step-00000010"]
    stopped(tmp_path / "one", 11, tiny(checkpoint_every=2, keep_last=1))
    assert names(tmp_path / "one") == ["step-00000010"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # one bit of a weight: only a digest can tell
    path.write_bytes(bytes(data))


def cut_undigested(folder):
    """As a release without digests left it: torch itself has to notice."""
    state = json.loads((folder / "state.json").read_text())
    del state["files"]
    (folder / "state.json").write_text(json.dumps(state))
    cut(next(folder.glob("*.safetensors")))


DAMAGE = {
    "cut": lambda folder: cut(next(folder.glob("*.safetensors"))),
    "a bit": lambda folder: flip(next(folder.glob("*.safetensors"))),
    "no tensors": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half a state": lambda folder: cut(folder / "state.json"),
    "cut, and without digests": lambda folder: cut_undigested(folder),
    "another state": lambda folder: (folder / "state.json").write_text("[1]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, how, capsys, whole, killed_after_nine):
    out = tmp_path / "run"
    killed_after_nine(out)
    assert names(out) == ["step-00000004", "step-00000008"]
    DAMAGE[how](out / "checkpoints" / "step-00000008")
    assert run(tiny(), MemoryRows(pairs()), out).resumed_from == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "step-00000008: the checkpoint cannot be read" in said
    assert weights(out) == weights(whole)
    assert names(out) == ["step-00000012"]


def test_no_readable_checkpoint_is_one_error_and_nothing_is_removed(tmp_path):
    stopped(tmp_path, 5)
    cut(next((tmp_path / "checkpoints").rglob("*.safetensors")))
    for _ in range(2):
        with pytest.raises(EditError, match=r"cannot be read.*; the run has no other") as caught:
            run(tiny(), MemoryRows(pairs()), tmp_path)
        assert "--overwrite" in caught.value.hint
    assert [*(tmp_path / "checkpoints").rglob("*.safetensors")]


def test_a_full_disk_is_one_error_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    from torch.distributed.checkpoint import hf_storage

    plain = hf_storage.HuggingFaceStorageWriter.write_data

    def full(writer, sampler, planner):  # within torch, which has an exception of its own for it
        if (tmp_path / "checkpoints" / "step-00000004").exists():
            Path(writer.path, "half.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return plain(writer, sampler, planner)

    monkeypatch.setattr(hf_storage.HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(EditError, match=r"step-00000008: the checkpoint cannot be written: OSError.*No space left"):
        run(tiny(), MemoryRows(pairs()), tmp_path)
    assert names(tmp_path) == ["step-00000004"]
    monkeypatch.undo()
    assert run(tiny(), MemoryRows(pairs()), tmp_path).resumed_from == 4


def test_an_export_that_fails_is_done_again_without_a_step(tmp_path, monkeypatch, whole):
    from edittools.train import export

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(EditError, match=r"transformer: the weights cannot be written: .*No space left"):
        run(tiny(), MemoryRows(pairs()), tmp_path / "run")
    assert not [*(tmp_path / "run").rglob(".tmp*")] and not (tmp_path / "run" / "transformer").exists()
    monkeypatch.undo()
    assert run(tiny(), MemoryRows(pairs()), tmp_path / "run").resumed_from == 12
    assert weights(tmp_path / "run") == weights(whole)
    ends = [(out / "_end.json").read_text() for out in (tmp_path / "run", whole)]
    assert ends[0] == ends[1]


def test_what_goes_wrong_between_checkpoints_loses_no_step(tmp_path, whole):
    stopped(tmp_path / "run", 7, what=RuntimeError)
    assert checkpoint.newest(tmp_path / "run").name == "step-00000007"
    run(tiny(), MemoryRows(pairs()), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)


def test_memory_that_runs_out_is_one_line_and_the_run_goes_on_with_another_setting(tmp_path):
    with pytest.raises(EditError, match="step 8: out of memory: OutOfMemoryError: CUDA") as caught:
        run(tiny(), MemoryRows(pairs()), tmp_path, on_step=until(7, lambda _: torch.OutOfMemoryError("CUDA")))
    assert "checkpointing" in caught.value.hint
    changed = tiny(checkpointing="full", batch_tokens=24, microbatches=2)
    assert run(changed, MemoryRows(pairs()), tmp_path).resumed_from == 7


def test_files_are_readable_by_whom_the_folder_is(tmp_path):
    before = os.umask(0o027)
    try:
        run(tiny(steps=4, keep_every=2), MemoryRows(pairs()), tmp_path / "run")
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert len(modes) > 10 and {oct(mode) for mode in modes.values()} == {"0o640"}, modes


# ------------------------------------------------------------------------------------------------ two at once


def test_a_second_trainer_is_refused(tmp_path):
    def again(report):
        if report.step == 2:
            run(tiny(), MemoryRows(pairs()), tmp_path / "run")

    with pytest.raises(EditError, match=f"another trainer is at work there .process {os.getpid()} on"):
        run(tiny(), MemoryRows(pairs()), tmp_path / "run", on_step=again)
    with pytest.raises(EditError, match="another trainer"):
        run(tiny(), MemoryRows(pairs()), tmp_path / "run", on_step=lambda report: run(
            tiny(), MemoryRows(pairs()), tmp_path / "run", overwrite=True))  # fmt: skip
    assert checkpoint.newest(tmp_path / "run") is not None
    # whoever has died holds nothing, though its file is there
    (tmp_path / "run" / ".lock").write_text("process 1 on elsewhere")
    run(tiny(), MemoryRows(pairs()), tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()


def test_no_second_trainer_comes_between_the_opening_of_a_run_and_its_first_step(tmp_path, monkeypatch):
    """One with --overwrite, at every moment from the opening to the end."""
    (tmp_path / "a.png").write_bytes(encode(pixels(1, 60, 60), "PNG"))
    row = {"id": "a", "source": ["a.png"], "target": "a.png", "instruction": "leave it"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    opened, prepared, refused = folder.open_run, loop.prepare, []

    def another():
        with pytest.raises(EditError, match="another trainer is at work") as error:
            opened(tmp_path / "run", tiny(seed=9), Data(), overwrite=True)
        refused.append(error)

    def opens(*arguments, **options):
        found = opened(*arguments, **options)
        another()
        return found

    def prepares(*arguments):
        another()
        return prepared(*arguments)

    monkeypatch.setattr(console, "open_run", opens)
    monkeypatch.setattr(loop, "prepare", prepares)
    settings = ["--set", "steps=1", "--set", "batch_tokens=72", "--set", "model.layers=1"]
    train.command.main(
        [str(tmp_path / "rows.jsonl"), *settings, "-q", "-o", str(tmp_path / "run")], standalone_mode=False
    )
    assert len(refused) == 2 and config(tmp_path / "run")["recipe"]["steps"] == 1
    assert (tmp_path / "run" / "_end.json").exists() and not (tmp_path / "run" / ".lock").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder.alone(tmp_path):
        pass
    assert "nothing keeps a second trainer away: No locks available" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- changes


@pytest.mark.parametrize("settings", [
    {"log_every": 3}, {"checkpoint_every": 1}, {"keep_every": 5}, {"keep_last": 1}, {"sample_every": 100},
    {"checkpointing": "full"}, {"attention": "native"}, {"loss_spike_factor": 0.0},
], ids=str)  # fmt: skip
def test_what_decides_nothing_may_change_and_changes_no_bit(tmp_path, settings, whole, killed_after_nine):
    out = tmp_path / "run"
    killed_after_nine(out)
    assert run(tiny(**settings), MemoryRows(pairs()), out).resumed_from == 8
    assert weights(out) == weights(whole)
    assert config(out)["recipe"][next(iter(settings))] == next(iter(settings.values()))
    # and a finished run is the same run with them
    before = (out / "log.jsonl").read_text()
    assert run(tiny(), MemoryRows(pairs()), out).seconds == 0 and (out / "log.jsonl").read_text() == before


OF_BEFORE = {
    "resolution": "sides", "max_grad_norm": "clip", "loss_spike_factor": "spike", "microbatches": "batches",
    "instruction_styles": "wordings", "caption_dropout": "drop_text",
}  # fmt: skip


def test_a_run_whose_recipe_has_the_names_of_before_is_the_same_run(tmp_path):
    stopped(tmp_path, 7, what=RuntimeError)
    recipe = config(tmp_path)["recipe"]
    assert OF_BEFORE.keys() <= recipe.keys()
    written = config(tmp_path) | {"recipe": {OF_BEFORE.get(name, name): value for name, value in recipe.items()}}
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert run(tiny(), MemoryRows(pairs()), tmp_path).resumed_from == 7
    assert config(tmp_path)["recipe"] == recipe and "changes" not in config(tmp_path)

    (tmp_path / "config.json").write_text(json.dumps(config(tmp_path) | {"recipe": written["recipe"]}))
    assert run(tiny(), MemoryRows(pairs()), tmp_path).seconds == 0  # finished, and by the same settings
    assert load_run(tmp_path, "cpu", "float32").recipe == recipe
    with pytest.raises(UsageError, match="`max_grad_norm`"):
        run(tiny(max_grad_norm=0.5), MemoryRows(pairs()), tmp_path)


def test_more_steps_of_a_finished_run_are_those_of_a_longer_one(tmp_path):
    settings = {"decay_from": 1.0}  # so that the first steps do not depend on how many there are
    run(tiny(steps=20, **settings), MemoryRows(pairs()), tmp_path / "long")
    run(tiny(steps=12, **settings), MemoryRows(pairs()), tmp_path / "run")
    assert run(tiny(steps=20, **settings), MemoryRows(pairs()), tmp_path / "run").resumed_from == 12
    assert weights(tmp_path / "run") == weights(tmp_path / "long")
    assert config(tmp_path / "run")["changes"] == [{"step": 12, "settings": {"steps": [12, 20]}}]
    with pytest.raises(UsageError, match="another `steps`"):
        run(tiny(steps=15, **settings), MemoryRows(pairs()), tmp_path / "run")


def test_a_finished_run_without_its_checkpoint_cannot_go_on(tmp_path, whole):
    shutil.copytree(whole, tmp_path, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints")
    assert run(tiny(), MemoryRows(pairs()), tmp_path).seconds == 0
    with pytest.raises(UsageError, match="its last checkpoint is gone"):
        run(tiny(steps=20), MemoryRows(pairs()), tmp_path)


@pytest.mark.parametrize("settings", [
    {"lr": 1e-5}, {"max_grad_norm": 0.5}, {"batch_tokens": 24, "microbatches": 2}, {"optimizer": "adamw"}, {"ema": 0.0},
    {"seed": 5}, {"caption_dropout": 0.5}, {"timesteps": "uniform"},
], ids=str)  # fmt: skip
def test_an_unfinished_run_goes_on_with_another_setting_and_writes_it_down(
    tmp_path, settings, capsys, killed_after_nine
):
    killed_after_nine(tmp_path)
    done = run(tiny(**settings), MemoryRows(pairs()), tmp_path)
    assert done.resumed_from == 8 and done.steps == 12
    name, value = next(iter(settings.items()))
    (change,) = config(tmp_path)["changes"]
    assert change["step"] == 8 and change["settings"][name][1] == value
    assert f"`{name}` is {value!r}" in capsys.readouterr().err


def test_an_average_that_is_asked_for_later_begins_at_the_weights(tmp_path):
    stopped(tmp_path, 9, tiny(ema=0.0))
    run(tiny(steps=9, ema=0.5), MemoryRows(pairs()), tmp_path)  # one step more
    found = load_file(next((tmp_path / "checkpoints" / "step-00000009").glob("*.safetensors")))
    before = None
    for name in found:
        if name.startswith("model/") and name.endswith("proj_out.weight"):
            before = found[name]
            assert torch.isfinite(found[name.replace("model/", "average/")]).all()
    assert before is not None


def test_a_changed_network_is_another_run(tmp_path, killed_after_nine):
    killed_after_nine(tmp_path)
    with pytest.raises(UsageError, match=r"its `model.layers` is 2, not 3") as caught:
        run(tiny(model_layers=3), MemoryRows(pairs()), tmp_path)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="has done 8 steps, and `steps` is 6"):
        run(tiny(steps=6), MemoryRows(pairs()), tmp_path)


def test_where_nothing_was_learned_any_setting_may_change(tmp_path):
    stopped(tmp_path, 2)
    assert run(tiny(model_layers=1), MemoryRows(pairs()), tmp_path).resumed_from == 0


def test_a_loss_that_diverged_goes_on_from_the_last_checkpoint_with_a_lower_rate(tmp_path):
    bad = {"muon_lr": 1e20, "lr": 1e20, "max_grad_norm": 1e20}
    stopped(tmp_path, 5)
    with pytest.raises(EditError, match="row-") as caught:
        run(tiny(**bad), MemoryRows(pairs()), tmp_path)
    assert "same command" in caught.value.hint and checkpoint.newest(tmp_path).name == "step-00000004"
    assert run(tiny(), MemoryRows(pairs()), tmp_path).resumed_from == 4


@pytest.mark.parametrize("count", [19, 21])
def test_one_row_fewer_or_more_goes_on_in_a_new_epoch(tmp_path, count, capsys, killed_after_nine):
    out = tmp_path / "run"
    killed_after_nine(out)
    assert run(tiny(), MemoryRows(pairs(count)), out).resumed_from == 8
    said = capsys.readouterr().err
    assert f"the data has {count} rows (had 20)" in said and "a new epoch begins at step 8" in said
    (change,) = config(out)["changes"]
    assert change["data"]["rows"] == [20, count] and change["step"] == 8
    kept = checkpoint.read_state(checkpoint.newest(out))
    # six rows a step of twenty an epoch: eight steps are in the third epoch, number 2
    assert kept["plan_begins"] == [8, 3]
    # interrupted again it goes on as if it had not been
    killed_after_nine(tmp_path / "again")
    stopped(tmp_path / "again", 11, rows=MemoryRows(pairs(count)), recipe=tiny(checkpoint_every=1))
    run(tiny(), MemoryRows(pairs(count)), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(out)


def test_rows_of_another_data_set_are_refused(tmp_path, killed_after_nine):
    killed_after_nine(tmp_path)
    others = MemoryRows([(dataclasses.replace(row, id=f"other {row.id}"), images) for row, images in pairs()])
    others.data_id = "others"
    with pytest.raises(UsageError, match="0% of its rows"):
        run(tiny(), others, tmp_path)


def test_likeness_by_hand_and_estimated():
    class Named:
        data_id = "x"

        def __init__(self, numbers):
            self.rows = [type("Row", (), {"id": f"r{k}"}) for k in numbers]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, k):
            return self.rows[k]

    few = [Data.of(Named(numbers)) for numbers in (range(0, 8), range(2, 10), range(20, 30))]
    assert few[0].likeness(few[1]) == 6 / 10 and few[0].likeness(few[2]) == 0 and few[0].likeness(few[0]) == 1
    # 9000 of 11000 in common; the deviation of the estimate is sqrt(p (1 - p) / 512) = 0.017
    many = [Data.of(Named(numbers)) for numbers in (range(10000), range(1000, 11000))]
    assert many[0].likeness(many[1]) == pytest.approx(9000 / 11000, abs=0.06)


def test_a_log_and_a_preview_on_a_full_disk_are_one_line_that_names_them(tmp_path, monkeypatch):
    if os.path.exists("/dev/full"):  # which takes nothing
        with pytest.raises(EditError, match=r"^/dev/full: cannot be written: No space left on device$") as caught:
            append(Path("/dev/full"), {"step": 1})
        assert caught.value.hint.startswith("make room")

    finish = files.AtomicFile.finish

    def full(self):
        with files.writing(self.path):
            if "samples" in self.path:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finish(self)

    monkeypatch.setattr(files.AtomicFile, "finish", full)
    with pytest.raises(EditError, match=r"samples/00000004\.json: cannot be written: No space left"):
        run(tiny(sample_every=4), MemoryRows(pairs()), tmp_path / "run")
    assert not [path.name for path in (tmp_path / "run" / "samples").iterdir()]


def test_a_line_behind_one_that_was_cut_off_is_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, {"step": 1}, {"step": 2})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    append(path, {"step": 4})
    assert [line["step"] for line in read_lines(path)] == [1, 2, 4]


def test_rows_that_look_alike_are_not_recognised_by_their_images(tmp_path):
    """Of 20 rows of one picture each, of two sizes: other data look the same."""
    for k in range(20):
        (tmp_path / f"{k}.bmp").write_bytes(encode(np.full((8 + k % 2, 8, 3), 10 * k, np.uint8), "bmp"))
    lines = [json.dumps({"target": f"{k}.bmp", "caption": f"grey {k}"}) for k in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    source = open_input([str(tmp_path / "rows.jsonl")], RunOptions())
    made = Data.of(ShardRows(source, {"original": "caption"}, ("en",), "", 10**9))
    assert len(made.sketch) == 20 and made.content == ()


def test_rows_are_recognised_by_what_they_hold_where_their_ids_change(tmp_path):
    """A line less in a file, another order, another name, sharded or not: the ids of rows without one of their own
    say where they lie. Shares by hand; other images of the same sizes, with the same text, are other rows."""
    lines, random = [], np.random.default_rng(0)
    for k in range(24):
        for name in ("source", "target"):  # PNGs of other lengths
            flat = random.integers(0, 256, (32, 32, 3), np.uint8) >> random.integers(0, 8, (32, 32, 1), np.uint8)
            (tmp_path / f"{k}-{name}.png").write_bytes(encode(flat, "png"))
        lines.append(json.dumps({"source": [f"{k}-source.png"], "target": f"{k}-target.png", "instruction": "go"}))
    first, others = lines[:12], lines[12:]

    def data(name, chosen, shards=False):
        (tmp_path / name).write_text("".join(line + "\n" for line in chosen))
        if shards:
            api.read(str(tmp_path / name)).write(str(tmp_path / "shards"))
            name = "shards"
        source = open_input([str(tmp_path / name)], RunOptions())
        made = Data.of(ShardRows(source, {"instruction": "instruction"}, ("en",), "", 10**9))
        assert len(made.sketch) == len(made.content) == len(chosen)
        return dataclasses.replace(made, sketch=())  # as where no id is the same

    whole = data("rows.jsonl", first)
    for other, share in (
        (data("less.jsonl", first[1:]), 11 / 12),
        (data("turned.jsonl", first[::-1]), 1),
        (data("rows.jsonl", first, shards=True), 1),
        (data("others.jsonl", others), 0),
        (data("half.jsonl", [*first[:8], *others[:4]]), 8 / 16),
    ):
        assert whole.likeness(other) == other.likeness(whole) == pytest.approx(share)


def test_a_branch_begins_at_the_step_of_another_run(tmp_path):
    run(tiny(keep_every=4), MemoryRows(pairs()), tmp_path / "run")
    run(tiny(), MemoryRows(pairs()), tmp_path / "branch", branch=checkpoint.find(f"{tmp_path}/run/@8"))
    assert weights(tmp_path / "branch") == weights(tmp_path / "run")
    assert config(tmp_path / "branch")["branch"]["step"] == 8
    lines = [json.loads(line)["step"] for line in (tmp_path / "branch" / "log.jsonl").open()]
    assert lines == [10, 12]
    changed = tiny(lr=1e-6, muon_lr=1e-6)
    stopped(tmp_path / "other", 10, changed, branch=checkpoint.find(f"{tmp_path}/run/@4"))
    rest = run(changed, MemoryRows(pairs()), tmp_path / "other", branch=checkpoint.find(f"{tmp_path}/run/@4"))
    assert rest.resumed_from == 8 and weights(tmp_path / "other") != weights(tmp_path / "run")
    assert checkpoint.find(str(tmp_path / "run")).name == "step-00000012"
    with pytest.raises(EditError, match="no such checkpoint") as caught:
        checkpoint.find(f"{tmp_path}/run/@5")
    assert "@4, @8, @12" in caught.value.hint
    with pytest.raises(UsageError, match=r"model\.layers"):
        folder.check_branch(checkpoint.find(f"{tmp_path}/run/@8"), tiny(model_layers=3))


# ------------------------------------------------------------------------------------------------- overwriting


def test_overwriting_never_removes_what_is_read(tmp_path):
    out = tmp_path / "run"
    run(tiny(steps=1), MemoryRows(pairs()), out)
    (tmp_path / "link").symlink_to(out)
    for path in (out, out / "transformer", tmp_path / "link", f"{out}/../run/_end.json"):
        for name in (out, tmp_path / "link", f"{out}/"):
            with pytest.raises(UsageError, match="--overwrite would remove the weights"):
                folder.refuse_to_remove(name, {str(path): "the weights"})
    folder.refuse_to_remove(out, {"": "nothing", str(tmp_path): "around it", str(out / "none"): "not there"})
    for name, mark in (("another", "_end.json"), ("features", "00000.parquet")):  # nothing that the run has made
        (out / name).mkdir()
        folder.refuse_to_remove(out, {})
        (out / name / mark).write_text("{}")
        with pytest.raises(UsageError, match=f"--overwrite would remove {name}/, a data set or another run"):
            folder.refuse_to_remove(out, {})
        shutil.rmtree(out / name)


# ------------------------------------------------------------------------------------- what a machine that died leaves


def test_half_written_and_zeroed_lines_of_logs_are_none(tmp_path, killed_after_nine):
    killed_after_nine(tmp_path)
    ends = {"log.jsonl": b"\0\0\0\0\n", "rejects.jsonl": b'{"id": "row-3", "reas', "heldout.jsonl": b"[]\n"}
    for name, end in ends.items():
        with (tmp_path / name).open("ab") as file:
            file.write(end)
    rejects = Rejects("1")
    rejects.add("row-7", "damaged")
    run(tiny(), MemoryRows(pairs()), tmp_path, rejects=rejects)
    for name in ends:
        for line in (tmp_path / name).read_text().splitlines():
            assert isinstance(json.loads(line), dict)
    assert [json.loads(line)["id"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()] == ["row-7"]


def test_a_kept_model_is_of_the_steps_that_led_to_the_present_ones(tmp_path):
    """Where an earlier checkpoint is gone on from, otherwise, `@8` is not that of before."""
    recipe = {"keep_every": 4, "heldout_every": 4, "heldout_times": [0.5]}
    held = MemoryRows(pairs(24)[20:])
    stopped(tmp_path / "run", 9, recipe=tiny(**recipe), heldout=held)
    assert (tmp_path / "run" / "@8").exists()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000008")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000009", ignore_errors=True)
    (tmp_path / "run" / "@best").unlink(missing_ok=True)
    (tmp_path / "run" / "@best").symlink_to("@8")
    stopped(tmp_path / "run", 6, recipe=tiny(lr=1e-1, muon_lr=1e-1, **recipe), heldout=held)
    assert not (tmp_path / "run" / "@8").exists() and os.readlink(tmp_path / "run" / "@best") == "@4"
    run(tiny(lr=1e-1, muon_lr=1e-1, **recipe), MemoryRows(pairs()), tmp_path / "run", heldout=held)
    now, kept = (load_file(next((tmp_path / "run" / name).glob("*.safetensors"))) for name in
                 ("checkpoints/step-00000008", "@8/transformer"))  # fmt: skip
    name = next(key for key in kept if key.endswith("proj_out.weight"))
    average = next(value for key, value in now.items() if key.startswith("average/") and key.endswith(name))
    assert torch.equal(average, kept[name])


def test_a_state_that_lacks_a_number_is_a_damaged_checkpoint(tmp_path, capsys, killed_after_nine):
    killed_after_nine(tmp_path)
    newest = checkpoint.newest(tmp_path)
    state = json.loads((newest / "state.json").read_text())
    del state["level"]
    (newest / "state.json").write_text(json.dumps(state))
    assert run(tiny(), MemoryRows(pairs()), tmp_path).resumed_from == 4
    assert "state.json has no level: the one before is used" in capsys.readouterr().err
