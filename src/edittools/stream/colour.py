"""From the colours that an ICC profile defines to sRGB, by littleCMS (through Pillow), relative colorimetric.

| the image's mode and the profile's colour space | what happens |
|---|---|
| RGB, palette, with an RGB profile | converted |
| grey, with a grey profile | converted |
| grey, with an RGB profile | taken as RGB with three equal channels, then converted |
| CMYK, with a CMYK profile | converted |
| Lab | converted by its definition (D50), whatever its profile |
| any other pair, a damaged profile, none | no profile: RGB and grey are sRGB, CMYK is Pillow's formula |

A profile is looked at once: whether it means sRGB (no colour moves by more than one level, as in the many copies
of sRGB that cameras and programs embed) is found by converting a grid of colours, and remembered by the hash of its
bytes.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from PIL import Image

_MOST = 64  # conversions that are remembered: a scanner or a museum may embed a profile of its own in every image
_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}
_UNKNOWN = object()
_known: dict[tuple[bytes, str], Any] = {}


def conversion(profile: bytes | None, mode: str) -> Any:
    """What converts an image of mode RGB, L or CMYK with this profile to sRGB; None where nothing has to be done."""
    if not profile:
        return None
    key = xxhash.xxh3_128_digest(profile), mode
    found = _known.get(key, _UNKNOWN)
    if found is _UNKNOWN:
        found = _conversion(profile, mode)
        if len(_known) >= _MOST:
            _known.clear()  # other threads may be reading it: nobody asks twice
        _known[key] = found
    return found


def convert(image: Image.Image, change: Any) -> Image.Image:
    """The image as sRGB (mode RGB), by what `conversion` gave for its mode."""
    if change.input_mode != image.mode:
        image = image.convert(change.input_mode)
    shown: Image.Image = change.apply(image)
    return shown


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of any mode without transparency as sRGB. Modes of more than 8 bits have to be scaled before."""
    if image.mode == "LAB":
        return convert(image, _of_lab())
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    change = conversion(profile, image.mode)
    if change is not None:
        return convert(image, change)
    return image if image.mode == "RGB" else image.convert("RGB")


def _conversion(profile: bytes, mode: str) -> Any:
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(opened.profile.xcolor_space.strip())
        if space is None or (space != mode and (space, mode) != ("RGB", "L")):
            return None
        change = _built(opened, space)
        return None if _changes_nothing(change) else change
    except Exception:  # littleCMS and Pillow raise whatever they meet in a damaged profile
        return None


def _built(profile: Any, mode: str) -> Any:
    from PIL import ImageCms

    # Relative colorimetric: what both spaces can show stays as it is.
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=intent)


@functools.cache
def _of_lab() -> Any:
    from PIL import ImageCms

    return _built(ImageCms.createProfile("LAB"), "LAB")


def _changes_nothing(change: Any) -> bool:
    """Whether a conversion of RGB or grey moves no colour by more than one level: all greys, and a grid of colours."""
    from PIL import Image

    if change.input_mode == "CMYK":
        return False
    greys = np.arange(256, dtype=np.uint8)
    colours = np.repeat(greys[:, None], 3, axis=1)
    if change.input_mode == "RGB":
        steps = np.arange(0, 256, 17, dtype=np.uint8)
        colours = np.concatenate([colours, np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)])
    shown = colours if change.input_mode == "RGB" else greys
    found = np.asarray(change.apply(Image.fromarray(shown[None])), np.int16)[0]
    return bool(np.abs(found - colours).max() <= 1)
