"""`step1x`: Step1X-Edit v1.0, v1.1 and v1.2 (the report's 3.2), on FLUX's transformer with a connector.

Qwen2.5-VL reads a fixed request, the source and the instruction; its states without the request's tokens go through
the connector into the text stream, their mean becomes the pooled vector. The source's latents follow the noisy ones.

A model's folder: `edit.json` {"system": "step1x", "version": ...}, `transformer/` (FluxTransformer2DModel),
`connector/`, `vae/` (AutoencoderKL), `text_encoder/` and `processor/` (Qwen2.5-VL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.base import Conditioning, NetworkPart, Once, at_once, encoder_digests, pad_states
from edittools.nets.flux import PATCH, FluxEditModel, FluxNetwork, make_transformer
from edittools.nets.qwen_states import IMAGE, Encoded, QwenStates
from edittools.nets.step1x.connector import Connector, ConnectorConfig
from edittools.nets.step1x.connector import settings as connector_settings
from edittools.nets.step1x.versions import VERSIONS, Version
from edittools.nets.step1x.weights import missing_encoders
from edittools.nets.tokens import patchify, unpatchify
from edittools.settings import read_settings
from edittools.weights.lookup import read_config


def most_references(settings: dict[str, Any]) -> int | None:
    return 1


@dataclass(frozen=True)
class Settings:
    weights: str  # the folder of a model
    version: str = ""  # "1.0", "1.1" or "1.2"; empty: that of the folder
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    connector: dict[str, Any] = field(default_factory=dict)  # configuration of a new connector
    damped_above: float = 0.93  # t above which guidance is damped; 1: never, as in v1.0's script
    dropped: int = 0  # tokens of the fixed request to drop; 0: 217, or 90 in v1.2, with Qwen2.5-VL's vocabulary
    crop_positions: bool = False  # give tokens of a cropped image their positions in the whole image; one row per batch


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, once: Once = at_once, **_: Any,
) -> Step1X:  # fmt: skip
    """Raises EditError that names what is missing."""
    if settings.dropped < 0 or not 0 <= settings.damped_above <= 1:
        raise UsageError("recipe: `dropped` must not be negative, and `damped_above` must lie in [0, 1]")
    folder = Path(settings.weights)
    if not folder.is_dir():
        raise EditError(
            f"no folder {settings.weights}",
            hint="`python -m edittools.convert FILE FOLDER` makes one of the released file",
        )
    number = settings.version
    if not number and (folder / "edit.json").is_file():
        number = str(read_config(folder, "edit.json").get("version", ""))
    if number not in VERSIONS:
        raise UsageError(
            f"Step1X-Edit has no version `{number}`" if number else f"{folder} does not say which version it is",
            hint=f"version = {' or '.join(map(repr, VERSIONS))}",
        )
    release = VERSIONS[number]
    if settings.crop_positions and release.quoted_text:
        raise UsageError(f"recipe: `crop_positions`: v{number} has the source's positions in its text stream as well")
    net = None
    if network:
        transformer = make_transformer(folder, settings.transformer, seed, loading, once)
        if settings.connector:
            values = {"pooled_scale": release.pooled_scale, "quoted_text": release.quoted_text, **settings.connector}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                connector = Connector(read_settings(ConnectorConfig, values, "recipe: `connector`"))
        else:
            connector = Connector.load(folder / "connector").float()
        net = Step1XNetwork(transformer, connector, release, settings.crop_positions)
    edit_model = Step1X(settings, number, folder, net)
    if encoders:
        from diffusers import AutoencoderKL

        if missing := missing_encoders(folder):
            raise EditError(
                f"{folder}: the folder{'s' * (len(missing) > 1)} {', '.join(f'{name}/' for name in missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing",
                hint="`python -m edittools.convert FILE FOLDER` puts them there: --vae, --language-model",
            )
        vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True, local_files_only=True)
        edit_model.use_autoencoder(vae.to(device))  # in float32, as released
        edit_model.use_language_model(QwenStates(folder, device, dtype, 256 * 28 * 28, release.max_pixels))
    return edit_model


class Step1XNetwork(FluxNetwork):
    def __init__(self, transformer: Any, connector: Connector, release: Version, crop_positions: bool) -> None:
        super().__init__(transformer, release.reference_ids, crop_positions=crop_positions)
        self.connector, self.quoted_text = connector, release.quoted_text

    def text(self, conditioning: Conditioning, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = conditioning["states"]
        mask = conditioning.get("mask")
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        quoted = {}
        ids = torch.zeros(states.shape[1], 3, device=states.device)
        if self.quoted_text:
            quoted = {"quoted": conditioning["embeddings"], "quoted_mask": conditioning["quoted"].bool()}
            ids = conditioning["ids"][0]
        text, pooled = self.connector(states, t, mask, **quoted)
        # The transformer has no text mask: padded places attend as well, as in the released models.
        return text, pooled, ids


class Step1X(FluxEditModel):
    guidance = 6.0
    network: Step1XNetwork

    def __init__(self, settings: Settings, number: str, folder: Path, network: Step1XNetwork | None) -> None:
        self.settings, self.number, self.folder, self.release = settings, number, folder, VERSIONS[number]
        # positions are shared by a batch
        self.one_row = self.release.quoted_text or settings.crop_positions
        self.steps = 50 if number == "1.2" else 28
        if network is not None:
            self.network = network

    def use_language_model(self, qwen: QwenStates) -> None:
        """Raises EditError if the vocabulary does not tokenise the request as the release's does."""
        head = qwen.prompt([self.release.request]).partition(self.release.request)[0]
        # The released code drops all of the request but its last token, the colon.
        counted = len(qwen.tokens(head + self.release.request)) - 1
        self.dropped = self.settings.dropped or self.release.dropped
        if counted != self.dropped:
            raise EditError(
                f"{self.folder}: the request has {counted + 1} tokens, and {self.dropped} are dropped",
                hint="the tokenizer is not Qwen2.5-VL's; for another one set `dropped`",
            )
        self.qwen = qwen

    def conditioning(self, sources: list[np.ndarray], text: str) -> Conditioning:
        """{"states": (L, D)}; v1.2 also {"embeddings": (L, D), "quoted": (L,), "ids": (L, 3)}."""
        return self.conditioning_of([(sources, text)])[0]

    def conditioning_of(self, rows: Sequence[tuple[list[np.ndarray], str]]) -> list[Conditioning]:
        asked = [self._asked(sources, text) for sources, text in rows]
        every = self.qwen.encode_several([(pieces, sources) for (pieces, _), (sources, _) in zip(asked, rows)])
        kept = slice(self.dropped, self.dropped + self.release.length)
        result = []
        for made, (_, quoted), (sources, _) in zip(every, asked, rows):
            found = {"states": made.states[kept]}
            if self.release.quoted_text:
                ids = text_ids(made, sources[0].shape[:2])[kept]
                ids[:, 0] -= ids[:, 0].max() + 1
                words = torch.tensor(quoted, device=made.pieces.device)[made.pieces[kept]]
                found |= {"embeddings": made.embeddings[kept], "quoted": words, "ids": ids}
            result.append(found)
        return result

    def _asked(self, sources: list[np.ndarray], text: str) -> tuple[list[str], list[bool]]:
        """The prompt in pieces, and of v1.2 which of them are quoted. Raises RowError."""
        if len(sources) > 1:
            raise RowError("Step1X-Edit takes one source picture", len(sources))
        if self.release.quoted_text:
            if not sources:
                raise RowError("Step1X-Edit v1.2 needs a source picture")
            prompt = self.qwen.prompt([f"{self.release.request} {text}", "Picture 1: " + IMAGE])
            return split_quotations(prompt, prompt.index(self.release.request) + len(self.release.request))
        shown = ["Picture 1: " + IMAGE] if sources else []  # the chat template's add_vision_id
        prompt = self.qwen.prompt([self.release.request, *shown, text])
        end = "<|vision_end|>" if sources else self.release.request
        return split_quoted(prompt, prompt.index(end) + len(end)), []

    def collate(self, rows: list[Conditioning]) -> Conditioning:
        if self.release.quoted_text:
            assert len(rows) == 1
            return {name: value[None] for name, value in rows[0].items()}
        states = [row["states"] for row in rows]
        return self.with_crops(pad_states(states, self.release.length if self.release.pads else None), rows)

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, t: float) -> Tensor:
        """While t > 0.93 the step away from the unconditional velocity is damped by ‖c - u‖^0.4 where that is over 1.

        As the diffusers fork has it by default; the released v1.0 script has 1.0 in place of 0.93: never.
        """
        difference = patchify(conditional - unconditional, PATCH)
        if t > self.settings.damped_above:
            difference = difference / difference.norm(dim=-1, keepdim=True).clamp(min=1).pow(0.4)
        return unconditional + scale * unpatchify(difference, PATCH, *conditional.shape[-2:])

    def example(self, references: int) -> Conditioning:
        length = self.release.length if self.release.pads else 512
        states = torch.zeros(length, self.network.connector.config.states_width, dtype=torch.bfloat16)
        if not self.release.quoted_text:
            return {"states": states}
        return {"states": states, "embeddings": states, "quoted": torch.zeros(length), "ids": torch.zeros(length, 3)}

    def encoding(self) -> dict[str, str]:
        return encoder_digests(self.folder, f"Step1X-Edit {self.number}", f"{self.settings.dropped} dropped")

    def blocks(self) -> list[nn.Module]:
        return [*super().blocks(), *self.network.connector.blocks]

    def parts(self) -> dict[str, NetworkPart]:
        return {
            "transformer": NetworkPart("transformer.", dict(self.network.transformer.config)),
            "connector": NetworkPart("connector.", connector_settings(self.network.connector.config), "model"),
        }

    def described(self) -> dict[str, Any]:
        return {"system": "step1x", "version": self.number}

    def frozen_parts(self) -> dict[str, Path]:
        kept = ("vae", "text_encoder", "processor")
        return {name: self.folder / name for name in kept if (self.folder / name).exists()}


def split_quoted(text: str, start: int) -> list[str]:
    """v1.0 and v1.1: characters between quotation marks as pieces of their own, so that each is spelled alone.

    As the released code does it, an apostrophe is a quotation mark as well, and one that is never closed spells out
    everything after it, the end of the message included. What comes before `start` is left as it is.
    """
    pieces, plain, inside = [], text[:start], False
    for character in text[start:]:
        if character in "\"“”'":
            plain += '"'
            if not inside:
                pieces.append(plain)
                plain = ""
            inside = not inside
        elif inside:
            pieces.append(character)
        else:
            plain += character
    return pieces + [plain] * bool(plain)


def split_quotations(text: str, start: int) -> tuple[list[str], list[bool]]:
    """v1.2: pieces of a text, and which of them are a character between "..." or “...”; an unclosed mark is none."""
    pieces: list[str] = []
    flags: list[bool] = []
    plain, position = text[:start], start
    while position < len(text):
        mark = text[position]
        plain += mark
        position += 1
        if mark not in '"“':
            continue
        end = text.find('"' if mark == '"' else "”", position)
        if end < 0:
            plain += text[position:]
            break
        pieces += [plain, *text[position:end]]
        flags += [False, *[True] * (end - position)]
        plain, position = text[end], end + 1
    return [*pieces, plain], [*flags, False]


def text_ids(made: Encoded, source: tuple[int, int]) -> Tensor:
    """v1.2: position ids (L, 3) of text tokens: frames below 0, and the image's tokens where they lie among the
    latents' tokens.

    source   height and width in pixels of the image whose latents are the reference
    """
    ids = made.positions.clone()
    ids[:, 1:] = 0
    # A token covers 28 pixels of the image as the encoder saw it, one of the latents 16 of the source; the released
    # code maps centre to centre but with -11/16 where -7.5/16 would be the centre (f31882d of the diffusers fork).
    rows, columns = made.grid
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
    seen = torch.tensor([28.0 * rows - 1, 28.0 * columns - 1])
    pixels = (28 * places + 13.5) * (torch.tensor(source, dtype=torch.float32) - 1) / seen
    ids[made.is_image, 1:] = ((pixels - 11) / 16).to(ids)
    return ids
