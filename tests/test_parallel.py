"""Several processes train what one trains, by DDP, FSDP2 and HSDP, and a checkpoint loads at any number of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forge import Forge
from safetensors.numpy import load_file

from edittools.train.log import flat

WORKER = """
import json, sys
sys.path.insert(0, {tests!r})
from training import MemoryRows, pairs, run, tiny
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
recipe = tiny(steps=steps, batches=4, batch_tokens=24, optimizer={optimizer!r}, checkpoint_every=10,
              dtype={dtype!r}, sample_every={sample_every}, sample_steps=2)
rows = MemoryRows(pairs(23, references=lambda k: 1 + k % 2))
try:
    held = MemoryRows(pairs(27, references=lambda k: 1 + k % 2)[23:])
    run(recipe, rows, out, parallel=parallel, on_step=on_step, heldout=held)
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
from edittools.models.systems import load_system
from edittools.train.parallel import full, start
mode = sys.argv[1]
parallel = start(mode, "cpu", replicas=2 if mode == "hsdp" else None)
recipe = tiny()
system = load_system(recipe.system, recipe.model, texts=lambda: ["make it red"])
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

Launch = Callable[..., list[float]]


@pytest.fixture(scope="module")
def launch(model_forge: Forge) -> Launch:
    """Train on some processes, with the variables that a launcher sets: the losses of the first one."""

    def run(
        mode: str, processes: int, out: Path, optimizer: str, steps: int = 20, stop: int = 0, dtype: str = "float32",
        worker: str = WORKER,
    ) -> list[float]:  # fmt: skip
        script = out.with_suffix(".py")
        script.write_text(worker.format(tests=str(Path(__file__).parent), optimizer=optimizer, dtype=dtype,
                                        sample_every=20 if dtype == "bfloat16" else 0))
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
        assert not any(codes), [log.read_text()[-2000:] for log in logs]
        return json.loads(logs[0].read_text().splitlines()[-1])

    return run


def heldout(run: Path) -> dict[str, float]:
    """Every number of its held-out losses by name."""
    lines = [json.loads(line) for line in (run / "heldout.jsonl").read_text().splitlines()]
    return {f"{line['step']}/{name}": value for line in lines for name, value in flat(line).items()}


def weights(run: Path) -> dict[str, np.ndarray]:
    """Of the model that it leaves."""
    return {f"{p.parent.name}/{k}": v for p in run.glob("[!c]*/*.safetensors") for k, v in load_file(p).items()}


@pytest.fixture(scope="module")
def alone(launch, tmp_path_factory):
    made = {}

    def of(optimizer: str):
        if optimizer not in made:
            out = tmp_path_factory.mktemp("alone") / optimizer
            made[optimizer] = launch("single", 1, out, optimizer), weights(out), heldout(out)
        return made[optimizer]

    return of


@pytest.mark.parametrize("mode, optimizer", [
    ("ddp", "adamw"), ("fsdp", "adamw"), ("hsdp", "adamw"), ("fsdp", "muon"), ("fsdp", "prodigy"),
])  # fmt: skip
def test_two_processes_train_what_one_does(tmp_path, launch, alone, mode, optimizer):
    losses, trained, held = alone(optimizer)
    got = launch(mode, 2, tmp_path / "run", optimizer)
    assert got == pytest.approx(losses, rel=2e-4)
    assert heldout(tmp_path / "run") == pytest.approx(held, rel=2e-3) and len(held) == 9 + 2 * 17
    for name, value in weights(tmp_path / "run").items():
        assert np.allclose(value, trained[name], atol=2e-4), name


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
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
    assert last == (13 if before[1] == 1 else 10)  # one process saves what it has done when it is ended by an error
    rest = launch(*after, tmp_path / "run", "adamw")
    assert len(first) == 13 and len(rest) == 20 - last
    assert first[:last] + rest == pytest.approx(losses, rel=2e-4)
    assert heldout(tmp_path / "run") == pytest.approx(held, rel=2e-3)
    for name, value in weights(tmp_path / "run").items():
        assert np.allclose(value, trained[name], atol=2e-4), name


def test_no_process_keeps_gradients_that_others_have(tmp_path, launch):
    held, *_ = launch("fsdp", 2, tmp_path / "run", "", worker=GRADIENTS)
    assert held < 0.6  # of 4 bytes per parameter: its half


def test_hsdp_leaves_the_sum_over_copies_to_the_last_batch(tmp_path, launch):
    _, before, after = launch("hsdp", 2, tmp_path / "run", "", worker=GRADIENTS)
    assert after and not before


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
    for mode in ("ddp", "fsdp"):
        got = launch(mode, 3, tmp_path / mode, "adamw")
        assert got == pytest.approx(losses, rel=2e-4)
        for name, value in weights(tmp_path / mode).items():
            assert np.allclose(value, trained[name], atol=2e-4), name


def test_adapters_are_not_sharded(monkeypatch):
    from edittools.train import parallel

    modes = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_, **__: None)
    for adapters in (False, True):
        modes.append(parallel.start("auto", "cpu", adapters=adapters).mode)
    assert modes == ["fsdp", "ddp"]
