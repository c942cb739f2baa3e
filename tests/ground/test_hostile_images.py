"""Hostile images from the folder to the pairs: damaged, empty, turned, of every mode, from slivers to 24 megapixels.
Each is a row or a reject with its reason in all of shard, ground and synth."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Runner, rejects_of, rows_of
from PIL import Image

from edittools.stream import codec

pytest.importorskip("cv2")
pytest.importorskip("rapidocr")
skimage = pytest.importorskip("skimage.data")
KINDS = (
    "cut flipped overwritten doubled empty zeros html turned cmyk grey16 alpha palette moving webp tiff sliver dot "
    "large huge bomb claims plain blank noise"
).split()
REASONS = {"damaged image", "empty file", "not an image", "too many pixels", "image too large"}


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def photographs() -> list[Image.Image]:
    """scikit-image's, a person first: pages of writing, things."""
    files = [p for p in Path(skimage.__file__).parent.glob("*") if p.suffix in (".png", ".jpg", ".jpeg")]
    files.sort(key=lambda path: (path.stem != "astronaut", path.name))
    return [Image.open(path).convert("RGB") for path in files]


def damaged(data: bytearray, kind: str, rng: np.random.Generator) -> bytes:
    """A file as it comes out of a bad disk or a bad connection."""
    start, size = int(rng.integers(len(data) // 2)), int(2 ** rng.integers(4, 13))
    match kind:
        case "cut":
            del data[int(rng.integers(1, len(data))) :]
        case "flipped":
            for at in rng.integers(0, len(data), 8):
                data[at] ^= 1 << int(rng.integers(8))
        case "overwritten":
            data[start : start + size] = rng.integers(0, 256, size, np.uint8).tobytes()
        case "doubled":
            data[start:start] = data[start : start + size]
        case "zeros":
            data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
    return bytes(data)


def hostile(k: int) -> bytes:
    """The k-th image, of the k-th kind in turns; its format, its size and its damage are drawn."""
    rng = np.random.default_rng(k)
    kind, turn = KINDS[k % len(KINDS)], k // len(KINDS) + k
    photo = photographs()[0 if turn % 3 == 2 else int(rng.integers(len(photographs())))]
    shown = photo.resize([max(8, int(side * rng.uniform(0.2, 1.2))) for side in photo.size])
    match kind:
        case "empty":
            return b""
        case "html":
            return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
        case "turned":
            exif = Image.Exif()
            exif[0x0112] = int(rng.integers(1, 12))  # some of them mean nothing
            return saved(shown, "JPEG", exif=exif)
        case "cmyk":
            return saved(shown.convert("CMYK"), "JPEG")
        case "grey16":
            return saved(Image.fromarray(np.asarray(shown.convert("L")).astype(np.uint16) * 257), "PNG")
        case "alpha":
            return saved(Image.merge("RGBA", (*shown.split(), shown.convert("L"))), "PNG")
        case "palette":
            return saved(shown.convert("P"), "GIF")
        case "moving":
            frames = [shown.rotate(10 * part) for part in range(3)]
            return saved(frames[0], ("GIF", "WEBP", "PNG")[turn % 3], save_all=True, append_images=frames[1:])
        case "webp":
            return saved(shown, "WEBP", lossless=True)
        case "tiff":
            return saved(shown, "TIFF", compression=("tiff_lzw", "jpeg", "raw")[turn % 3])
        case "sliver":
            thin = int(rng.integers(1, 5)), int(rng.integers(500, 6000))
            return saved(photo.resize(thin if turn % 2 else thin[::-1]), "PNG")
        case "dot":
            return saved(shown.crop((0, 0, 1 + turn % 3, 1)), "PNG")
        case "large" | "huge":
            return saved(photo.resize((3000, 2000) if kind == "large" else (6000, 4000)), "JPEG")
        case "bomb":
            return saved(Image.new("1", (15_000, 15_000)), "PNG")
        case "claims":
            whole = bytearray(saved(shown, "PNG"))
            whole[16:24] = b"\0\0\xf0\0\0\0\xf0\0"  # 61,440 x 61,440
            return bytes(whole)
        case "plain" | "blank":
            colour = "white" if kind == "blank" else tuple(rng.integers(0, 256, 3).tolist())
            return saved(Image.new("RGB", shown.size, colour), "PNG")
        case "noise":
            return saved(Image.fromarray(rng.integers(0, 256, (*shown.size, 3), np.uint8)), "PNG")
    return damaged(bytearray(saved(shown, ("JPEG", "PNG", "WEBP")[turn % 3])), kind, rng)


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("count", [pytest.param(24), pytest.param(1000, marks=pytest.mark.long)])
def test_each_is_a_row_or_a_reject_to_the_end(edit: Runner, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "crawl"
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:04d}.img").write_bytes(hostile(k))
    options = ("-q", "--max-errors", count)
    edit("shard", folder, "-o", tmp_path / "raw", "--max-pixels", "200000000", *options, timeout=900)
    rows, rejects = rows_of(tmp_path / "raw"), rejects_of(tmp_path / "raw")
    names = {row["id"]: row["provenance"]["path"] for row in rows}
    assert sorted([*names.values(), *(one["path"] for one in rejects)]) == [f"{k:04d}.img" for k in range(count)]
    assert {one["reason"] for one in rejects} <= REASONS
    read = count > len(KINDS)  # its writing, too, which takes a second for each
    models = ("--detector", "person,face,text" if read else "person,face", "--segmenter", "grabcut")
    maps = ("canny", *(["text"] if read else []))
    models += ("--maps", ",".join(maps))
    edit("ground", tmp_path / "raw", *models, "-o", tmp_path / "seen", *options, timeout=7200)
    seen, unseen = rows_of(tmp_path / "seen"), rejects_of(tmp_path / "seen")
    assert sorted([*(row["id"] for row in seen), *(one["id"] for one in unseen)]) == sorted(names)
    for row in seen:
        columns = ("target", *(f"map_{name}" for name in maps))
        target, *drawn = (codec.decode(row[name], codec.FULL) for name in columns)
        assert {each.shape[:2] for each in drawn} == {target.shape[:2]}
        for each in row["objects"]:
            x0, y0, x1, y1 = each["box"]
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and 0 < each["area"] <= 1
    assert any(row["objects"] for row in seen)
    tasks = ("remove", "expression", "extract", *(["text"] if read else []))
    painted = ("--painter", "inpaint", "--painted", ",".join(tasks), "--check", "outside", "--per-row", 4)
    edit("synth", tmp_path / "seen", *painted, "-o", tmp_path / "pairs", *options, timeout=7200)
    pairs = [row["id"] for row in rows_of(tmp_path / "pairs")]
    said = {tuple(name.split("-")[:2]) for name in [*pairs, *(one["id"] for one in rejects_of(tmp_path / "pairs"))]}
    assert pairs and said == {(row["id"], f"painted_{task}") for row in seen for task in tasks}
