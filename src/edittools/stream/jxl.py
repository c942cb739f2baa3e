"""The size that a JPEG XL file states, without decoding it (ISO/IEC 18181-1, annex D.2; boxes: 18181-2)."""

from __future__ import annotations

from edittools.errors import RowError

Buffer = bytes | memoryview

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_BITS = (9, 13, 18, 30)


def size(data: Buffer) -> tuple[int, int]:
    """Width and height as stored. Raises RowError."""
    bits = _Bits(bytes(_codestream(data)[2:16]))
    small = bits.take(1)

    def side() -> int:
        return (bits.take(5) + 1) * 8 if small else bits.take(_BITS[bits.take(2)]) + 1

    height = side()
    ratio = bits.take(3)
    if ratio:
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height
    return side(), height


def _codestream(data: Buffer) -> Buffer:
    """The code stream, or its first part, which the file is or which stands in its boxes."""
    if data[:2] == b"\xff\x0a":
        return data
    at = 0
    while at + 16 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), bytes(data[at + 4 : at + 8])
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16]), at + 16
        if kind in (b"jxlc", b"jxlp"):
            content = data[start + (4 if kind == b"jxlp" else 0) :][:16]
            if content[:2] == b"\xff\x0a":
                return content
            break
        if length < 8:  # 0: the box goes on to the end
            break
        at += length
    raise RowError("damaged image", "the header cannot be read")


class _Bits:
    """Bits, the least significant of a byte first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise RowError("damaged image", "the header cannot be read")
        found, self.value = self.value & ((1 << count) - 1), self.value >> count
        self.left -= count
        return found
