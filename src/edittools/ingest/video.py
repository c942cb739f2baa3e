"""Videos, read by PyAV: their frames with times, upright."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from edittools.errors import EditError, RowError, describe, missing_extra
from edittools.stream import colour, files, spaces

# How containers begin: offset, bytes, what FFmpeg calls them. Lists of other files (m3u8, concat) are none of them, so
# that no video can name a file or an address to be opened.
_BEGINNINGS = (
    (4, b"ftyp", "mov"), (4, b"moov", "mov"), (4, b"mdat", "mov"), (4, b"wide", "mov"), (4, b"free", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"), (8, b"AVI ", "avi"), (0, b"OggS", "ogg"), (0, b"\0\0\1\xba", "mpeg"),
    (0, b"FLV", "flv"), (0, b"G", "mpegts"),
)  # fmt: skip
_UNSAID, _BT709, _HIGH = 2, 1, 720  # the matrix of what does not say, of so many lines: as players take it
_HDR = (16, 18)  # PQ and HLG (ITU-T H.273)
_PACKET = 188  # bytes of a transport stream's packets, each of which begins with G


def av() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("av", "video", "--frames") from None
    return av


class _Range(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, reader: files.RangeReader, offset: int, length: int) -> None:
        self.reader, self.offset, self.length, self.at = reader, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        self.at = max(0, base + offset)
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self.reader.read(self.offset + self.at, max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


@contextlib.contextmanager
def opened(reference: dict[str, Any], most_pixels: int) -> Iterator[Video]:
    """The video that a reference names. Raises RowError for what is none, or cannot be read."""
    if reference["bytes"] is not None:
        data = bytes(reference["bytes"])
        with _container(io.BytesIO(data), data[: 2 * _PACKET]) as container:
            yield Video(container, most_pixels)
        return
    path = reference["file"]
    if path is None or (reference["etag"] or "").startswith(files.NOTHING):
        raise RowError((reference["etag"] or "no video").removeprefix(files.NOTHING), path)
    try:
        reader = files.RangeReader(path)
    except FileNotFoundError:
        raise RowError("missing file", path) from None
    except OSError as error:
        raise RowError("cannot read", f"{path}: {error.strerror}") from None
    with contextlib.closing(reader):
        if reference["etag"] is not None and reader.etag() != reference["etag"]:
            raise RowError("file changed while it was read", path)
        part = _Range(reader, reference["offset"] or 0, reference["length"] or 0)
        head = reader.read(part.offset, min(part.length, 2 * _PACKET))
        with _container(io.BufferedReader(part, 1 << 18), head) as container:
            yield Video(container, most_pixels)


@contextlib.contextmanager
def _container(file: Any, head: bytes) -> Iterator[Any]:
    library = av()
    kind = next((name for at, begins, name in _BEGINNINGS if head[at : at + len(begins)] == begins), None)
    if kind is None or (kind == "mpegts" and head[_PACKET : _PACKET + 1] != b"G"):
        raise RowError("no video")
    try:
        with library.open(file, format=kind, metadata_errors="replace") as container:
            yield container
    except (EditError, RowError, MemoryError):
        raise
    except Exception as error:  # a damaged video makes a decoder and its bindings raise whatever they meet
        raise RowError("damaged video", describe(error)) from None


class Video:
    """The first stream of pictures. Frames are numbered as they are shown."""

    def __init__(self, container: Any, most_pixels: int) -> None:
        """Raises RowError where there is none, or one that is too large."""
        self.container, self.most_pixels = container, most_pixels
        if not container.streams.video:
            raise RowError("no pictures in the video")
        self.stream = container.streams.video[0]
        if self.stream.codec_context is None:
            raise RowError("a codec that cannot be read")
        width, height = self.stream.codec_context.width, self.stream.codec_context.height
        if width * height > most_pixels:
            raise RowError("image too large", f"{width}x{height}")

    def frames(self) -> Iterator[Any]:
        """Decoded frames that have a time. A video that ends too early, or is damaged farther on, ends there."""
        errors = av().error
        try:
            for frame in self.container.decode(self.stream):
                if frame.pts is not None and frame.time is not None:
                    if frame.width * frame.height > self.most_pixels:  # sizes may change on the way
                        raise RowError("image too large", f"{frame.width}x{frame.height}")
                    yield frame
        except errors.FFmpegError:
            return

    def at(self, times: Sequence[tuple[int, float]]) -> list[np.ndarray]:
        """The frames of these time stamps (with their seconds), in ascending order: uint8 HxWx3 each. Raises
        RowError where they do not come again."""
        first = int(times[0][1] / self.stream.time_base)
        for start in (first, 0):  # some containers cannot be searched: from the beginning, then
            with contextlib.suppress(av().error.FFmpegError):
                self.container.seek(start, stream=self.stream, backward=True)
            found: dict[int, np.ndarray] = {}
            wanted = {stamp for stamp, _ in times}
            for frame in self.frames():
                if frame.pts in wanted:
                    found[frame.pts] = self.pixels(frame)
                if len(found) == len(wanted) or frame.time > times[-1][1] + 1:
                    break
            if len(found) == len(wanted):
                return [found[stamp] for stamp, _ in times]
        raise RowError("frames of the video are not found again", times[0][1])

    def pixels(self, frame: Any) -> np.ndarray:
        """A frame as it is to be shown: in sRGB, pixels are square, and it is upright."""
        if frame.colorspace == _UNSAID and frame.height >= _HIGH:
            frame.colorspace = _BT709
        made = frame.to_ndarray(format="rgb24")
        if frame.color_trc in _HDR:  # what else there is differs little from sRGB, and players show it as it is
            profile = spaces.of_code_points(int(frame.color_primaries), int(frame.color_trc))
            made = np.asarray(colour.to_rgb(Image.fromarray(made), profile))
        aspect = self.stream.sample_aspect_ratio
        if aspect and aspect != 1 and Fraction(1, 3) < aspect < 3:
            size = max(1, round(made.shape[1] * aspect)), made.shape[0]
            made = np.asarray(Image.fromarray(made).resize(size, Image.Resampling.BICUBIC))
        return np.ascontiguousarray(np.rot90(made, round(frame.rotation / 90)))  # both turn against the clock
