"""Every line of the table in `stream/codec.py`, against Pillow on its own, numpy, and formulas worked by hand."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import encode, image, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edittools.errors import RowError
from edittools.stream import box
from edittools.stream.codec import FULL, Raster, decode, encode_png, extension, probe, sniff

# Two libjpeg builds may differ by a rounding in colour conversion and upsampling of chroma.
JPEG_STEP = 4


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, **options: object) -> str:
    with pytest.raises(RowError) as caught:
        decode(data, **options)  # type: ignore[arg-type]
    return caught.value.reason


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    """A PNG made by hand from its raw scan lines."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    array = pixels(7, 24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = save(Image.fromarray(array), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        truth = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.int16)
    found = decode(data)
    assert found.shape == truth.shape
    assert np.abs(found - truth).max() <= (JPEG_STEP if kind == "JPEG" else 0)
    header = probe(data)
    assert (header.height, header.width) == truth.shape[:2]
    assert header.orientation == (1 if kind == "TIFF" else orientation), "what is left to apply"


@pytest.mark.parametrize("before", [b"", b"\xff\xe2\xff\xffnot EXIF" + bytes(65_525), b"\xff\xff\xff"])
def test_exif_behind_other_segments(before: bytes) -> None:
    """Behind nothing, behind filling, and behind a segment of 64 KB, as that of a large profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pixels(1, 30, 60), "JPEG", exif=exif)
    late = data[:2] + before + data[2:]
    assert (probe(late).height, probe(late).width) == (60, 30)
    assert decode(late).shape == (60, 30, 3)


def test_the_word_exif_in_the_scan_is_no_orientation() -> None:
    data = encode(pixels(1, 30, 60), "JPEG", quality=95)
    assert probe(data[:-2] + b"Exif\0\0" + data[-2:]).orientation == 1


def test_damaged_exif_is_no_orientation() -> None:
    array = pixels(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(save(Image.fromarray(array), "JPEG", exif=exif))
    at = bytes(data).find(b"Exif\0\0")
    rng = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(4):
            broken[at + 6 + int(rng.integers(0, 26))] = int(rng.integers(0, 256))
        assert sorted(decode(bytes(broken)).shape[:2]) == [32, 40]
    for value in (0, 9, 255, 65535):
        exif[0x0112] = value
        assert decode(save(Image.fromarray(array), "JPEG", exif=exif)).shape == (32, 40, 3)


def test_cmyk_is_converted() -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, 8:] = (0, 255, 255, 0)  # no cyan, all magenta and yellow: red
    for kind in ("JPEG", "TIFF"):
        data = save(Image.fromarray(cmyk, "CMYK"), kind, **({"quality": 95} if kind == "JPEG" else {}))
        found = decode(data).astype(int)
        assert found.shape == (16, 16, 3)
        assert np.abs(found[:, :6] - 255).max() <= 3
        assert np.abs(found[:, 10:] - np.array([255, 0, 0])).max() <= 6
        gray = decode(data, Raster(gray=True))
        assert gray.shape == (16, 16) and abs(int(gray[8, 12]) - 76) <= 6  # Rec. 601: 0.299 * 255


def test_palette_and_grey() -> None:
    array = pixels(2)
    quantized = Image.fromarray(array).quantize(17)
    truth = np.asarray(quantized.convert("RGB"))
    for kind in ("PNG", "GIF", "BMP"):
        assert np.array_equal(decode(save(quantized, kind)), truth), kind
    grey = array[:, :, 0]
    found = decode(encode(grey, "PNG"))
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(decode(encode(grey, "PNG"), Raster(gray=True)), grey)
    jpeg = decode(encode(grey, "JPEG", quality=95))
    assert np.array_equal(jpeg[:, :, 0], jpeg[:, :, 1]) and jpeg.shape == (32, 40, 3)
    one_bit = np.indices((8, 16)).sum(axis=0) % 2 == 0
    found = decode(save(Image.fromarray(one_bit), "PNG"))
    assert np.array_equal(found[:, :, 1], one_bit * np.uint8(255))


def test_16_bits_are_scaled() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    values[0, :4] = (0, 65535, 128, 129)
    truth = np.floor(values.astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)
    found = decode(save(Image.fromarray(values), "PNG"))
    assert np.array_equal(found, np.repeat(truth[:, :, None], 3, axis=2))
    found = decode(save(Image.fromarray(values), "TIFF"))
    assert np.array_equal(found[:, :, 2], truth)
    # Dark 16-bit images are dark: their values must not be taken for 8 bits.
    dark = np.full((4, 4), 200, np.uint16)
    assert decode(save(Image.fromarray(dark), "PNG")).max() == 1


def test_16_bit_rgb() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 65536, (6, 7, 3), dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    found = decode(png(7, 6, 16, 2, raw)).astype(int)
    exact = values.astype(np.float64) * 255 / 65535
    assert np.abs(found - exact).max() < 1.01  # Pillow keeps the high byte, which is within one step


def test_transparency_over_white() -> None:
    rng = np.random.default_rng(5)
    rgba = rng.integers(0, 256, (12, 14, 4), dtype=np.uint8)
    rgba[:2, :, 3], rgba[2:4, :, 3] = 0, 255
    alpha = rgba[:, :, 3:].astype(np.float64) / 255
    truth = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    for data in (encode(rgba, "PNG"), encode(rgba, "WEBP", lossless=True, exact=True), encode(rgba, "TIFF")):
        found = decode(data).astype(np.float64)
        assert np.abs(found - truth).max() <= 1
        assert (found[:2] == 255).all() and np.array_equal(found[2:4], rgba[2:4, :, :3])
    grey_alpha = rgba[:, :, [0, 3]]
    truth_grey = grey_alpha[:, :, 0] * alpha[:, :, 0] + 255 * (1 - alpha[:, :, 0])
    assert np.abs(decode(encode(grey_alpha, "PNG"))[:, :, 0] - truth_grey).max() <= 1


def test_transparent_palette_entries_and_colours() -> None:
    index = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 255])
    data = save(image, "PNG", transparency=bytes([255, 0, 51]))
    truth = [[(10, 20, 30), (255, 255, 255)], [(204, 204, 255), (255, 255, 255)]]  # 51 of 255 is a fifth
    assert np.abs(decode(data).astype(int) - np.array(truth)).max() <= 1
    rgb = np.full((2, 2, 3), 9, np.uint8)
    rgb[0, 0] = (1, 2, 3)
    found = decode(save(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))
    assert found[0, 0].tolist() == [255, 255, 255] and found[1, 1].tolist() == [9, 9, 9]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.fromarray(np.full((10, 12, 3), value, np.uint8)) for value in (30, 120, 210)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert probe(data).frames == 3
    assert np.array_equal(decode(data), np.full((10, 12, 3), 30))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_damage(kind: str) -> None:
    data = image(6, kind, 64, 80)
    truth = decode(data)
    for share in (0.05, 0.3, 0.5, 0.7, 0.9, 0.97):
        cut = data[: int(len(data) * share)]
        if len(cut) >= 64:
            assert reason(cut) in ("damaged image", "not an image"), share
    # Without its last bytes (an end mark, no pixels) an image is whole or damaged, never another image.
    for missing in (1, 2, 4):
        try:
            assert np.array_equal(decode(data[:-missing]), truth)
        except RowError as error:
            assert error.reason == "damaged image"


def test_bit_rot_in_a_png_is_noticed() -> None:
    data = image(8, "PNG", 64, 80)
    start, end = data.find(b"IDAT") + 4, data.find(b"IEND") - 8
    for at in np.linspace(start + 2, end - 1, 12).astype(int).tolist():
        broken = bytearray(data)
        broken[at] ^= 0x10
        assert reason(bytes(broken)) == "damaged image"


def test_what_is_no_image() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"<html><body>404</body></html>") == "not an image"
    assert reason(b"\0" * 5000) == "not an image"
    for start in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"MM\0*",
        b"BM" + bytes(30),
        b"\0\0\0\x20ftypavif",
        b"\0\0\0\x20ftypheic",
    ):
        for rest in (b"", bytes(100), bytes(range(256)) * 4):
            assert reason(start + rest) in ("damaged image", "not an image"), start
            with pytest.raises(RowError):
                probe(start + rest)


def test_the_first_bytes_decide() -> None:
    kinds = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tiff"}
    for kind, name in kinds.items():
        data = image(1, kind)
        header = probe(data)
        assert sniff(data) == sniff(memoryview(data)) == header.format == name
        assert (header.width, header.height) == (40, 32)
        for view in (memoryview(data), memoryview(data).cast("b").cast("B")):
            assert decode(view).shape == (32, 40, 3)
    assert [extension(name) for name in ("jpeg", "tiff", "png")] == ["jpg", "tif", "png"]
    if Image.registered_extensions().get(".avif") == "AVIF":
        assert probe(image(1, "AVIF")).format == "avif" and decode(image(1, "AVIF")).shape == (32, 40, 3)


def test_sizes_at_the_ends() -> None:
    for shape in ((1, 1), (1, 2), (2, 1), (2, 20000), (20000, 2), (7, 3)):
        array = np.random.default_rng(9).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert np.array_equal(decode(encode(array, "PNG")), array)
        found = decode(encode(array, "JPEG", quality=95))
        assert found.shape == array.shape
        assert decode(encode(array, "JPEG"), Raster(square=8)).shape == (8, 8, 3)
        assert decode(encode(array, "PNG"), Raster(square=8, gray=True)).shape == (8, 8)
        for kind in ("PNG", "JPEG"):
            assert decode(encode(array, kind), Raster(short_side=16)).shape[:2] == shape, "never enlarged"
            small = decode(encode(array, kind), Raster(short_side=1)).shape[:2]
            assert min(small) == 1 and max(small) == max(1, round(max(shape) / min(shape)))


def test_too_many_pixels_by_number() -> None:
    data = image(1, "PNG")
    assert reason(data, max_pixels=32 * 40 - 1) == "too many pixels"
    assert decode(data, max_pixels=32 * 40).shape == (32, 40, 3)
    assert reason(image(1), max_pixels=1279) == "too many pixels"
    with pytest.raises(RowError, match="too many pixels"):
        probe(image(1), max_pixels=1279)


BOMBS = """
import resource, struct, sys, zlib
from edittools.errors import RowError
from edittools.stream.codec import decode, probe
def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
def png(width, height, depth, colour, raw):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")
import io
from PIL import Image
decode(png(1, 1, 8, 2, zlib.compress(bytes(4))))  # everything that is loaded once
small = io.BytesIO(); Image.new("RGB", (8, 8)).save(small, "JPEG"); small = bytearray(small.getvalue())
decode(bytes(small))
at = bytes(small).find(b"\\xff\\xc0")
small[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\\0\\0\\0,\\0\\0\\0\\0"
gif += struct.pack("<HH", 65535, 65535) + b"\\0\\2\\1D\\0;"
row = zlib.compressobj(9)
one_bit = b"".join(row.compress(bytes(2501)) for _ in range(20000)) + row.flush()
bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
bmp += struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
bombs = [png(65000, 65000, 8, 6, zlib.compress(bytes(100))), png(20000, 20000, 1, 0, one_bit), bytes(small)]
bombs += [bytes(gif), bmp]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    for look in (probe, decode):
        try:
            look(bomb)
        except RowError as error:
            print(error.reason)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("KiB", grown)
"""


def test_bombs_are_rejected_before_they_are_unpacked() -> None:
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *reasons, last = done.stdout.splitlines()
    assert reasons == ["too many pixels"] * 10
    assert int(last.split()[1]) < 30_000  # one bomb would take 400 MB at the least


@pytest.mark.parametrize("size", [(480, 640), (1000, 333), (333, 1000), (97, 103)])
@pytest.mark.parametrize(
    "raster", [Raster(short_side=64), Raster(square=64), Raster(square=32, gray=True), Raster(short_side=96, gray=True)]
)
def test_scaled_jpeg_is_close_to_the_full_decode(size: tuple[int, int], raster: Raster) -> None:
    """libjpeg's scaling differs from averaging decoded pixels: by less than 3 of 255 on average here, 24 at most."""
    data = encode(pixels(11, *size), "JPEG", quality=90)
    found = decode(data, raster)
    with Image.open(io.BytesIO(data)) as image:
        full = image.convert("L" if raster.gray else "RGB")
        height, width = size
        if raster.square:
            want = (raster.square, raster.square)
        else:
            assert raster.short_side is not None
            scale = min(1, raster.short_side / min(size))
            want = (round(width * scale), round(height * scale))
        truth = np.asarray(full.resize(want, Image.Resampling.BOX), np.int16)
    assert found.shape == truth.shape
    difference = np.abs(found.astype(np.int16) - truth)
    assert difference.mean() < 3 and difference.max() <= 24


@settings(max_examples=150, deadline=None)
@given(short=st.integers(1, 90), aspect=st.floats(0.25, 3), factor=st.floats(1.001, 2), seed=st.integers(0, 99))
def test_shrinking_is_pillows_box(short: int, aspect: float, factor: float, seed: int) -> None:
    """Every aspect ratio and scale that is taken gives Pillow's own pixels."""
    width, height = (round(short / min(1, side)) for side in (1 / aspect, aspect))
    before = math.ceil(height * factor), math.ceil(width * factor), 4
    pixels = np.random.default_rng(seed).integers(0, 256, before, dtype=np.uint8)
    if not box.fits(pixels, width, height):
        return
    truth = Image.fromarray(pixels[:, :, :3].copy()).resize((width, height), Image.Resampling.BOX)
    assert np.array_equal(box.shrink(pixels, width, height), np.asarray(truth))


def test_usual_photographs_are_shrunk_that_way() -> None:
    for height, width, rows, columns in ((375, 563, 256, 384), (563, 375, 384, 256), (281, 421, 256, 384)):
        assert box.fits(np.zeros((height, width, 4), np.uint8), columns, rows)


def test_raster_of_png_is_pillows_box() -> None:
    array = pixels(12, 100, 150)
    found = decode(encode(array, "PNG"), Raster(square=50))
    truth = np.asarray(Image.fromarray(array).resize((50, 50), Image.Resampling.BOX))
    assert np.array_equal(found, truth)
    halves = array.reshape(50, 2, 75, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(decode(encode(array, "PNG"), Raster(short_side=50)) - halves).max() <= 1


def test_grey_is_rec_601() -> None:
    array = pixels(13)
    truth = array.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(encode(array, "PNG"), Raster(gray=True)) - truth).max() <= 1
    jpeg = encode(array, "JPEG", quality=98, subsampling=0)
    assert np.abs(decode(jpeg, Raster(gray=True)) - truth).max() <= 6


def test_encode_png_is_lossless_and_always_the_same() -> None:
    for array in (pixels(14), pixels(14)[:, :, 0]):
        data = encode_png(array)
        assert encode_png(array.copy()) == data
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), array)


def test_full_jpeg_decode_is_pillows() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1, "quality": 30}):
        data = encode(pixels(15, 61, 83), "JPEG", **options)
        with Image.open(io.BytesIO(data)) as image:
            truth = np.asarray(image.convert("RGB"), np.int16)
        assert np.abs(decode(data, FULL) - truth).max() <= JPEG_STEP


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_covering_raster_is_the_least_of_libjpegs_quick_scales(orientation):
    """A half, a quarter or an eighth of the image's size if that covers; other formats keep their size."""
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(pixels(3, 240, 320), "JPEG", quality=95, exif=exif)
    full = decode(data)
    for wanted in ((30, 30), (60, 60), (80, 60), (81, 60), (100, 30), (120, 120), (121, 90), (320, 239), (1000, 1000)):
        made = decode(data, Raster(cover=wanted))
        sizes = [tuple(-(-side * k // 8) for side in full.shape[:2]) for k in (1, 2, 4, 8)]  # rounded up
        least = next((size for size in sizes if size[0] >= wanted[0] and size[1] >= wanted[1]), full.shape[:2])
        assert made.shape[:2] == least, wanted
        shrunk = np.asarray(Image.fromarray(full).resize(made.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(shrunk.astype(float) - made).mean() < 3
    png = encode(pixels(3, 24, 32), "PNG")
    assert decode(png, Raster(cover=(6, 8))).shape == (24, 32, 3)
