"""The small editing network: diffusers' Qwen-Image transformer on pixel patches, and its text encoder.

FireRed-Image-Edit's layout (its report, 3.1) without its VAE and its language model: the token sequence is
[text | noisy target | references], target and references share their spatial positions and differ on
the frame axis of the rotary embedding; references may have a time condition of their own (t = 0).

Images are float tensors (B, 3, H, W) in [-1, 1]; H and W are multiples of the patch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor, nn

from edittools.json_file import read_json
from edittools.nets.tokens import patchify, unpatchify
from edittools.weights.lookup import load_strictly, read_config, read_tensors

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

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Read a run's text_encoder/. Raises EditError."""
        encoder = cls(Vocabulary(read_json(folder / "vocab.json")), **read_config(folder))
        load_strictly(encoder, read_tensors(folder), folder)
        return encoder


def positions(height: int, width: int, boxes: Tensor) -> Tensor:
    """Where each token lies, (B, h·w, POSITION_CHANNELS): cosines over its whole image's height and width.

    boxes   (B, 4), the parts of their images that the tokens cover: left, top, right, bottom as shares

    The rotary embedding alone is relative; "top left" and mirroring need to know where a token is. The
    amplitude keeps these few numbers from drowning among the hundreds of pixels of a patch.
    """
    # cos(π k y), k = 1..4, y = (i + 1/2) / n in a whole image: the first waves of the discrete cosine transform
    k = torch.arange(1, POSITION_CHANNELS // 2 + 1, device=boxes.device) * torch.pi

    def waves(count: int, start: Tensor, end: Tensor) -> Tensor:
        shares = (torch.arange(count, device=boxes.device) + 0.5) / count
        return torch.cos((start[:, None] + shares * (end - start)[:, None])[..., None] * k)

    left, top, right, bottom = boxes.unbind(1)
    rows = waves(height, top, bottom).repeat_interleave(width, 1)
    columns = waves(width, left, right).repeat(1, height, 1)
    return POSITION_AMPLITUDE * torch.cat([rows, columns], dim=2)


def placed(image: Tensor, box: Tensor, target: Tensor, height: int, width: int) -> Tensor:
    """A reference (B, C, h, w) laid under its target (B, C, height, width): the same share of both whole images.

    box, target   (B, 4), the parts of them that are shown; what the reference does not show is its nearest edge
    """
    if image.shape[-2:] != (height, width):
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    if torch.equal(box, target):
        return image
    start, size = box[:, :2], box[:, 2:] - box[:, :2]
    # from the target's [-1, 1] to the reference's, x then y
    scale = (target[:, 2:] - target[:, :2]) / size
    shift = (target[:, :2] + target[:, 2:] - 2 * start) / size - 1
    matrix = torch.cat([torch.diag_embed(scale), shift[:, :, None]], 2).to(image)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def mean_words(states: Tensor, mask: Tensor) -> Tensor:
    """The instruction as one vector: states (B, L, width), mask (B, L) -> (B, width), of unit mean square.

    Step1X-Edit's global vector (its report, 3.2). Its transformer takes it beside the time; Qwen-Image's has no such
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
    """(x_t, t, references, conditioning) -> the edited image x̂_0, or the velocity v̂.

    residual    how the transformer's output r and the first reference y make the image.
                "none":  x̂_0 = r
                "copy":  x̂_0 = y + r
                "blend": x̂_0 = (1 + g) (y + A y + b) + r, with a gate g for each pixel (what is painted over
                loses its source: GANimation, Pumarola et al. 2018) and a 3 x 3 colour matrix A and an offset b
                for each token (local affine colour transforms: HDRnet, Gharbi et al. 2017).
                The output layer starts at zero, so that "copy" and "blend" start at the unchanged source, laid under
                the result where it has another shape or shows another part of its image.
                Rows without a reference (text to image) are always "none".
    """

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        text: TextEncoder,
        *,
        patch: int,
        residual: str,
    ) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text
        self.patch, self.residual = patch, residual

    def forward(self, x_t: Tensor, t: Tensor, references: list[Tensor], conditioning: dict[str, Tensor]) -> Tensor:
        """x_t (B, 3, H, W), t (B,) in (0, 1], references like x_t -> (B, 3, H, W).

        conditioning   {"words": (B, L)}, and {"crops": (B, 1 + R, 4)} where the target and the references are parts of
                     their images, as shares
        """
        height, width = x_t.shape[-2:]
        words = conditioning["words"]
        mask = words != PADDING
        text = self.text(words)
        summary = mean_words(text, mask)[:, None]
        grids = [(image.shape[-2] // self.patch, image.shape[-1] // self.patch) for image in [x_t, *references]]
        crops = conditioning.get("crops")
        if crops is None:
            crops = torch.tensor([0.0, 0.0, 1.0, 1.0], device=x_t.device).expand(len(x_t), len(grids), 4)
        tokens = []
        for number, (image, (h, w)) in enumerate(zip([x_t, *references], grids)):
            place = positions(h, w, crops[:, number]).to(x_t)
            patches = patchify(image, self.patch)
            tokens.append(torch.cat([patches, place, summary.expand(-1, h * w, -1).to(patches)], dim=2))
        output = self.transformer(
            hidden_states=torch.cat(tokens, dim=1),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None if mask.all() else mask,  # without one, a faster kernel may run
            timestep=t.to(x_t.dtype),
            img_shapes=[[(1, h, w) for h, w in grids]] * len(x_t),
            return_dict=False,
        )[0][:, : tokens[0].shape[1]]
        pixels = self.patch**2
        image = unpatchify(output[..., : 3 * pixels], self.patch, height, width)
        if self.residual == "none" or not references:
            return image
        source = placed(references[0], crops[:, 1], crops[:, 0], height, width)
        if self.residual == "copy":
            return source + image
        # y + A y + b, token by token: (3 x 3) (3 x p²) + (3 x 1)
        affine = output[..., 4 * pixels :].unflatten(-1, (3, 4))
        y = patchify(source, self.patch).unflatten(-1, (3, -1))
        recolored = (y + affine[..., :3] @ y + affine[..., 3:]).flatten(-2)
        gate = unpatchify(output[..., 3 * pixels : 4 * pixels], self.patch, height, width)
        return (1 + gate) * unpatchify(recolored, self.patch, height, width) + image
