"""Only damage to pixels is damage: files that every viewer shows are kept, those with lost pixels are not."""

from __future__ import annotations

import io
import struct
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of
from PIL import Image, ImageOps, PngImagePlugin

from edittools.errors import RowError
from edittools.stream import codec, formats
from edittools.stream.codec import Raster, decode, probe

PHOTO = pixels(1, 64, 96)
UPRIGHT = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def jpeg(**options: Any) -> bytes:
    return encode(PHOTO, "JPEG", **{"quality": 92, "subsampling": 0, **options})


def before_scan(data: bytes, add: bytes) -> bytes:
    at = data.find(b"\xff\xda")
    return data[:at] + add + data[at:]


def with_selection(data: bytes, values: bytes) -> bytes:
    """The parameters at the end of the (only) scan's header: of a sequential scan they are 0, 63, 0."""
    at = data.find(b"\xff\xda")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[: end - 3] + values + data[end:]


def odd_jpegs() -> dict[str, bytes]:
    """Each has the pixels of `jpeg()`, and something that libjpeg warns of or that a strict reader refuses."""
    data = jpeg()
    return {
        "selection of 0": with_selection(data, b"\0\0\0"),
        "selection of 0, 63, 0x11": with_selection(data, b"\0\x3f\x11"),
        "no end": data[:-2],
        "half an end": data[:-1],
        "zeros behind the scan": data[:-2] + bytes(40) + data[-2:],
        "fill bytes behind the scan": data[:-2] + b"\xff" * 9 + data[-2:],
        "something behind the end": data + b"trailer of a phone" * 100,
        "another image behind the end": data + data,
        "bytes between segments": before_scan(data, b"\0\1\2\3"),
        "a segment shorter than it says": data[:2] + b"\xff\xfe\0\x04abcdefgh" + data[2:],
        "two starts": data[:2] + data,
        "an unknown Adobe transform": before_scan(data, b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7"),
        "a reserved marker": before_scan(data, b"\xff\xf0\0\x04ab"),
        "no end, selection of 0": with_selection(data[:-2], b"\0\0\0"),
        "a damaged profile": before_scan(data, b"\xff\xe2\0\x14ICC_PROFILE\0\1\1abcd"),
        "a profile with a chunk missing": before_scan(data, b"\xff\xe2\0\x14ICC_PROFILE\0\2\3abcd"),
        "damaged EXIF": before_scan(data, b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff"),
    }


@pytest.mark.parametrize("name", odd_jpegs())
def test_odd_jpegs_have_their_pixels(name: str) -> None:
    data = odd_jpegs()[name]
    assert np.array_equal(decode(data), decode(jpeg()))
    assert np.array_equal(decode(data, Raster(short_side=16)), decode(jpeg(), Raster(short_side=16)))
    assert (probe(data).width, probe(data).height) == (96, 64)


def test_odd_progressive_jpegs() -> None:
    data = jpeg(progressive=True)
    truth = decode(data)
    assert np.array_equal(decode(data[:-2]), truth)
    last = data.rfind(b"\xff\xda")
    with pytest.raises(RowError, match="damaged image"):
        decode(data[:last])  # the last scan is missing: no viewer says so, but pixels are lost
    with pytest.raises(RowError, match="damaged image"):
        decode(data[: last + 30])


def test_damage_behind_an_oddity_is_found() -> None:
    for odd in (odd_jpegs()["selection of 0"], odd_jpegs()["bytes between segments"], odd_jpegs()["two starts"]):
        rotten = bytearray(odd)
        rotten[-1500:-500] = np.random.default_rng(0).integers(0, 255, 1000, dtype=np.uint8).tobytes()
        for broken in (bytes(rotten), odd[: len(odd) // 2], odd[:-30], odd[: len(odd) // 2] + b"\xff\xd9"):
            with pytest.raises(RowError, match="damaged image"):
                decode(broken)


@pytest.mark.parametrize("factors", [0x14, 0x41, 0x12, 0x21])
def test_sampling_of_any_kind(factors: int) -> None:
    """4:4:1 and others: the luma's factors of a 4:2:0 or 4:2:2 file are rewritten, which scrambles a whole image."""
    blocks = (factors >> 4) * (factors & 15)
    data = bytearray(encode(pixels(1, 128, 128), "JPEG", subsampling={2: 1, 4: 2}[blocks], quality=90))
    at = bytes(data).find(b"\xff\xc0") + 11
    assert data[at] == {2: 0x21, 4: 0x22}[blocks]
    data[at] = factors
    with Image.open(io.BytesIO(bytes(data))) as shown:
        truth = np.asarray(shown.convert("RGB")).astype(int)
    assert np.abs(decode(bytes(data)) - truth).max() <= 4
    assert decode(bytes(data), Raster(square=8, gray=True)).shape == (8, 8)


def test_much_between_segments_takes_no_time() -> None:
    """30 MB that are no segment: found by a search, not byte by byte (which took 10 s)."""
    data = before_scan(jpeg(), b"\0" * 15_000_000 + b"\xff\0" * 7_500_000)
    begin = time.process_time()
    assert np.array_equal(decode(data), decode(jpeg()))
    assert time.process_time() - begin < 3


def test_unusual_frames_are_named() -> None:
    """What no decoder at hand reads is no damage: its frame says what it is (T.81, table B.1; T.87)."""
    data = jpeg()
    at = data.find(b"\xff\xc0")
    changes: dict[str, tuple[int, bytes]] = {
        "JPEG of 12 bits": (4, b"\x0c"), "lossless JPEG": (1, b"\xc3"), "hierarchical JPEG": (1, b"\xc5"),
        "JPEG-LS": (1, b"\xf7"), "JPEG of 2 components": (9, b"\2"),
        "JPEG whose height stands behind its pixels": (5, b"\0\0"),
    }  # fmt: skip
    for name, (place, value) in changes.items():
        made = data[: at + place] + value + data[at + place + len(value) :]
        with pytest.raises(RowError) as caught:
            decode(made)
        assert (caught.value.reason, caught.value.value) == ("unsupported format", name)
    for cut in (*range(at, at + 30), len(data) // 2):
        with pytest.raises(RowError, match="damaged image"):
            decode(data[:cut])


def test_red_green_and_blue_as_they_are() -> None:
    """JPEG files that are not YCbCr: by an Adobe marker, by the names of their components, or both."""
    marked = encode(PHOTO, "JPEG", quality=95, keep_rgb=True)
    at = marked.find(b"\xff\xee")
    named = marked[:at] + marked[at + 16 :]
    with Image.open(io.BytesIO(named)) as shown:
        truth = np.asarray(shown.convert("RGB")).astype(int)
    assert np.abs(truth - PHOTO).mean() < 3
    for data in (marked, named, before_scan(marked, b"\0\1"), before_scan(named, b"\0\1"), marked[:-2]):
        assert np.abs(decode(data) - truth).max() <= 1
        assert np.abs(decode(data, Raster(gray=True)) - truth @ [0.299, 0.587, 0.114]).max() <= 2


@pytest.mark.parametrize("transform", [0, 1, 2, None])
def test_inks_with_and_without_a_marker(transform: int | None) -> None:
    """CMYK and YCCK, inverted as every JPEG file of inks is: as Pillow reads them."""
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([PHOTO, PHOTO[:, :, 0]]), "CMYK").save(buffer, "JPEG", quality=95, subsampling=0)
    data = buffer.getvalue()
    at = data.find(b"\xff\xee")
    data = data[:at] + data[at + 16 :] if transform is None else data[: at + 15] + bytes([transform]) + data[at + 16 :]
    with Image.open(io.BytesIO(data)) as shown:
        truth = np.asarray(shown.convert("RGB")).astype(int)
    for odd in (data, data[:-2], before_scan(data, b"\0\1")):
        assert np.abs(decode(odd) - truth).max() <= 1


# ---------------------------------------------------------------- GIF, WebP


def test_what_the_first_frame_of_a_gif_leaves_free_is_white() -> None:
    buffer = io.BytesIO()
    small = Image.fromarray(PHOTO[:20, :30]).quantize(16)
    small.save(buffer, "GIF")
    wide = buffer.getvalue()[:6] + struct.pack("<HH", 50, 40) + buffer.getvalue()[10:]
    found = decode(wide).copy()
    assert found.shape == (40, 50, 3) and np.array_equal(found[:20, :30], np.asarray(small.convert("RGB")))
    found[:20, :30] = 255
    assert (found == 255).all()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(v)) + v + bytes(len(v) & 1) for k, v in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_chunks_of_webp_that_are_missing_late_or_unknown() -> None:
    plain = encode(PHOTO, "WEBP", lossless=True)
    pixel = (plain[12:16], plain[20 : 20 + int.from_bytes(plain[16:20], "little")])
    size = (95).to_bytes(3, "little") + (63).to_bytes(3, "little")
    exif = Image.Exif()
    exif[0x0112] = 6
    for flag in (0x20, 0x08, 0x04, 0):
        assert np.array_equal(decode(riff((b"VP8X", struct.pack("<I", flag) + size), pixel)), PHOTO)
    head = b"VP8X", struct.pack("<I", 0x28) + size
    assert np.array_equal(decode(riff(head, (b"ICCP", b"abc"), pixel, (b"abcd", b"x" * 7))), PHOTO)
    turned = riff(head, pixel, (b"PSAI", b"x" * 78), (b"EXIF", exif.tobytes()))
    assert np.array_equal(decode(turned), np.rot90(PHOTO, -1)) and probe(turned).orientation == 6
    assert np.array_equal(decode(plain + b"trailer" * 9), PHOTO)


# ---------------------------------------------------------------- PNG


def chunk(name: bytes, data: bytes, good: bool = True) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ (not good))


def odd_pngs() -> dict[str, bytes]:
    data = encode(PHOTO, "PNG")
    head, rest, end = data[:33], data[33:-12], data[-12:]
    text = b'{"nodes": 1}' * 150_000
    noise = np.random.default_rng(0).bytes(1_500_000)
    return {
        "much packed text": head + chunk(b"zTXt", b"workflow\0\0" + zlib.compress(text)) + rest + end,
        "much plain text": head + chunk(b"tEXt", b"workflow\0" + text) * 3 + rest + end,
        "much international text": head + chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(text)) + rest + end,
        "text behind the pixels": head + rest + chunk(b"zTXt", b"workflow\0\0" + zlib.compress(text)) + end,
        "a damaged text": head + chunk(b"zTXt", b"workflow\0\0abc") + rest + end,
        "a text packed in another way": head + chunk(b"zTXt", b"workflow\0\7abc") + rest + end,
        "a text of 4 GB": head + rest + struct.pack(">I", 0xFFFFFFF0) + b"tEXtabc",
        "a wrong checksum of a text": head + chunk(b"tEXt", b"a\0b", good=False) + rest + end,
        "a large profile": head + chunk(b"iCCP", b"x\0\0" + zlib.compress(noise)) + rest + end,
        "a damaged profile": head + chunk(b"iCCP", b"x\0\0abc") + rest + end,
        "a profile packed in another way": head + chunk(b"iCCP", b"x\0\7abc") + rest + end,
        "damaged EXIF": head + chunk(b"eXIf", b"MM\0*\0\0") + rest + end,
        "short chunks": head + chunk(b"pHYs", b"") + chunk(b"gAMA", b"\0") + chunk(b"cHRM", b"\0") + rest + end,
        "an empty chunk of no known kind": head + chunk(b"abCd", b"") + rest + end,
        "no end": head + rest,
        "no end, and a text": head + chunk(b"tEXt", b"a\0b") + rest,
        "something behind the end": data + b"trailer" * 99,
    }


@pytest.mark.parametrize("name", odd_pngs())
def test_odd_pngs_have_their_pixels(name: str) -> None:
    data = odd_pngs()[name]
    assert np.array_equal(decode(data), PHOTO)
    assert (probe(data).width, probe(data).height) == (96, 64)


def test_damaged_pngs_are_damaged_behind_a_text_too() -> None:
    data = odd_pngs()["much packed text"]
    first = data.find(b"IDAT")
    rotten = bytearray(data)
    rotten[first + 200] ^= 0x10
    for broken in (bytes(rotten), data[: first + 500], data[:-40], odd_pngs()["no end"][:-30]):
        with pytest.raises(RowError, match="damaged image"):
            decode(broken)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_a_level_that_is_transparent(depth: int, colour: int) -> None:
    """Exactly the pixels of that level, at any depth, are white; by hand from the samples (PNG, 11.3.2.1)."""
    channels = {0: 1, 2: 3}[colour]
    levels = np.random.default_rng(depth).integers(0, 2**depth, (6, 8, channels))
    levels[0, :4] = levels[5, 4:] = chosen = levels[3, 3].copy()
    levels[1, 1] = chosen ^ 1  # next to it, and the same in eight bits of sixteen
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in levels]
    else:
        bits = [np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :] for row in levels]
        rows = [np.packbits(row).tobytes() for row in bits]
    raw = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, depth, colour, 0, 0, 0))
    key = b"".join(struct.pack(">H", value) for value in chosen.tolist())
    shown = np.rint(levels * (255 / (2**depth - 1)))
    truth = np.broadcast_to(np.where((levels == chosen).all(axis=2, keepdims=True), 255, shown), (6, 8, 3))
    tail = chunk(b"IDAT", raw) + chunk(b"IEND", b"")
    data = head + chunk(b"tRNS", key) + tail
    assert np.abs(decode(data) - truth).max() <= (depth == 16) and not probe(data).plain
    assert probe(head + tail).plain == ((depth, colour) not in ((1, 0), (16, 0)))
    for broken in (key[:-1], key + b"\0", b""):
        assert np.abs(decode(head + chunk(b"tRNS", broken) + tail) - shown).max() <= (depth == 16)


def test_a_palette_that_is_missing_is_damage() -> None:
    data = encode(PHOTO[:, :, 0], "PNG")
    header = bytearray(data[12:29])
    header[13] = 3  # palette in place of grey
    with pytest.raises(RowError, match="damaged image: the palette is missing"):
        decode(data[:8] + chunk(b"IHDR", bytes(header[4:])) + data[33:])


def test_a_png_of_xcode_is_named() -> None:
    data = encode(PHOTO, "PNG")
    with pytest.raises(RowError, match="unsupported format: PNG as Xcode packs it"):
        probe(data[:8] + chunk(b"CgBI", b"\x50\0\x20\x02") + data[8:33] + data[33:])


# ---------------------------------------------------------------- orientation


def oriented() -> dict[str, bytes]:
    """An image that orientation 6 shows 64 x 96, stated in every place where a reader looks for it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    lines = f"\nexif\n{len(raw):8}\n" + "\n".join(raw.hex()[k : k + 72] for k in range(0, 2 * len(raw), 72))
    plain = encode(PHOTO, "PNG")
    found = {"png, EXIF behind the pixels": plain[:-12] + chunk(b"eXIf", raw[6:]) + plain[-12:]}
    found["png, EXIF with its name"] = plain[:33] + chunk(b"eXIf", raw) + plain[33:]
    for packed in (False, True):
        for name, text in (("XML:com.adobe.xmp", UPRIGHT), ("Raw profile type exif", lines)):
            info = PngImagePlugin.PngInfo()
            (info.add_itxt if name.startswith("XML") else info.add_text)(name, text, zip=packed)
            found[f"png, {name}, {packed}"] = encode(PHOTO, "PNG", pnginfo=info)
    for kind in ("JPEG", "WEBP", "AVIF"):
        found[f"{kind}, XMP"] = encode(PHOTO, kind, xmp=UPRIGHT.encode())
        found[f"{kind}, EXIF"] = encode(PHOTO, kind, exif=raw)
    found["TIFF, XMP"] = encode(PHOTO, "TIFF", tiffinfo={700: UPRIGHT.encode()})
    found["TIFF, its own"] = encode(PHOTO, "TIFF", tiffinfo={0x0112: 6})
    for order, words in (("<", b"II*\0"), (">", b"MM\0*")):
        for kind, form in ((3, "H"), (4, "I")):
            entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(order + form, 6).ljust(4, b"\0")
            tiff = words + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
            found[f"JPEG, EXIF {order}{form}"] = encode(PHOTO, "JPEG", exif=b"Exif\0\0" + tiff)
    return found


@pytest.mark.parametrize("name", oriented())
def test_orientation_from_wherever_readers_look_for_it(name: str) -> None:
    data = oriented()[name]
    with Image.open(io.BytesIO(data)) as shown:
        shown.load()
        truth = np.asarray(ImageOps.exif_transpose(shown).convert("RGB")).astype(int)
    assert truth.shape == (96, 64, 3), "Pillow on its own turns it"
    assert np.abs(decode(data).astype(int) - truth).max() <= 4
    assert (probe(data).width, probe(data).height) == (64, 96)


def test_exif_decides_where_xmp_says_otherwise() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    assert probe(encode(PHOTO, "JPEG", exif=exif, xmp=UPRIGHT.encode())).orientation == 1


# ---------------------------------------------------------------- floating point and formats


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point(white: float) -> None:
    """By the rule: highlights, and a few pixels that are far brighter still, do not darken the rest."""
    grey = np.linspace(0, 1.2, 64 * 100, dtype=np.float32).reshape(64, 100)
    sparks = grey.copy()
    sparks[:4, :5] = [np.nan, np.inf, -np.inf, -3, 900]
    for array in (grey, sparks, np.minimum(grey, 1)):
        found = decode(encode(array * np.float32(white), "TIFF"))
        truth = np.clip(np.nan_to_num(array, nan=0), 0, 1) * 255
        assert np.abs(found[:, :, 0] - truth).max() <= 0.51 and found.shape == (64, 100, 3)
    with np.errstate(all="raise"):
        assert decode(encode(np.full((3, 3), np.nan, np.float32), "TIFF")).max() == 0


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_formats_of_extras(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra they are read, and without it their rows say which extra reads them."""
    from PIL import features

    formats.require(kind.lower())
    data = encode(PHOTO, kind, **({"lossless": True} if kind == "JXL" else {"quality": 95}))
    header = probe(data)
    assert (header.format, header.width, header.height) == (kind.lower(), 96, 64)
    assert np.abs(decode(data).astype(int) - PHOTO).mean() < 8
    with pytest.raises(RowError, match="too many pixels"):
        decode(data, max_pixels=100)
    with pytest.raises(RowError, match="damaged image"):
        decode(data[: len(data) // 2])
    monkeypatch.setitem(sys.modules, {"HEIF": "pillow_heif", "JXL": "pillow_jxl", "AVIF": "pillow_avif"}[kind], None)
    monkeypatch.setattr(features, "check", lambda name: False)
    formats._teach.cache_clear()
    name, extra = {"HEIF": ("HEIC", "heif"), "JXL": ("JPEG XL", "jxl"), "AVIF": ("AVIF", "avif")}[kind]
    for look in (probe, decode):
        with pytest.raises(RowError) as caught:
            look(data)
        assert (caught.value.reason, caught.value.value) == (
            "unsupported format",
            f"{name}: pip install edittools[{extra}]",
        )
    formats._teach.cache_clear()


def test_the_size_of_a_jpeg_xl_is_read_without_decoding_it() -> None:
    from edittools.stream import jxl

    formats.require("jxl")
    for height, width in ((64, 96), (8, 8), (9, 16), (100, 120), (300, 7), (1, 1), (640, 1280), (513, 513)):
        data = encode(np.zeros((height, width, 3), np.uint8), "JXL")
        assert jxl.size(data) == (width, height)
        boxed = encode(np.zeros((height, width, 3), np.uint8), "JXL", use_container=True)
        assert boxed[4:8] == b"JXL " and jxl.size(boxed) == (width, height)


def test_an_orientation_that_the_decoder_applied_is_not_applied_again() -> None:
    formats.require("heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(PHOTO, "HEIF", exif=exif.tobytes(), quality=95)
    assert (probe(data).width, probe(data).height) == (64, 96)
    assert np.abs(decode(data).astype(int) - np.rot90(PHOTO, -1)).mean() < 8


def test_what_is_not_read_is_named(edit: Runner, tmp_path: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    named = {
        "a.jp2": (encode(PHOTO, "JPEG2000"), "unsupported format", "JPEG 2000"),
        "b.psd": (b"8BPS\0\1" + bytes(99), "unsupported format", "PSD"),
        "c.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "unsupported format", "CR3"),
        "d.exr": (b"v/1\x01" + bytes(99), "unsupported format", "OpenEXR"),
        "e.svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>" * 2, "not an image", "XML"),
        "f.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(99), "not an image", "MP4 video"),
        "g.pdf": (b"%PDF-1.7" + bytes(99), "not an image", "PDF"),
        "h.jpg": (b"<!DOCTYPE html><html>404</html>" * 5, "not an image", "HTML"),
        "i.png": (b"\1\2\3" * 99, "not an image", None),
    }
    for name, (data, _, _) in named.items():
        (folder / name).write_bytes(data)
    (folder / "good.png").write_bytes(encode(PHOTO, "PNG"))
    edit("shard", folder, "--max-errors", "100%", "-o", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 1
    found = {reject["path"]: (reject["reason"], reject["value"]) for reject in rejects_of(tmp_path / "out")}
    assert found == {name: (reason, value) for name, (_, reason, value) in named.items()}


def test_any_exception_of_a_decoder_costs_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # what a decoder written in Rust raises
        pass

    data = encode(PHOTO, "WEBP")
    for error in (KeyError(6), MemoryError(), RecursionError("deep"), SystemError("null"), PanicException("at 3:4")):

        def load(self: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", load)
        with pytest.raises(RowError, match="damaged image"):
            codec.decode(data)
    for signal in (KeyboardInterrupt(), SystemExit()):

        def stop(self: Any, error: BaseException = signal) -> None:
            raise error

        monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", stop)
        with pytest.raises(type(signal)):
            codec.decode(data)
