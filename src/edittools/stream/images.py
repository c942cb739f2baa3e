"""From encoded bytes to pixels: what a file is, how large it is, and a raster of it in sRGB.

What happens to unusual input, in every command:

| input | what happens |
|---|---|
| orientation (EXIF, XMP, wherever the format keeps it) | applied; width and height are those of the picture as shown |
| ICC profile | converted to sRGB, relative colorimetric; without one, or a damaged one, pixels are sRGB already |
| CMYK, palette, grey, Lab | converted to RGB |
| 16 bits a channel | scaled to 8 (Pillow alone would clip it to white) |
| floating point | 0 is black; white is the least of 1, 255, 65535 that 99% of the pixels do not exceed 16-fold |
| transparency | laid over white |
| animation | the first frame; `frames` says how many there are |
| odd, but decodable (markers, chunks, sampling) | decoded: only damage to pixels is damage |
| truncated, bit rot that the decoder notices | the row is rejected: `damaged image` |
| empty file | the row is rejected: `empty file` |
| wrong extension | ignored: the first bytes decide |
| HEIC, JPEG XL | read with the extras `heif` and `jxl` (`avif`, where Pillow has none of its own) |
| a format that is not read | the row is rejected: `unsupported format`, with its name, and the extra that reads it |
| not an image | the row is rejected: `not an image` |
| more pixels than `--max-pixels` | the row is rejected before anything is decoded: `too many pixels` |

A Raster is the fixed size and colour a metric is computed on. JPEG files are decoded at the nearest scale that
libjpeg offers at or above it (the whole entropy-coded stream is still read, so damage is still noticed).
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edittools.errors import RowError
from edittools.stream import box, colour, jpeg, jxl, orientation, png
from edittools.stream.formats import Buffer, extension, require, sniff, unknown

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FULL", "HEAD_BYTES", "MAX_PIXELS", "VERSION", "Buffer", "Header", "Raster"]
__all__ += ["decode", "encode_png", "extension", "probe", "sniff"]

VERSION = 2  # of all that is made of pixels, changed when the same file gives other ones: 2 are those of its profile
MAX_PIXELS = 200_000_000
HEAD_BYTES = 1 << 16  # in which a JPEG file's header is expected to end
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_SWAPS_SIDES = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_SEVERAL = ("gif", "webp", "tiff", "avif", "heif")  # frames
_WHITES = (1, 255, 65535)  # of floating point


@dataclass(frozen=True)
class Header:
    """What the header of an image says. Width and height in pixels, as shown."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's
    orientation: int = 1  # 1 to 8: what is left to apply
    frames: int = 1
    profile: bytes | None = field(default=None, repr=False)  # ICC

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def plain(self) -> bool:
        """Whether a program that knows of nothing but pixels shows it right: RGB or grey, upright, sRGB, one frame."""
        upright = self.orientation == 1 and self.frames == 1 and self.mode in ("RGB", "L")
        return upright and colour.conversion(self.profile, self.mode) is None


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


@contextlib.contextmanager
def _one_row() -> Iterator[None]:
    """Whatever decoders raise inside is a RowError: they meet hostile bytes, and each costs its own row only."""
    try:
        yield
    except RowError:
        raise
    except MemoryError:
        raise RowError("damaged image", "out of memory") from None
    except BaseException as error:
        # A decoder in Rust panics with a BaseException. Signals are none of a decoder's.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RowError("damaged image", _first_line(error)) from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _sniffed(data: Buffer) -> str:
    """The format of a file that is one. Raises RowError."""
    if not len(data):
        raise RowError("empty file")
    kind = sniff(data)
    if kind is None:
        raise unknown(data)
    return kind


def _open(data: Buffer, kind: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The file as Pillow opens it: the header only."""
    require(kind)
    if kind == "jxl":  # its reader decodes when it is opened
        _check_size(*jxl.size(data), max_pixels)
    try:
        return _pillow().open(io.BytesIO(data))
    except _pillow().UnidentifiedImageError:
        raise RowError("damaged image", "the header cannot be read") from None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise RowError("damaged image", "no pixels")
    if width * height > max_pixels:
        raise RowError("too many pixels", width * height)


def _orientation(picture: Image.Image, kind: str) -> int:
    """The orientation that the size of a picture as opened does not show yet."""
    of_stream = kind == "heif" or (kind == "jxl" and not getattr(picture, "jpeg", False))  # EXIF is not asked there
    if of_stream or (kind == "tiff" and _ORIENTATION in getattr(picture, "tag_v2", ())):
        return 1
    info = picture.info
    found = orientation.of_exif(info["exif"]) if info.get("exif") else None
    for packet in (info.get("XML:com.adobe.xmp"), info.get("xmp")):
        if found is None and packet:
            found = orientation.of_xmp(packet if isinstance(packet, bytes) else str(packet).encode("utf-8", "replace"))
    return found or 1


def _header(picture: Image.Image, kind: str) -> Header:
    frames = 1
    if kind in _SEVERAL:
        with contextlib.suppress(Exception):
            frames = int(getattr(picture, "n_frames", 1))
    turned = _orientation(picture, kind)
    header = _shown(kind, *picture.size, picture.mode, turned, frames, picture.info.get("icc_profile"))
    return replace(header, orientation=1) if kind == "tiff" else header  # Pillow turns it when it loads it


def _shown(kind: str, width: int, height: int, mode: str, turned: int, frames: int, profile: bytes | None) -> Header:
    """The header of a picture of this size as stored."""
    if turned in _SWAPS_SIDES:
        width, height = height, width
    return Header(kind, width, height, mode, turned, frames, profile)


def probe(data: Buffer, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header only. Raises RowError for what is not an image, is damaged, or is too large."""
    kind = _sniffed(data)
    with _one_row():
        header = None
        if kind == "png":
            found = png.read(data)
            header = _shown(kind, found.width, found.height, found.mode, found.orientation, found.frames, found.profile)
        elif kind == "jpeg" and (head := jpeg.read(data)) is not None:
            header = _shown(kind, head.width, head.height, head.mode, head.orientation, 1, head.profile)
        if header is None:
            with _open(data, kind, max_pixels) as picture:
                header = _header(picture, kind)
        _check_size(header.width, header.height, max_pixels)
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
    """The picture in sRGB as uint8, HxWx3, or its luma as HxW for a gray raster. Raises RowError (see the module)."""
    _keep_memory()
    kind = _sniffed(data)
    with _one_row():
        if kind == "jpeg" and (header := jpeg.read(data)) is not None:
            _check_size(header.width, header.height, max_pixels)
            with contextlib.suppress(jpeg.Declined):
                return _decode_jpeg(data, header, raster)
        if kind == "png":
            found = png.read(data)
            _check_size(found.width, found.height, max_pixels)
            with _open(png.pixels(data, found), kind) as picture:
                return _pixels(picture, raster, found.orientation, found.profile)
        with _open(data, kind, max_pixels) as picture:
            facts = _header(picture, kind)
            _check_size(facts.width, facts.height, max_pixels)
            return _pixels(picture, raster, facts.orientation, facts.profile)


def _pixels(picture: Image.Image, raster: Raster, turned: int, profile: bytes | None) -> np.ndarray:
    """The raster of a picture that Pillow decodes."""
    picture.load()
    # Orientation is applied by number: Pillow's own function would parse the EXIF once more.
    flat = _orient(_flatten(picture, profile), turned)
    size = _raster_size(flat.width, flat.height, raster)
    return np.asarray(_resize(flat.convert("L") if raster.gray else flat, size))


def _decode_jpeg(data: Buffer, header: jpeg.Header, raster: Raster) -> np.ndarray:
    """Decode with libjpeg's scaling. Raises jpeg.Declined for what this decoder does not read."""
    width, height = header.width, header.height
    change = colour.conversion(header.profile, header.mode)
    as_it_is = change is None and header.mode != "CMYK"
    # The size comes from the whole picture: that of a scaled one is rounded, and would give another aspect ratio.
    size = _raster_size(width, height, raster)
    if raster.cover is not None:
        tall, wide = raster.cover if header.orientation not in _SWAPS_SIDES else raster.cover[::-1]
        part = next((n for n in (8, 4, 2) if -(-width // n) >= wide and -(-height // n) >= tall), 1)
        size = -(-width // part), -(-height // part)
    # For a square, twice as many pixels as asked for, so that every pixel of the raster is an average.
    enough = 2 if raster.square is not None else 1
    resized = as_it_is and raster.short_side is not None and not raster.gray and header.orientation == 1
    if as_it_is:  # a gray raster of a JPEG is its luma plane, which is Rec. 601 luma by definition
        kind = "Gray" if raster.gray else "RGBX" if resized else "RGB"
    else:
        kind = {"L": "Gray"}.get(header.mode, header.mode)
    pixels = jpeg.decode(data, kind, min(width, enough * size[0]), min(height, enough * size[1]))
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if as_it_is and header.orientation == 1 and (raster == FULL or raster.cover is not None):
        return pixels
    if resized:
        if box.fits(pixels, *size):
            return box.shrink(pixels, *size)
        pixels = pixels[:, :, :3]
    if raster.cover is not None or raster == FULL:
        size = pixels.shape[1], pixels.shape[0]
    if header.orientation in _SWAPS_SIDES:
        size = size[1], size[0]
    # Adobe's CMYK, which is all there is in JPEG files, says how much of the ink is not there.
    picture = _pillow().fromarray(pixels) if kind != "CMYK" else _cmyk(pixels)
    picture = _resize(_orient(picture, header.orientation), size)
    if not as_it_is:
        picture = colour.convert(picture, change) if change is not None else picture.convert("RGB")
        picture = picture.convert("L") if raster.gray else picture
    return np.asarray(picture)


def _cmyk(inverted: np.ndarray) -> Image.Image:
    height, width = inverted.shape[:2]
    return _pillow().frombuffer("CMYK", (width, height), inverted, "raw", "CMYK;I", 0, 1)


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


def _flatten(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Any mode as sRGB, scaled to 8 bits, and transparency laid over white."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        picture = _pillow().fromarray(_eight_bits(np.asarray(picture), picture.mode))
    if picture.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in picture.info:
        return colour.to_rgb(picture, profile)
    rgba = picture.convert("RGBA")
    shown = colour.to_rgb(rgba.getchannel("R") if picture.mode in ("LA", "La") else rgba.convert("RGB"), profile)
    shown.putalpha(rgba.getchannel("A"))
    white = _pillow().new("RGBA", rgba.size, (255, 255, 255, 255))
    return _pillow().alpha_composite(white, shown).convert("RGB")


def _eight_bits(array: np.ndarray, mode: str) -> np.ndarray:
    """Whole numbers up to 65535, or floating point, as 0 to 255, rounded.

    Floating point has no fixed white. It is the least of 1, 255 and 65535 that 99 of 100 pixels do not exceed
    16-fold: highlights of a picture whose white is 1 do not reach that, and one whose white is 255 is not that dark.
    """
    if mode == "F":
        known = np.nan_to_num(array, nan=0.0)
        most = float(np.percentile(known, 99)) / 16 if known.size else 0.0
        white = next((white for white in _WHITES if most <= white), _WHITES[-1])
        return np.rint(np.clip(known / np.float32(white), 0, 1) * 255).astype(np.uint8)
    if mode == "I" and not (array.size and array.max() > 255):
        return np.clip(array, 0, 255).astype(np.uint8)
    # Mode I holds 16-bit files too.
    return ((np.clip(array, 0, 65535).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


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
    """Lossless bytes, marked as sRGB, for an array HxWx3 or HxW, uint8. Equal pixels give equal bytes."""
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sRGB", b"\0")  # rendering intent: perceptual
    buffer = io.BytesIO()
    _pillow().fromarray(pixels).save(buffer, "PNG", compress_level=6, optimize=False, pnginfo=chunks)
    return buffer.getvalue()
