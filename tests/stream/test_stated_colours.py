"""Colour spaces that files name without an ICC profile: against the standards' own matrices and curves, and littleCMS.

To linear light of CIE XYZ under D65 (CSS Color 4, section 10.9, has the matrices), from there by sRGB's own matrix.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import encode, pixels
from PIL import Image, ImageCms
from test_colour import ADOBE, P3, PRESS, of_grey
from test_odd_images import chunk

from edittools.stream import bmff, colour, formats, spaces
from edittools.stream.codec import Raster, decode, probe

SRGB = [[0.4123908, 0.35758434, 0.18048079], [0.21263901, 0.71516868, 0.07219232], [0.01933082, 0.11919478, 0.95053215]]
P3_D65 = [[0.48657095, 0.26566769, 0.19821729], [0.22897456, 0.69173852, 0.07928691], [0, 0.04511338, 1.04394437]]
BT2020 = [[0.63695805, 0.14461690, 0.16888098], [0.26270021, 0.67799807, 0.05930172], [0, 0.02807269, 1.06098506]]
ADOBE_RGB = [
    [0.57666904, 0.18555824, 0.18822865],
    [0.29734498, 0.62736357, 0.07529146],
    [0.02703136, 0.07068885, 0.99133754],
]
PHOTO = pixels(3, 48, 64)
# x and y of white, red, green and blue, as cHRM has them
XY_SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
XY_P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
XY_ADOBE = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def of_srgb(level: np.ndarray) -> np.ndarray:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def of_pq(level: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, 203 cd/m2 is 1."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = level ** (1 / m2)
    return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10000 / 203


def of_hlg(level: np.ndarray) -> np.ndarray:
    """ARIB STD-B67, shown with a gamma of 1.2; what a signal of 75% shows is 1 (203 of 1000 cd/m2)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
    return scene**1.2 / 0.203


def power(exponent: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda level: level**exponent


def truth(array: np.ndarray, matrix: Any, curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    light = np.clip(curve(array / 255), 0, 1)
    linear = np.clip(light @ (np.linalg.inv(SRGB) @ np.array(matrix)).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def png(*chunks: bytes, array: np.ndarray = PHOTO, **options: Any) -> bytes:
    data = encode(array, "PNG", **options)
    return data[:33] + b"".join(chunks) + data[33:]


def cicp(*values: int) -> bytes:
    return chunk(b"cICP", bytes(values))


def gama(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(values: tuple[int, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *values))


SAID = {
    "cICP, Display P3": ([cicp(12, 13, 0, 1)], P3_D65, of_srgb),
    "cICP, BT.2020 of a camera": ([cicp(9, 14, 0, 1)], BT2020, of_srgb),
    "cICP, PQ": ([cicp(9, 16, 0, 1)], BT2020, of_pq),
    "cICP, HLG": ([cicp(9, 18, 0, 1)], BT2020, of_hlg),
    "cICP, linear": ([cicp(1, 8, 0, 1)], SRGB, power(1)),
    "gAMA, linear": ([gama(100000)], SRGB, power(1)),
    "gAMA of 1.8": ([gama(55556)], SRGB, power(1.8)),
    "cHRM": ([chrm(XY_P3)], P3_D65, of_srgb),
    "gAMA and cHRM": ([gama(45455), chrm(XY_ADOBE)], ADOBE_RGB, power(2.2)),
    "cHRM and gAMA": ([chrm(XY_P3), gama(100000)], P3_D65, power(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_chunks_of_png(name: str) -> None:
    chunks, matrix, curve = SAID[name]
    wanted = truth(PHOTO, matrix, curve)
    assert np.abs(wanted - PHOTO).mean() > 1, "there is something to change"
    error = np.abs(decode(png(*chunks)) - wanted)
    assert error.mean() <= 1 and np.percentile(error, 99) <= 2
    grey = PHOTO[:, :, 0]
    shown = truth(np.repeat(grey[:, :, None], 3, -1), matrix, curve)
    assert np.abs(decode(png(*chunks, array=grey)) - shown).mean() <= 1
    assert not probe(png(*chunks)).plain
    assert np.abs(decode(png(*chunks), Raster(gray=True)) - wanted @ [0.299, 0.587, 0.114]).mean() <= 1


def test_the_chunk_that_goes_before_others_decides() -> None:
    """PNG, third edition, section 4.3: cICP, iCCP, sRGB, gAMA and cHRM; what is unknown is passed over."""
    wide = {
        cicp(9, 16, 0, 1): truth(PHOTO, BT2020, of_pq),
        b"iCCP": truth(PHOTO, P3_D65, of_srgb),
        chunk(b"sRGB", b"\0"): PHOTO,
        gama(55556): truth(PHOTO, SRGB, power(1.8)),
    }
    for first, second in combinations(wide, 2):
        profile = {"icc_profile": P3} if b"iCCP" in (first, second) else {}
        kept = [part for part in (first, second) if part != b"iCCP"]
        for order in (kept, kept[::-1]):
            assert np.abs(decode(png(*order, **profile)) - wide[first]).mean() <= 1
    for unknown in (cicp(3, 13, 0, 1), cicp(9, 9, 0, 1), cicp(9, 16, 9, 1), chunk(b"cICP", b"\x09\x10")):
        assert np.abs(decode(png(unknown, gama(55556))) - wide[gama(55556)]).mean() <= 1
    assert np.array_equal(decode(png(cicp(1, 13, 0, 1), icc_profile=P3)), PHOTO), "sRGB by code points is sRGB"
    broken = chunk(b"iCCP", b"x\0\0abc")
    assert np.abs(decode(png(broken, gama(55556))) - wide[gama(55556)]).mean() <= 1


@pytest.mark.parametrize("chunks", [
    [gama(45455)], [gama(45455), chrm(XY_SRGB)], [chrm(XY_SRGB)], [gama(45454)], [gama(0)], [gama(4_000_000_000)],
    [chrm((0,) * 8)], [chrm((31270, 0, *XY_SRGB[2:]))], [chrm((31270, 32900) * 4)], [chrm((2**32 - 1,) * 8)],
    [cicp(1, 1, 0, 1)], [cicp(1, 13, 0, 1)], [cicp(2, 2, 0, 1)], [chunk(b"gAMA", b"\0")], [chunk(b"cHRM", b"\0" * 31)],
])  # fmt: skip
def test_what_says_srgb_or_nothing_changes_nothing(chunks: list[bytes]) -> None:
    assert np.array_equal(decode(png(*chunks)), PHOTO) and probe(png(*chunks)).plain


def test_narrow_range() -> None:
    """Levels 16 to 235, as video has them."""
    found = decode(png(cicp(1, 13, 0, 0))).astype(float)
    assert np.abs(found - np.clip((PHOTO.astype(float) - 16) * 255 / 219, 0, 255)).mean() <= 1


def test_reference_whites() -> None:
    """ITU-R BT.2408, table 1: 58% of PQ and 75% of HLG are white; what is brighter stays white."""
    for transfer, white in ((16, round(0.58 * 255)), (18, round(0.75 * 255))):
        ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
        found = decode(png(cicp(9, transfer, 0, 1), array=ramp))[0].astype(int)
        assert found[white].min() >= 252 and found[white - 8].max() < 252 and (found[white + 2 :] == 255).all()
        assert (np.diff(found[:, 1]) >= 0).all() and found[0].max() == 0


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_code_points_of_containers(kind: str) -> None:
    """A file without a profile whose `colr` box states code points; one with a profile goes by that."""
    formats.require(kind.lower())
    data = encode(PHOTO, kind, quality=95)
    at = data.index(b"colrnclx") + 8
    stored = decode(data).astype(float)
    assert bmff.code_points(data) == (1, 13)
    for points, matrix, curve in (((12, 13), P3_D65, of_srgb), ((9, 16), BT2020, of_pq), ((9, 18), BT2020, of_hlg)):
        said = data[:at] + struct.pack(">HH", *points) + data[at + 4 :]
        assert np.abs(decode(said) - truth(stored, matrix, curve)).mean() <= 1
        assert bmff.code_points(said) == points and not probe(said).plain
    assert np.array_equal(decode(data[:at] + struct.pack(">HH", 2, 2) + data[at + 4 :]), stored)
    profiled = encode(PHOTO, kind, quality=95, icc_profile=P3)
    assert np.abs(decode(profiled) - truth(stored, P3_D65, of_srgb)).mean() <= 1


def test_the_primary_images_own_code_points_count() -> None:
    """Of several images in a file (a gain map has a space of its own), by hand: item 2 is shown, by property 3."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", len(content) + 8, kind) + content

    def points(*values: int) -> bytes:
        return box(b"colr", b"nclx" + struct.pack(">HHHB", *values, 0, 128))

    for version, flags in ((0, 0), (0, 1), (1, 0), (1, 1)):
        item, place = ">I" if version else ">H", ">H" if flags else ">B"
        essential = 0x8000 if flags else 0x80
        links = b"".join(
            struct.pack(item, number) + bytes([len(own)]) + b"".join(struct.pack(place, k) for k in own)
            for number, own in ((1, (1, 2)), (2, (1 | essential, 3)))
        )
        every = box(b"ispe", bytes(12)) + points(9, 16) + points(12, 13)
        ipma = box(b"ipma", bytes([version, 0, 0, flags]) + struct.pack(">I", 2) + links)
        pitm = box(b"pitm", bytes([version, 0, 0, 0]) + struct.pack(item, 2))
        data = box(b"ftyp", b"avif" + bytes(4)) + box(
            b"meta", bytes(4) + pitm + box(b"iprp", box(b"ipco", every) + ipma)
        )
        assert bmff.code_points(data) == bmff.code_points(memoryview(data)) == (12, 13)
        for stop in range(len(data)):
            assert bmff.code_points(data[:stop]) in (None, (12, 13))


def exif(order: str, space: int, index: bytes) -> bytes:
    """EXIF whose directories lie one in the other: of the image, of the camera, of interoperability."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)

    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        packed = b"".join(struct.pack(f"{order}HHI4s", *entry) for entry in entries)
        return struct.pack(f"{order}H", len(entries)) + packed + bytes(4)

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    first = directory((0x0112, 3, 1, struct.pack(f"{order}H", 6)), (0x8769, 4, 1, long(38)))
    second = directory((0xA001, 3, 1, struct.pack(f"{order}H", space)), (0xA005, 4, 1, long(68)))
    return b"Exif\0\0" + head + first + second + directory((1, 2, 4, index))


def test_adobe_rgb_by_exif_alone() -> None:
    plain = encode(PHOTO, "JPEG", quality=98, subsampling=0)
    stored = decode(plain).astype(float)
    wanted = np.rot90(truth(stored, ADOBE_RGB, power(2.19921875)), -1)
    upright = np.rot90(stored, -1)
    for order in "<>":

        def made(space: int, index: bytes, order: str = order, **options: Any) -> bytes:
            return encode(PHOTO, "JPEG", quality=98, subsampling=0, exif=exif(order, space, index), **options)

        assert np.abs(decode(made(0xFFFF, b"R03\0")) - wanted).mean() <= 1
        assert probe(made(0xFFFF, b"R03\0")).orientation == 6
        for space, index in ((1, b"R03\0"), (0xFFFF, b"R98\0"), (0xFFFF, b"")):
            assert np.array_equal(decode(made(space, index)), upright)
        grey = made(0xFFFF, b"R03\0", icc_profile=of_grey(1.0))
        assert np.array_equal(decode(grey), upright), "a profile, even one of another kind, goes before EXIF"
        whole = exif(order, 0xFFFF, b"R03\0")
        for stop in range(len(whole)):  # cut EXIF is never an error
            assert decode(encode(PHOTO, "JPEG", exif=whole[:stop])).shape[2] == 3
    inks = Image.fromarray(np.dstack([PHOTO, PHOTO[:, :, 0]]), "CMYK")
    buffers = []
    for options in ({}, {"exif": exif("<", 0xFFFF, b"R03\0")}):
        buffer = io.BytesIO()
        inks.save(buffer, "JPEG", **options)
        buffers.append(decode(buffer.getvalue()))
    assert np.array_equal(np.rot90(buffers[0], -1), buffers[1]), "inks are no Adobe RGB"


def test_made_profiles_are_littlecms_own_reading_of_them() -> None:
    """Every profile that is made is one that littleCMS accepts, of the white and primaries it was made of."""
    for primaries in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22):
        made = spaces.of_code_points(primaries, 8)
        assert made
        opened = ImageCms.ImageCmsProfile(io.BytesIO(made)).profile
        assert opened.xcolor_space.strip() == "RGB" and opened.connection_space.strip() == "XYZ"
        white = np.sum([opened.red_colorant[0], opened.green_colorant[0], opened.blue_colorant[0]], axis=0)
        assert np.abs(white - [0.9642, 1, 0.8249]).max() < 0.001, "equal channels are grey"
    for made, known in ((spaces.of_code_points(12, 13), P3), (spaces.of_exif(exif("<", 0xFFFF, b"R03\0")[6:]), ADOBE)):
        ours, theirs = (ImageCms.ImageCmsProfile(io.BytesIO(data)).profile for data in (made, known))
        for name in ("red_colorant", "green_colorant", "blue_colorant"):
            assert np.abs(np.subtract(getattr(ours, name)[0], getattr(theirs, name)[0])).max() < 0.001
    assert colour.conversion(spaces.of_code_points(12, 13), "CMYK") is None
    assert PRESS and spaces.of_gamma(None, None) == b""
