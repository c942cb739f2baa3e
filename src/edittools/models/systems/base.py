"""What every system has in common: the interface between training, sampling and a model's parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edittools.models.autoencoder import Autoencoder
from edittools.models.describe import describe_model
from edittools.models.flow import velocity_from_x0, x0_from_velocity
from edittools.models.lora import LoraSettings

Conditions = dict[str, Tensor]
"""What the frozen encoders say about one row, or about a batch of rows, by name.

In training also "crops" (1 + R, 4): the parts of their pictures that the target and the references are, left, top,
right, bottom as shares. Without it they are whole.
"""


@dataclass
class Part:
    """A piece of the network as it is saved: a folder with `config.json` and safetensors."""

    prefix: str  # of its parameters' names within the network
    config: dict[str, Any]
    stem: str = "diffusion_pytorch_model"  # of the safetensors; transformers and our own parts: "model"
    files: dict[str, str] = field(default_factory=dict)  # further small text files by name


class System(ABC):
    """A model taken apart.

    `network` is the module that trains. It is called as network(x_t, t, references, conditions) with
        x_t          (B, C, h, w) noisy latents of the target
        t            (B,) float32, 0 the picture and 1 noise
        references   a list of latents (B, C, h_i, w_i): Figure 1, Figure 2, ...
        conditions   what collate() makes
    and gives (B, C, h, w): the velocity, or x̂_0 where `predicts` is "x0".
    """

    network: nn.Module
    autoencoder: Autoencoder | None = None
    predicts = "v"
    multiple: int  # sides of pictures are multiples of this many pixels; a token covers `patch` pixels squared
    patch: int
    one_row = False  # rows cannot share a batch
    sees_references = True  # their latents go through the network
    adapters: LoraSettings | None = None  # that train instead of the weights
    pipeline = ""  # the class of diffusers that loads it, where there is one

    # How it is sampled where nobody says otherwise: Euler steps, classifier-free guidance (1: none) and the instruction
    # of its second pass, and what a guidance-distilled network is told.
    steps = 28
    guidance = 1.0
    negative = ""
    distilled_guidance: float | None = None

    # ------------------------------------------------------------------------------------ frozen encoders

    def latents(self, pictures: Tensor) -> Tensor:
        """pictures (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w) float32."""
        assert self.autoencoder is not None
        return self.autoencoder.encode(pictures)

    def pictures(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> pictures (B, 3, H, W) in [-1, 1], differentiable."""
        assert self.autoencoder is not None
        return self.autoencoder.decode(latents)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents of a picture of this many pixels."""
        if self.autoencoder is None:  # as the network has them: 2 x 2 latents make a token
            transformer: Any = self.network.transformer
            factor = self.patch // 2
            return transformer.config.in_channels // 4, height // factor, width // factor
        return self.autoencoder.channels, height // self.autoencoder.factor, width // self.autoencoder.factor

    @abstractmethod
    def conditions(self, sources: list[np.ndarray], text: str) -> Conditions:
        """What the frozen encoders say about one row: sources uint8 (h, w, 3), an instruction or a caption."""

    def example(self, references: int) -> Conditions:
        """Conditions of a usual row with so many references, of zeros: for planning, without encoders."""
        raise NotImplementedError

    def collate(self, rows: list[Conditions]) -> Conditions:
        """The conditions of rows as one batch: sequences (L, D) are padded, and `mask` (B, L) says where."""
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "states"} | pad_states(
            [row["states"] for row in rows]
        )

    def perturb(self, conditions: Conditions, random: torch.Generator) -> Conditions:
        """Noise on a batch's conditions while training, drawn from `random` alone."""
        return conditions

    def words(self) -> list[str]:
        """The vocabulary, where it is made of the texts of the data."""
        return []

    # ------------------------------------------------------------------------------- what the output means

    def velocity(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The guess v̂ of the velocity, whatever the network predicts; t must not be 0."""
        return output if self.predicts == "v" else velocity_from_x0(x_t, output, t)

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, t: float) -> Tensor:
        """Classifier-free guidance of the velocity (B, C, h, w) at time t; `scale` 1 is the conditional one alone."""
        # v = v(∅) + w (v(c) - v(∅))   [Ho and Salimans 2022]
        return unconditional + scale * (conditional - unconditional)

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The guess x̂_0 of the target's latents, whatever the network predicts."""
        return output if self.predicts == "x0" else x0_from_velocity(x_t, output, t)

    # -------------------------------------------------------------------------------------------- bookkeeping

    @abstractmethod
    def encoding(self) -> dict[str, str]:
        """What stored features depend on: {"latents": ..., "conditions": ...}; see describe_encoders()."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The network's repeated blocks: what is sharded, compiled and checkpointed one by one."""

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """The network's pieces by the name of the folder that each is saved in."""

    def described(self) -> dict[str, Any]:
        """What `edit.json` of a whole model's folder says, where no pipeline of diffusers describes it."""
        return {}

    def frozen_parts(self) -> dict[str, Path]:
        """Files and folders beside the parts that make a whole model, by name: where they lie."""
        return {}

    def flops(self, image_tokens: int, target_tokens: int, text_tokens: int) -> int:
        """Floating-point operations of one row's forward pass, a multiply-add counted as two.

        Matrix products and attention only, as model FLOP utilisation is defined (PaLM, Chowdhery et al. 2022, B).
        """
        raise NotImplementedError


ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder", "tokenizer", "tokenizer_2", "processor")


def describe_encoders(folder: Path, *more: str) -> dict[str, str]:
    """System.encoding() of a model's folder: its autoencoder, its encoders and what cuts their inputs, the libraries.

    more    what else the conditions depend on: the system first
    """
    found = [describe_model(str(folder / name)) for name in ENCODERS if (folder / name).is_dir()]
    libraries = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]
    return {
        "latents": f"{describe_model(str(folder / 'vae'))}, mode",
        "conditions": ", ".join([*more, *found, *libraries]),
    }


def pad_states(states: list[Tensor], length: int | None = None) -> Conditions:
    """Sequences (L_i, D) -> {"states": (B, L, D), "mask": (B, L) bool}; the mask only where something is padded."""
    longest = length or max(len(s) for s in states)
    padded = torch.stack([nn.functional.pad(s, (0, 0, 0, longest - len(s))) for s in states])
    if all(len(s) == longest for s in states):
        return {"states": padded}  # without a mask, faster attention kernels may run
    mask = torch.arange(longest) < torch.tensor([len(s) for s in states])[:, None]
    return {"states": padded, "mask": mask}
