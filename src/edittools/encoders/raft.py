"""RAFT, optical flow by recurrent updates over all pairs of pixels (Teed and Deng 2020, "RAFT: Recurrent All-Pairs
Field Transforms for Optical Flow"), the full model of 5.3 million weights.

The parameters have the names of the authors' release, so that `raft-things.pth` and its like load as they are once
`python -m edittools.convert` has made safetensors of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.encoders.vision import VisionModel
from edittools.errors import EditError, RowError
from edittools.weights.lookup import find_weights, load_strictly, read_config, read_tensors, save_converted

RELEASE = "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip (raft-things.pth inside)"
STEPS = 20  # updates, as in the authors' demonstration
LEVELS, RADIUS = 4, 4
HIDDEN, CONTEXT, FEATURES = 128, 128, 256
_STRIDE = 8
_LEAST_SIDE = 128  # pixels: the coarsest level of the correlations then has two of them
_MOST_PLACES = 16384  # of the features, whose correlations take 1.4 GB


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the stride is not 1."""

    def __init__(self, inside: int, outside: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.norm1, self.norm2 = norm(outside), norm(outside)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride), norm(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (self.downsample(x) + self.norm2(self.conv2(y)).relu()).relu()


class _Encoder(nn.Module):
    """Images (B, 3, h, w) -> features (B, 256, h/8, w/8)."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, padding=3), norm(64)
        self.layer1 = nn.Sequential(_Residual(64, 64, 1, norm), _Residual(64, 64, 1, norm))
        self.layer2 = nn.Sequential(_Residual(64, 96, 2, norm), _Residual(96, 96, 1, norm))
        self.layer3 = nn.Sequential(_Residual(96, 128, 2, norm), _Residual(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _Motion(nn.Module):
    """Correlations and flow -> what the recurrent unit is told of them (B, 128, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, 128 - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        c = self.convc2(self.convc1(correlations).relu()).relu()
        f = self.convf2(self.convf1(flow).relu()).relu()
        return torch.cat([self.conv(torch.cat([c, f], 1)).relu(), flow], 1)


class _SeparableGru(nn.Module):
    """A GRU whose gates are convolutions: along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        for number, kernel in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                padding = (kernel[0] // 2, kernel[1] // 2)
                layer = nn.Conv2d(HIDDEN + CONTEXT + 128, HIDDEN, kernel, padding=padding)
                self.add_module(f"conv{gate}{number}", layer)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        for number in (1, 2):
            z, r, q = (getattr(self, f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([h, x], 1)
            keep, reset = torch.sigmoid(z(both)), torch.sigmoid(r(both))
            h = (1 - keep) * h + keep * torch.tanh(q(torch.cat([reset * h, x], 1)))
        return h


class _FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv2(self.conv1(h).relu())


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _Motion(), _SeparableGru(), _FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * _STRIDE**2, 1))


class Raft(nn.Module):
    """Two images (B, 3, h, w), -1 to 1, sides multiples of 8 from 128 on -> flow (B, 2, h, w): x, y in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet, self.cnet = _Encoder(nn.InstanceNorm2d), _Encoder(nn.BatchNorm2d)
        self.update_block = _Update()

    def forward(self, first: Tensor, second: Tensor, steps: int = STEPS) -> Tensor:
        levels = correlations(*self.fnet(torch.cat([first, second])).chunk(2))
        hidden, context = self.cnet(first).split([HIDDEN, CONTEXT], 1)
        hidden, context = hidden.tanh(), context.relu()
        batch, _, height, width = hidden.shape
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        start = torch.stack([xs, ys]).to(hidden).expand(batch, -1, -1, -1)
        flow = torch.zeros_like(start)
        for _ in range(steps):
            seen = self.update_block.encoder(flow, look_up(levels, start + flow))
            hidden = self.update_block.gru(hidden, torch.cat([context, seen], 1))
            flow = flow + self.update_block.flow_head(hidden)
        return enlarged(flow, 0.25 * self.update_block.mask(hidden))


def correlations(first: Tensor, second: Tensor) -> list[Tensor]:
    """Features (B, D, h, w) of two images -> dot products of every pair of places over sqrt(D), (B h w, 1, h, w),
    and their means over 2x2, 4x4 and 8x8 places of the second image (RAFT 3.2)."""
    batch, size, height, width = first.shape
    # C_ijkl = sum_d g(I1)_ijd g(I2)_kld / sqrt(D)
    products = torch.einsum("bdij,bdkl->bijkl", first, second) / size**0.5
    levels = [products.reshape(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def look_up(levels: list[Tensor], places: Tensor) -> Tensor:
    """Correlations about places (B, 2, h, w) of the second image, bilinear, 0 outside -> (B, 4 * 81, h, w).

    The 9x9 neighbours at each level are listed column by column, as in the release."""
    batch, _, height, width = places.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1).to(places)
    dx, dy = torch.meshgrid(offsets, offsets, indexing="ij")
    found = []
    for number, level in enumerate(levels):
        x, y = (places / 2**number).permute(1, 0, 2, 3).reshape(2, -1, 1, 1)
        last_y, last_x = (side - 1 for side in level.shape[-2:])
        grid = torch.stack([2 * (x + dx) / last_x - 1, 2 * (y + dy) / last_y - 1], dim=-1)
        found.append(F.grid_sample(level, grid, align_corners=True).reshape(batch, height, width, -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2)


def enlarged(flow: Tensor, weights: Tensor) -> Tensor:
    """Flow (B, 2, h, w) at an eighth of the size -> (B, 2, 8h, 8w): every pixel a convex combination of its place's
    3x3 neighbours, by the softmax of weights (B, 9 * 64, h, w) (RAFT 3.3)."""
    batch, _, height, width = flow.shape
    shares = weights.reshape(batch, 1, 9, _STRIDE, _STRIDE, height, width).softmax(2)
    around = F.unfold(_STRIDE * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, height, width)
    return (shares * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, _STRIDE * height, _STRIDE * width)


class RaftModel(VisionModel):
    """`flow` of two images."""

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """uint8 HxWx3 of one size -> where every pixel of the source goes, HxWx2 (x, y) in pixels."""
        height, width = source.shape[:2]
        tall, wide = (max(_LEAST_SIDE, -(-side // _STRIDE) * _STRIDE) for side in (height, width))
        if tall * wide // _STRIDE**2 > _MOST_PLACES:
            raise RowError("too long a picture for RAFT", f"{width}x{height}")
        top, left = (tall - height) // 2, (wide - width) // 2
        pad = (left, wide - width - left, top, tall - height - top)

        def work() -> Tensor:
            pair = torch.from_numpy(np.stack([source, target])).permute(0, 3, 1, 2).to(self.device, self.dtype)
            first, second = F.pad(2 * pair / 255 - 1, pad, mode="replicate").split(1)
            return self.network(first, second)[0, :, top : top + height, left : left + width].permute(1, 2, 0)

        return self._guarded(work)


def load_raft(spec: str, *, device: str = "cpu", dtype: str = "float32") -> RaftModel:
    """RAFT out of a folder, or of a name below EDITTOOLS_WEIGHTS. Raises EditError."""
    folder = find_weights(spec, release=RELEASE)
    if read_config(folder).get("model_type") != "raft":
        raise EditError(f"{folder}: not RAFT")
    network = Raft()
    load_strictly(network, read_tensors(folder), folder)
    return RaftModel(network, None, device, dtype)


# ---------------------------------------------------------------- conversion


def _plain(released: dict[str, Any]) -> dict[str, Any]:
    """The release's names without the wrapper's, and each shortcut's normalisation once: it is listed twice."""
    names = {name.removeprefix("module."): tensor for name, tensor in released.items()}
    return {name: tensor for name, tensor in names.items() if ".norm3." not in name}


def recognises(released: dict[str, Any]) -> bool:
    """Is this the state dict of the full model?"""
    return "update_block.mask.0.weight" in _plain(released)


def save_released(released: dict[str, Any], folder: str | Path, name: str) -> None:
    tensors = _plain(released)
    load_strictly(Raft(), tensors, Path(name))
    save_converted(folder, tensors, {"model_type": "raft"})
