"""The header of an image, of any format."""

from __future__ import annotations

from dataclasses import dataclass, field

from edittools.stream import colour

_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True)
class Header:
    """Width and height in pixels, as shown."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's
    orientation: int = 1  # 1 to 8: what is left to apply
    frames: int = 1
    profile: bytes | None = field(default=None, repr=False)  # ICC: the file's, or made of what it says; empty: sRGB

    @classmethod
    def of_stored(
        cls, kind: str, width: int, height: int, mode: str, orientation: int, profile: bytes | None, frames: int = 1
    ) -> Header:
        """The header of an image whose pixels are stored in this width and height."""
        if orientation in _SWAPS_SIDES:
            width, height = height, width
        return cls(kind, width, height, mode, orientation, frames, profile)

    @property
    def sideways(self) -> bool:
        """Whether what is stored as the width is shown as the height."""
        return self.orientation in _SWAPS_SIDES

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pixels before they are turned."""
        return (self.height, self.width) if self.sideways else (self.width, self.height)

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def plain(self) -> bool:
        """Whether a program that knows of nothing but pixels shows it right: RGB or grey, upright, sRGB, one frame."""
        upright = self.orientation == 1 and self.frames == 1 and self.mode in ("RGB", "L")
        return upright and colour.conversion(self.profile, self.mode) is None
