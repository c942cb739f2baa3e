"""`step1x`: Step1X-Edit v1.0, v1.1 and v1.2 [SPEC T1a], on FLUX's transformer with a connector of its own.

Qwen2.5-VL reads a fixed request, the source and the instruction; its states without the request's tokens go through
the connector into the text stream, their mean becomes the pooled vector. The source's latents follow the noisy ones.

A model's folder: `edit.json` {"system": "step1x", "version": ...}, `transformer/` (FluxTransformer2DModel),
`connector/`, `vae/` (AutoencoderKL), `text_encoder/` and `processor/` (Qwen2.5-VL).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edittools.errors import EditError, RowError, UsageError
from edittools.models.connector import Connector, ConnectorConfig
from edittools.models.connector import settings as connector_settings
from edittools.models.qwen_states import PICTURE, Encoded, QwenStates
from edittools.models.step1x_weights import missing_encoders
from edittools.models.systems.base import Conditions, Part, describe_encoders, pad_states
from edittools.models.systems.flux import PATCH, FluxNetwork, FluxSystem, make_transformer
from edittools.models.tokens import to_pixels, to_tokens
from edittools.models.weights import read_config
from edittools.settings import read_settings

# The requests that the released models were trained with; they are part of the models' input format.
ENHANCE = (
    'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for image '
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating."
    "\n\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt:"
)
DESCRIBE = (
    "Given a reference image and a user editing instruction.\n"
    "You need to understand the information of the reference image and the content of the editing instruction,\n"
    "and then generate a detailed description of the edited target image based on the reference image and the editing "
    "instruction. \n"
    "The description should include the requirements in the editing instruction and try to closely match the content "
    "of the target image.\n"
    "The editing instruction is:"
)


@dataclass(frozen=True)
class Version:
    """What differs between the releases (training/FACTS A1)."""

    request: str
    dropped: int  # tokens of the system prompt and the request, but for the request's last colon
    length: int  # the text stream's longest; v1.0 and v1.1 pad to it, and all of it attends
    pads: bool
    max_pixels: int  # of the picture that the language model sees
    reference_ids: str
    pooled_scale: bool
    quoted_text: bool  # words in quotation marks go past the refiner too, and text tokens have positions


VERSIONS = {
    "1.0": Version(ENHANCE, 217, 640, True, 324 * 28 * 28, "target", True, False),
    "1.1": Version(ENHANCE, 217, 640, True, 324 * 28 * 28, "shifted", False, False),
    "1.2": Version(DESCRIBE, 90, 2048, False, 400 * 28 * 28, "frame", False, True),
}


def most_references(settings: dict[str, Any]) -> int | None:
    return 1


@dataclass(frozen=True)
class Settings:
    weights: str  # a model's folder
    version: str = ""  # "1.0", "1.1" or "1.2"; empty: the folder's
    transformer: dict[str, Any] = field(default_factory=dict)  # a new transformer's configuration; empty: the weights'
    connector: dict[str, Any] = field(default_factory=dict)  # likewise the connector's
    damped_above: float = 0.93  # t above which guidance is damped; 1: never, as in the released script of v1.0
    dropped: int = 0  # tokens of the request; 0: the version's, 217 or 90 with Qwen2.5-VL's own vocabulary


def load(
    settings: Settings, *, encoders: bool, network: bool, seed: int, device: str, dtype: str,
    loading: dict[str, Any] | None = None, **_: Any,
) -> Step1X:  # fmt: skip
    """Raises EditError that names what is missing."""
    if settings.dropped < 0 or not 0 <= settings.damped_above <= 1:
        raise UsageError("recipe: `dropped` must not be negative, and `damped_above` must lie in [0, 1]")
    folder = Path(settings.weights)
    if not folder.is_dir():
        raise EditError(
            f"no folder {settings.weights}",
            hint="`python -m edittools.models.convert FILE FOLDER` makes one of the released file",
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
    net = None
    if network:
        transformer = make_transformer(folder, settings.transformer, seed, loading)
        if settings.connector:
            values = {"pooled_scale": release.pooled_scale, "quoted_text": release.quoted_text, **settings.connector}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                connector = Connector(read_settings(ConnectorConfig, values, "recipe: `connector`"))
        else:
            connector = Connector.load(folder / "connector").float()
        net = Step1XNetwork(transformer, connector, release)
    system = Step1X(settings, number, folder, net)
    if encoders:
        from diffusers import AutoencoderKL

        if missing := missing_encoders(folder):
            raise EditError(
                f"{folder}: the folder{'s' * (len(missing) > 1)} {', '.join(f'{name}/' for name in missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing",
                hint="`python -m edittools.models.convert FILE FOLDER` puts them there: --vae, --language-model",
            )
        vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True, local_files_only=True)
        system.use_autoencoder(vae.to(device))  # in float32, as released
        system.use_language_model(QwenStates(folder, device, dtype, 256 * 28 * 28, release.max_pixels))
    return system


class Step1XNetwork(FluxNetwork):
    def __init__(self, transformer: Any, connector: Connector, release: Version) -> None:
        super().__init__(transformer, release.reference_ids)
        self.connector, self.quoted_text = connector, release.quoted_text

    def text(self, conditions: Conditions, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = conditions["states"]
        mask = conditions.get("mask")
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        quoted = {}
        ids = torch.zeros(states.shape[1], 3, device=states.device)
        if self.quoted_text:
            quoted = {"quoted": conditions["embeddings"], "quoted_mask": conditions["quoted"].bool()}
            ids = conditions["ids"][0]
        text, pooled = self.connector(states, t, mask, **quoted)
        # The transformer has no text mask: padded places attend as well, as in the released models.
        return text, pooled, ids


class Step1X(FluxSystem):
    guidance = 6.0
    network: Step1XNetwork

    def __init__(self, settings: Settings, number: str, folder: Path, network: Step1XNetwork | None) -> None:
        self.settings, self.number, self.folder, self.release = settings, number, folder, VERSIONS[number]
        self.one_row = self.release.quoted_text  # positions of text tokens are shared by a batch
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

    def conditions(self, sources: list[np.ndarray], text: str) -> Conditions:
        """{"states": (L, D)}; v1.2 also {"embeddings": (L, D), "quoted": (L,), "ids": (L, 3)}."""
        if len(sources) > 1:
            raise RowError("Step1X-Edit takes one source picture", len(sources))
        if self.number == "1.2":
            return self._conditions_of_12(sources, text)
        shown = ["Picture 1: " + PICTURE] if sources else []  # the chat template's add_vision_id
        prompt = self.qwen.prompt([self.release.request, *shown, text])
        end = "<|vision_end|>" if sources else self.release.request
        made = self.qwen.encode(split_quoted(prompt, prompt.index(end) + len(end)), sources)
        return {"states": made.states[self.dropped :][: self.release.length]}

    def _conditions_of_12(self, sources: list[np.ndarray], text: str) -> Conditions:
        if not sources:
            raise RowError("Step1X-Edit v1.2 needs a source picture")
        prompt = self.qwen.prompt([f"{self.release.request} {text}", "Picture 1: " + PICTURE])
        start = prompt.index(self.release.request) + len(self.release.request)
        pieces, quoted = split_quotations(prompt, start)
        made = self.qwen.encode(pieces, sources)
        kept = slice(self.dropped, self.dropped + self.release.length)
        ids = text_ids(made, sources[0].shape[:2])[kept]
        ids[:, 0] -= ids[:, 0].max() + 1
        return {
            "states": made.states[kept],
            "embeddings": made.embeddings[kept],
            "quoted": torch.tensor(quoted, device=made.pieces.device)[made.pieces[kept]],
            "ids": ids,
        }

    def collate(self, rows: list[Conditions]) -> Conditions:
        if self.one_row:
            assert len(rows) == 1
            return {name: value[None] for name, value in rows[0].items()}
        return pad_states([row["states"] for row in rows], self.release.length if self.release.pads else None)

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, t: float) -> Tensor:
        """While t > 0.93 the step away from the unconditional velocity is damped by ‖c - u‖^0.4 where that is over 1.

        As the diffusers fork has it by default; the released v1.0 script has 1.0 in place of 0.93: never.
        """
        difference = to_tokens(conditional - unconditional, PATCH)
        if t > self.settings.damped_above:
            difference = difference / difference.norm(dim=-1, keepdim=True).clamp(min=1).pow(0.4)
        return unconditional + scale * to_pixels(difference, PATCH, *conditional.shape[-2:])

    def example(self, references: int) -> Conditions:
        length = self.release.length if self.release.pads else 512
        states = torch.zeros(length, self.network.connector.config.states_width, dtype=torch.bfloat16)
        if not self.release.quoted_text:
            return {"states": states}
        return {"states": states, "embeddings": states, "quoted": torch.zeros(length), "ids": torch.zeros(length, 3)}

    def encoding(self) -> dict[str, str]:
        return describe_encoders(self.folder, f"Step1X-Edit {self.number}", f"{self.settings.dropped} dropped")

    def blocks(self) -> list[nn.Module]:
        return [*super().blocks(), *self.network.connector.blocks]

    def parts(self) -> dict[str, Part]:
        return {
            "transformer": Part("transformer.", dict(self.network.transformer.config)),
            "connector": Part("connector.", connector_settings(self.network.connector.config), "model"),
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
    """v1.2: position ids (L, 3) of text tokens: frames below 0, and the picture's tokens where they lie among the
    latents' tokens.

    source   height and width in pixels of the picture whose latents are the reference
    """
    ids = made.positions.clone()
    ids[:, 1:] = 0
    # A token covers 28 pixels of the picture as the encoder saw it, one of the latents 16 of the source; the released
    # code maps centre to centre but with -11/16 where -7.5/16 would be the centre (f31882d of the diffusers fork).
    rows, columns = made.grid
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
    seen = torch.tensor([28.0 * rows - 1, 28.0 * columns - 1])
    pixels = (28 * places + 13.5) * (torch.tensor(source, dtype=torch.float32) - 1) / seen
    ids[made.is_picture, 1:] = ((pixels - 11) / 16).to(ids)
    return ids
