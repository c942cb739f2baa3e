"""TIFF files of samples that Pillow does not read, or reads wrong: floating point, 32 bits, planes of 16,
white as zero, BigTIFF of the other order.

The strips or tiles are unpacked by libtiff through Pillow, as bytes of a grey image that a directory of our own
describes; samples are made of them here. (TIFF 6.0, sections 8, 14, 15, 19; Adobe Photoshop TIFF Technical Note 3
for floating point.)
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from edittools.errors import RowError
from edittools.stream import ifd, orientation
from edittools.stream.header import Header

Buffer = bytes | memoryview

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_TAGS = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR}
_TAGS |= {_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED, ASSOCIATED = 1, 1  # ASSOCIATED: alpha that colours are multiplied by
_KINDS = {_UNSIGNED: "u", 2: "i", 3: "f"}  # numpy's, by tag 339
_OF_IMAGES = {2, 3, 4, 6, 7, 34661, 34712}  # compressions of what is no bytes of samples: fax, JPEG and others
_MOST_SAMPLES = 8  # of a pixel
_SUBFILE, _SUB_DIRECTORIES, _DNG = 254, 330, 50706
_PROFILE, _XMP = 34675, 700


@dataclass(frozen=True)
class TiffLayout:
    """Where the samples of a file lie. Sizes in pixels, as stored."""

    tags: dict[int, tuple[Any, ...]]
    width: int
    height: int
    samples: int
    kind: np.dtype
    order: str  # of bytes: `<` or `>`

    def tag(self, name: int, default: int) -> int:
        return int((self.tags.get(name) or (default,))[0])

    @property
    def inverted(self) -> bool:
        return self.tag(_PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO

    @property
    def planar(self) -> bool:
        """Whether the samples of one channel lie together."""
        return self.tag(_PLANAR, 1) == 2

    @property
    def channels(self) -> int:
        """Those of colour: 1 or 3."""
        return 3 if self.tag(_PHOTOMETRIC, 1) == _RGB else 1

    @property
    def alpha(self) -> int:
        """0 without transparency, else what tag 338 says: 1 associated, 2 not."""
        extra = self.tag(_EXTRA, 0)
        return extra if self.samples > self.channels and extra in (1, 2) else 0


def read(data: Buffer) -> TiffLayout | None:
    """The layout of an image that is read here; None for one that Pillow reads, or that nobody does."""
    tags = {name: values for name, values in ifd.read(data, _TAGS).items() if values}
    order = ifd.order(data)
    kinds, sizes = set(tags.get(_FORMAT, (_UNSIGNED,))), set(tags.get(_BITS, (1,)))
    if order is None or not tags.keys() >= {_WIDTH, _HEIGHT} or len(kinds) != 1 or len(sizes) != 1:
        return None
    kind, size = _KINDS.get(*kinds), *sizes
    if kind is None or size not in ((16, 32, 64) if kind == "f" else (8, 16, 32)):
        return None
    samples = tags.get(_SAMPLES, (1,))[0]
    dtype = np.dtype(f"{order}{kind}{size // 8}")
    layout = TiffLayout(tags, tags[_WIDTH][0], tags[_HEIGHT][0], samples, dtype, order)
    known = layout.tag(_PHOTOMETRIC, 1) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    known &= layout.channels <= samples <= _MOST_SAMPLES and layout.tag(_COMPRESSION, 1) not in _OF_IMAGES
    profiled = bool(ifd.read(data, (_PROFILE,)))
    return layout if known and not _by_pillow(layout, ifd.is_big(data), profiled) else None


def _by_pillow(layout: TiffLayout, big: bool, profiled: bool) -> bool:
    """Whether Pillow reads it right: of RGB of 16 bits the high bytes, which do where no profile has to be applied."""
    if big and layout.order == ">":
        return False
    if layout.kind.itemsize == 1:
        return layout.kind.kind == "u"
    if layout.inverted or layout.kind.kind != "u" or layout.kind.itemsize != 2:
        return False
    if layout.samples == 1:
        return True
    return layout.samples in (3, 4) and layout.channels == 3 and not layout.planar and not profiled


def raw(data: Buffer) -> str | None:
    """The name of a camera's own format, whose first image is a preview; None for TIFF."""
    if data[8:10] == b"CR":
        return "CR2"
    tags = ifd.read(data, (_SUBFILE, _SUB_DIRECTORIES, _DNG))
    if tags.get(_DNG):
        return "DNG"
    reduced = bool(tags.get(_SUBFILE) and tags[_SUBFILE][0] == 1)
    return "a camera's raw format" if reduced and tags.get(_SUB_DIRECTORIES) else None


def described(data: Buffer) -> str | None:
    """What a file says that its samples are, for an error; None where its directory is damaged."""
    tags = ifd.read(data, (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES))
    if not all(tags.get(name) for name in (_WIDTH, _HEIGHT, _PHOTOMETRIC)):
        return None
    bits = "+".join(map(str, tags.get(_BITS, (1,))[:8]))
    compression = (tags.get(_COMPRESSION) or (1,))[0]
    return f"TIFF of {bits} bits, photometric interpretation {tags[_PHOTOMETRIC][0]}, compression {compression}"


def header(data: Buffer, layout: TiffLayout) -> Header:
    """Layout of the file's first image."""
    others = {name: bytes(_bytes(values)) for name, values in ifd.read(data, (_XMP, _PROFILE)).items()}
    turned = orientation.of_exif(bytes(data)) or orientation.of_xmp(others.get(_XMP, b"")) or 1
    mode = "F" if layout.kind.kind == "f" else "I"
    profile = others.get(_PROFILE) or None
    return Header.of_stored("tiff", layout.width, layout.height, mode, turned, profile, ifd.count(data))


def _bytes(values: tuple[Any, ...]) -> bytes:
    return values[0] if values and isinstance(values[0], bytes) else bytes(v & 255 for v in values)


def decode(data: Buffer, layout: TiffLayout) -> np.ndarray:
    """The samples, HxWxC in their own type and the machine's order. Raises RowError and what Pillow raises."""
    planes = layout.samples if layout.planar else 1
    tiled = _TILE_OFFSETS in layout.tags
    offsets = layout.tags.get(_TILE_OFFSETS if tiled else _OFFSETS, ())
    counts = layout.tags.get(_TILE_COUNTS if tiled else _COUNTS, ())
    if not offsets or len(offsets) != len(counts) or len(offsets) % planes:
        raise RowError("damaged image", "places and lengths of the pixels do not match")
    if any(offset + count > len(data) for offset, count in zip(offsets, counts)):
        raise RowError("damaged image", "pixels are missing")
    each = len(offsets) // planes
    made = [
        _plane(data, layout, layout.samples // planes, offsets[k : k + each], counts[k : k + each])
        for k in range(0, len(offsets), each)
    ]
    return np.concatenate(made, axis=2)


def _plane(
    data: Buffer, layout: TiffLayout, samples: int, offsets: tuple[int, ...], counts: tuple[int, ...]
) -> np.ndarray:
    """One plane of pixels of this many samples, HxWxC."""
    from PIL import Image

    wide = samples * layout.kind.itemsize  # bytes of a pixel
    height = layout.height
    tags: dict[int, tuple[int, ...]] = {_WIDTH: (layout.width * wide,), _HEIGHT: (height,)}
    tags |= {_BITS: (8,), _SAMPLES: (1,), _PHOTOMETRIC: (_BLACK_IS_ZERO,)}
    tags |= {_COMPRESSION: (layout.tag(_COMPRESSION, 1),), _FILL: (layout.tag(_FILL, 1),)}
    block = layout.width
    if _TILE_OFFSETS in layout.tags:
        block = layout.tag(_TILE_WIDTH, layout.width)
        if not 0 < block < 2 * layout.width + 4096:
            raise RowError("damaged image", f"tiles {block} pixels wide")
        tags |= {_TILE_WIDTH: (block * wide,), _TILE_HEIGHT: (layout.tag(_TILE_HEIGHT, height),)}
        tags |= {_TILE_OFFSETS: offsets, _TILE_COUNTS: counts}
        tags[_WIDTH] = (-(-layout.width // block) * block * wide,)  # whole tiles, to undo what was predicted in each
    else:
        tags |= {_ROWS: (min(layout.tag(_ROWS, height), height),), _OFFSETS: offsets, _COUNTS: counts}
    if layout.tag(_COMPRESSION, 1) == 1 and sum(counts) < layout.width * wide * height:
        raise RowError("damaged image", "pixels are missing")
    with Image.open(io.BytesIO(_described(data, tags))) as image:
        rows = np.asarray(image).reshape(height, -1, block * wide)
    return _unpredicted(rows, layout, samples).reshape(height, -1, samples)[:, : layout.width]


def _described(data: Buffer, tags: dict[int, tuple[int, ...]]) -> bytes:
    """The file with a directory of these tags (of 32 bits) at its end, in its order of bytes."""
    order = ifd.order(data) or "<"
    at = len(data) + (len(data) & 1)
    entries, values = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for name, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        place = packed if len(numbers) == 1 else struct.pack(f"{order}I", behind + len(values))
        values += packed if len(numbers) > 1 else b""
        entries += struct.pack(f"{order}HHI", name, 4, len(numbers)) + place
    head = bytes(data[:2]) + struct.pack(f"{order}HI", 42, at)
    table = struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values
    return b"".join([head, data[8:], bytes(at - len(data)), table])


def _unpredicted(rows: np.ndarray, layout: TiffLayout, samples: int) -> np.ndarray:
    """Bytes of rows (HxBxN, B blocks side by side) as samples, with the differences of tag 317 added up."""
    height, blocks, size = rows.shape
    item = layout.kind.itemsize
    predictor = layout.tag(_PREDICTOR, 1)
    if predictor == 3:  # planes of bytes, the most significant first, differences of bytes
        summed = np.cumsum(rows.reshape(height, blocks, -1, samples), axis=2, dtype=np.uint8)
        planes = summed.reshape(height, blocks, item, size // item)
        return np.ascontiguousarray(np.moveaxis(planes, 2, 3)).view(f">f{item}").astype(f"=f{item}")
    found = np.ascontiguousarray(rows).view(layout.kind).astype(layout.kind.newbyteorder("="))
    if predictor == 2:
        whole = found.view(f"=u{item}").reshape(height, blocks, -1, samples)
        found = np.cumsum(whole, axis=2, dtype=whole.dtype).view(found.dtype)
    return found
