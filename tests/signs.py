"""A font of our own making, for machines without a Chinese one: every sign is a pattern of squares of its code.

The real templates draw with it through the real font code; only the look of the letters is made up.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

import edittools
from edittools.synth.core import Tools
from edittools.synth.fonts import Fonts, find_fonts

_EM, _CELLS = 1000, 5


def _glyph(code: int) -> object:
    pen = TTGlyphPen(None)
    side = 900 // _CELLS
    for bit in range(_CELLS * _CELLS):
        if (code * 2654435761 >> 7) >> bit & 1 or bit == 0:
            x, y = 50 + bit % _CELLS * side, bit // _CELLS * side
            corners = [(x, y), (x, y + side - 10), (x + side - 10, y + side - 10), (x + side - 10, y)]
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
    return pen.glyph()


@lru_cache(maxsize=1)
def made_font() -> str:
    """Every Chinese sign that the synthesis can write, and ASCII."""
    folder = Path(edittools.__file__).parent
    text = "".join(path.read_text("utf-8") for path in folder.rglob("*.py"))
    signs = sorted({s for s in text if "\u4e00" <= s <= "\u9fff"} | set("永国春") | set(map(chr, range(33, 127))))
    names = {sign: f"u{ord(sign):04x}" for sign in signs}
    builder = FontBuilder(_EM, isTTF=True)
    builder.setupGlyphOrder([".notdef", "space", *names.values()])
    builder.setupCharacterMap({32: "space", **{ord(sign): name for sign, name in names.items()}})
    empty = TTGlyphPen(None).glyph()
    glyphs = {".notdef": _glyph(0), "space": empty, **{name: _glyph(ord(sign)) for sign, name in names.items()}}
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (_EM, 50) for name in glyphs})
    builder.setupHorizontalHeader(ascent=950, descent=-50)
    builder.setupNameTable({"familyName": "Signs", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=950, sTypoDescender=-50, usWinAscent=950, usWinDescent=50)
    builder.setupPost()
    path = str(Path(tempfile.mkdtemp(prefix="signs-")) / "signs.ttf")
    builder.save(path)
    return path


def tools() -> Tools:
    """The machine's own fonts where it has them."""
    found = find_fonts()
    return Tools(Fonts(found.latin or made_font(), found.chinese or made_font()))
