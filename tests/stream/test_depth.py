"""Images of more than 8 bits with profiles: against littleCMS in 16 bits (the library inside Pillow, called directly)
and against the profiles' own formulas."""

from __future__ import annotations

import ctypes
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms
from test_colour import (
    ADOBE,
    ADOBE_RGB,
    DISPLAY_P3,
    OF_SRGB,
    P3,
    PROPHOTO,
    SRGB,
    WIDE,
    by_formula,
    fixed,
    gamma,
    of_grey,
    of_matrix,
    profile,
)
from test_tiff import tiff

from edittools.stream import depth, spaces
from edittools.stream.codec import Raster, decode, probe


def table(power: float, points: int = 1024) -> bytes:
    levels = np.rint(np.linspace(0, 1, points) ** power * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", points) + levels.tobytes()


def formula(kind: int, *numbers: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(map(fixed, numbers))


PROFILES = {
    "Display P3": P3,
    "Adobe RGB": ADOBE,
    "ProPhoto": WIDE,
    "linear sRGB": of_matrix(SRGB, gamma(1.0)),
    "linear, no curve": of_matrix(ADOBE_RGB, b"curv\0\0\0\0" + bytes(4)),
    "linear ProPhoto": of_matrix(PROPHOTO, gamma(1.0)),
    "a table": of_matrix(DISPLAY_P3, table(2.4)),
    "formula 0": of_matrix(ADOBE_RGB, formula(0, 2.6)),
    "formula 1": of_matrix(ADOBE_RGB, formula(1, 2.2, 0.9, 0.1)),
    "formula 2": of_matrix(ADOBE_RGB, formula(2, 2.2, 0.9, 0.1, 0.01)),
    "formula 4": of_matrix(ADOBE_RGB, formula(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0)),
    "BT.2020, PQ": spaces.of_code_points(9, 16),
    "grey 1.0": of_grey(1.0),
    "grey 1.8": of_grey(1.8),
    "grey 2.6": of_grey(2.6),
}
TYPES = {"grey": 0x3000A, "rgb": 0x4001A}  # of <lcms2.h>: TYPE_GRAY_16, TYPE_RGB_16


def lcms() -> Any:
    found = [*(Path(PIL.__file__).parent.parent / "pillow.libs").glob("liblcms2*")]
    if not found:
        pytest.skip("Pillow has no littleCMS of its own here")
    library = ctypes.CDLL(str(found[0]))
    for name in ("cmsOpenProfileFromMem", "cmsCreate_sRGBProfile", "cmsCreateTransform"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def converted(array: np.ndarray, embedded: bytes) -> np.ndarray:
    """uint16 HxW or HxWx3 by littleCMS in 16 bits, as levels 0 to 255 of sRGB, HxWx3."""
    library = lcms()
    source = library.cmsOpenProfileFromMem(embedded, ctypes.c_uint32(len(embedded)))
    target = library.cmsCreate_sRGBProfile()
    kind = TYPES["grey" if embedded[16:20] == b"GRAY" else "rgb"]
    if kind == TYPES["rgb"] and array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    given, made = np.ascontiguousarray(array), np.empty((*array.shape[:2], 3), np.uint16)
    arguments = [source, kind, target, TYPES["rgb"], 1, 0x0100]  # relative colorimetric, no shortcut by tables
    places = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, *[ctypes.c_uint32] * 3)
    change = library.cmsCreateTransform(*(place(value) for place, value in zip(places, arguments)))
    assert change
    pixels = ctypes.c_uint32(given.shape[0] * given.shape[1])
    library.cmsDoTransform(ctypes.c_void_p(change), *(ctypes.c_void_p(a.ctypes.data) for a in (given, made)), pixels)
    return made / 257


def samples(grey: bool, seed: int = 0) -> np.ndarray:
    """Dark to bright, many of them dark, where a level of 8 bits is a long way."""
    rng = np.random.default_rng(seed)
    array = rng.random((64, 96) if grey else (64, 96, 3)) ** rng.choice([1.0, 3.0, 6.0], (64, 96) + (1,) * (not grey))
    return np.rint(array * 65535).astype(np.uint16)


def png(array: np.ndarray, embedded: bytes, alpha: np.ndarray | None = None) -> bytes:
    """A PNG file of 16 bits, which Pillow writes of grey only."""
    whole = array if alpha is None else np.concatenate([array, alpha[:, :, None]], axis=2)
    height, width = whole.shape[:2]
    colour = {2: 0, 3: {3: 2, 4: 6}.get(whole.shape[-1], 0)}[whole.ndim]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in whole)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    named = chunk(b"iCCP", b"x\0\0" + zlib.compress(embedded))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + named + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tagged(array: np.ndarray, embedded: bytes, **options: Any) -> bytes:
    return tiff(array, iccprofile=embedded, **options)


@pytest.mark.parametrize("name", PROFILES)
def test_every_level_is_that_of_littlecms_in_16_bits(name: str) -> None:
    embedded = PROFILES[name]
    grey = embedded[16:20] == b"GRAY"
    array = samples(grey)
    truth = converted(array, embedded)
    found = decode(png(array, embedded))
    assert np.abs(found - truth).max() <= 1 and np.abs(found - truth).mean() <= 0.3
    assert np.abs(decode(png(array, embedded), Raster(gray=True)) - truth @ [0.299, 0.587, 0.114]).mean() <= 0.5
    by_eight = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    scaled = Image.fromarray(np.rint(array / 257).astype(np.uint8))
    shown = ImageCms.profileToProfile(scaled, by_eight, ImageCms.createProfile("sRGB"), 1, outputMode="RGB")
    if "linear" in name or name == "grey 1.0":
        assert np.abs(np.asarray(shown) - truth).max() > 3, "8 bits are not enough"


FORMATS = {
    "PNG with alpha": lambda array, embedded: png(array, embedded, np.full(array.shape[:2], 65535, np.uint16)),
    "TIFF": lambda array, embedded: tagged(array, embedded, photometric="rgb"),
    "TIFF, big-endian": lambda array, embedded: tagged(array, embedded, photometric="rgb", byteorder=">"),
    "TIFF, packed": lambda array, embedded: tagged(array, embedded, photometric="rgb", compression="deflate"),
    "TIFF in planes": lambda array, embedded: tagged(
        np.moveaxis(array, 2, 0), embedded, photometric="rgb", planarconfig="separate"
    ),
    "TIFF of 32 bits": lambda array, embedded: tagged(array.astype(np.uint32) * 65537, embedded, photometric="rgb"),
    "floating point": lambda array, embedded: tagged((array / 65535).astype(np.float32), embedded, photometric="rgb"),
}


@pytest.mark.parametrize("name", ["Adobe RGB", "ProPhoto", "linear sRGB", "linear ProPhoto"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_holds_them(name: str, kind: str) -> None:
    array = samples(grey=False, seed=1)
    data = FORMATS[kind](array, PROFILES[name])
    assert probe(data).profile == PROFILES[name]
    assert np.abs(decode(data) - converted(array, PROFILES[name])).max() <= 1


@pytest.mark.parametrize("name", ["linear sRGB", "grey 1.0", "grey 2.6"])
@pytest.mark.parametrize("inverted", [False, True])
def test_grey_of_tiff(name: str, inverted: bool) -> None:
    """Also under a profile of three primaries; and with white as zero."""
    array = samples(grey=True, seed=2)
    stored = 65535 - array if inverted else array
    data = tagged(stored, PROFILES[name], photometric="miniswhite" if inverted else "minisblack")
    assert np.abs(decode(data) - converted(array, PROFILES[name])).max() <= 1


def test_by_the_formula_of_the_profile() -> None:
    """A ramp of linear light, of which 8 bits would leave twelve levels between black and 50."""
    array = np.tile(np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None], (2, 1, 3))
    truth = by_formula(array / 257, SRGB, 1.0)
    found = decode(png(array, PROFILES["linear sRGB"]))
    assert np.abs(found - truth).max() <= 0.6 and len(np.unique(found)) == 256


def test_transparency_and_orientation_go_with_it() -> None:
    array = samples(grey=False, seed=3)
    alpha = np.zeros(array.shape[:2], np.uint16)
    alpha[:, :48] = 65535
    found = decode(png(array, PROFILES["linear sRGB"], alpha))
    assert np.abs(found[:, :48] - converted(array, PROFILES["linear sRGB"])[:, :48]).max() <= 1
    assert (found[:, 48:] == 255).all()
    turned = decode(tagged(array, PROFILES["linear sRGB"], photometric="rgb", extratags=[(274, 3, 1, 3, True)]))
    assert np.abs(turned[::-1, ::-1] - converted(array, PROFILES["linear sRGB"])).max() <= 1


def test_no_profile_srgb_and_tables_stay_with_8_bits() -> None:
    array = samples(grey=False, seed=4)
    for embedded in (of_matrix(SRGB, OF_SRGB), b"no profile at all"):
        assert depth.conversion(embedded, "RGB") is None
        assert np.abs(decode(png(array, embedded)).astype(int) - np.rint(array / 257)).max() <= 1
    names = [(name, gamma(1.0)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    assert depth.conversion(profile(b"RGB ", b"mntr", *names), "RGB") is None, "primaries are missing"


def test_damaged_profiles_are_none() -> None:
    array, whole = samples(grey=False, seed=5), PROFILES["formula 4"]
    rng = np.random.default_rng(0)
    for cut in range(0, len(whole), 37):
        decode(png(array[:4, :4], whole[:cut]))
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(128, len(whole), 4):
            broken[place] = rng.integers(256)
        decode(png(array[:4, :4], bytes(broken)))
