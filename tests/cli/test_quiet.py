"""Libraries that nobody asked for are neither loaded nor heard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FAKE = """
import logging
print("here I am")
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")
"""

ASKS = """
import sys
from edittools.weights.quiet import disable_progress_bars, open_bitsandbytes
disable_progress_bars("transformers", "diffusers")
import torch
from diffusers import QwenImageTransformer2DModel
from transformers import CLIPImageProcessor
from peft import LoraConfig, inject_adapter_in_model
inject_adapter_in_model(LoraConfig(target_modules=["0"]), torch.nn.Sequential(torch.nn.Linear(3, 3)))
assert "bitsandbytes" not in sys.modules
assert open_bitsandbytes("a test").__file__.startswith(sys.argv[1])
"""


def test_bitsandbytes_is_imported_when_asked_for_and_not_heard(tmp_path: Path) -> None:
    """With one that says that it is imported, found before any that is installed."""
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text(FAKE)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2] / "src"), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", ASKS, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "here I am\n"), run.stderr
    assert "gemm" not in run.stderr and "torchvision" not in run.stderr
