"""What a file is, by its first bytes: formats that are read, some only with an extra, and the names of others."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from edittools.errors import RowError

Buffer = bytes | memoryview

SNIFF_BYTES = 64
EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}  # others are their own
# The containers of AVIF and HEIF name their brands behind the word `ftyp`: the first, then those they agree with.
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf"}
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"
# What Pillow needs for a format: the module that teaches it, the extra that installs it, the format's name.
_PLUGINS = {
    "avif": ("pillow_avif", "avif", "AVIF"),
    "heif": ("pillow_heif", "heif", "HEIC"),
    "jxl": ("pillow_jxl", "jxl", "JPEG XL"),
}
# Images that are not read, and what is often met in their place: the first bytes, where they stand, the name.
_OTHERS: tuple[tuple[bytes, int, str], ...] = (
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"),
    (b"8BPS", 0, "PSD"),
    (b"8BPB", 0, "PSB"),
    (b"II\xbc", 0, "JPEG XR"),
    (b"v/1\x01", 0, "OpenEXR"),
    (b"#?RADIANCE", 0, "Radiance HDR"),
    (b"FUJIFILMCCD-RAW", 0, "RAF"),
    (b"IIRO", 0, "ORF"),
    (b"IIRS", 0, "ORF"),
    (b"IIU\0", 0, "RW2"),
    (b"FOVb", 0, "X3F"),
    (b"ftypcrx ", 4, "CR3"),
    (b"qoif", 0, "QOI"),
    (b"DDS ", 0, "DDS"),
    (b"\0\0\1\0", 0, "ICO"),
    (b"icns", 0, "ICNS"),
    (b"gimp xcf", 0, "XCF"),
    (b"SIMPLE  =", 0, "FITS"),
    (b"\xd7\xcd\xc6\x9a", 0, "WMF"),
    (b"BPG\xfb", 0, "BPG"),
    (b"FLIF", 0, "FLIF"),
)
_NO_IMAGES: tuple[tuple[bytes, int, str], ...] = (
    (b"<svg", 0, "SVG"),
    (b"%PDF", 0, "PDF"),
    (b"%!PS", 0, "PostScript"),
    (b"<!doctype html", 0, "HTML"),
    (b"<html", 0, "HTML"),
    (b"<?xml", 0, "XML"),
    (b"ftyp", 4, "MP4 video"),
    (b"\x1a\x45\xdf\xa3", 0, "Matroska or WebM video"),
    (b"PK\3\4", 0, "ZIP archive: name it as the input, or unpack it"),
    (b"\x1f\x8b", 0, "gzip: name it as the input if it is a tar, or unpack it"),
    (b"version https://git-lfs", 0, "Git LFS pointer: `git lfs pull`"),
)


def sniff(data: Buffer) -> str | None:
    """The format by its first bytes: jpeg, png, gif, webp, bmp, tiff, avif, heif, jxl; None for anything else."""
    head = bytes(data[:SNIFF_BYTES])
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and len(head) >= 26:
        return "bmp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # with a plus: BigTIFF
        return "tiff"
    if head[:2] == b"\xff\x0a" or head[:12] == _JXL_BOX:
        return "jxl"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[k : k + 4] for k in range(16, min(int.from_bytes(head[:4]), len(head)), 4))]
        if _AVIF.intersection(brands):
            return "avif"
        return "heif" if _HEIF.intersection(brands) else None
    return None


def unknown(data: Buffer) -> RowError:
    """The error for what `sniff` does not know, with its name where it has one."""
    head = bytes(data[:SNIFF_BYTES])
    name = _named(head, _OTHERS)
    if name is not None:
        return RowError("unsupported format", name)
    return RowError("not an image", _named(head.removeprefix(b"\xef\xbb\xbf").lstrip().lower(), _LOWERED))


_LOWERED = tuple((start.lower(), at, name) for start, at, name in _NO_IMAGES)


def _named(head: bytes, table: tuple[tuple[bytes, int, str], ...]) -> str | None:
    return next((name for start, at, name in table if head[at : at + len(start)] == start), None)


@functools.cache
def _teach(kind: str) -> None:
    """Teach Pillow a format that it does not read by itself. Raises ImportError where the extra is not installed."""
    module, _, _ = _PLUGINS[kind]
    if kind == "avif":
        from PIL import features

        if features.check("avif"):
            return
    plugin: Any = importlib.import_module(module)
    if kind == "heif":
        plugin.register_heif_opener()


def require(kind: str) -> None:
    """Raises RowError where a format needs an extra that is not installed; the error names it."""
    if kind in _PLUGINS:
        _, extra, name = _PLUGINS[kind]
        try:
            _teach(kind)
        except ImportError:
            raise RowError("unsupported format", f"{name}: pip install edittools[{extra}]") from None


def extension(kind: str) -> str:
    """The file name's ending for a format."""
    return EXTENSIONS.get(kind, kind)
