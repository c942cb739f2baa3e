"""The small editing network: diffusers' Qwen-Image transformer on pixel patches, and its text encoder.

FireRed-Image-Edit's layout [SPEC T1c] without its VAE and its language model: the token sequence is
[text | noisy target | references], target and references share their spatial positions and differ on
the frame axis of the rotary embedding; references may have a time condition of their own (t = 0).

Pictures are float tensors (B, 3, H, W) in [-1, 1]; H and W are multiples of the patch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edittools.models.flow import velocity_from_x0, x0_from_velocity

# A word is a run of letters, one Chinese character or one digit; punctuation carries nothing here.
WORD = re.compile(r"[\u3400-\u9fff]|\d|[^\W\d_\u3400-\u9fff]+")
PADDING, UNKNOWN = 0, 1
POSITION_CHANNELS, POSITION_AMPLITUDE = 8, 2.0  # see positions()


class Vocabulary:
    """Words to numbers. Number 0 pads, 1 is any word that training never saw."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.number = {word: k for k, word in enumerate(words, start=2)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def build(cls, instructions: Iterable[str]) -> Vocabulary:
        """All words of the instructions, sorted, so that the order of the rows does not matter."""
        return cls(sorted({word for text in instructions for word in WORD.findall(text.lower())}))

    def encode(self, instructions: list[str], max_words: int) -> Tensor:
        """Numbers (B, L) int64, L the longest instruction here; words after max_words are cut off."""
        rows = [
            [self.number.get(w, UNKNOWN) for w in WORD.findall(text.lower())[:max_words]] or [UNKNOWN]
            for text in instructions
        ]
        length = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])


class TextLayer(nn.Module):
    """A pre-norm transformer layer (B, L, width) -> (B, L, width); mask (B, 1, 1, L) is True where to look."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Words -> one vector per word: embedding, position and transformer layers, trained from scratch."""

    def __init__(self, vocabulary: Vocabulary, *, width: int, heads: int, layers: int, max_words: int) -> None:
        super().__init__()
        self.vocabulary, self.max_words = vocabulary, max_words
        self.settings = {"width": width, "heads": heads, "layers": layers, "max_words": max_words}
        self.word = nn.Embedding(len(vocabulary), width)
        self.position = nn.Parameter(0.1 * torch.randn(max_words, width))
        self.layers = nn.ModuleList([TextLayer(width, heads) for _ in range(layers)])

    def forward(self, words: Tensor) -> Tensor:
        """words (B, L) int64, padded with PADDING -> states (B, L, width)."""
        x = self.word(words) + self.position[: words.shape[1]]
        for layer in self.layers:
            x = layer(x, (words != PADDING)[:, None, None, :])
        return x

    def save(self, folder: Path) -> None:
        """Write model.safetensors, config.json and vocab.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.settings, indent=2) + "\n")
        words = json.dumps(self.vocabulary.words, ensure_ascii=False, indent=0)
        (folder / "vocab.json").write_text(words + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Read what save() wrote; a missing file is a FileNotFoundError that names it."""
        vocabulary = Vocabulary(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
        encoder = cls(vocabulary, **json.loads((folder / "config.json").read_text()))
        encoder.load_state_dict(load_file(folder / "model.safetensors"))
        return encoder


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's antialiased resize; equal shapes are left alone."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def to_tensor(picture: np.ndarray, size: int) -> Tensor:
    """uint8 (h, w, 3) of any shape -> float32 (3, size, size) in [-1, 1]."""
    picture = np.ascontiguousarray(resize(picture, size, size))
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


def to_picture(x: Tensor) -> np.ndarray:
    """float (3, H, W) in [-1, 1] -> uint8 (H, W, 3); values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """Pictures (B, C, H, W) -> tokens (B, HW/p², C p²), row by row; no pixel is lost (space to depth)."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def to_pixels(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of to_tokens; height and width in pixels."""
    grid = tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))
    return F.pixel_shuffle(grid, patch)


def positions(height: int, width: int) -> Tensor:
    """Where each token of a picture lies, (h·w, POSITION_CHANNELS): cosines over its rows and its columns.

    The rotary embedding alone is relative; "top left" and mirroring need to know where a token is. The
    amplitude keeps these few numbers from drowning among the hundreds of pixels of a patch.
    """
    # cos(π k (i + 1/2) / n), k = 1..4: the first waves of the discrete cosine transform
    k = torch.arange(1, POSITION_CHANNELS // 2 + 1) * torch.pi
    rows = torch.cos((torch.arange(height) + 0.5)[:, None] / height * k)
    columns = torch.cos((torch.arange(width) + 0.5)[:, None] / width * k)
    return POSITION_AMPLITUDE * torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], dim=1)


def mean_words(states: Tensor, mask: Tensor) -> Tensor:
    """The instruction as one vector: states (B, L, width), mask (B, L) -> (B, width), of unit mean square.

    Step1X-Edit's global vector [SPEC T1a]. Its transformer takes it beside the time; Qwen-Image's has no such
    input, so every token carries it.
    """
    total = (states * mask[:, :, None]).sum(1)
    return F.rms_norm(total / mask.sum(1, keepdim=True), total.shape[-1:])


def input_channels(patch: int, text_width: int) -> int:
    """Numbers per token that the transformer takes in: a patch of pixels, its place, the instruction's mean."""
    return 3 * patch**2 + POSITION_CHANNELS + text_width


def output_channels(patch: int, residual: str) -> int:
    """Numbers per token that the transformer puts out: a patch of pixels; for "blend" a gate and 3 x 4 too."""
    return 3 * patch**2 + (patch**2 + 12 if residual == "blend" else 0)


class EditDiT(nn.Module):
    """(x_t, t, references, words) -> the edited picture x̂_0, or the velocity v̂.

    predicts    "x0" or "v": what the transformer's output r means
    residual    with "x0", how r and the first reference y make the picture.
                "none":  x̂_0 = r
                "copy":  x̂_0 = y + r
                "blend": x̂_0 = (1 + g) (y + A y + b) + r, with a gate g for each pixel (what is painted over
                loses its source: GANimation, Pumarola et al. 2018) and a 3 x 3 colour matrix A and an offset b
                for each token (local affine colour transforms: HDRnet, Gharbi et al. 2017).
                The output layer starts at zero, so that "copy" and "blend" start at the unchanged source.
                Rows without a reference (text to image) are always "none".
    """

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        text: TextEncoder,
        *,
        patch: int,
        predicts: str,
        residual: str,
    ) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text
        self.patch, self.predicts, self.residual = patch, predicts, residual

    @classmethod
    def load(cls, folder: Path) -> EditDiT:
        """The network of a run folder; FileNotFoundError names what is missing."""
        recipe = json.loads((folder / "config.json").read_text())["recipe"]
        if not (folder / "transformer").is_dir():
            raise FileNotFoundError(f"{folder}/transformer is missing: this run is not finished")
        transformer = QwenImageTransformer2DModel.from_pretrained(
            folder / "transformer", use_safetensors=True, local_files_only=True
        )
        return cls(
            transformer,
            TextEncoder.load(folder / "text_encoder"),
            patch=recipe["patch"],
            predicts=recipe["predicts"],
            residual=recipe["residual"],
        )

    def forward(self, x_t: Tensor, t: Tensor, references: Tensor, words: Tensor) -> Tensor:
        """x_t (B, 3, H, W), t (B,) in (0, 1], references (B, n, 3, H, W), words (B, L) -> (B, 3, H, W)."""
        height, width = x_t.shape[-2:]
        h, w = height // self.patch, width // self.patch
        pictures = torch.cat([x_t[:, None], references], dim=1).flatten(0, 1)
        tokens = to_tokens(pictures, self.patch)
        place = positions(h, w).to(tokens).expand(len(tokens), -1, -1)
        mask = words != PADDING
        text = self.text(words)
        summary = mean_words(text, mask).repeat_interleave(1 + references.shape[1], 0)[:, None]
        tokens = torch.cat([tokens, place, summary.expand(-1, h * w, -1)], dim=2)
        tokens = tokens.unflatten(0, (len(x_t), -1)).flatten(1, 2)
        output = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None if mask.all() else mask,  # without one, a faster kernel may run
            timestep=t,
            img_shapes=[[(1, h, w)] * (1 + references.shape[1])] * len(x_t),
            return_dict=False,
        )[0][:, : h * w]
        pixels = self.patch**2
        picture = to_pixels(output[..., : 3 * pixels], self.patch, height, width)
        if self.residual == "none" or not references.shape[1]:
            return picture
        source = references[:, 0]
        if self.residual == "copy":
            return source + picture
        # y + A y + b, token by token: (3 x 3) (3 x p²) + (3 x 1)
        affine = output[..., 4 * pixels :].unflatten(-1, (3, 4))
        y = to_tokens(source, self.patch).unflatten(-1, (3, -1))
        recolored = (y + affine[..., :3] @ y + affine[..., 3:]).flatten(-2)
        gate = to_pixels(output[..., 3 * pixels : 4 * pixels], self.patch, height, width)
        return (1 + gate) * to_pixels(recolored, self.patch, height, width) + picture

    def x0(self, x_t: Tensor, t: Tensor, references: Tensor, words: Tensor) -> Tensor:
        """The guess x̂_0 of the edited picture, whatever the network predicts."""
        out = self(x_t, t, references, words)
        return out if self.predicts == "x0" else x0_from_velocity(x_t, out, t)

    def velocity(self, x_t: Tensor, t: Tensor, references: Tensor, words: Tensor) -> Tensor:
        """The guess v̂ of the velocity, whatever the network predicts; t must not be 0."""
        out = self(x_t, t, references, words)
        return out if self.predicts == "v" else velocity_from_x0(x_t, out, t)
