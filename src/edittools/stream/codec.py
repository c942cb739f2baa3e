"""From encoded bytes to pixels: what a file is, how large it is, and a raster of it in sRGB.

What happens to unusual input, in every command:

| input | what happens |
|---|---|
| orientation (EXIF, XMP, wherever the format keeps it) | applied; width and height are those of the image as shown |
| ICC profile | converted to sRGB, relative colorimetric; without one, or a damaged one, pixels are sRGB already |
| other statements of colour (PNG's cICP, gAMA, cHRM; `nclx` of AVIF, HEIC; Adobe RGB in EXIF) | converted alike |
| PQ, HLG | their reference white, 203 cd/m2, is white, and so is what is brighter |
| CMYK, palette, grey, Lab | converted to RGB |
| 16 bits a channel | converted to sRGB with all of them, then scaled to 8 (Pillow alone would clip it to white) |
| 32 bits a channel | scaled to 8: white is the least of 255, 65535, 2^32 - 1 that no pixel exceeds |
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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edittools.errors import RowError
from edittools.settings import MAX_PIXELS
from edittools.stream import bmff, box, colour, depth, jpeg, jxl, orientation, png, spaces, tiff
from edittools.stream.formats import Buffer, extension, require, sniff, unknown
from edittools.stream.header import Header

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FULL", "HEAD_BYTES", "MAX_PIXELS", "VERSION", "Buffer", "Header", "Raster"]
__all__ += ["decode", "encode_png", "extension", "probe", "sniff"]

VERSION = 3  # of all that is made of pixels, raised when the same file gives other ones: 3 honours profiles at 16 bits
HEAD_BYTES = 1 << 16  # in which a JPEG file's header is expected to end
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_ORIENTATION = 0x0112
_SEVERAL = ("gif", "webp", "tiff", "avif", "heif")  # frames


@dataclass(frozen=True)
class Raster:
    """A size and colour to decode to.

    `short_side` keeps the aspect ratio and never enlarges; `square` (side, side) does not keep it. `cover` (height,
    width) is any size that covers that much, or the image's own: a JPEG comes at a half, a quarter or an eighth if
    that does (libjpeg has other scales, which cost more than the whole). With none the image keeps its own size.
    `gray` is Rec. 601 luma.
    """

    short_side: int | None = None
    square: int | None = None
    cover: tuple[int, int] | None = None
    gray: bool = False


FULL = Raster()


@functools.cache
def _pillow() -> Any:
    """Pillow's `Image`, loaded with the first image: most commands of a pipe never open one."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked first, from the header, and can be set
    # What Pillow remarks of a damaged image. Once, here: around each call Python's filters are not safe in threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image


@contextlib.contextmanager
def _one_row(data: Buffer, kind: str) -> Iterator[None]:
    """Whatever decoders raise inside is a RowError: they meet hostile bytes, and each costs its own row only."""
    try:
        with _damage():
            yield
    except RowError as error:
        unusual = jpeg.unusual(data) if kind == "jpeg" and error.reason == "damaged image" else None
        raise (error if unusual is None else RowError("unsupported format", unusual)) from None


@contextlib.contextmanager
def _damage() -> Iterator[None]:
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
    if kind == "tiff" and (name := tiff.raw(data)) is not None:
        raise RowError("unsupported format", name)
    return kind


def _open(data: Buffer, kind: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The file as Pillow opens it: the header only."""
    require(kind)
    if kind == "jxl":  # its reader decodes when it is opened
        _check_sides(*jxl.size(data), max_pixels)
    try:
        opened: Image.Image = _pillow().open(io.BytesIO(data))
        return opened
    except _pillow().UnidentifiedImageError:
        if kind == "tiff" and (layout := tiff.described(data)) is not None:
            raise RowError("unsupported format", layout) from None
        raise RowError("damaged image", "the header cannot be read") from None


def _check_size(header: Header, max_pixels: int) -> None:
    _check_sides(header.width, header.height, max_pixels)


def _check_sides(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise RowError("damaged image", "no pixels")
    if width * height > max_pixels:
        raise RowError("too many pixels", width * height)


def _orientation(image: Image.Image, kind: str) -> int:
    """The orientation that the size of an image as opened does not show yet."""
    of_stream = kind == "heif" or (kind == "jxl" and not getattr(image, "jpeg", False))  # EXIF is not asked there
    if of_stream or (kind == "tiff" and _ORIENTATION in getattr(image, "tag_v2", ())):
        return 1
    info = image.info
    found = orientation.of_exif(info["exif"]) if info.get("exif") else None
    for packet in (info.get("XML:com.adobe.xmp"), info.get("xmp")):
        if found is None and packet:
            found = orientation.of_xmp(packet if isinstance(packet, bytes) else str(packet).encode("utf-8", "replace"))
    return found or 1


def _header(image: Image.Image, data: Buffer, kind: str) -> Header:
    frames = 1
    if kind in _SEVERAL:
        with contextlib.suppress(Exception):
            frames = int(getattr(image, "n_frames", 1))
    turned = _orientation(image, kind)
    header = Header.of_stored(kind, *image.size, image.mode, turned, _profile(image, data, kind), frames)
    return replace(header, orientation=1) if kind == "tiff" else header  # Pillow turns it when it loads it


def _profile(image: Image.Image, data: Buffer, kind: str) -> bytes | None:
    """The ICC profile of an image as opened, or one that is made of what its container says."""
    profile = image.info.get("icc_profile")
    if not profile and kind in ("avif", "heif"):
        points = bmff.code_points(data)
        return spaces.of_code_points(*points) if points is not None else None
    return profile or None


def probe(data: Buffer, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header only. Raises RowError for what is not an image, is damaged, or is too large."""
    kind = _sniffed(data)
    with _one_row(data, kind):
        header = None
        if kind == "png":
            header = png.read(data).header
        elif kind == "jpeg":
            header = jpeg.read(data)
        elif kind == "tiff" and (layout := tiff.read(data)) is not None:
            header = tiff.header(data, layout)
        if header is None:
            with _open(data, kind, max_pixels) as image:
                header = _header(image, data, kind)
        _check_size(header, max_pixels)
    return header


@functools.cache
def _keep_memory() -> None:
    """Let glibc's allocator keep the memory of one image for the next.

    It would give back whatever is free at the end of the heap after every image, and take it again page by page:
    5% of the time of measuring small rasters.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def decode(data: Buffer, raster: Raster = FULL, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image in sRGB as uint8, HxWx3, or its luma as HxW for a gray raster. Raises RowError (see the module)."""
    _keep_memory()
    kind = _sniffed(data)
    with _one_row(data, kind):
        if kind == "png":
            return _decode_png(data, raster, max_pixels)
        if kind == "tiff" and (layout := tiff.read(data)) is not None:
            header = tiff.header(data, layout)
            _check_size(header, max_pixels)
            image, profile = _of_samples(tiff.decode(data, layout), layout, header.profile)
            return _pixels(image, raster, replace(header, profile=profile))
        stated = jpeg.read(data) if kind == "jpeg" else None
        if stated is not None:
            _check_size(stated, max_pixels)
            with contextlib.suppress(jpeg.Declined):
                return _decode_jpeg(data, stated, raster)
        with _open(data, kind, max_pixels) as image:
            header = stated or _header(image, data, kind)
            _check_size(header, max_pixels)
            return _pixels(image, raster, header, _outside(image) if kind == "gif" else None)


def _outside(image: Image.Image) -> np.ndarray | None:
    """Which pixels of a GIF its first frame leaves free, bool HxW: no viewer shows a background's colour there."""
    tiles = getattr(image, "tile", None)
    box = tiles[0][1] if tiles else None
    if box is None or box == (0, 0, *image.size):
        return None
    free = np.ones(image.size[::-1], bool)
    free[box[1] : box[3], box[0] : box[2]] = False
    return free


def _decode_png(data: Buffer, raster: Raster, max_pixels: int) -> np.ndarray:
    chunks = png.read(data)
    _check_size(chunks.header, max_pixels)
    bare = png.pixels(data, chunks)
    with _open(bare, "png") as image:
        hidden = png.hidden(bare, image, chunks)
        deep = depth.conversion(chunks.header.profile, "RGB") if chunks.depth == 16 else None
        if deep is None or image.mode not in ("RGB", "RGBA"):
            return _pixels(image, raster, chunks.header, hidden)
        shown = _pillow().fromarray(deep(png.sixteen_bits(bare, image)[:, :, :3]))
        if image.mode == "RGBA":
            shown.putalpha(image.getchannel("A"))
        return _pixels(shown, raster, replace(chunks.header, profile=None), hidden)


def _pixels(image: Image.Image, raster: Raster, header: Header, hidden: np.ndarray | None = None) -> np.ndarray:
    """The raster of an image that Pillow decodes; `hidden` pixels are transparent."""
    image.load()
    flat = _flatten(image, header.profile)
    if hidden is not None:
        flat.paste((255, 255, 255), mask=_pillow().fromarray(hidden))
    # Orientation is applied by number: Pillow's own function would parse the EXIF once more.
    flat = _orient(flat, header.orientation)
    size = _raster_size(flat.width, flat.height, raster)
    return np.asarray(_resize(flat.convert("L") if raster.gray else flat, size))


def _decode_jpeg(data: Buffer, header: Header, raster: Raster) -> np.ndarray:
    """Decode with libjpeg's scaling. Raises jpeg.Declined for what this decoder does not read."""
    width, height = header.stored
    change = colour.conversion(header.profile, header.mode)
    as_it_is = change is None and header.mode != "CMYK"
    # The size comes from the whole image: that of a scaled one is rounded, and would give another aspect ratio.
    size = _raster_size(width, height, raster)
    if raster.cover is not None:
        tall, wide = raster.cover if not header.sideways else raster.cover[::-1]
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
    if header.sideways:
        size = size[1], size[0]
    # Adobe's CMYK, which is all there is in JPEG files, says how much of the ink is not there.
    image = _pillow().fromarray(pixels) if kind != "CMYK" else _cmyk(pixels)
    image = _resize(_orient(image, header.orientation), size)
    if not as_it_is:
        image = colour.convert(image, change) if change is not None else image.convert("RGB")
        image = image.convert("L") if raster.gray else image
    return np.asarray(image)


def _cmyk(inverted: np.ndarray) -> Image.Image:
    height, width = inverted.shape[:2]
    inks: Image.Image = _pillow().frombuffer("CMYK", (width, height), inverted, "raw", "CMYK;I", 0, 1)
    return inks


_TRANSPOSE = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _orient(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_pillow().Transpose[_TRANSPOSE[orientation]]) if orientation in _TRANSPOSE else image


def _flatten(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Any mode as sRGB, scaled to 8 bits, and transparency laid over white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        deep, stored = depth.conversion(profile, "L"), np.asarray(image)
        if deep is not None:
            shown: Image.Image = _pillow().fromarray(deep(depth.levels(stored, depth.TOP)))
            return shown
        image = _pillow().fromarray(depth.levels(stored))
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return colour.to_rgb(image, profile)
    rgba = image.convert("RGBA")
    shown = colour.to_rgb(rgba.getchannel("R") if image.mode in ("LA", "La") else rgba.convert("RGB"), profile)
    shown.putalpha(rgba.getchannel("A"))
    white = _pillow().new("RGBA", rgba.size, (255, 255, 255, 255))
    over_white: Image.Image = _pillow().alpha_composite(white, shown)
    return over_white.convert("RGB")


def _of_samples(array: np.ndarray, layout: tiff.TiffLayout, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """An image of 8 bits of samples HxWxC of any type, grey or RGB, with transparency or not; and the profile, if its
    colours are still those of it."""
    deep = depth.conversion(profile, "RGB" if layout.channels == 3 else "L") if array.dtype.itemsize > 1 else None
    if layout.alpha == tiff.ASSOCIATED:  # colours are not the profile's before that is undone
        deep = None
    top = 255 if deep is None else depth.TOP
    shown = depth.levels(array[:, :, : layout.channels], top)
    if layout.inverted:
        shown = top - shown
    if deep is not None:
        shown, profile = deep(shown), None
    image: Image.Image
    if not layout.alpha:
        image = _pillow().fromarray(shown if shown.shape[2] == 3 else shown[:, :, 0])
        return image, profile
    alpha = depth.levels(array[:, :, layout.channels : layout.channels + 1])
    both = np.concatenate([np.broadcast_to(shown, (*shown.shape[:2], 3)), alpha], axis=2)
    mode = "RGBa" if layout.alpha == tiff.ASSOCIATED else "RGBA"
    image = _pillow().frombytes(mode, both.shape[1::-1], both.tobytes())
    return image, profile


def _raster_size(width: int, height: int, raster: Raster) -> tuple[int, int]:
    """Width and height of an image's raster."""
    if raster.square is not None:
        return raster.square, raster.square
    if raster.short_side is None or min(width, height) <= raster.short_side:
        return width, height
    scale = raster.short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To an exact size by averaging areas (Pillow's box filter)."""
    return image if size == image.size else image.resize(size, _pillow().Resampling.BOX)


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless bytes, marked as sRGB, for an array HxWx3 or HxW, uint8. Equal pixels give equal bytes.

    At zlib's level 2: three times as fast on photographs as its usual 6, for files that are 2 to 3% larger.
    """
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sRGB", b"\0")  # rendering intent: perceptual
    buffer = io.BytesIO()
    _pillow().fromarray(pixels).save(buffer, "PNG", compress_level=2, optimize=False, pnginfo=chunks)
    return buffer.getvalue()
