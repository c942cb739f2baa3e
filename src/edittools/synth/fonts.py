"""Finding fonts on the machine: one for Latin letters and one that covers Chinese.

Where they come from, in this order: the file or folder the user named, fontconfig (`fc-list`), the
usual font folders. A font counts only if it really draws the characters, not boxes in their place.
"""

import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
# Plain upright faces first; after them, file names in alphabetical order. Lower case.
PREFERRED = (
    "dejavusans.ttf", "liberationsans-regular.ttf", "notosans-regular.ttf", "arial.ttf",
    "notosanscjk-regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "pingfang.ttc", "msyh.ttc",
)  # fmt: skip
PROBES = {"latin": "AgZ", "chinese": "永国春"}
FONTCONFIG_LANGUAGE = {"latin": "en", "chinese": "zh"}
NO_GLYPH = "\U0010fffe"  # a code point that no font may assign: it draws the font's empty box


@dataclass(frozen=True)
class Fonts:
    """Font files by script; None where the machine has none."""

    latin: str | None = None
    chinese: str | None = None

    def names(self) -> list[str]:
        """The file names, which say which letters are drawn."""
        return [Path(path).name for path in (self.latin, self.chinese) if path]


@lru_cache(maxsize=8)
def find_fonts(path: str | None = None) -> Fonts:
    """Look in `path` (a font file or a folder) or, without one, on the whole machine."""
    return Fonts(**{script: _find(script, path) for script in PROBES})


@lru_cache(maxsize=256)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels. Basic layout: the result must not depend on optional libraries."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def covers(path: str, characters: str) -> bool:
    """True if the font draws each character as something of its own."""
    try:
        font = load_font(path, 24)
        empty_box = bytes(font.getmask(NO_GLYPH))
        drawn = {bytes(font.getmask(character)) for character in characters}
    except OSError:  # not a font, or one without an outline
        return False
    return len(drawn) == len(characters) and empty_box not in drawn and b"" not in drawn


@lru_cache(maxsize=1)
def latin_fonts() -> tuple[str, ...]:
    """Fonts of this machine that cover Latin letters, upright ones, one of a name."""
    found = {os.path.basename(path): path for path in sorted(_listed("latin") or _scanned(), reverse=True)}
    plain = [name for name in sorted(found) if not any(word in name.lower() for word in ("italic", "oblique", "math"))]
    return tuple(found[name] for name in plain if covers(found[name], PROBES["latin"]))[:_FONTS]


_FONTS = 24  # that a word is compared with


def _find(script: str, path: str | None) -> str | None:
    candidates = _fonts_under(Path(path)) if path else _listed(script) or _scanned()
    return next((c for c in sorted(candidates, key=_rank) if covers(c, PROBES[script])), None)


def _rank(path: str) -> tuple[int, str]:
    name = os.path.basename(path).lower()
    return (PREFERRED.index(name) if name in PREFERRED else len(PREFERRED), path)


def _fonts_under(path: Path) -> list[str]:
    if path.is_file():
        return [str(path)]
    return [str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES]


def _scanned() -> list[str]:
    return [found for folder in FOLDERS for found in _fonts_under(Path(folder).expanduser())]


def _listed(script: str) -> list[str]:
    """Font files that fontconfig lists for the script's language; none if there is no fontconfig."""
    command = ["fc-list", f":lang={FONTCONFIG_LANGUAGE[script]}", "file"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    paths = [line.rstrip().removesuffix(":") for line in output.splitlines()]
    return [path for path in paths if path.lower().endswith(SUFFIXES)]
