"""Images as a VLM is sent them: how they are encoded, scaled, cut out, mirrored."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edittools.errors import RowError, describe
from edittools.settings import MAX_PIXELS
from edittools.vlm import EncodedImage

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Encoding:
    """How our own rubrics send an image: upright, RGB, its longest side at most `max_side` (None: as it is).

    `original` sends the stored bytes of a JPEG or PNG that is all this already, without what does not decide pixels
    (places and times of EXIF), a WebP as PNG, for not every server reads it, and a JPEG of any other: no second loss,
    and no work (about 1 ms against 20 to decode and encode a megapixel), but only headers and ends are checked.
    """

    kind: str = "jpeg"  # or png, original
    quality: int = 90
    max_side: int | None = 1024
    max_pixels: int = MAX_PIXELS

    def __str__(self) -> str:
        size = "full size" if self.max_side is None else f"longest side at most {self.max_side}"
        jpeg = f"jpeg, quality {self.quality}, {size}"
        return {"jpeg": jpeg, "original": f"original bytes where they fit, else {jpeg}"}.get(self.kind, f"png, {size}")

    def image(self, data: bytes) -> EncodedImage:
        from PIL import Image

        from edittools.stream import codec

        header = codec.probe(data, self.max_pixels)
        raster, longest = codec.FULL, max(header.width, header.height)
        fits = self.max_side is None or longest <= self.max_side
        whole = self.kind == "original" and fits and header.plain
        if whole and (bare := _bare(bytes(data), header.format)) is not None:
            return EncodedImage(bare, f"image/{header.format}")
        if self.max_side is not None and not fits:
            short = min(header.width, header.height) * self.max_side // longest
            raster = codec.Raster(short_side=max(1, short))
        shown = Image.fromarray(codec.decode(data, raster, self.max_pixels))
        if self.max_side is not None:
            shown.thumbnail((self.max_side, self.max_side))  # only a strip one pixel high is still too long
        lossless = self.kind == "png" or (whole and header.format == "webp")
        return saved(shown, "PNG") if lossless else saved(shown, "JPEG", quality=self.quality)

    def part(
        self, data: bytes, box: tuple[float, float, float, float] | None, *, mirrored: bool = False
    ) -> EncodedImage:
        """A part of an image, or its mirror image. `box` is x0, y0, x1, y1 in shares of width and height."""
        from PIL import Image, ImageOps

        from edittools.stream import codec

        whole = Image.fromarray(codec.decode(data, codec.FULL, self.max_pixels))
        if box is not None:
            x0, y0, x1, y1 = (round(share * size) for share, size in zip(box, (whole.width, whole.height) * 2))
            whole = whole.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
        if mirrored:
            whole = ImageOps.mirror(whole)
        if self.max_side is not None:
            whole.thumbnail((self.max_side, self.max_side))
        return saved(whole, "PNG") if self.kind == "png" else saved(whole, "JPEG", quality=self.quality)


def _bare(data: bytes, kind: str) -> bytes | None:
    """A JPEG or PNG with nothing but what decides its pixels; None of another, and where its end is missing."""
    from edittools.stream import jpeg, png

    if kind == "jpeg" and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) >= 0:
        return jpeg.mended(data)
    if kind == "png":
        chunks = png.read(data)
        if chunks.ended and chunks.depth <= 8:
            return b"".join([data[:8], *(data[start:stop] for start, stop in chunks.needed)])
    return None


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """The image as Pillow opens it, to be decoded inside. Raises RowError for what cannot be read."""
    from PIL import Image

    from edittools.stream import codec

    codec.probe(data)
    try:
        yield Image.open(io.BytesIO(data))
    except Exception as error:  # whatever a decoder meets in damaged bytes
        raise RowError("damaged image", describe(error)) from None


def open_image(data: bytes) -> Image.Image:
    with opened(data) as image:
        image.load()
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Without a copy of what is RGB already: many threads would wait for each other after it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def saved(image: Image.Image, kind: str, mime: str | None = None, **options: Any) -> EncodedImage:
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (OSError, ValueError) as error:  # a mode that the format does not have, facts that do not fit it
        raise RowError("picture cannot be encoded", describe(error)) from None
    return EncodedImage(buffer.getvalue(), mime or f"image/{kind.lower()}")


def raw_image(data: bytes, mime: str) -> EncodedImage:
    from edittools.stream import codec

    codec.probe(data)
    return EncodedImage(bytes(data), mime)
