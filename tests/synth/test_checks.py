"""Checks of painted edits, on edits whose faults are planted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import rejects_of, rows_of
from test_painted import disc, pixels, planted
from tiny_models import photo, save_clip

import edittools
from edittools.errors import EditError, RowError, UsageError
from edittools.ground import Found
from edittools.metrics.ocr import Line
from edittools.painters import PAINTERS, PaintRequest
from edittools.painters.canvas import Brush
from edittools.synth.checking import CheckOption, Checks, Painted
from edittools.synth.checks import clip, edit_ratio, judge, outside, structure, text
from edittools.synth.checks.detector import DetectorCheck
from edittools.synth.config import PaintConfig
from edittools.synth.paint_stage import PaintStage
from edittools.synth.painting import Plan
from edittools.vlm import Request
from edittools.vlm.asker import Asker
from edittools.vlm.backends.echo import EchoClient

pytest.importorskip("cv2")


def edit(source: np.ndarray, target: np.ndarray, paint: np.ndarray, **told: object) -> Painted:
    return Painted(source, target, paint, Plan(paint, Brush(), "do it", {}, **told))  # type: ignore[arg-type]


def block(height: int, width: int, *place: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[place] = True
    return mask


def test_outside_and_ratio_count_pixels() -> None:
    source = photo(1, 40, 50)
    paint = block(40, 50, slice(10, 20), slice(10, 30))
    target = np.where(paint[..., None], 255 - source // 4, source)
    assert outside.load().measure([edit(source, target, paint)]) == [0.0]
    assert edit_ratio.load().measure([edit(source, target, paint)]) == [200 / 2000]
    target[0, :7, 0] ^= 1  # seven pixels by one level: seen by one, and no edit to the other
    assert outside.load().measure([edit(source, target, paint)]) == [7 / 2000]
    assert edit_ratio.load().measure([edit(source, target, paint)]) == [200 / 2000]
    whole = np.ones((40, 50), bool)
    assert outside.load().measure([edit(source, 255 - source, whole)]) == [0.0], "there is nothing beyond"


def test_structure_tells_a_tint_from_another_thing() -> None:
    y, x = np.mgrid[:120, :160]
    squares = (((x // 20) + (y // 20)) % 2 * 150 + 40).astype(np.uint8)
    source = np.stack([squares] * 3, axis=-1)
    tint = source.copy()
    tint[..., 2] = 255 - tint[..., 2]  # other colours, the same edges
    other = np.where(((x - 80) ** 2 + (y - 60) ** 2 < 50**2)[..., None], source, np.uint8(90))  # half of it is blank
    whole = np.ones((120, 160), bool)
    kept, gone, unasked = structure.load().measure([
        edit(source, tint, whole, outlines=True), edit(source, other, whole, outlines=True), edit(source, other, whole)
    ])  # fmt: skip
    assert kept == 1.0 and gone is not None and 0.4 < gone < 0.85 and unasked is None
    assert structure.load().measure([edit(source, np.full_like(source, 9), whole, outlines=True)])[0] == 0.0


class Names:
    """Finds every name in `seen` at its box, and nothing else."""

    def __init__(self, seen: dict[str, tuple[float, float, float, float]]) -> None:
        self.seen = seen

    def detect(self, images: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [[Found(name, self.seen[name], 0.9) for name in some if name in self.seen] for some in names]


def test_a_detector_finds_what_is_new_and_not_what_is_gone() -> None:
    source, paint = photo(2, 100, 100), block(100, 100, slice(20, 60), slice(20, 60))
    here, there = (0.2, 0.2, 0.6, 0.6), (0.7, 0.7, 0.9, 0.9)
    removal = edit(source, source, paint, gone="toy car")
    swap = edit(source, source, paint, gone="toy car", there="vase")
    silent = edit(source, source, paint)
    for seen, expected in (
        ({}, [1.0, 0.5, None]),
        ({"toy car": here}, [0.0, 0.0, None]),
        ({"toy car": there, "vase": here}, [1.0, 1.0, None]),  # another one elsewhere was not to go
        ({"car": here, "vase": there}, [1.0, 0.5, None]),  # names are whole names, not their last words
        ({"vase": (0.0, 0.0, 1.0, 1.0)}, [1.0, 0.5, None]),  # IoU .16: about everything is not there
    ):
        assert DetectorCheck(Names(seen), 0.25).measure([removal, swap, silent]) == expected, seen
    weak = Names({"toy car": here})
    assert DetectorCheck(weak, 0.95).measure([removal]) == [1.0], "below its threshold nothing was found"


def test_clip_is_the_difference_of_cosines(tmp_path: Path) -> None:
    check = clip.load(str(save_clip(tmp_path / "clip")))
    source, target = photo(3, 60, 80), photo(4, 60, 80)
    paint = block(60, 80, slice(10, 50), slice(20, 60))
    crops = [one[10:50, 20:60] for one in (source, target)]
    old, new = check.model.images(crops)
    vase, car = check.model.texts(["a photo of vase", "a photo of car"])
    (swap, added, gone, silent) = check.measure([
        edit(source, target, paint, there="vase", gone="car"), edit(source, target, paint, there="vase"),
        edit(source, target, paint, gone="car"), edit(source, target, paint),
    ])  # fmt: skip
    assert swap == pytest.approx(new @ vase - old @ vase - (new @ car - old @ car), abs=1e-6)
    assert added == pytest.approx(new @ vase - old @ vase, abs=1e-6)
    assert gone == pytest.approx(old @ car - new @ car, abs=1e-6) and silent is None


def test_text_is_read_in_its_place_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(words: str, top: float) -> Line:
        return Line(words, 0.9, np.array([[20, top], [60, top], [60, top + 10], [20, top + 10]], float))

    source, paint = photo(5, 100, 100), block(100, 100, slice(20, 32), slice(18, 62))
    shown = {0: [line("SALE", 21), line("open daily", 70)]}
    monkeypatch.setattr(text, "read_lines", lambda pixels, use: shown[int((pixels != source).any())])
    wanted = edit(source, 255 - source, paint, text="SOLD")
    for after, expected in (
        ([line("SOLD", 21), line("open daily", 70)], 1.0),
        ([line("SALD", 21), line("open daily", 70)], 0.75),
        ([line("SOLD", 21), line("SOLD", 24), line("open daily", 70)], 0.0),  # written twice
        ([line("SOLD", 21), line("open dolly", 70)], 0.0),  # damage elsewhere
    ):
        shown[1] = after
        assert text.TextCheck().measure([wanted]) == [expected], after
    assert text.TextCheck().measure([edit(source, 255 - source, paint)]) == [None]


def test_how_ocr_parts_a_line_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real readings: "ROOM | 4021" became "ROOM 7374", and "$19.99 SALE" two, the second a pixel higher."""
    source = photo(5, 60, 200)

    def piece(said: str, x: int, y: float) -> Line:
        return Line(said, 1.0, np.array([[x, y], [x + 60, y], [x + 60, y + 14], [x, y + 14]], float))

    for before, wanted, x, after, expected in (
        ([piece("ROOM", 10, 20), piece("4021", 90, 20)], "7374", 90, [piece("ROOM 7374", 50, 20)], 1.0),
        ([piece("ROOM", 10, 20), piece("4021", 90, 20)], "7374", 90, [piece("ROAM 7374", 50, 20)], 0.0),
        ([piece("$9 SALE", 90, 20)], "$9 SKIS", 90, [piece("$9", 91, 20), piece("SKIS", 105, 19)], 1.0),
        ([piece("$9 SALE", 90, 20)], "$9 SKIS", 90, [piece("$9", 91, 20), piece("SKI5", 105, 19)], 5 / 6),
    ):
        shown = {0: before, 1: after}
        monkeypatch.setattr(text, "read_lines", lambda pixels, use, shown=shown: shown[int((pixels != source).any())])
        paint = block(60, 200, slice(20, 34), slice(x, x + 60))
        (value,) = text.TextCheck().measure([edit(source, 255 - source, paint, text=wanted)])
        assert value == pytest.approx(expected), after


def test_a_judge_is_asked_for_what_is_left_over() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> str:
        asked.append(request)
        return ["1. yes\n2. yes\n3. no", "Yes\nNo\nNo.", "1: yes\n2: yes\n3: yes", "I cannot say."][len(asked) - 1]

    check = judge.JudgeCheck(Asker(EchoClient(answer), "m", "--check judge"))
    source, paint = photo(6, 40, 40), block(40, 40, slice(5, 9), slice(5, 9))
    one = edit(source, 255 - source, paint, gone="dog")
    assert [check.measure([one])[0] for _ in range(4)] == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3), 0.0]
    assert "a shadow, a reflection or a held part of the dog" in asked[0].parts[2]
    assert len({image.sha256 for image in asked[0].parts[:2]}) == 2  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="names no model"):
        judge.load("")


def test_what_is_asked_for() -> None:
    assert vars(CheckOption.parse("edit_ratio:0.2")) == {"name": "edit_ratio", "told": "", "bound": 0.2, "lowest": True}
    assert CheckOption.parse("outside").kept(0.0) and not CheckOption.parse("outside").kept(1e-6)
    assert (
        CheckOption.parse("detector").told == "groundingdino"
        and CheckOption.parse("detector=sam3=C:").told == "sam3=C:"
    )
    assert CheckOption.parse("clip:0.03").kept(None), "what a check has nothing to say of passes"
    assert CheckOption.parse("outside").described == "outside:0", "nothing of the folder that one stands in"
    assert CheckOption.parse("clip=a/b:0.1").described == "clip=a/b:0.1"
    with pytest.raises(UsageError, match="no such check"):
        CheckOption.parse("taste")
    with pytest.raises(UsageError, match="--check edit_ratio:few: its bound is no number"):
        CheckOption.parse("edit_ratio:few")
    with pytest.raises(UsageError, match="--check outside is given twice"):
        PaintStage(PaintConfig(painter="inpaint", check="outside,outside:0.1"))
    with pytest.raises(UsageError, match="does not look for names"):
        Checks([CheckOption.parse("detector=face")])
    with pytest.raises(EditError):
        Checks([CheckOption.parse("clip=/nowhere")])


class Fading:
    """Paints the more the later it is asked: the k-th attempt at an edit changes k rows of its region."""

    batch_size, multiple, area, wants = 4, 1, None, frozenset({"prompt"})

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def load(self, weights: str, **placed: str) -> Fading:
        return self

    def refuses(self, image: np.ndarray, mask: np.ndarray) -> str | None:
        return None

    def paint(self, requests: Sequence[PaintRequest]) -> list[np.ndarray | RowError]:
        self.seeds += [one.seed for one in requests]
        made = []
        for one in requests:
            picture = one.image.copy()
            rows = np.flatnonzero(one.mask.any(axis=1))[: 3 * len(self.seeds)]
            picture[rows] = 255 - picture[rows]
            made.append(picture)
        return made  # type: ignore[return-value]


def test_attempts_negatives_and_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, images, _ = planted(tmp_path, [[("ball", disc(40, 60))]])
    told = {"painter": "inpaint", "check": "outside,edit_ratio:0.009"}

    def run(name: str, **more: object) -> tuple[Fading, Path]:
        painter = Fading()
        monkeypatch.setattr(PAINTERS, "load", lambda name: painter)
        edittools.read(source).synth(**told, **more).write(str(tmp_path / name))
        return painter, tmp_path / name

    _, out = run("once")
    (reject,) = rejects_of(out)
    assert (reject["reason"], reject["failed"], reject["id"]) == ("check edit_ratio", False, "r0-painted_remove-0")
    assert 0 < float(reject["value"]) < 0.009 and not rows_of(out)

    painter, out = run("again", attempts=9)
    (row,) = rows_of(out)
    assert 1 < len(painter.seeds) < 9 and len(set(painter.seeds)) == len(painter.seeds)
    assert row["scores"]["check_edit_ratio"] >= 0.009 and row["scores"]["check_outside"] == 0
    assert f'"noise": {painter.seeds[-1]}' in row["provenance"]["slots"], "the seed of the attempt that was kept"
    target, mask = pixels(row["target"]), pixels(row["mask"])
    assert (target[mask == 0] == images[0][mask == 0]).all()

    painter, out = run("best", attempts=6, best="edit_ratio")
    (row,) = rows_of(out)
    assert len(painter.seeds) == 6 and f'"noise": {painter.seeds[-1]}' in row["provenance"]["slots"]

    _, out = run("kept", keep_failed=True, inverse=True)
    (row,) = rows_of(out)
    assert row["failed"].startswith("check edit_ratio 0.00") and row["id"] == "r0-painted_remove-0"
    assert not rejects_of(out)


def test_settings_of_checks() -> None:
    with pytest.raises(UsageError, match="--check does not name it"):
        PaintConfig(painter="inpaint", attempts=2, best="clip")
    with pytest.raises(UsageError, match="of one attempt"):
        PaintConfig(painter="inpaint", best="outside")
    from edittools.synth.paint_stage import PaintStage

    with pytest.raises(UsageError, match="paints the same every time"):
        _ = PaintStage(PaintConfig(painter="inpaint", attempts=2)).painter
