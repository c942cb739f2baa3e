"""`edit dedup --level pairs` and `fine`: what is superfluous among edit pairs; and the contact sheet."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Runner, encode, pixels, rejects_of, rows_of, tree
from forge import Forge

from edittools.dedup.fingerprint import word_vector
from edittools.metrics import pixels as measures


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    forge = Forge("stub_embedders")
    yield Runner(forge, tmp_path_factory.mktemp("logs"))
    forge.close()


def patched(seed: int, colour: tuple[int, int, int], where: int = 0) -> np.ndarray:
    """An image with a square of one colour: an edit that is seen."""
    image = pixels(seed, 96, 120).copy()
    image[10:58, 8 + where : 56 + where] = colour
    return image


RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    made: dict[str, bytes] = {}
    for k in range(10):
        made[f"s{k}.png"] = encode(pixels(k, 96, 120), "PNG")
        made[f"s{k}.jpg"] = encode(pixels(k, 96, 120), "JPEG", quality=92)
        made[f"red{k}.png"] = encode(patched(k, RED), "PNG")
        made[f"red{k}.jpg"] = encode(patched(k, RED), "JPEG", quality=92)
        made[f"blue{k}.png"] = encode(patched(k, BLUE), "PNG")
        made[f"right{k}.png"] = encode(patched(k, RED, 60), "PNG")
    made["s0.bmp"] = encode(pixels(0, 96, 120), "BMP")
    faint = pixels(3, 96, 120).astype(np.int16)
    faint[40:48, 50:58] += 130
    made["faint3.png"] = encode(np.clip(faint, 0, 255).astype(np.uint8), "PNG")
    made["broken.jpg"] = made["s0.jpg"][:400]
    for name, data in made.items():
        (root / name).write_bytes(data)
    return root


def run(
    edit: Runner, folder: Path, rows: list[tuple[Any, ...]], *options: Any
) -> tuple[dict[str, tuple[str, str | None]], list[str], list[dict]]:
    """Rows of (id, source, target, instruction): ({dropped: (reason, of)}, ids kept, failures)."""
    records = [
        {"id": name, "source": [source] if isinstance(source, str) else source, "target": target, "instruction": said}
        for name, source, target, said in rows
    ]
    table, rejects = folder / "rows.jsonl", folder / "rejects.jsonl"
    table.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = edit("dedup", table, "-f", "jsonl", "--rejects", rejects, "--overwrite", "--max-errors", "100%", *options)
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    dropped = {r["id"]: (r["reason"], r["value"]["of"]) for r in told if not r["failed"]}
    kept = [row["id"] for row in result.lines]
    failed = [r for r in told if r["failed"]]
    assert len(kept) + len(told) == len(rows)  # nothing is lost silently
    return dropped, kept, failed


SPACES = ("--pair-model", "stub", "--pair-model", "other")


def test_compare_many_is_psnr_and_ssim() -> None:
    a = np.stack([pixels(k, 32, 40) for k in range(5)])
    b = np.stack([pixels(k, 32, 40) // (1 + k % 2) for k in range(5)])
    psnr, ssim = measures.compare_many(a, b)
    for k in range(5):
        assert psnr[k] == pytest.approx(measures.psnr(a[k], b[k]))
        assert ssim[k] == pytest.approx(measures.ssim(a[k], b[k]))


def test_word_vectors() -> None:
    def alike(a: str, b: str) -> float:
        return float(word_vector(a) @ word_vector(b))

    assert alike("Add 3 red hats.", "add 7 red hats") == pytest.approx(1)
    assert alike("把天空变成红色", "把天空变成蓝色") > 0.5 > alike("把天空变成红色", "删除左边的狗")
    assert alike("add a red hat to the dog", "remove the car") < 0.4
    assert not word_vector(" .").any()


@pytest.mark.parametrize("method", [(), ("--method", "exact"), ("--method", "pixels"), ("--method", "stub")])
def test_pairs_that_repeat(edit: Runner, folder: Path, method: tuple[str, ...]) -> None:
    rows = [
        ("a", "s0.png", "red0.png", "paint it red"),
        ("b", "s0.png", "red0.png", "a red square, please"),  # the same pair, other words
        ("c", "s0.png", "right0.png", "Paint it  RED."),  # the same request, another answer
        ("d", "s0.png", "right0.png", "paint it on the right"),  # the same pair as c
        ("e", "s1.png", "red1.png", "paint it red"),
        ("f", "s2.png", "red2.png", None),  # no instruction: no request to repeat
        ("g", "s2.png", "right2.png", None),
        ("h", ["s3.png", "s4.png"], "red3.png", "paint it red"),
        ("i", ["s3.png", "s5.png"], "red3.png", "paint it red"),  # another reference
    ]
    dropped, kept, _ = run(edit, folder, rows, "--level", "pairs", *method)
    # Of a and c the sharper one stays, and what was a copy of the other is now a copy of it.
    best = kept[0]
    assert best in "ac" and kept[1:] == ["e", "f", "g", "h", "i"]
    assert dropped.pop("a" if best == "c" else "c") == ("same source and instruction", best)
    assert dropped == {"b": ("same pair", best), "d": ("same pair", best)}
    # Level rows wants all of a row to repeat.
    assert run(edit, folder, rows, *method)[0] == {}


def test_recompressed_pairs_repeat_too(edit: Runner, folder: Path) -> None:
    rows = [
        ("a", "s0.png", "red0.png", "paint it red"),
        ("b", "s0.jpg", "red0.jpg", "make a red square"),
        ("c", "s0.jpg", "right0.png", "paint it red"),
        ("d", "s0.jpg", "right0.png", "move the square"),
    ]
    for method in ((), ("--method", "stub", "--cosine", "0.98")):
        for level in ("pairs", "fine"):
            # d has c's images and is dropped with it, c because it asks for what a asks for.
            dropped, kept, _ = run(edit, folder, rows, "--level", level, *method)
            assert kept in (["a"], ["c"]) and dropped["b"] == ("same pair", kept[0]), (method, level)
    assert run(edit, folder, rows, "--level", "pairs", "--method", "exact")[1] == ["a", "b", "c"]


def test_a_copy_of_what_became_a_copy_is_not_called_equal_to_the_last(edit: Runner, folder: Path) -> None:
    """Two pairs twice each, the same pair in PNG and JPEG: one row stays, and only its own copy is equal to it."""
    rows = [(name, f"s0.{kind}", f"red0.{kind}", "Red.") for kind in ("png", "jpg") for name in (kind, f"{kind}-too")]
    dropped, kept, _ = run(edit, folder, rows, "--level", "pairs")
    (best,) = kept
    other = {"png": "jpg", "jpg": "png"}[best.removesuffix("-too")]
    told = {r["id"]: r["value"] for r in map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())}
    assert {of for _, of in dropped.values()} == {best}
    found = {name: (value["metric"], value["distance"]) for name, value in told.items()}
    assert found.pop(f"{best}-too") == ("exact", 0)
    (metric, distance), unknown = found.pop(other), found.pop(f"{other}-too")
    assert metric == "phash" and distance >= 0 and unknown == (None, None) and not found


def test_fine_tells_colours_apart_that_a_signature_does_not(edit: Runner, folder: Path) -> None:
    """Red and blue of one luma: the perceptual signature is the same, PSNR in colour is not."""
    for name, colour in (("ruby.png", (200, 30, 30)), ("navy.png", (30, 55, 255))):
        (folder / name).write_bytes(encode(patched(7, colour), "PNG"))
    rows = [("a", "s7.png", "ruby.png", "a ruby square"), ("b", "s7.png", "navy.png", "a navy square")]
    assert len(run(edit, folder, rows, "--level", "pairs")[1]) == 1
    assert run(edit, folder, rows, "--level", "fine")[1] == ["a", "b"]


def test_pairs_without_a_visible_edit(edit: Runner, folder: Path) -> None:
    rows = [
        ("a", "s0.png", "s0.png", "do nothing"),
        ("b", "s0.png", "s0.bmp", "do very little"),
        ("c", "s1.png", "s1.jpg", "save it again"),
        ("d", "s2.png", "red2.png", "paint it red"),
        ("e", "s3.png", "faint3.png", "a small spot"),
    ]
    said = "no visible edit"
    dropped, kept, _ = run(edit, folder, rows, "--level", "pairs")
    assert dropped == {"a": (said, None)}
    dropped, kept, _ = run(edit, folder, rows, "--level", "pairs", "--method", "pixels")
    assert dropped == {"a": (said, None), "b": (said, None)}
    dropped, kept, _ = run(edit, folder, rows, "--level", "pairs", *SPACES)
    assert dropped == {key: (said, None) for key in "abce"} and kept == ["d"]
    # PSNR and SSIM see the spot.
    dropped, kept, _ = run(edit, folder, rows, "--level", "fine", "--psnr", 30, "--ssim", 0.99, *SPACES)
    assert kept == ["d", "e"] or kept == ["c", "d", "e"]
    result = edit("dedup", folder / "rows.jsonl", "-f", "jsonl", "--mark", "why", "--level", "pairs", *SPACES)
    assert [row["why"] for row in result.lines] == [said, said, said, None, said]
    # Spaces have to agree: what one of them finds alike only stays.


def test_templates_are_thinned_to_a_number(edit: Runner, folder: Path) -> None:
    """Ten images get the same red square in the same words; the change is the same, the images are not."""
    for k in range(10):
        flat = np.full((96, 120, 3), 90, np.uint8)
        flat[:, 60:] = pixels(k, 96, 60)
        (folder / f"t{k}.png").write_bytes(encode(flat, "PNG"))
        flat[20:60, 5:55] = RED
        (folder / f"t{k}-red.png").write_bytes(encode(flat, "PNG"))
    rows = [(f"r{k}", f"t{k}.png", f"t{k}-red.png", f"add {k} red squares") for k in range(10)]
    rows += [("x", "s0.png", "blue0.png", "remove the lamp"), ("y", "s1.png", "s2.png", "another scene")]
    options = ("--level", "pairs", "--pair-model", "stub", "--template-cosine", 0.9)
    assert run(edit, folder, rows, *options)[0] == {}
    dropped, kept, _ = run(edit, folder, rows, *options, "--max-per-template", 3)
    assert len(dropped) == 7 and {reason for reason, _ in dropped.values()} == {"template"}
    assert {"x", "y"} <= set(kept) and len(kept) == 5
    assert {of for _, of in dropped.values()} <= set(kept)
    # Which ones stay is a matter of their ids, not of their order.
    again = run(edit, folder, rows[::-1], *options, "--max-per-template", 3)
    assert set(again[1]) == set(kept)


def test_hostile_pairs(edit: Runner, folder: Path) -> None:
    rows = [
        ("a", "s0.png", "broken.jpg", "x"),
        ("b", "broken.jpg", "s0.png", "x"),
        ("c", "absent.png", "s0.png", "x"),
        ("d", "s0.png", "rows.jsonl", "x"),
        ("e", "s0.png", "red0.png", "x"),
        ("f", "s0.png", None, "x"),
        ("g", "s0.png", None, "y"),
        ("h", [], "s5.png", "x"),
        ("i", [], "s5.png", "x"),
    ]
    for options in (("--level", "pairs"), ("--level", "fine", *SPACES), ("--level", "fine", "--method", "stub")):
        dropped, kept, failed = run(edit, folder, rows, *options)
        assert kept == ["e", "f", "g", "h"] and dropped == {"i": ("duplicate", "h")}
        assert len(failed) == 4 and all(r["reason"] for r in failed)


def pair_set(edit: Runner, folder: Path, where: Path, count: int = 10) -> Path:
    records = []
    for k in range(count):
        records.append({"id": f"a{k}", "source": [f"s{k}.png"], "target": f"red{k}.png", "instruction": "paint it red"})
        records.append({"id": f"b{k}", "source": [f"s{k}.jpg"], "target": f"red{k}.jpg", "instruction": "a red square"})
    records.append({"id": "n", "source": ["s0.png"], "target": "s0.jpg", "instruction": "nothing"})
    (folder / "set.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    edit("shard", folder / "set.jsonl", "-o", where, "--rows", 6)
    return where


@pytest.mark.parametrize("options", [("--level", "pairs"), ("--level", "fine", "--ssim", 0.8, *SPACES)], ids=str)
def test_three_steps_and_against(edit: Runner, folder: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    pairs = pair_set(edit, folder, tmp_path / "set")
    edit("dedup", pairs, *options, "--against", tmp_path / "seen", "-o", tmp_path / "one")
    assert len(rows_of(tmp_path / "one")) == (11 if "fine" not in options else 10)
    for task in (2, 0, 1):
        edit("dedup", pairs, *options, "--phase", "fingerprint", "--task", f"{task}/3", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", *options, "--phase", "decide", "-o", tmp_path / "v")
    for task in (1, 2, 0):
        edit("dedup", pairs, *options, "--decisions", tmp_path / "v", "--task", f"{task}/3", "-o", tmp_path / "three")
    assert rows_of(tmp_path / "three") == rows_of(tmp_path / "one")
    assert rejects_of(tmp_path / "three") == rejects_of(tmp_path / "one")
    # The same pairs under other ids are all old.
    text = (folder / "set.jsonl").read_text().replace('"id": "', '"id": "again-')
    (folder / "again.jsonl").write_text(text)
    edit("dedup", folder / "again.jsonl", *options, "--against", tmp_path / "seen", "-o", tmp_path / "two")
    assert not [row for row in rows_of(tmp_path / "two")] or "fine" not in options
    old = {row["id"] for row in rows_of(tmp_path / "one")}
    values = [r["value"] for r in rejects_of(tmp_path / "two") if r["reason"] != "no visible edit"]
    assert values and all(value["of"] in old and value["set"] == "set" for value in values)
    assert tree(tmp_path / "seen")


# ---------------------------------------------------------------- the sheet


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_sheet_shows_clusters_and_escapes(edit: Runner, folder: Path, tmp_path: Path) -> None:
    records = [
        {"id": "<b>a</b>", "target": "s0.png"},
        {"id": "b", "target": "s0.jpg"},
        {"id": "c", "target": "s0.bmp"},
        {"id": "d", "target": "s1.png"},
        {"id": "e", "source": ["s2.png"], "target": "s2.png", "instruction": "<script>alert(1)</script>"},
        {"id": "f", "source": ["s3.png"], "target": "red3.png", "instruction": "paint it red"},
        {"id": "g", "source": ["s3.jpg"], "target": "red3.jpg", "instruction": "a red square"},
    ]
    (folder / "sheet.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = tmp_path / "new" / "sheet.html"  # in a folder that is made
    edit("dedup", folder / "sheet.jsonl", "--level", "pairs", "--report", page, "-o", tmp_path / "o.jsonl")
    parsed = Page()
    parsed.feed(page.read_text())
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "iframe", "link")]
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) >= 9 and all(str(a["src"]).startswith("data:image/") for a in images)
    assert "<b>a</b>" in parsed.text and "<script>alert(1)</script>" in parsed.text
    assert "3 rows" in parsed.text and "no visible edit" in parsed.text and "same pair" in parsed.text
    assert "bits" in parsed.text and "stays" in parsed.text
    again = edit("dedup", folder / "sheet.jsonl", "--report", page, "-o", tmp_path / "p.jsonl", check=1)
    assert "--overwrite" in again.stderr
    assert "needs a name" in edit("dedup", folder / "sheet.jsonl", "--mark", "", check=2).stderr
    edit("dedup", folder / "sheet.jsonl", "--report", page, "--task", "0/2", "-o", tmp_path / "p/", check=2)
    piped = edit.pipe(["cat", folder / "sheet.jsonl"], ["dedup", "--report", tmp_path / "x.html"], check=[None, 2])
    assert "--report" in piped[-1].stderr


def test_the_sheet_of_a_verdict_that_was_made_before(edit: Runner, folder: Path, tmp_path: Path) -> None:
    pairs = pair_set(edit, folder, tmp_path / "set", 4)
    edit("dedup", pairs, "--phase", "fingerprint", "-o", tmp_path / "prints")
    edit("dedup", tmp_path / "prints", "--phase", "decide", "-o", tmp_path / "v")
    edit("dedup", pairs, "--decisions", tmp_path / "v", "--report", tmp_path / "r.html", "-o", tmp_path / "out")
    assert "No row is a copy of another" in (tmp_path / "r.html").read_text()
    assert pq.read_table(tmp_path / "v").column("id").null_count == 2  # a row per shard, for the groups
