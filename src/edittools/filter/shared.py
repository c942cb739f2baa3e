"""The models that several filters ask."""

from __future__ import annotations

from typing import Any

from edittools.errors import UsageError
from edittools.filter import Model
from edittools.settings import setting


def _embedder(name: str, config: Any) -> Any:
    from edittools.encoders.embedders import load_embedder

    return load_embedder(name, **config.placed)


def _clip(name: str, config: Any) -> Any:
    model = _embedder(name, config)
    if not hasattr(model, "texts"):
        raise UsageError(f"--clip {name}: the model has no texts")
    return model


def _embedders_release(name: str) -> str | None:
    from edittools.encoders.embedders import releases

    return releases().get(name)


def _raft(name: str, config: Any) -> Any:
    from edittools.encoders.raft import load_raft

    return load_raft(name, **config.placed)


def _raft_release(name: str) -> str:
    from edittools.encoders.raft import RELEASE

    return RELEASE


def _segmenter(name: str, config: Any) -> Any:
    from edittools.encoders.segmenter import load_segmenter

    return load_segmenter(name, config.foreground_label.split(",") if config.foreground_label else [], **config.placed)


CLIP = Model(
    "clip",
    help="CLIP or SigLIP. Default: openai/clip-vit-large-patch14.",
    default="openai/clip-vit-large-patch14",
    load=_clip,
    release=_embedders_release,
)
DINO = Model(
    "dino",
    help="DINOv2. Default: facebook/dinov2-base.",
    default="facebook/dinov2-base",
    load=_embedder,
    release=_embedders_release,
)
RAFT = Model(
    "raft",
    help="RAFT's weights, for --motion and --camera-motion; without them the flow is DIS.",
    load=_raft,
    release=_raft_release,
    converter="edittools.encoders.raft",
)
FOREGROUND = Model(
    "foreground",
    help="A semantic-segmentation checkpoint: the foreground of rows without a mask.",
    load=_segmenter,
    told={
        "foreground_label": setting(
            None, "Which of its labels. Default: all but `background`.", group="Model", metavar="LABEL,..."
        )
    },
)
