"""The fixed list of rows that captioners are compared on: exact edits of drawn scenes, from a fixed seed.

Ten rows of every template, 50 hybrids, and 30 dialogues whose turns are rows of their own. A row has source, target and
provenance; task, mask and instruction are left out, for they are what a captioner has to find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from edittools.record import COLUMNS, PROVENANCE
from edittools.seeded import stream
from edittools.stream.batch import Batch, Reject, Shard
from edittools.stream.history import History, digest
from edittools.stream.row_images import image_value
from edittools.synth.core import SynthSample, Tools
from edittools.synth.synthesis import synthesize

LIST = "captions 1"
"""Name of the list; another seed, count, scene or set of templates has another name."""
TEMPLATES = (
    "add background blur brighten colorize contrast cool cutout darken deblur dehaze dejpeg denoise desaturate "
    "extract flatten flip gray haze invert jpeg logo material mirror move noise oil pixelate posterize recolor region "
    "remove replace resize rotate saturate sepia shape_color sharpen sketch text_add text_add_chinese text_change "
    "text_change_chinese text_remove text_remove_chinese tile tint visual warm watermark watermark_remove zoom"
).split()
SEED, SCENES, SIDE, SHARDS = 20, 24, 320, 16
OF_EACH = 10
OF_COMPOSITES = {"hybrid": 50, "dialogue": 30}

_COLUMNS = ("id", "source", "target", "provenance")


def plan(of_each: int = OF_EACH) -> list[tuple[str, int]]:
    """(template, number) of every sample, in order; fewer composites in proportion."""
    return [
        (name, number)
        for name in (*TEMPLATES, *OF_COMPOSITES)
        for number in range(max(1, OF_COMPOSITES[name] * of_each // OF_EACH) if name in OF_COMPOSITES else of_each)
    ]


@lru_cache(maxsize=SCENES)
def scene(number: int, side: int = SIDE) -> np.ndarray:
    """A landscape with houses and trees, uint8 (side, side, 3): colours, fine detail, and no symmetry."""
    rng = stream(SEED, "scene", number)
    height = np.linspace(0, 1, side)[:, None, None]
    sky = rng.integers(90, 256, (2, 3))
    pixels = sky[0] * (1 - height) + sky[1] * height + np.zeros((side, side, 3))
    across = np.arange(side)
    for layer in range(3):
        waves = [rng.uniform(8, 40) * np.sin(across / rng.uniform(20, 90) + rng.uniform(0, 6)) for _ in range(3)]
        top = side * (0.45 + 0.17 * layer) + np.sum(waves, axis=0) * side / 900
        ground = rng.integers(30, 200, 3) + rng.normal(0, 7, (side, side, 1))
        below = across[:, None] >= top[None, :]
        pixels[below] = ground[below]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 6))):
        x, y = (int(value) for value in rng.integers([0, side // 2], [side, side]))
        wide, tall = (int(value) for value in rng.integers(side // 14, side // 6, 2))
        walls, roof = (tuple(int(value) for value in rng.integers(20, 250, 3)) for _ in range(2))
        if rng.integers(2):
            pen.rectangle((x, y - tall, x + wide, y), walls)
            pen.polygon([(x - 4, y - tall), (x + wide + 4, y - tall), (x + wide // 2, y - tall - wide // 2)], roof)
            for left in range(x + wide // 6, x + wide - wide // 5, max(3, wide // 3)):
                pen.rectangle((left, y - tall * 3 // 4, left + wide // 6, y - tall // 2), (250, 240, 160))
        else:
            pen.rectangle((x - 3, y - tall, x + 3, y), (90, 60, 30))
            for dx, dy in rng.integers(-wide // 2, wide // 2 + 1, (40, 2)).tolist():
                pen.ellipse((x + dx - 4, y - tall + dy - 4, x + dx + 4, y - tall + dy + 4), roof)
    return np.asarray(image)


class CaptionCases:
    """The list as a source of rows."""

    replayable = True

    def __init__(self, tools: Tools, of_each: int = OF_EACH, side: int = SIDE) -> None:
        self.tools, self.side = tools, side
        self.planned = plan(of_each)
        self.schema = pa.schema([(name, COLUMNS[name]) for name in _COLUMNS])
        self.history = History()
        self.rows: int | None = len(self.planned) + 2 * sum(name == "dialogue" for name, _ in self.planned)
        made = digest(LIST, str(side), str(of_each), *tools.fonts.names())
        self.shards: list[Shard] | None = [Shard(k, SHARDS, f"{made}-{k}") for k in range(SHARDS)]

    @property
    def settings(self) -> dict[str, Any]:
        return {"list": LIST, "rows": self.rows}

    def batches(self, select: Callable[[Shard], bool]) -> Iterator[Batch]:
        for shard in self.shards or ():
            if not select(shard):
                continue
            planned = self.planned[shard.index :: SHARDS]
            for place, (name, number) in enumerate(planned, start=1):
                identity = f"{name}-{number}"
                pixels = scene((number * 7 + len(name)) % SCENES, self.side)
                samples, skipped = synthesize(pixels, identity, seed=SEED, templates=[name], tools=self.tools)
                rejects = [Reject(identity, "eval", why) for _, why in skipped]
                rows = [row for sample in samples for row in _rows(identity, sample)]
                batch = pa.RecordBatch.from_pylist(rows, schema=self.schema)
                yield Batch(batch, shard, place == len(planned), len(rows) + len(rejects), rejects=rejects)


def _rows(identity: str, sample: SynthSample) -> list[dict[str, Any]]:
    """The row of a sample; of a dialogue one for each turn, told as if it stood alone."""
    if sample.turns is None:
        return [_row(identity, sample.template, sample.slots, sample.source, sample.target)]
    rows = []
    for number, turn in enumerate(sample.turns):
        before = sample.source if turn.parent < 0 else sample.turns[turn.parent].target
        slots = {name: value for name, value in turn.slots.items() if name != "wording"}
        rows.append(_row(f"{identity}-turn-{number + 1}", turn.template, slots, before, turn.target))
    return rows


def _row(identity: str, template: str, slots: dict[str, Any], source: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    origin: dict[str, Any] = dict.fromkeys(field.name for field in PROVENANCE)
    said = json.dumps(slots, ensure_ascii=False, sort_keys=True)
    origin |= {"origin": LIST, "template": template, "slots": said, "seed": SEED}
    return {"id": identity, "source": [image_value(source)], "target": image_value(target), "provenance": origin}
