"""A word of the photograph's writing is painted anew by a painter that is shown it, drawn where it stands (TextFlux).

On grounds and in hands in which it cannot be drawn without a painter, as `text` does.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from edittools.metrics.ocr import Line
from edittools.opencv import opencv
from edittools.painters.canvas import Brush
from edittools.seeded import draw
from edittools.synth.fonts import covers, latin_fonts, load_font
from edittools.synth.painted.text import alike, readable, retold
from edittools.synth.painting import Plan, Scene

TASK = "text"
HELP = "a word that OCR reads becomes another of its length, which the painter is shown in white on black"
PROMPT = True
INVERSE = "text"
BARE = True
SHOWS = True
_HEIGHTS = 8, 64  # pixels that a word is drawn at: about its own, for what is warped is not smoothed
_GROW = 0.15  # of its height: letters reach beyond OCR's boxes
_CONTEXT = 2.0


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    found = []
    for line, words, k in readable(scene, "--painted glyphs"):
        fitting = alike(words[k].text, rng)
        if fitting and latin_fonts():
            found.append(_plan(scene, line, words, k, fitting[0], rng))
    return found


def _plan(scene: Scene, line: Line, words: list[Line], k: int, new: str, rng: np.random.Generator) -> Plan:
    corners, shape = words[k].corners, scene.image.shape[:2]
    font = draw(rng, [one for one in latin_fonts() if covers(one, new)] or list(latin_fonts()))
    height = float(np.linalg.norm(corners[3] - corners[0]))
    grow = max(1, round(_GROW * height))
    guide, mask = drawn(new, font, corners, shape)
    plan = retold(scene, line, words, k, new, mask, Brush(grow, max(1, grow // 2), _CONTEXT), rng)
    said = f'on the left the word "{new}" in white on black, on the right a photograph in which it is written'
    return replace(plan, prompt=said, guide=guide)


def drawn(word: str, font: str, corners: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A word in white on black, uint8 (h, w, 3), that fills the box of these corners (4, 2), from the upper left in the
    direction of reading; and the box, bool (h, w)."""
    cv2 = opencv("--painted glyphs", "vision")
    height = float(np.linalg.norm(corners[3] - corners[0]))
    face = load_font(font, round(min(max(height, _HEIGHTS[0]), _HEIGHTS[1])))
    x0, y0, x1, y1 = face.getbbox(word)
    flat = Image.new("L", (max(1, round(x1 - x0)), max(1, round(y1 - y0))))
    ImageDraw.Draw(flat).text((-x0, -y0), word, font=face, fill=255)
    right, bottom = flat.width, flat.height
    ends = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32)
    there = cv2.getPerspectiveTransform(ends, corners.astype(np.float32))
    size = shape[1], shape[0]
    ink = cv2.warpPerspective(np.asarray(flat), there, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.full((bottom, right), 255, np.uint8), there, size, flags=cv2.INTER_NEAREST) > 0
    return np.repeat(ink[..., None], 3, axis=2), inside
