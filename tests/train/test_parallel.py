"""Several processes train what one trains, by DDP, FSDP2 and HSDP, and a checkpoint loads at any number of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import TESTS, encode, pixels
from forge import Forge
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from tiny_architectures import save_kontext
from training import PREFERRED

from edittools.train import checkpoint
from edittools.train.log import flat

WORKER = """
import json, sys
sys.path.insert(0, {tests!r})
from training import PREFERRED, MemoryRows, pairs, run, tiny
from edittools.train.parallel import start
mode, out, steps, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
parallel = start(mode, "cpu", replicas=2 if mode == "hsdp" else None)
losses = []
class Stop(Exception):
    pass
def on_step(report):
    losses.append(report.loss)
    if report.step == stop:
        raise Stop
recipe = tiny(steps=steps, microbatches=4, batch_tokens=24, optimizer={optimizer!r}, checkpoint_every=10,
              dtype={dtype!r}, sample_every={sample_every}, sample_steps=2)
rows = MemoryRows(pairs(23, references=lambda k: 1 + k % 2))
try:
    held = MemoryRows(pairs(27, references=lambda k: 1 + k % 2)[23:])
    run(recipe, rows, out, parallel=parallel, on_step=on_step, heldout=held)
except Stop:
    pass
if {preferred!r}:
    for name, (settings, more) in PREFERRED.items():
        run(tiny(**settings), more(), f"{{out}}/{{name}}", parallel=parallel, stirred=0.05)
if parallel.is_main:
    print(json.dumps(losses))
parallel.close()
"""


GOES_ON = """
import json, sys
sys.path.insert(0, {tests!r})
from training import PREFERRED, run, tiny
from edittools.train.parallel import start
mode, out, steps, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
parallel = start(mode, "cpu")
losses = []
class Stop(Exception):
    pass
def on_step(report):
    losses.append(report.loss)
    if report.step == stop:
        raise Stop
settings, more = PREFERRED["online"]
try:
    run(tiny(**settings), more(), f"{{out}}/online", parallel=parallel, stirred=0.05, on_step=on_step)
except Stop:
    pass
if parallel.is_main:
    print(json.dumps(losses))
parallel.close()
"""


GRADIENTS = """
import gc, json, sys
import torch
sys.path.insert(0, {tests!r})
from training import tiny
from edittools.nets import load_edit_model
from edittools.train.parallel import full, start
mode = sys.argv[1]
parallel = start(mode, "cpu", replicas=2 if mode == "hsdp" else None)
recipe = tiny()
system = load_edit_model(recipe.system, recipe.model, texts=lambda: ["make it red"])
bytes_of_all = sum(p.numel() * 4 for p in system.network.parameters() if p.requires_grad)
network = parallel.wrap(system.network, system.blocks(), torch.float32)
torch.manual_seed(parallel.rank)
x, t = torch.randn(1, *system.latent_shape(16, 16)), torch.rand(1)
words = {{"words": torch.ones(1, 3, dtype=torch.long)}}

def held():
    gc.collect()
    with torch.no_grad():
        own = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
        own += [o.grad for o in own if o.is_leaf and type(o.grad) is torch.Tensor]
        return sum({{o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in own}}.values())

before = held()
shared = []
for last in (False, True):
    with parallel.last_of_step(network, last):
        network(x, t, [x], words).square().sum().backward()
    if not last:
        more = held() - before
    norm = sum(p.grad.to_local().square().sum().item() for p in network.parameters() if p.grad is not None)
    shared.append(norm > 0 and len(set(parallel.gather(norm))) == 1)
if parallel.is_main:
    print(json.dumps([more / bytes_of_all, *shared]))
parallel.close()
"""

HYBRID = """
import json, sys
import torch
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from training import MemoryRows, pairs, run, tiny
from edittools.nets import load_edit_model
from edittools.train.parallel import start
mode, out, steps, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
parallel = start(mode, "cpu", replicas=2 if mode == "hsdp" else None)
losses, told = [], []
recipe = tiny(steps=steps, microbatches=8, batch_tokens=24, optimizer="adamw")
if mode == "hsdp":
    calls = []
    def counted(what, name):
        collective = getattr(dist, name)
        def call(*given, group=None, **more):
            calls.append([what, dist.get_world_size(group)])
            return collective(*given, group=group, **more)
        setattr(dist, name, call)
    # the second is its name in later releases of torch
    newer = hasattr(dist, "reduce_scatter_single")
    counted("reduce_scatter", "reduce_scatter_single" if newer else "reduce_scatter_tensor")
    counted("all_reduce", "all_reduce")
    plain, system = (load_edit_model(recipe.system, recipe.model, texts=lambda: ["make it red"]) for _ in range(2))
    network = parallel.wrap(system.network, system.blocks(), torch.float32)
    def backward(network, number, rank):
        torch.manual_seed(10 * number + rank)
        x, t = torch.randn(1, *plain.latent_shape(16, 16)), torch.rand(1)
        words = {{"words": torch.ones(1, 3, dtype=torch.long)}}
        network(x, t, [x], words).square().sum().backward()
    for number in range(3):
        calls.clear()
        with parallel.last_of_step(network, number == 2):
            backward(network, number, parallel.rank)
        told.append(list(calls))
    for number in range(3):
        for rank in range(4):
            backward(plain.network, number, rank)
    theirs = {{n: p.grad / 4 for n, p in plain.network.named_parameters() if p.grad is not None}}
    ours = {{n: p.grad.full_tensor() for n, p in network.named_parameters() if p.grad is not None}}
    assert ours.keys() == theirs.keys()
    told.append(max(((ours[n] - g).norm() / g.norm()).item() for n, g in theirs.items() if g.norm() > 0))
    told.append([sum(p.to_local().numel() for p in network.parameters()) / sum(p.numel() for p in network.parameters()),
                 list(parallel.mesh.shape)])
run(recipe, MemoryRows(pairs(23, references=lambda k: 1 + k % 2)), out, parallel=parallel,
    on_step=lambda report: losses.append(report.loss))
if parallel.is_main:
    print(json.dumps([losses, *told]))
parallel.close()
"""

FAILS = """
import json, os, pathlib, signal, subprocess, sys
import torch
sys.path.insert(0, {tests!r})
from training import MemoryRows, pairs, run, tiny
from edittools.errors import EditError, RowError
from edittools.train import checkpoint, export, flow_matching, peers
from edittools.train.parallel import start
from edittools.train.rejects import Rejects, Unusable
mode, out, steps, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
what, _, settings = {optimizer!r}.partition(" ")
allowed, _, settings = settings.rpartition("!")
allowed = allowed or "0"
parallel = start(mode, "cpu")
done, errors, full = 0, flow_matching.errors, torch.OutOfMemoryError("CUDA out of memory")

def failing(*given):
    found = errors(*given)
    if what == "memory" and done == stop and parallel.rank == 1:
        raise full
    if what == "nan" and done == stop and parallel.rank == 1:
        return found * torch.tensor([torch.nan] + [1.0] * (len(found) - 1))
    return found

class Rows(MemoryRows):
    def image(self, index, which, shape=None):
        if what == "row" and index == 5 or what == "rows" and index == 5 + parallel.rank:
            raise Unusable(self[index].id, RowError("cannot decode"))
        return super().image(index, which, shape)

def on_step(report):
    global done
    done = report.step
    if done == stop and what == "block" and parallel.rank == 1:
        def fail(*_):
            raise full
        blocks[1].register_forward_pre_hook(fail)
    if done == stop and what == f"killed{{parallel.rank}}":
        os.kill(os.getpid(), 9)
    if done == stop and what == "stopped" and parallel.rank == 1:  # as silent as a machine that is lost
        other = parallel.gather(os.getpid())[0]
        ends = f"for k in $(seq 300); do kill -0 {{other}} || break; sleep 0.2; done; kill -9 {{os.getpid()}}"
        subprocess.Popen(["sh", "-c", ends], stderr=subprocess.DEVNULL)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif done == stop and what == "stopped":
        parallel.gather(os.getpid())
        peers.SILENT = 5.0
    if done == stop and what == "disk" and parallel.rank == 0:
        from edittools.train.log import Log
        written = Log.write
        def write(self):
            self.path = pathlib.Path("/dev/full")
            written(self)
        Log.write = write
    if done == stop and what == "told":
        raise EditError("enough")

wrap, whole, blocks = type(parallel).wrap, export.full, []
def wrapped(self, network, found, *more):
    blocks.extend(found)
    if what == "before" and self.rank == 1:
        raise EditError("no room")
    return wrap(self, network, found, *more)
def exported(tensor):
    if what == "export" and parallel.rank == 1:
        raise EditError("no room")
    if what == "export-killed" and parallel.rank == 1:
        os.kill(os.getpid(), 9)
    return whole(tensor)
type(parallel).wrap, flow_matching.errors, export.full = wrapped, failing, exported
if what == "stopped":
    peers.machine = lambda: f"machine {{parallel.rank}}"
if what == "writing":  # the checkpoint of step 8 is never written
    digests = checkpoint.digests
    def stuck(folder, parallel):
        if "00000008" in folder.name and parallel.rank == 1:
            os.kill(os.getpid(), 9)
        return digests(folder, parallel)
    checkpoint.digests = stuck
recipe = tiny(steps=steps, checkpoint_every=4, microbatches=4,
              **{{"batch_tokens": 24, **eval("dict(" + settings + ")")}})
try:
    outcome = run(recipe, Rows(pairs(23)), out, parallel=parallel, on_step=on_step, rejects=Rejects(allowed))
    print(json.dumps([outcome.resumed_from]))
except EditError as error:
    if not parallel.told:
        print(error, *([error.hint] if parallel.gone else []), sep="; ")
    sys.stdout.flush()
    os._exit(error.status)
"""

Launch = Callable[..., list[float]]


@pytest.fixture(scope="module")
def launch(model_forge: Forge) -> Launch:
    """Train on some processes, with the variables that a launcher sets: the losses of the first one.

    Where `fails` is a list, it takes their exit statuses, and what they have said is returned.
    """

    def run(
        mode: str, processes: int, out: Path, optimizer: str, steps: int = 20, stop: int = 0, dtype: str = "float32",
        worker: str = WORKER, fails: list[int] | None = None, preferred: bool = False,
    ) -> list[float]:  # fmt: skip
        script = out.with_suffix(".py")
        script.write_text(
            worker.format(
                tests=str(TESTS),
                optimizer=optimizer,
                dtype=dtype,
                sample_every=20 if dtype == "bfloat16" else 0,
                preferred=preferred,
            )
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
                 "LOCAL_WORLD_SIZE": str(processes)}  # fmt: skip
        arguments = [mode, str(out), str(steps), str(stop)]
        children, logs = [], [out.with_suffix(f".{rank}") for rank in range(processes)]
        for rank, log in enumerate(logs):
            environment = {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            with open(os.devnull) as nothing, log.open("w") as said:
                children.append(
                    model_forge.start(arguments, stdin=nothing.fileno(), stdout=said.fileno(), stderr=said.fileno(),
                                      env=environment, script=script)
                )  # fmt: skip
        codes = [child.wait(300) for child in children]
        if fails is not None:
            fails += codes
            return [line for log in logs for line in log.read_text().splitlines() if not line.startswith("train:")]
        assert not any(codes), [log.read_text()[-2000:] for log in logs]
        return json.loads(logs[0].read_text().splitlines()[-1])

    return run


ADAPTERS = """
import json, sys
sys.path.insert(0, {tests!r})
from training import MemoryRows, pairs, run
from edittools.train import load_recipe
from edittools.train.parallel import start
parallel = start(sys.argv[1], "cpu")
settings = dict(setting.split("=") for setting in {optimizer!r}.split())
recipe = load_recipe("lora", {{
    "model.weights": settings.pop("weights"), "model.lora.rank": 2, "model.lora.alpha": 2, "resolution": [32, 32],
    "steps": 3, "ratios": ["1:1"], "batch_tokens": 8, "microbatches": 2, "warmup": 0, "lr": 1e-2, "compile": False,
    "attention": "", "dtype": {dtype!r},
    **{{name: int(value) if value.isdigit() else value for name, value in settings.items()}},
}})
losses = []
run(recipe, MemoryRows(pairs(12, side=32)), sys.argv[2], parallel=parallel, on_step=lambda r: losses.append(r.loss))
if parallel.is_main:
    print(json.dumps(losses))
parallel.close()
"""


def heldout(run: Path) -> dict[str, float]:
    """Every number of its held-out losses by name."""
    lines = [json.loads(line) for line in (run / "heldout.jsonl").read_text().splitlines()]
    return {f"{line['step']}/{name}": value for line in lines for name, value in flat(line).items()}


def preferred(run: Path, names: Iterable[str] = PREFERRED) -> dict[str, float]:
    """What the runs of preferences in the folder have logged, by name, but for times."""
    found = flat([json.loads(line)["reward"] for line in (run / "online/rollouts.jsonl").open()])
    for name in names:
        lines = [json.loads(line) for line in (run / name / "log.jsonl").read_text().splitlines()]
        for line in lines:
            kept = {key: line[key] for key in ("loss", "grad_norm", "objective")}
            found |= {f"{name}/{line['step']}/{key}": value for key, value in flat(kept).items()}
    return found


def weights(run: Path) -> dict[str, np.ndarray]:
    """Of the model that it leaves."""
    return {f"{p.parent.name}/{k}": v for p in run.glob("[!c]*/*.safetensors") for k, v in load_file(p).items()}


@pytest.fixture(scope="module")
def alone(launch, tmp_path_factory):
    made, folder = {}, tmp_path_factory.mktemp("alone")

    def of(optimizer: str):
        if optimizer not in made:
            out = of.out(optimizer)
            losses = launch("single", 1, out, optimizer, preferred=optimizer == "adamw")
            made[optimizer] = losses, weights(out), heldout(out)
        return made[optimizer]

    of.out = lambda optimizer: folder / optimizer
    return of


@pytest.mark.parametrize("mode, optimizer", [
    ("ddp", "adamw"), ("fsdp", "adamw"), ("hsdp", "adamw"), ("fsdp", "muon"), ("fsdp", "prodigy"),
])  # fmt: skip
def test_two_processes_train_what_one_does(tmp_path, launch, alone, mode, optimizer):
    losses, trained, held = alone(optimizer)
    got = launch(mode, 2, tmp_path / "run", optimizer, preferred=optimizer == "adamw")
    assert got == pytest.approx(losses, rel=2e-4)
    assert heldout(tmp_path / "run") == pytest.approx(held, rel=2e-3) and len(held) == 9 + 2 * 17
    for name, value in weights(tmp_path / "run").items():
        assert np.allclose(value, trained[name], atol=2e-4), name
    if optimizer == "adamw":
        assert preferred(tmp_path / "run") == pytest.approx(preferred(alone.out(optimizer)), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("mode", [pytest.param("ddp", marks=pytest.mark.long), "fsdp"])
def test_bfloat16_arithmetic_of_float32_weights(tmp_path, launch, alone, mode):
    losses, trained, _ = alone("adamw")
    got = launch(mode, 2, tmp_path / "run", "adamw", dtype="bfloat16")
    assert got == pytest.approx(losses, rel=0.02) and got != pytest.approx(losses, rel=1e-5)
    assert [path.name for path in (tmp_path / "run" / "samples").glob("*.png")] == ["00000020.png"]
    found = weights(tmp_path / "run")
    assert {value.dtype.name for value in found.values()} == {"float32"}
    # Adam moves a weight by up to 1e-3 a step: the two ways are less than a tenth of that apart
    assert max(np.abs(value - trained[name]).mean() for name, value in found.items()) < 20 * 1e-3 / 10


@pytest.mark.parametrize("before, after", [(("fsdp", 2), ("single", 1)), (("single", 1), ("fsdp", 2))])
def test_a_checkpoint_loads_at_another_number_of_processes(tmp_path, launch, alone, before, after):
    losses, trained, held = alone("adamw")
    first = launch(*before, tmp_path / "run", "adamw", stop=13)
    last = max(int(p.name[5:]) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert last == 13  # what has been done is saved when an error ends it
    rest = launch(*after, tmp_path / "run", "adamw")
    assert len(first) == 13 and len(rest) == 20 - last
    assert first[:last] + rest == pytest.approx(losses, rel=2e-4)
    assert heldout(tmp_path / "run") == pytest.approx(held, rel=2e-3)
    for name, value in weights(tmp_path / "run").items():
        assert np.allclose(value, trained[name], atol=2e-4), name


@pytest.mark.parametrize("before, after", [(("ddp", 2), ("single", 1)), (("single", 1), ("fsdp", 2))])
def test_images_made_on_the_way_go_on_at_another_number_of_processes(tmp_path, launch, alone, before, after):
    """Stopped within an iteration: its images and their rewards are the same for any number of processes."""
    alone("adamw")
    first = launch(*before, tmp_path / "run", "adamw", stop=3, worker=GOES_ON)
    rest = launch(*after, tmp_path / "run", "adamw", worker=GOES_ON)
    assert (len(first), len(rest)) == (3, 1)
    whole = alone.out("adamw")
    assert preferred(tmp_path / "run", ["online"]) == pytest.approx(preferred(whole, ["online"]), rel=2e-3, abs=1e-5)
    found, trained = weights(tmp_path / "run" / "online"), weights(whole / "online")
    assert found.keys() == trained.keys() and found
    assert all(np.allclose(value, trained[name], atol=2e-4) for name, value in found.items())


def test_no_process_keeps_gradients_that_others_have(tmp_path, launch):
    held, *_ = launch("fsdp", 2, tmp_path / "run", "", worker=GRADIENTS)
    assert held < 0.6  # of 4 bytes per parameter: its half


def test_hsdp_leaves_the_sum_over_copies_to_the_last_batch(tmp_path, launch):
    _, before, after = launch("hsdp", 2, tmp_path / "run", "", worker=GRADIENTS)
    assert after and not before


def test_four_processes_are_two_copies_in_two_shards_each(tmp_path, launch):
    """Every batch is summed over the shards, the last one over the copies too, and that is the mean gradient."""
    losses, *calls, error, held = launch("hsdp", 4, tmp_path / "run", "", steps=4, worker=HYBRID)
    shares = ["reduce_scatter", 2]
    assert calls[0] and calls[0] == calls[1] == [shares] * len(calls[0])
    assert calls[2].count(shares) == calls[2].count(["all_reduce", 2]) == len(calls[0]) == len(calls[2]) / 2
    assert error < 1e-4
    assert held == [pytest.approx(0.5, abs=0.05), [2, 2]]
    (alone,) = launch("single", 1, tmp_path / "alone", "", steps=4, worker=HYBRID)
    assert len(alone) == 4 and losses == pytest.approx(alone, rel=2e-4)
    trained = weights(tmp_path / "alone")
    found = weights(tmp_path / "run")
    assert found.keys() == trained.keys() and found
    assert all(np.allclose(value, trained[name], atol=2e-4) for name, value in found.items())


def test_a_smaller_world_than_asked_for_is_an_error(monkeypatch):
    from edittools.errors import UsageError
    from edittools.train.parallel import start

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="2 processes were asked for, and the launcher started 1"):
        start("auto", "cpu", processes=2)
    with pytest.raises(UsageError, match="launcher"):
        start("ddp", "cpu")
    with pytest.raises(UsageError, match="no parallel mode"):
        start("zero", "cpu")


def test_batches_are_shared_by_any_number_of_processes(tmp_path, launch, alone):
    """Four batches on three processes: two of them go through the network once more, and that counts nothing."""
    losses, trained, _ = alone("adamw")
    for mode, processes in (("ddp", 3), ("fsdp", 5)):  # of five one has none
        got = launch(mode, processes, tmp_path / mode, "adamw")
        assert got == pytest.approx(losses, rel=2e-4)
        for name, value in weights(tmp_path / mode).items():
            assert np.allclose(value, trained[name], atol=2e-4), name


def test_adapters_are_not_sharded(monkeypatch):
    from edittools.train import parallel

    modes = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(parallel.dist, "rendezvous", lambda *_, **__: [(parallel.dist.HashStore(), 0, 2)])
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_, **__: None)
    for adapters in (False, True):
        modes.append(parallel.start("auto", "cpu", adapters=adapters).mode)
    assert modes == ["fsdp", "ddp"]


@pytest.mark.parametrize("small, mode, dtype", [
    ("block_swap=1 quantize=fp8", "ddp", "float32"), ("quantize=nf4", "fsdp", "float32"),
    ("quantize=int8 checkpointing=full", "fsdp", "bfloat16"),
    pytest.param("quantize=nf4", "ddp", "float32", marks=pytest.mark.long),
    pytest.param("quantize=int8", "fsdp", "float32", marks=pytest.mark.long),
    pytest.param("quantize=fp8", "hsdp", "float32", marks=pytest.mark.long),
])  # fmt: skip
def test_adapters_of_small_weights_train_on_two_devices_as_on_one(tmp_path, launch, small, mode, dtype):
    if "nf4" in small:
        pytest.importorskip("bitsandbytes")
    save_kontext(tmp_path / "model")
    asked = f"weights={tmp_path / 'model'} {small}"
    losses = launch("single", 1, tmp_path / "one", asked, worker=ADAPTERS, dtype=dtype)
    got = launch(mode, 2, tmp_path / "two", asked, worker=ADAPTERS, dtype=dtype)
    assert got == pytest.approx(losses, rel=2e-4 if dtype == "float32" else 2e-3)
    one, two = (
        {name: value.float() for p in (tmp_path / run).glob("*.safetensors") for name, value in load_torch(p).items()}
        for run in ("one", "two")
    )
    assert one and one.keys() == two.keys()
    for name, value in one.items():  # they are written in bfloat16
        if dtype == "float32":
            assert np.allclose(value, two[name], atol=2e-4, rtol=2**-7), name
        else:  # Adam moves a weight by up to 1e-2 a step: the two ways are less than a tenth of that apart
            assert (value - two[name]).abs().mean() < 3 * 1e-2 / 10, name


@pytest.mark.parametrize("asked, said", [
    ("block_swap=2", "recipe: `block_swap`: not with --parallel fsdp"),
    ('optimizer="adamw8bit"', "`adamw8bit` keeps its state in blocks"),
])  # fmt: skip
def test_what_cannot_be_sharded_is_said_before_anything_is_loaded(tmp_path, model_edit, asked, said):
    """By two processes, of weights that are not there."""
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "source": ["a.png"], "target": "a.png", "instruction": "x"}\n')
    (tmp_path / "a.png").write_bytes(encode(pixels(0, 40, 40), "PNG"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    children = []
    for rank in "01":
        with open(os.devnull) as nothing, (tmp_path / rank).open("w") as errors:
            children.append(model_edit.start(
                "train", "rows.jsonl", "--recipe", "lora", "--set", "model.weights=absent/x", "--set", asked,
                "--parallel", "fsdp", "-o", "run", stdin=nothing.fileno(), stdout=errors.fileno(),
                stderr=errors.fileno(), cwd=tmp_path, env={**where, "RANK": rank, "LOCAL_RANK": rank},
            ))  # fmt: skip
    assert [child.wait(120) for child in children] == [2, 2]
    for rank in "01":
        line, hint = (tmp_path / rank).read_text().splitlines()
        assert line.startswith(f"edit train: {said}") and hint.startswith("hint: --parallel ddp")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode, what, said, status", [
    pytest.param("ddp", "memory", "step 8: out of memory: OutOfMemoryError: CUDA out of memory", 1,
                 marks=pytest.mark.long),
    ("fsdp", "block", "step 8: out of memory: OutOfMemoryError: CUDA out of memory", 1),
    ("fsdp", "nan", "step 8: loss nan", 1),
    ("ddp", "told", "enough", 1),
])  # fmt: skip
def test_what_fails_on_one_process_loses_no_step_of_any(tmp_path, launch, mode, what, said, status):
    """The others, which wait for it, save with it and end; the same command with smaller batches goes on."""
    codes: list[int] = []
    lines = launch(mode, 2, tmp_path / "run", what, stop=7, worker=FAILS, fails=codes)
    assert codes == [status, status] and len(lines) == 1 and lines[0].startswith(said), lines
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-00000004", "step-00000007"}
    assert not (tmp_path / "run" / ".lock").exists()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert (log[-1]["step"], log[-1]["samples"]) == (7, 7 * 12)
    assert launch(mode, 2, tmp_path / "run", "- batch_tokens=16", stop=7, steps=10, worker=FAILS) == [7]


def test_a_state_that_is_not_of_a_finished_step_is_not_saved(tmp_path, launch):
    codes: list[int] = []
    lines = launch("ddp", 2, tmp_path / "run", "nan loss_spike_factor=1e-9", stop=18, worker=FAILS, fails=codes)
    assert codes == [1, 1] and len(lines) == 1 and "step 19: loss nan" in lines[0]
    assert checkpoint.newest(tmp_path / "run").name == "step-00000016"


def test_a_row_that_one_process_cannot_use_is_counted_and_said_by_one(tmp_path, launch):
    codes: list[int] = []
    lines = launch("fsdp", 2, tmp_path / "run", "row", worker=FAILS, fails=codes)
    assert codes == [3, 3] and len(lines) == 1 and "row row-5: cannot decode" in lines[0]
    (line,) = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "row-5"


def test_the_rejects_of_all_processes_are_counted_together_each_row_once(tmp_path, launch):
    codes: list[int] = []
    lines = launch("ddp", 2, tmp_path / "two", "rows 1!", worker=FAILS, fails=codes)  # another one on each
    assert codes == [3, 3] and len(lines) == 1 and "2 of 23 rows cannot be used, more than --max-errors 1" in lines[0]
    assert launch("ddp", 2, tmp_path / "one", "row 1!", worker=FAILS) == [0]  # the same one on both
    assert len((tmp_path / "one" / "rejects.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_leaves_no_process_waiting(tmp_path, launch):
    codes: list[int] = []
    launch("ddp", 2, tmp_path / "disk", "disk", stop=7, worker=FAILS, fails=codes)
    assert all(codes) and checkpoint.newest(tmp_path / "disk").name == "step-00000008"


@pytest.mark.parametrize("what, mode, codes, saved", [
    pytest.param("killed1", "ddp", [1, -9], 7, marks=pytest.mark.long),
    ("killed0", "ddp", [-9, 1], 7),  # and with it the store that the processes met by
    ("killed1", "fsdp", [1, -9], 4),
    pytest.param("killed1", "hsdp", [1, -9], 4, marks=pytest.mark.long),
    ("stopped", "ddp", [1, -9], 7),
    pytest.param("stopped", "fsdp", [1, -9], 4, marks=pytest.mark.long),
    ("writing", "fsdp", [1, -9], 4),
])  # fmt: skip
def test_where_a_process_is_killed_the_other_saves_what_it_has_and_says_so(tmp_path, launch, what, mode, codes, saved):
    """In DDP that is everything; of a sharded state the last checkpoint is left. The same command goes on."""
    got: list[int] = []
    lines = launch(mode, 2, tmp_path / "run", what, stop=7, worker=FAILS, fails=got)
    assert got == codes
    which = "a process" if what == "killed0" else "process 1"
    line = f"{which} of 2 is gone: it was killed, or its machine is lost; the same command goes on from step {saved}"
    if what == "stopped":  # said by the thread that watches, as the other waits in vain
        line, lines = f"train: {line}", (tmp_path / "run.0").read_text().splitlines()
    if what == "killed0":  # torch says much of the store
        lines = [line for line in lines if "is gone" in line]
    assert lines == [line]
    assert checkpoint.step_of(checkpoint.newest(tmp_path / "run")) == saved
    assert launch(mode, 2, tmp_path / "run", "-", stop=7, steps=10, worker=FAILS) == [saved]
    assert not [*(tmp_path / "run").rglob(".tmp*")] and not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("what, mode, codes, said, saved", [
    ("before", "fsdp", [1, 1], "no room", 0),
    ("export", "fsdp", [1, 1], "no room", 10),
    ("export-killed", "fsdp", [1, -9], "process 1 of 2 is gone", 10),
])  # fmt: skip
def test_what_fails_on_one_process_before_the_steps_or_after_them(tmp_path, launch, what, mode, codes, said, saved):
    got: list[int] = []
    lines = launch(mode, 2, tmp_path / "run", what, steps=10, worker=FAILS, fails=got)
    assert got == codes and len(lines) == 1 and lines[0].startswith(said), lines
    found = checkpoint.newest(tmp_path / "run")
    assert saved == (0 if found is None else checkpoint.step_of(found))
    assert launch(mode, 2, tmp_path / "run", "-", steps=10, worker=FAILS) == [saved]
    assert (tmp_path / "run" / "_end.json").exists() and not (tmp_path / "run" / ".lock").exists()
