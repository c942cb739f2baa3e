"""Checkpoints are written beside the training: of the right step, whole or not at all, within a budget of the disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from conftest import TESTS, digest, encode, pixels
from safetensors.torch import load_file
from training import MemoryRows, pairs, run, tiny

from edittools.errors import EditError, Interrupted, UsageError
from edittools.train import checkpoint, keeping, log, loop
from edittools.train.checkpoint import Room, Saver
from edittools.train.heldout import HeldOut
from edittools.train.samples import Previews

MANY = {"keep_last": 9}


def contents(out):
    """Every bit of a run's checkpoints, but for the order in which a file's header names things (it is random)."""
    found = {}
    for folder in sorted((out / "checkpoints").iterdir()):
        state = json.loads((folder / "state.json").read_text())
        assert state.pop("files") == {p.name: checkpoint.file_digest(p) for p in folder.glob("*.safetensors")}
        tensors = {name: digest(tensor.numpy().tobytes()) for p in folder.glob("*.safetensors") for name, tensor in
                   load_file(p).items()}  # fmt: skip
        found[folder.name] = state, tensors
    return found


def at_once(monkeypatch):
    """Write every checkpoint before the next step."""
    begin = Saver.begin

    def waits(self, *arguments):
        begin(self, *arguments)
        self.finish()

    monkeypatch.setattr(Saver, "begin", waits)


class Stop(BaseException):
    """As sudden as a kill: nothing is saved."""


def test_steps_go_on_while_a_checkpoint_is_written_and_change_nothing_of_it(tmp_path, monkeypatch):
    """The checkpoint of step 4 is not written before step 7 is done, that of step 8 not before step 11."""
    go, save, waited = {4: threading.Event(), 8: threading.Event()}, checkpoint.save, []

    def slow(run, step, *rest):
        if step in go:
            waited.append(go[step].wait(300))
        save(run, step, *rest)

    def tell(report):
        if report.step - 3 in go:
            assert not (tmp_path / "run" / "checkpoints" / f"step-{report.step - 3:08d}").exists()
            go[report.step - 3].set()
        stop(report)

    def stop(report):
        if report.step == 11:
            raise Stop

    monkeypatch.setattr(checkpoint, "save", slow)
    with pytest.raises(Stop):
        run(tiny(**MANY), MemoryRows(pairs()), tmp_path / "run", on_step=tell)
    assert waited == [True, True]
    monkeypatch.undo()
    at_once(monkeypatch)
    with pytest.raises(Stop):
        run(tiny(**MANY), MemoryRows(pairs()), tmp_path / "waits", on_step=stop)
    assert contents(tmp_path / "run") == contents(tmp_path / "waits") and len(contents(tmp_path / "run")) == 2


def test_one_at_a_time_and_the_model_after_the_last(tmp_path, monkeypatch):
    held, save, order = threading.Lock(), checkpoint.save, []

    def one(run, step, *rest):
        assert held.acquire(blocking=False)
        save(run, step, *rest)
        order.append(step)
        held.release()

    def model(*arguments, **options):
        assert (tmp_path / "checkpoints" / "step-00000012" / "state.json").exists() and not held.locked()
        order.append("model")

    monkeypatch.setattr(checkpoint, "save", one)
    monkeypatch.setattr(keeping, "save_model", model)
    run(tiny(checkpoint_every=1, **MANY), MemoryRows(pairs()), tmp_path)
    assert order == [*range(1, 13), "model"]


def test_a_disk_that_is_full_is_told_at_the_next_step(tmp_path, monkeypatch):
    save, done = checkpoint.save, []

    def full(run, step, *rest):
        if step == 8:
            raise checkpoint.NotWritten("the disk is full")
        save(run, step, *rest)

    def tell(report):
        done.append(report.step)
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(EditError, match="the disk is full"):
        run(tiny(), MemoryRows(pairs()), tmp_path, on_step=tell)
    assert done == list(range(1, 9)) and checkpoint.newest(tmp_path).name == "step-00000004"


def test_what_ends_a_run_waits_for_a_checkpoint_and_says_what_is_wrong_with_it(tmp_path, monkeypatch, capsys):
    ended, save, last = threading.Event(), checkpoint.save, [5]

    def slow(run, step, *rest):
        assert ended.wait(300)
        if step == 8:
            raise checkpoint.NotWritten("the disk is full")
        save(run, step, *rest)

    def tell(report):
        if report.step == last[0]:
            ended.set()
            raise Stop

    monkeypatch.setattr(checkpoint, "save", slow)
    with pytest.raises(Stop):
        run(tiny(), MemoryRows(pairs()), tmp_path, on_step=tell)
    assert checkpoint.newest(tmp_path).name == "step-00000004" and not capsys.readouterr().err
    ended.clear()
    last[0] = 9
    with pytest.raises(Stop):
        run(tiny(), MemoryRows(pairs()), tmp_path, on_step=tell)
    assert checkpoint.newest(tmp_path).name == "step-00000004"
    assert "the disk is full" in capsys.readouterr().err


def test_without_room_for_a_copy_the_run_waits(tmp_path, monkeypatch):
    run(tiny(**MANY), MemoryRows(pairs()), tmp_path / "copied")

    def none(self, tensors):
        raise MemoryError

    monkeypatch.setattr(checkpoint.DefaultStager, "stage", none)
    run(tiny(**MANY), MemoryRows(pairs()), tmp_path / "waits")
    assert contents(tmp_path / "copied") == contents(tmp_path / "waits")


KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from training import MemoryRows, pairs, run, tiny
    from edittools.train import checkpoint
    digests = checkpoint.digests
    def stuck(folder, parallel):
        if "00000008" in folder.name:
            print("writing", flush=True)
            time.sleep(600)
        return digests(folder, parallel)
    checkpoint.digests = stuck
    run(tiny(steps=10**6, checkpoint_every=4), MemoryRows(pairs()), {run!r})
"""


def test_killed_while_it_writes_the_checkpoint_before_is_used(tmp_path, model_forge):
    out, script = tmp_path / "run", tmp_path / "worker.py"
    script.write_text(textwrap.dedent(KILLED).format(tests=str(TESTS), run=str(out)))
    reader, writer = os.pipe()
    with open(os.devnull) as nothing:
        child = model_forge.start([], stdin=nothing.fileno(), stdout=writer, stderr=2, script=script)
    os.close(writer)
    with open(reader) as said:
        assert said.readline() == "writing\n"
        child.kill()
        child.wait()
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"step-00000004", ".tmp-step-00000008"}
    assert run(tiny(decay_from=1.0, **MANY), MemoryRows(pairs()), out).resumed_from == 4
    assert not [*out.rglob(".tmp*")]


# ------------------------------------------------------------------------------------------------- room on the disk


def test_what_goes_first_where_there_is_no_room(tmp_path):
    """Eight checkpoints and six models of 100 bytes each; the model of step 2 is the best."""

    def made(place):
        for step in range(1, 9):
            folder = place / "checkpoints" / f"step-{step:08d}"
            folder.mkdir(parents=True)
            (folder / "x").write_bytes(bytes(100))
        for step in range(1, 7):
            (place / f"@{step}").mkdir()
            (place / f"@{step}" / "x").write_bytes(bytes(100))
            (tmp_path / "base").write_bytes(bytes(10**6))
            (place / f"@{step}" / "vae").hardlink_to(tmp_path / "base")  # costs nothing
        (place / "@best").symlink_to("@2")
        return place

    def left(place):
        steps = [checkpoint.step_of(p) for p in checkpoint.whole(place)]
        return steps[::-1], sorted(p.name for p in place.glob("@*"))

    all_models = ["@1", "@2", "@3", "@4", "@5", "@6", "@best"]
    wanted = {
        0: ([2, 4, 6, 7, 8], all_models),
        1100: ([2, 4, 6, 7, 8], all_models),
        1000: ([4, 6, 7, 8], all_models),
        999: ([6, 7, 8], all_models),
        700: ([8], all_models),
        600: ([8], all_models[1:]),
        400: ([8], ["@2", "@5", "@6", "@best"]),
        10: ([8], ["@2", "@6", "@best"]),
    }
    for size, right in wanted.items():
        place = made(tmp_path / str(size))
        Room(2, 2, size).prune(place)
        assert left(place) == right, size
    place = made(tmp_path / "coming")
    Room(2, 2, 1100).prune(place, 1, coming=200)
    assert left(place) == ([4, 6, 8], all_models)


def test_a_run_stays_within_its_room(tmp_path):
    run(tiny(steps=2), MemoryRows(pairs()), tmp_path / "small")
    size = checkpoint.used_bytes(next((tmp_path / "small" / "checkpoints").iterdir()))
    most = []

    def tell(report):
        folders = checkpoint.whole(tmp_path / "run")
        most.append(len(folders))

    recipe = tiny(checkpoint_every=1, keep_last=8, keep_gb=3.5 * size / 1e9)
    run(recipe, MemoryRows(pairs()), tmp_path / "run", on_step=tell)
    assert max(most) == 3 and checkpoint.newest(tmp_path / "run").name == "step-00000012"
    with pytest.raises(UsageError, match="keep_gb"):
        tiny(keep_gb=-1)


# ----------------------------------------------------------------------------------------------------- batch systems


@pytest.mark.parametrize("sent", ["USR1", "USR1 USR1 TERM", "USR1 to the batch script"])
def test_a_batch_systems_signal_saves_and_says_so_by_the_exit_status(tmp_path, model_edit, sent):
    for k in range(5):
        (tmp_path / f"{k}.png").write_bytes(encode(pixels(k, 60, 60), "PNG"))
    rows = [{"id": f"r{k}", "source": [f"{k}.png"], "target": f"{k + 1}.png", "instruction": "do"} for k in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "rows.jsonl", "-q", "-o", "run/"]
    settings = [("steps", 10**6), ("batch_tokens", 72), ("log_every", 1), ("checkpoint_every", 10**6),
                ("model.layers", 1)]  # fmt: skip
    for name, value in settings:
        command += ["--set", f"{name}={value}"]
    scripted = sent.endswith("script")
    with open(tmp_path / "said", "w") as said, open(os.devnull, "r+") as nothing:
        if scripted:  # as the manual has it
            script = "trap 'kill -USR1 $pid' USR1; \"$@\" & pid=$!; wait $pid; wait $pid; exit $?"
            words = ["bash", "-c", script, "bash", sys.executable, "-m", "edittools", *command]
            process = subprocess.Popen(words, cwd=tmp_path, stderr=said)
            send, ended = process.send_signal, lambda: process.poll() is not None
        else:
            given = {"stdin": nothing.fileno(), "stdout": nothing.fileno(), "stderr": said.fileno()}
            process = model_edit.start(*command, **given, cwd=tmp_path)
            send, ended = process.kill, lambda: not Path(f"/proc/{process.pid}").exists()
    try:
        log = tmp_path / "run" / "log.jsonl"
        while not (log.exists() and log.read_text().count("\n") > 2):
            assert not ended(), (tmp_path / "said").read_text()
            threading.Event().wait(0.05)
        for name in sent.split(" to ")[0].split():
            send(getattr(signal, f"SIG{name}"))
        code = process.wait(300)
    finally:
        process.kill()
    if "TERM" in sent:  # which is the last word where it comes in time
        assert code in (-signal.SIGUSR1, -signal.SIGTERM)
    else:
        assert code == (128 + signal.SIGUSR1 if scripted else -signal.SIGUSR1)
    found = checkpoint.newest(tmp_path / "run")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert found is not None and checkpoint.step_of(found) == steps[-1] and not [*tmp_path.rglob(".tmp*")]
    assert (tmp_path / "said").read_text().count("\n") <= 1


SHOWN = {"steps": 8, "heldout_every": 4, "sample_every": 4, "sample_steps": 2, "sample_rows": 2, "keep_every": 4}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("shown")
    run(tiny(**SHOWN), MemoryRows(pairs(20)), out, heldout=MemoryRows(pairs(26)[20:]))
    return out


@pytest.mark.parametrize("when, at", [("before", 4), ("before", 8), ("measuring", 8), ("showing", 4)])
def test_a_signal_is_obeyed_before_what_is_due_and_that_is_made_up_for(tmp_path, monkeypatch, shown, when, at):
    """Of the step, of its held-out loss, of its previews: a checkpoint comes next, and the run is as one without."""
    rows, held, calls = MemoryRows(pairs(20)), MemoryRows(pairs(26)[20:]), []

    def signalled(name, kind, method):
        def then(self, *arguments):
            found = method(self, *arguments)
            calls.append((name, seen[0]))
            if name == kind and seen[0] == at and len([c for c in calls if c == (name, at)]) == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return found

        return then

    seen = [0]
    update = loop.Run.update

    def counted(self, *arguments):
        found = update(self, *arguments)
        seen[0] = self.state.step
        if when == "before" and seen[0] == at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "update", counted)
        patched.setattr(HeldOut, "_loss", signalled("measuring", when, HeldOut._loss))
        patched.setattr(Previews, "_strip", signalled("showing", when, Previews._strip))
        with pytest.raises(Interrupted) as caught:
            run(tiny(**SHOWN), rows, tmp_path / "left", heldout=held)
    assert caught.value.signum == signal.SIGUSR1
    # a batch of 6 rows goes through the network at each of the times, with the weights and then with their average
    after, measured = [name for name, step in calls if step == at], ["measuring"] * len(tiny().heldout_times)
    assert after == {"before": [], "measuring": measured, "showing": [*measured, *measured, "showing"]}[when]
    assert checkpoint.newest(tmp_path / "left").name == f"step-{at:08d}"
    there = [(tmp_path / "left" / name).exists() for name in (f"samples/{at:08d}.png", f"@{at}", "_end.json")]
    assert there == [False, when != "before", False]
    run(tiny(**SHOWN), rows, tmp_path / "left", heldout=held)
    names = ["heldout.jsonl", *(f"samples/{k:08d}.{kind}" for k in (4, 8) for kind in ("png", "json"))]
    names += [f"{name}transformer/diffusion_pytorch_model.safetensors" for name in ("", "@4/", "@8/")]
    for name in names:
        assert (tmp_path / "left" / name).read_bytes() == (shown / name).read_bytes(), name
    assert (tmp_path / "left" / "@best").resolve().name == (shown / "@best").resolve().name


def test_a_signal_before_the_first_step_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    loss = HeldOut._loss

    def told(self, *arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return loss(self, *arguments)

    rows, held = MemoryRows(pairs(20)), MemoryRows(pairs(26)[20:])
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(HeldOut, "_loss", told)
        run(tiny(steps=2, batch_tokens=24), rows, tmp_path, heldout=held)
    assert checkpoint.newest(tmp_path) is None and not (tmp_path / "heldout.jsonl").exists()
    run(tiny(steps=2, batch_tokens=24), rows, tmp_path, heldout=held)
    assert [line["step"] for line in read(tmp_path / "heldout.jsonl")] == [0, 2]


def test_the_log_says_how_long_a_checkpoint_took(tmp_path, monkeypatch):
    save, rest = checkpoint.save, 0.2

    def slow(*arguments):
        threading.Event().wait(rest)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    at_once(monkeypatch)
    run(tiny(steps=6, log_every=1), MemoryRows(pairs()), tmp_path)
    took = [line["checkpoint_s"] for line in read(tmp_path / "log.jsonl")]
    assert took[:4] == [None] * 4 and took[4] == took[5] >= rest


def stop_after(step):
    def tell(report):
        if report.step == step:
            raise Stop

    return tell


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_speed_after_an_interruption_is_of_the_steps_since(tmp_path):
    """The first line after it counts the samples since then, and not all of the run's."""
    speeds, rows = [], MemoryRows(pairs())

    def tell(report):
        speeds.append(report.samples_per_s)
        if report.step == 8 and len(speeds) == 8:
            raise Stop

    with pytest.raises(Stop):
        run(tiny(log_every=2), rows, tmp_path, on_step=tell)
    run(tiny(log_every=2), rows, tmp_path, on_step=tell)
    found = read(tmp_path / "log.jsonl")
    assert [line["samples"] for line in found] == [12, 24, 36, 48, 60, 72]
    # step 10 ends the first line since: what the process itself reports is of the same steps
    assert found[4]["samples_per_s"] == pytest.approx(speeds[9], rel=0.25)


def test_a_run_that_ended_before_its_first_checkpoint_measures_the_start_anew(tmp_path):
    held = MemoryRows(pairs(6))
    with pytest.raises(Stop):
        run(tiny(), MemoryRows(pairs()), tmp_path, heldout=held, on_step=stop_after(2))
    run(tiny(), MemoryRows(pairs()), tmp_path, heldout=held)
    assert [line["step"] for line in read(tmp_path / "heldout.jsonl")] == [0, 4, 8, 12]


def test_a_log_is_cut_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """A run that goes on drops the lines of steps that it does again; the disk may be full meanwhile."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 8)) + '{"step": 8, "half')
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, EditError), match="No space"):
        log.cut(path, 4)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert log.cut(path, 4) == read(path) == [{"step": step} for step in range(1, 5)]
