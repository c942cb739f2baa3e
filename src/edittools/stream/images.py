"""From encoded bytes to pixels: what a file is, how large it is, and a raster of it.

What happens to unusual input, in every command:

| input | what happens |
|---|---|
| EXIF orientation | applied; width and height are those of the picture as shown |
| CMYK, palette, grey | converted to RGB |
| 16 bits a channel | scaled to 8 (Pillow alone would clip it to white) |
| transparency | laid over white |
| animation | the first frame; `frames` says how many there are |
| truncated, bit rot that the decoder notices | the row is rejected: `damaged image` |
| empty file | the row is rejected: `empty file` |
| wrong extension | ignored: the first bytes decide |
| not an image, or an unknown format | the row is rejected: `not an image` |
| more pixels than `--max-pixels` | the row is rejected before anything is decoded: `too many pixels` |

A Raster is the fixed size and colour a metric is computed on. JPEG files are decoded at the nearest scale that
libjpeg offers at or above it (the whole entropy-coded stream is still read, so damage is still noticed).
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edittools.errors import RowError
from edittools.stream import box

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_000_000
HEAD_BYTES = 1 << 16  # in which a JPEG file's header is expected to end
_SNIFF_BYTES = 64
# The container of AVIF and HEIF names its brand after the size and the word `ftyp`.
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heif", b"heix": "heif", b"mif1": "heif", b"msf1": "heif"}
EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}  # others are their own
_ORIENTATION = 0x0112
_START_OF_SCAN = 0xDA
_ALONE = (0x01, *range(0xD0, 0xDA), 0xFF)  # JPEG markers without a length, and filling
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_SWAPS_SIDES = (5, 6, 7, 8)

Buffer = bytes | memoryview


def sniff(data: Buffer) -> str | None:
    """The format by its first bytes: jpeg, png, gif, webp, bmp, tiff, avif, heif; None for anything else."""
    head = bytes(data[:_SNIFF_BYTES])
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
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    return None


@dataclass(frozen=True)
class Header:
    """What the header of an image says. Width and height in pixels, as shown."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's
    orientation: int = 1  # EXIF, 1 to 8
    frames: int = 1

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Raster:
    """A size and colour to decode to.

    `short_side` keeps the aspect ratio and never enlarges; `square` (side, side) does not keep it. `cover` (height,
    width) is any size that covers that much, or the picture's own: a JPEG comes at a half, a quarter or an eighth if
    that does (libjpeg has other scales, which cost more than the whole). With none the picture keeps its own size.
    `gray` is Rec. 601 luma.
    """

    short_side: int | None = None
    square: int | None = None
    cover: tuple[int, int] | None = None
    gray: bool = False


FULL = Raster()


@functools.cache
def _pillow() -> Any:
    """Pillow's `Image`, loaded with the first picture: most commands of a pipe never open one."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked first, from the header, and can be set
    # What Pillow remarks of a damaged picture. Once, here: around each call Python's filters are not safe in threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image


def _open(data: Buffer) -> Image.Image:
    if not len(data):
        raise RowError("empty file")
    if sniff(data) is None:
        raise RowError("not an image")
    try:
        return _pillow().open(io.BytesIO(data))
    except _pillow().UnidentifiedImageError:
        raise RowError("damaged image", "the header cannot be read") from None
    except Exception as error:  # Pillow's plug-ins raise whatever they meet in hostile bytes
        raise RowError("damaged image", _first_line(error)) from None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _may_have_exif(data: Buffer) -> bool:
    """Whether EXIF stands among a JPEG file's segments before its scan. Looking into the scan costs more than that."""
    head = bytes(data[:HEAD_BYTES])
    at = 2
    while len(segment := head[at : at + 4]) == 4 and segment[0] == 0xFF and segment[1] not in _ALONE:
        if segment[1] == _START_OF_SCAN:
            return b"Exif\0\0" in head[:at]
        at += 2 + (segment[2] << 8) + segment[3]
    return b"Exif\0\0" in head  # longer than that, or not in order


def _orientation(picture: Image.Image, data: Buffer) -> int:
    # Parsing EXIF costs more than the rest of the header, and most files have none.
    if picture.format == "JPEG" and not _may_have_exif(data):
        return 1
    if picture.format == "TIFF":
        return 1  # Pillow's reader applies it by itself, to the stated size too
    if picture.format == "PNG" and "exif" not in picture.info and b"eXIf" not in bytes(data[:4096]):
        return 1
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is common and says nothing about the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _header(picture: Image.Image, data: Buffer) -> Header:
    kind = sniff(data)
    assert kind is not None
    orientation = _orientation(picture, data)
    width, height = picture.size
    if orientation in _SWAPS_SIDES:
        width, height = height, width
    try:
        frames = int(getattr(picture, "n_frames", 1)) if kind in ("gif", "png", "webp", "tiff", "avif") else 1
    except Exception:
        frames = 1
    return Header(kind, width, height, picture.mode, orientation, frames)


def probe(data: Buffer, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header only. Raises RowError for what is not an image, is damaged, or is too large."""
    with _open(data) as picture:
        header = _header(picture, data)
    if header.width <= 0 or header.height <= 0:
        raise RowError("damaged image", "no pixels")
    if header.pixels > max_pixels:
        raise RowError("too many pixels", header.pixels)
    return header


@functools.cache
def _keep_memory() -> None:
    """Let glibc's allocator keep the memory of one picture for the next.

    It would give back whatever is free at the end of the heap after every picture, and take it again page by page:
    5% of the time of measuring small rasters.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def decode(data: Buffer, raster: Raster = FULL, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as uint8, HxWx3, or HxW for a gray raster. Raises RowError (see the module)."""
    _keep_memory()
    kind = sniff(data)
    if kind == "jpeg":
        array = _decode_jpeg(data, raster, max_pixels)
        if array is not None:
            return array
    with _open(data) as picture:
        header = _header(picture, data)
        if header.pixels > max_pixels:
            raise RowError("too many pixels", header.pixels)
        try:
            picture.load()
            # Orientation is applied by number: Pillow's own function would parse the EXIF once more.
            flat = _orient(_flatten(picture), header.orientation)
        except MemoryError:
            raise
        except Exception as error:
            raise RowError("damaged image", _first_line(error)) from None
        size = _raster_size(flat.width, flat.height, raster)
        return np.asarray(_resize(flat.convert("L") if raster.gray else flat, size))


def _decode_jpeg(data: Buffer, raster: Raster, max_pixels: int) -> np.ndarray | None:
    """Decode with libjpeg's scaling; None for what it cannot convert (CMYK)."""
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise RowError("damaged image", _first_line(error)) from None
    if colorspace not in ("Gray", "YCbCr", "RGB"):
        return None
    if width * height > max_pixels:
        raise RowError("too many pixels", width * height)
    orientation = 1
    if _may_have_exif(data):
        with _open(data) as picture:
            orientation = _orientation(picture, data)
    # The size comes from the whole picture: that of a scaled one is rounded, and would give another aspect ratio.
    size = _raster_size(width, height, raster)
    if raster.cover is not None:
        tall, wide = raster.cover if orientation not in _SWAPS_SIDES else raster.cover[::-1]
        part = next((n for n in (8, 4, 2) if -(-width // n) >= wide and -(-height // n) >= tall), 1)
        size = -(-width // part), -(-height // part)
    # For a square, twice as many pixels as asked for, so that every pixel of the raster is an average.
    enough = 2 if raster.square is not None else 1
    # A gray raster of a JPEG is its luma plane, which is Rec. 601 luma by definition.
    resized = raster.short_side is not None and not raster.gray and orientation == 1
    colour = "Gray" if raster.gray else "RGBX" if resized else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace=colour,
            fastdct=False,
            fastupsample=False,
            min_height=min(height, enough * size[1]),
            min_width=min(width, enough * size[0]),
            min_factor=1,
            strict=True,
        )
    except ValueError as error:
        raise RowError("damaged image", _first_line(error)) from None
    if raster.gray:
        pixels = pixels[:, :, 0]
    if orientation == 1 and (raster == FULL or raster.cover is not None):
        return pixels
    if resized:
        if box.fits(pixels, *size):
            return box.shrink(pixels, *size)
        pixels = pixels[:, :, :3]
    if raster.cover is not None:
        size = pixels.shape[1], pixels.shape[0]
    if orientation in _SWAPS_SIDES:
        size = size[1], size[0]
    return np.asarray(_resize(_orient(_pillow().fromarray(pixels), orientation), size))


_TRANSPOSE = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _orient(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_pillow().Transpose[_TRANSPOSE[orientation]]) if orientation in _TRANSPOSE else picture


def _flatten(picture: Image.Image) -> Image.Image:
    """Any mode as RGB, with 16 bits scaled and transparency laid over white."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        array = np.asarray(picture)
        if picture.mode == "F":
            array = np.clip(array, 0, 1) * 255 if array.size and array.max() <= 1 else np.clip(array, 0, 255)
        elif picture.mode.startswith("I;16") or (array.size and array.max() > 255):
            # 0..65535 to 0..255, rounded; mode I holds 16-bit files too.
            array = (np.clip(array, 0, 65535).astype(np.uint32) * 255 + 32767) // 65535
        return _pillow().fromarray(array.astype(np.uint8)).convert("RGB")
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if has_alpha:
        rgba = picture.convert("RGBA")
        white = _pillow().new("RGBA", rgba.size, (255, 255, 255, 255))
        return _pillow().alpha_composite(white, rgba).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _raster_size(width: int, height: int, raster: Raster) -> tuple[int, int]:
    """Width and height of a picture's raster."""
    if raster.square is not None:
        return raster.square, raster.square
    if raster.short_side is None or min(width, height) <= raster.short_side:
        return width, height
    scale = raster.short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To an exact size by averaging areas (Pillow's box filter)."""
    return picture if size == picture.size else picture.resize(size, _pillow().Resampling.BOX)


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless bytes for an array HxWx3 or HxW, uint8. Fixed settings: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    _pillow().fromarray(pixels).save(buffer, "PNG", compress_level=6, optimize=False)
    return buffer.getvalue()


def extension(kind: str) -> str:
    """The file name's ending for a format."""
    return EXTENSIONS.get(kind, kind)
