"""TIFF files of every kind of sample, as tifffile and OpenCV write them: the pixels, or a name for what is not read."""

from __future__ import annotations

import contextlib
import io
import struct
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import encode, pixels
from PIL import Image

from edittools.errors import RowError
from edittools.stream import ifd
from edittools.stream.codec import Raster, decode, probe

tifffile = pytest.importorskip("tifffile")

PHOTO = pixels(1, 40, 56)
GREY = PHOTO[:, :, 0]
ALPHA = np.tile(np.linspace(0, 255, 56).round().astype(np.uint8), (40, 1))
WHITES = {"u1": 255, "u2": 65535, "u4": 2**32 - 1, "f2": 1, "f4": 1, "f8": 1, "i2": 65535, "i4": 65535}
ORDERS, TYPES = "<>", ("u1", "u2", "u4", "f2", "f4", "f8")


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def scaled(array: np.ndarray, kind: str) -> np.ndarray:
    """The image in numbers of another type, from black to its white."""
    values = array / 255 * WHITES[kind]
    return (values if kind[0] == "f" else values.round()).astype(kind)


def three(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[:, :, None], 3, axis=2)


def error(data: bytes, truth: np.ndarray) -> float:
    assert (probe(data).width, probe(data).height) == (56, 40)
    found = decode(data)
    assert found.shape == truth.shape
    return float(np.abs(found.astype(float) - truth).max())


LAYOUTS = [
    {}, {"compression": "deflate"}, {"tile": (16, 32)}, {"tile": (16, 16), "compression": "deflate"},
    {"rowsperstrip": 7}, {"bigtiff": True}, {"rowsperstrip": 9, "compression": "deflate"},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_samples_of_every_kind(layout: dict[str, Any]) -> None:
    """Colour side by side and in planes, grey both ways round: type x order of bytes."""
    for kind, order in product(TYPES, ORDERS):
        options = {"byteorder": order, **layout}
        colours = scaled(PHOTO, kind)
        planes = np.ascontiguousarray(np.moveaxis(colours, -1, 0))
        assert error(tiff(colours, photometric="rgb", **options), PHOTO) <= 1, (kind, order)
        assert error(tiff(planes, photometric="rgb", planarconfig="separate", **options), PHOTO) <= 1, (kind, order)
        grey = scaled(GREY, kind)
        assert error(tiff(grey, photometric="minisblack", **options), three(GREY)) <= 1, (kind, order)
        assert error(tiff(grey, photometric="miniswhite", **options), three(255 - GREY)) <= 1, (kind, order)


@pytest.mark.parametrize("order", ORDERS)
def test_transparency(order: str) -> None:
    """Over white; colours that are multiplied by it already are only added to it."""
    share = ALPHA[:, :, None] / 255
    shown = PHOTO * share + 255 * (1 - share)
    for kind in ("u1", "u2", "u4", "f4", "f2"):
        loose, bound = np.dstack([PHOTO, ALPHA]), np.dstack([np.rint(PHOTO * share), ALPHA])
        for array, extra in ((loose, "unassalpha"), (bound, "assocalpha")):
            data = tiff(scaled(array, kind), photometric="rgb", extrasamples=[extra], byteorder=order)
            assert error(data, shown) <= 3, (kind, extra)
        two = scaled(np.dstack([GREY, ALPHA]), kind)
        grey = tiff(two, photometric="minisblack", extrasamples=["unassalpha"], byteorder=order)
        assert error(grey, three(GREY) * share + 255 * (1 - share)) <= 2, kind
    other = tiff(scaled(np.dstack([PHOTO, ALPHA]), "f4"), photometric="rgb", extrasamples=["unspecified"])
    assert error(other, PHOTO) <= 1, "a sample of no known kind is no transparency"


@pytest.mark.parametrize(("compression", "predictor"), [*product([1, 5, 32773, 8, 32946, 50000], [1, 2, 3])])
def test_compressions_and_predictors_as_opencv_writes_them(compression: int, predictor: int) -> None:
    """None, LZW, PackBits, deflate (two numbers), Zstandard; differences of samples and of floating point's bytes."""
    cv2 = pytest.importorskip("cv2")
    colours = np.ascontiguousarray(scaled(PHOTO, "f4")[:, :, ::-1])
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    done, data = cv2.imencode(".tif", colours, options)
    if not done or not np.array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), colours):
        pytest.skip("not written by this OpenCV")
    written = data.tobytes()
    assert ifd.read(written, (259,))[259] == (compression,)
    assert error(written, PHOTO) <= 1
    assert error(cv2.imencode(".tif", scaled(PHOTO, "f8")[:, :, ::-1], options)[1].tobytes(), PHOTO) <= 1


def test_floating_point_of_three_channels_has_one_white() -> None:
    """The rule for grey, over all channels; highlights and sparks do not darken the rest, a few stay as they are."""
    for white in (1.0, 255.0, 65535.0):
        colours = (PHOTO / np.float32(255) * np.float32(1.5 * white)).astype(np.float32)
        colours[0, :3] = [[np.nan, np.inf, -np.inf], [-5, 0, 1e30], [white, 0, 0]]
        truth = np.clip(np.nan_to_num(colours, nan=0) / white, 0, 1) * 255
        assert error(tiff(colours, photometric="rgb"), truth) <= 0.51


def test_what_a_file_says_beside_its_samples() -> None:
    """Orientation, profile, pages and rasters are those of any other TIFF file."""
    from test_colour import DISPLAY_P3, P3, by_formula

    colours = scaled(PHOTO, "f4")
    tags = [(274, 3, 1, 6, True), (34675, 7, len(P3), P3, True)]
    for order, big in product(ORDERS, (False, True)):
        data = tiff(np.stack([colours] * 3), photometric="rgb", byteorder=order, bigtiff=big, extratags=tags)
        header = probe(data)
        assert (header.width, header.height, header.frames, header.profile) == (40, 56, 3, P3)
        truth = np.rot90(by_formula(PHOTO, DISPLAY_P3, None), -1)
        assert np.abs(decode(data) - truth).mean() <= 1
    small = decode(tiff(colours, photometric="rgb"), Raster(short_side=20))
    assert small.shape == (20, 28, 3)
    with pytest.raises(RowError, match="too many pixels"):
        decode(data, max_pixels=2000)
    with pytest.raises(RowError, match="too many pixels"):
        probe(data, max_pixels=2000)


def test_what_is_not_read_is_named() -> None:
    for array, kind in ((scaled(PHOTO, "u2"), "cielab"), (GREY.astype(np.uint16), "palette")):
        options = {"colormap": np.zeros((3, 65536), np.uint16)} if kind == "palette" else {}
        data = tiff(array, photometric=kind, **options)
        for look in (probe, decode):
            with pytest.raises(RowError, match="unsupported format: TIFF of 16"):
                look(data)


def test_raw_formats_of_cameras_are_named() -> None:
    """Their first image is a preview: what is asked for stands elsewhere, and is no image yet."""

    def of_two(first: int, second: int) -> bytes:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(PHOTO, photometric="rgb", metadata=None, subifds=1, subfiletype=first)
            writer.write(PHOTO[::2, ::2], photometric="rgb", metadata=None, subfiletype=second)
        return buffer.getvalue()

    digital_negative = tiff(PHOTO, photometric="rgb", metadata=None, extratags=[(50706, 1, 4, (1, 4, 0, 0), True)])
    for data, name in ((digital_negative, "DNG"), (of_two(1, 0), "a camera's raw format")):
        for look in (probe, decode):
            with pytest.raises(RowError) as caught:
                look(data)
            assert (caught.value.reason, caught.value.value) == ("unsupported format", name)
    assert error(of_two(0, 1), PHOTO) == 0, "a pyramid's first image is the whole"
    assert error(tiff(PHOTO, photometric="rgb", subfiletype=1, metadata=None), PHOTO) == 0, "a preview alone is one"
    with pytest.raises(RowError, match="unsupported format: CR2"):
        probe(b"II*\0\x10\0\0\0CR\2\0" + bytes(99))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_is_damage() -> None:
    """Cut, or with any byte of the directory changed: pixels or a reason, and of a cut never pixels."""
    rng = np.random.default_rng(0)
    for options in ({}, {"compression": "deflate"}, {"tile": (16, 16)}, {"bigtiff": True, "byteorder": ">"}):
        data = tiff(scaled(PHOTO, "f4"), photometric="rgb", metadata=None, **options)
        first = min(ifd.read(data, (273, 324)).popitem()[1])
        for share in (0.3, 0.6, 0.9, 0.999):
            with pytest.raises(RowError, match="damaged image"):
                decode(data[: int(len(data) * share)])
        for _ in range(300):
            broken = bytearray(data)
            for _ in range(rng.integers(1, 3)):
                broken[rng.integers(4, first)] = rng.integers(0, 256)
            for look in (probe, decode):
                with contextlib.suppress(RowError):
                    look(bytes(broken), max_pixels=10_000_000)


def test_pillows_own_kinds_stay_pillows() -> None:
    """One bit, palettes, ink, YCbCr by JPEG, fax and Lab: against Pillow alone."""
    made = {
        "1 bit": Image.fromarray(GREY > 127),
        "palette": Image.fromarray(PHOTO).quantize(32),
        "ink": Image.fromarray(np.dstack([PHOTO, GREY]), "CMYK"),
        "YCbCr": Image.fromarray(PHOTO).convert("YCbCr"),
    }
    for name, image in made.items():
        for options in ({}, {"compression": "tiff_lzw"}, {"compression": "packbits"}):
            buffer = io.BytesIO()
            image.save(buffer, "TIFF", **options)
            with Image.open(io.BytesIO(buffer.getvalue())) as opened:
                assert error(buffer.getvalue(), np.asarray(opened.convert("RGB")).astype(float)) == 0, name
    data = encode(PHOTO, "TIFF", compression="jpeg", quality=95)
    assert np.abs(decode(data).astype(float) - PHOTO).mean() < 6
    buffer = io.BytesIO()
    made["1 bit"].save(buffer, "TIFF", compression="group4")
    assert error(buffer.getvalue(), three((GREY > 127) * 255).astype(float)) == 0


def test_directories() -> None:
    """Values in an entry and behind it, of 16, 32 and 64 bits; a ring of directories ends."""
    ring = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 3, 1, 7, 8)
    assert ifd.count(ring) == 1 and ifd.read(ring, (256,)) == {256: (7,)}
    data = tiff(np.stack([PHOTO] * 4), photometric="rgb", byteorder=">", bigtiff=True)
    assert ifd.count(data) == 4 and ifd.read(data, (258,)) == {258: (8, 8, 8)}
    for stop in range(64):
        assert ifd.count(data[:stop]) >= 1 and isinstance(ifd.read(data[:stop], (256,)), dict)
