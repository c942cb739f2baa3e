"""What every architecture has in common: the interface between training, sampling and a model's parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edittools.nets.autoencoder import Autoencoder
from edittools.nets.flow import velocity_from_x0, x0_from_velocity
from edittools.nets.lora import LoraSettings
from edittools.weights.digest import model_digest

Conditioning = dict[str, Tensor]
"""Output of the frozen encoders for one row, or for a batch of rows, by name.

In training also "crops" (1 + R, 4): the parts of their images that the target and the references are, left, top,
right, bottom as shares. Without it they are whole.

Of a batch whose rows have other references also "sizes" (B, R, 2): rows and columns of their latents, see
EditModel.network.
"""

Once = Callable[[Callable[[], Any]], Any]
"""Gives what a function makes, a new network: where processes of one machine ask, one of them makes it."""


def at_once(make: Callable[[], Any]) -> Any:
    """For one process alone."""
    return make()


@dataclass
class NetworkPart:
    """A piece of the network as it is saved: a folder with `config.json` and safetensors."""

    prefix: str  # of its parameters' names within the network
    config: dict[str, Any]
    stem: str = "diffusion_pytorch_model"  # of the safetensors; transformers and our own parts: "model"
    files: dict[str, str] = field(default_factory=dict)  # further text files by name
    names: dict[str, str] = field(default_factory=dict)  # of its parameters in the file, where they are others


class EditModel(ABC):
    """A model taken apart.

    `network` is the module that trains. It is called as network(x_t, t, references, conditioning) with
        x_t          (B, C, h, w) noisy latents of the target
        t            (B,) float32, 0 the image and 1 noise
        references   a list of latents (B, C, h_i, w_i): Figure 1, Figure 2, ... Where the rows have other ones, as
                     they may with `mixed_references`, each fills the upper left corner that conditioning["sizes"] says,
                     of 0 rows and columns where a row has fewer
        conditioning   what collate() makes
    and gives (B, C, h, w): the velocity, or x̂_0 where `predicts` is "x0".
    """

    network: nn.Module
    autoencoder: Autoencoder | None = None
    predicts = "v"
    multiple: int  # sides of images are multiples of this many pixels; a token covers `patch` pixels squared
    patch: int
    one_row = False  # rows cannot share a batch
    mixed_references = False  # rows of a batch may have other references, more or fewer
    sees_references = True  # their latents go through the network
    conditions_see_references = True  # `conditioning` looks at the sources, and not at the text alone
    adapters: LoraSettings | None = None  # that train instead of the weights
    pipeline = ""  # the class of diffusers that loads it, where there is one

    # How it is sampled where nobody says otherwise: Euler steps, classifier-free guidance (1: none) and the instruction
    # of its second pass, and what a guidance-distilled network is told.
    steps = 28
    guidance = 1.0
    negative = ""
    distilled_guidance: float | None = None

    # ------------------------------------------------------------------------------------ frozen encoders

    def latents(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w) float32."""
        assert self.autoencoder is not None
        return self.autoencoder.encode(images)

    def images(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> images (B, 3, H, W) in [-1, 1], differentiable."""
        assert self.autoencoder is not None
        return self.autoencoder.decode(latents)

    def results(self, latents: Tensor) -> Tensor:
        """Finished images, likewise; (B, 4, H, W) with alpha, [-1, 1] too, where the autoencoder has it."""
        return self.images(latents)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents of an image of this many pixels."""
        if self.autoencoder is None:  # as the network has them: 2 x 2 latents make a token
            transformer: Any = self.network.transformer
            factor = self.patch // 2
            return transformer.config.in_channels // 4, height // factor, width // factor
        return self.autoencoder.channels, height // self.autoencoder.factor, width // self.autoencoder.factor

    @abstractmethod
    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """Conditioning of one row: sources uint8 (h, w, 3), an instruction or a caption."""

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        """conditioning() of several rows, which encoders that take batches see together: the same to rounding.

        Raises RowError for all of them where one cannot be encoded.
        """
        return [self.conditioning(sources, text) for sources, text in rows]

    def example(self, references: int) -> Conditioning:
        """Conditioning of a usual row with so many references, of zeros: for planning, without encoders."""
        raise NotImplementedError

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        """The conditioning of rows as one batch: sequences (L, D) are padded, and `mask` (B, L) says where.

        "crops" of rows with other references are left out: an architecture adds them that has a use for them.
        """
        alike = len({row["crops"].shape for row in rows if "crops" in row}) == 1
        named = [name for name in rows[0] if name != "states" and (name != "crops" or alike)]
        return {name: torch.stack([row[name] for row in rows]) for name in named} | pad_states(
            [row["states"] for row in rows]
        )

    def augment(self, conditioning: Conditioning, random: torch.Generator) -> Conditioning:
        """Noise on a batch's conditioning while training, drawn from `random` alone."""
        return conditioning

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
        """What stored features depend on: {"latents": ..., "conditions": ...}; see encoder_digests()."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The network's repeated blocks: what is sharded, compiled and checkpointed one by one."""

    def exact(self) -> list[nn.Module]:
        """What is computed in float32 whatever the recipe's `dtype`: shards of it are gathered as they are."""
        return []

    @abstractmethod
    def parts(self) -> dict[str, NetworkPart]:
        """The network's pieces by the name of the folder that each is saved in."""

    def rate(self, name: str) -> float:
        """The learning rate of a parameter, by its name in the network, relative to the recipe's."""
        return 1.0

    def checkpoint(self, run: Callable[..., Any]) -> None:
        """Have every block called by run(block, *arguments) in training."""
        transformer: Any = getattr(self.network, "transformer", None)
        if transformer is not None:
            transformer.enable_gradient_checkpointing(run)

    def exported(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is written of the network's tensors, by name."""
        return tensors

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

    def row_flops(self, sizes: Sequence[int], text_tokens: int, places: Sequence[int] = (), kept: bool = False) -> int:
        """flops() of a row by the tokens of its target and of each reference that the network sees.

        places   how many tokens of text there are before each reference, where the order counts; none without
        kept     a sampler's, which has what it keeps from the step before
        """
        return self.flops(sum(sizes), sizes[0], text_tokens)


SEQUENCES = ("order", "states", "words")  # names of the text stream, one of which an architecture's conditioning has
_UNROUNDED = ("ids", "crops")  # positions
_READ = ("sizes", "places")  # integers that a network's Python reads: on the CPU it need not wait for a device


def text_length(conditioning: Conditioning) -> int:
    """Tokens of a row's text stream."""
    return next((len(conditioning[name]) for name in SEQUENCES if name in conditioning), 0)


def moved(conditioning: Conditioning, device: Any, dtype: torch.dtype | None = None, **how: Any) -> Conditioning:
    """Conditioning on another device, in another precision."""
    return {
        name: value
        if name in _READ
        else value.to(device, dtype if value.is_floating_point() and name not in _UNROUNDED else None, **how)
        for name, value in conditioning.items()
    }


def side_by_side(rows: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Conditioning]:
    """References of rows, latents (C, h, w) each, as the network takes them, and {"sizes": ...} where they differ."""
    most = max(map(len, rows))
    if all([x.shape for x in row] == [x.shape for x in rows[0]] for row in rows):
        return [torch.stack([row[k] for row in rows]) for k in range(most)], {}
    sizes = torch.zeros(len(rows), most, 2, dtype=torch.long)
    for number, row in enumerate(rows):
        for k, x in enumerate(row):
            sizes[number, k] = torch.tensor(x.shape[-2:])
    references = []
    for k in range(most):
        shown = {number: row[k] for number, row in enumerate(rows) if k < len(row)}
        first = next(iter(shown.values()))
        held = first.new_zeros(len(rows), len(first), *sizes[:, k].amax(0).tolist())
        for number, x in shown.items():
            held[number, :, : x.shape[-2], : x.shape[-1]] = x
        references.append(held)
    return references, {"sizes": sizes}


ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder", "tokenizer", "tokenizer_2", "processor")


def encoder_digests(folder: Path, *more: str) -> dict[str, str]:
    """EditModel.encoding() of a folder: digests of its autoencoder, its encoders and their processors, the libraries.

    more    what else the conditioning depends on: the architecture first
    """
    found = [model_digest(str(folder / name)) for name in ENCODERS if (folder / name).is_dir()]
    libraries = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]
    return {
        "latents": f"{model_digest(str(folder / 'vae'))}, mode",
        "conditions": ", ".join([*more, *found, *libraries]),
    }


def pad_states(states: list[Tensor], length: int | None = None) -> Conditioning:
    """Sequences (L_i, D) -> {"states": (B, L, D), "mask": (B, L) bool}; the mask only where something is padded."""
    longest = length or max(len(s) for s in states)
    padded = torch.stack([nn.functional.pad(s, (0, 0, 0, longest - len(s))) for s in states])
    if all(len(s) == longest for s in states):
        return {"states": padded}  # without a mask, faster attention kernels may run
    mask = torch.arange(longest) < torch.tensor([len(s) for s in states])[:, None]
    return {"states": padded, "mask": mask}
