"""Trained reward models, one per file: the file name is the registry, and is what `edit score --reward-model` calls it.

A file declares `HELP` and `NAMES` (its scores), both literals, and `load(folder, prompts, device, dtype)`, which gives
what has `score(cases)`: for every case its scores by name, None where there is none. A release that is no safetensors
is recognised and converted once by `python -m edittools.convert` (`recognises`, `save_released`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edittools.errors import EditError, describe
from edittools.registry import Registry

REWARD_MODELS = Registry("edittools.score.reward_models", "edittools.reward_models", files_only=True)


@dataclass(frozen=True)
class Triplet:
    """One edit: uint8 images (height, width, 3), and what was asked for."""

    source: np.ndarray
    result: np.ndarray
    instruction: str


class RewardModel(Protocol):
    """`revision` stands for the content of its weights, `texts` are what it is asked with."""

    revision: str
    texts: Sequence[str]

    def score(self, cases: Sequence[Triplet]) -> list[Mapping[str, float] | None]: ...


def reward_model_names() -> tuple[str, ...]:
    """In alphabetical order; none is imported."""
    return REWARD_MODELS.names


def reward_scores(name: str) -> tuple[str, ...]:
    """The scores that a reward model gives."""
    return tuple(REWARD_MODELS.declared("NAMES", ())[name])


def load_reward_model(name: str, folder: str, prompts: str, device: str, dtype: str) -> RewardModel:
    """Raises EditError that says what is missing."""
    loaded: Any = REWARD_MODELS.load(name).load(folder, prompts, device, dtype)
    return loaded


def filled(text: str, name: str, **values: str) -> str:
    """A text of theirs with its fields filled in. Raises EditError for one that has others."""
    try:
        return text.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise EditError(f"prompt `{name}` cannot be filled in: {describe(error)}") from None
