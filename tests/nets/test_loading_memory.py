"""What a start takes of the main memory: no more than the network's weights once, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFIG = {
    "in_channels": 64, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 64, "num_attention_heads": 8,
    "joint_attention_dim": 512, "pooled_projection_dim": 256, "axes_dims_rope": [16, 24, 24],
}  # fmt: skip

MEASURE = """
    import gc, json, sys
    from pathlib import Path
    import torch
    from diffusers import FluxTransformer2DModel
    from edittools.nets.dit import new_or_stored
    from edittools.train.parallel import Parallel

    def status(name):
        line = next(line for line in open("/proc/self/status") if line.startswith(name))
        return 1024 * int(line.split()[1])

    config, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    FluxTransformer2DModel(**config).save_pretrained(folder / "transformer", safe_serialization=True)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    for given in ({}, config):
        gc.collect()
        before = status("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
        network = new_or_stored(FluxTransformer2DModel, folder, given, 0, None)
        loaded = status("VmHWM") - before
        Parallel("single", 0, 1, torch.device("cpu")).wrap(network, [], torch.float32)
        total = sum(float(p.sum()) for p in network.parameters())  # all of it is looked at
        print(json.dumps([size, loaded, status("VmHWM") - before, total]))
        del network
"""


def in_a_process(program: str, *given: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, given)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_a_checkpoint_is_read_into_place_and_a_new_network_is_made_once(tmp_path: Path) -> None:
    stored, new = in_a_process(MEASURE, json.dumps(CONFIG), tmp_path).splitlines()[-2:]
    size, loaded, used, _ = json.loads(stored)
    assert size > 60e6
    assert loaded < 0.2 * size  # mapped: shared by the processes of a machine, and read when it is needed
    assert 0.9 * size < used < 1.2 * size
    _, _, used, _ = json.loads(new)
    assert 0.9 * size < used < 1.2 * size
