"""The writing in results: what an instruction asks for, what is read, and how near the two are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner
from PIL import Image, ImageDraw, ImageFont
from signs import tools

import edittools
from edittools.errors import EditError, UsageError
from edittools.judge.rubrics import load_rubric
from edittools.metrics import ocr
from edittools.metrics.ocr import common_length, passage_distance, read_targets, target_text, text_scores


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ("Change the sign from 'OPEN' to 'CLOSED'.", "CLOSED"),
        ('Add the words "Happy  New Year"', "Happy  New Year"),
        ("把“春”改成“夏天”", "夏天"),
        ("改为「你好」", "你好"),
        ("Don't change the cat's colour", None),
        ("Make it red", None),
        ('Write ""', None),
    ],
)
def test_what_is_asked_for(instruction: str, text: str | None) -> None:
    assert target_text(instruction) == text


def brute_distance(needle: str, hay: str) -> int:
    """Levenshtein to every passage, by the textbook recursion."""

    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    return min(distance(needle, hay[i:j]) for i in range(len(hay) + 1) for j in range(i, len(hay) + 1))


def test_distances_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 5))) for _ in range(2))
        assert passage_distance(a, b) == brute_distance(a, b), (a, b)
        subsequences = {"".join(a[k] for k in range(len(a)) if bits >> k & 1) for bits in range(1 << len(a))}
        inside = [s for s in subsequences if all(c in it for it in [iter(b)] for c in s)]
        assert common_length(a, b) == max(map(len, inside))


def test_scores_by_hand() -> None:
    assert set(text_scores("the OPEN sign", "open").values()) == {1}
    # "closd" for "closed": one edit in six letters, five of six in order, no whole word.
    found = text_scores("closd", "CLOSED")
    assert found == {"ocr_similarity": 0.833333, "ocr_completion": 0.833333, "ocr_words": 0,
                     "ocr": pytest.approx(0.5 * 5 / 6 + 0.25 * 5 / 6, 1e-5)}  # fmt: skip
    assert text_scores("", "x")["ocr"] == 0 and text_scores("x", "!!")["ocr"] == 0
    assert text_scores("夏大", "夏天")["ocr_words"] == 0.5


def sign(text: str, left: int = 30) -> bytes:
    # nearly square: the detector enlarges the short side, and its work with it
    image = Image.new("RGB", (360, 300), (240, 240, 230))
    font = ImageFont.truetype(str(tools().fonts.latin), 48)
    ImageDraw.Draw(image).text((left, 120), text, (20, 20, 60), font=font)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_results_are_read(edit: Runner, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    asked = "Change the sign to 'CLOSED'"
    said = [(asked, "CLOSED"), (asked, "OPEN"), ("Make it red", "CLOSED")]
    table = pa.table({
        "id": ["right", "wrong", "none"],
        "instruction": [{"en": text} for text, _ in said],
        "result": [{"bytes": sign(drawn), "path": None} for _, drawn in said],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    done = edit("score", tmp_path / "rows.parquet", "--ocr", "-f", "jsonl", timeout=300)
    scores = {row["id"]: row["scores"] for row in done.lines}
    assert "no scores for 1 rows" in done.stderr
    assert scores["right"]["ocr"] == 1 and scores["wrong"]["ocr"] < 0.5 and scores["none"]["ocr"] is None


def test_writing_at_its_place_and_elsewhere(tmp_path: Path) -> None:
    """Against a target that has it: the same, moved by 60 of 360 pixels, a longer word; without a target; unasked."""
    pytest.importorskip("rapidocr")
    asked = "Change the sign to 'CLOSED'"
    drawn = {"same": sign("CLOSED"), "moved": sign("CLOSED", 90), "more": sign("CLOSEDUP"), "none": sign("CLOSED")}
    table = pa.table({
        "id": [*drawn, "free"],
        "instruction": [{"en": asked}] * 3 + [{"en": "Make it red"}, {"en": asked}],
        "result": [{"bytes": image, "path": None} for image in (*drawn.values(), drawn["same"])],
        "target": [{"bytes": sign("CLOSED"), "path": None}] * 4 + [{"bytes": sign("OPEN"), "path": None}],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    read = edittools.read(str(tmp_path / "rows.parquet"), jobs=1).score(ocr=True, layout=True)
    scores = {row["id"]: row["scores"] for row in read.rows()}
    assert [scores["same"][name] for name in ("ocr_exact", "ocr_layout", "ocr_reward", "ocr")] == [1, 1, 1, 1]
    # one word of about 190 x 50 pixels: exp(-60 / 196), and a little for what the engine sees of it
    assert scores["moved"]["ocr_exact"] == 1 and scores["moved"]["ocr_layout"] == pytest.approx(0.736, abs=0.06)
    assert scores["more"]["ocr_exact"] == pytest.approx(1 - 2 / 6, abs=1e-5)
    assert set(scores["none"].values()) == {None}
    free = scores["free"]  # the target does not show the text: nobody knows where it is to stand
    assert (free["ocr_exact"], free["ocr_layout"], free["ocr_reward"]) == (1, None, 1)


def test_what_is_read_does_not_depend_on_what_was_read_before() -> None:
    """The engine keeps what it was told: after single letters words would be letters, too."""
    pytest.importorskip("rapidocr")
    from edittools.metrics.ocr import read_letters, read_lines, read_words

    pixels = np.asarray(Image.open(io.BytesIO(sign("OPEN"))).convert("RGB"))
    text, letters = read_letters(pixels)
    assert text == "OPEN" and [letter.sign for letter in letters] == [*"OPEN"]
    ((line, words),) = read_words(pixels)
    assert line.text == "OPEN" and [word.text for word in words] == ["OPEN"]
    assert [one.text for one in read_lines(pixels)] == ["OPEN"] and len(read_letters(pixels)[1]) == 4


def test_wanted_texts_from_a_file(edit: Runner, tmp_path: Path) -> None:
    """They replace what an instruction says; a row that has none keeps to its instruction."""
    pytest.importorskip("rapidocr")
    said = {"a": "Make it red", "b": "Write 'OPEN'", "c": "Write 'CLOSED'", "d": "Make it blue"}
    wanted = {"a": "CLOSED", "b": "CLOSED", "c": "", "other": "HELLO"}
    table = pa.table({
        "id": list(said),
        "instruction": [{"en": text} for text in said.values()],
        "result": [{"bytes": sign("CLOSED"), "path": None}] * 4,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    lines = [{"id": key, "text": text} for key, text in wanted.items()]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "parquet")
    (tmp_path / "jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "csv").write_text("id,text\n" + "".join(f"{line['id']},{line['text']}\n" for line in lines))
    read = [read_targets(str(tmp_path / kind)) for kind in ("csv", "jsonl", "parquet")]
    assert read[0] == read[1] == read[2]
    words = ["score", tmp_path / "rows.parquet", "-f", "jsonl", "--targets", tmp_path / "csv"]
    rows = edit(*words, "--ocr", timeout=300).lines
    assert [row["scores"]["ocr"] for row in rows] == [1, 1, 1, None]
    assert "--targets needs --ocr" in edit(*words, check=2).stderr


def test_wanted_texts_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "targets"
    for text, says in (("id,words\na,b\n", "no column `text`"), ("id,text\na,b\na,c\n", "row a has two texts"),
                       ("{", "cannot be read as wanted texts")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(EditError, match=says):
            read_targets(str(path))


def test_the_rubric_reads_four_numbers() -> None:
    rubric = load_rubric("text")
    reply = json.dumps({"rationale": "r", "success": 5, "over": 4, "style": 3, "consistency": 2})
    read = rubric.read(reply, "judge", None, {})  # type: ignore[arg-type]
    values = {d.name: d.value({"judge": read.values}) for d in rubric.dimensions}  # type: ignore[union-attr]
    assert values == {"success": 5, "over": 4, "style": 3, "consistency": 2, "overall": 3.5}
    with pytest.raises(UsageError):
        load_rubric("texts")


def test_slivers_are_padded_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine scales the short side up to 736 pixels, whatever that makes of the long one."""
    seen: list[np.ndarray] = []

    def engine(pixels: np.ndarray, **told: object) -> SimpleNamespace:
        seen.append(pixels)
        return SimpleNamespace(txts=None, boxes=None)

    monkeypatch.setattr(ocr, "_engine", lambda use: engine)
    wide = ((40, 640), (160, 640)), ((40, 160), (40, 160))
    for shape, wanted in (((900, 1), (900, 225)), ((2, 1907), (477, 1907)), *wide, ((1, 1), (1, 1))):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        assert ocr.read_lines(image) == []
        assert seen[-1].shape == (*wanted, 3)
        assert np.array_equal(seen[-1][: shape[0], : shape[1]], image[..., ::-1]), "where it is does not change"


def test_an_image_without_writing_has_no_words_and_no_letters() -> None:
    """Flat, of noise, and with something that is found but cannot be read."""
    pytest.importorskip("rapidocr")
    noise = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    for image in (np.full((40, 50, 3), 90, np.uint8), noise, np.zeros((1, 1, 3), np.uint8)):
        assert ocr.read_words(image) == [] and ocr.read_letters(image) == ("", [])


@pytest.mark.parametrize("times", [3.5, 6.5, 7.9, 9, 14])
def test_a_line_is_read_in_an_image_of_any_length(times: float) -> None:
    """RapidOCR by itself finds nothing in one between 6 and 8 times as long as high."""
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (round(40 * times), 40), (200, 220, 250))
    ImageDraw.Draw(image).text((8, 3), "BAKERY", fill=(20, 30, 40), font=ImageFont.load_default(28))
    assert ocr.read_text(np.asarray(image)) == "BAKERY"


def test_a_line_that_reaches_the_edge_is_no_part_of_the_padding() -> None:
    """The feet of its letters are cut off, and its box may reach into what is padded below."""
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (480, 40), (200, 220, 250))
    ImageDraw.Draw(image).text((8, 0), "BAKERY gym", fill=(20, 30, 40), font=ImageFont.load_default(38))
    (line,) = ocr.read_lines(np.asarray(image))
    assert line.text.startswith("BAK") and line.corners[:, 1].max() <= 40


def test_long_slivers_are_reduced_and_what_is_read_beside_them_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    boxes = np.array([
        [[100, 0], [300, 0], [300, 10], [100, 10]],  # its upper half is the image's
        [[100, 40], [300, 40], [300, 60], [100, 60]],  # in the padding
    ], np.float32)  # fmt: skip

    def engine(pixels: np.ndarray, **told: object) -> SimpleNamespace:
        shapes.append(pixels.shape)
        part = ("A", 0.9, boxes[0].tolist()), ("B", 0.8, boxes[1].tolist())
        return SimpleNamespace(
            txts=("A", "B"), scores=(0.9, 0.8), boxes=boxes, word_results=tuple((one,) for one in part)
        )

    monkeypatch.setattr(ocr, "_engine", lambda use: engine)
    image = np.zeros((50, 20_000, 3), np.uint8)  # of which a tenth is looked at: 5 x 2000, padded to 500
    wanted = [[1000, 0], [3000, 0], [3000, 50], [1000, 50]]
    (line,) = ocr.read_lines(image)
    assert shapes == [(500, 2000, 3)] and line.text == "A" and line.corners.tolist() == wanted
    ((whole, words),) = ocr.read_words(image)
    assert whole.text == "A" and [word.corners.tolist() for word in words] == [wanted]
    text, (letter,) = ocr.read_letters(image)
    assert text == "A" and (letter.x, letter.y, letter.width, letter.height) == (2000, 25, 2000, 50)
    ocr.read_lines(np.zeros((1, 100_000, 3), np.uint8))
    assert shapes[-1] == (500, 2000, 3)
