"""Every kind of hostile file, through every filter and every signature: each costs its own row at most."""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models as tiny
from conftest import Runner, encode, rejects_of, rows_of
from PIL import Image
from test_content_filters import house, scene

from edittools.encoders.embedders import load_embedder
from edittools.filter import all_filters
from edittools.stream import codec

LIMIT = 50_000_000  # --max-pixels here


def png(width: int, height: int, bits: int, colour: int, body: bytes) -> bytes:
    """A PNG that claims a size, whatever its body is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def one_bit(side: int) -> bytes:
    """A black image of side x side in a few kilobytes."""
    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, 1, 0, body)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hostile() -> tuple[dict[str, bytes], dict[str, tuple[bytes, str]]]:
    """Files that are images after all, and files that are none with the reason of their reject."""
    base = scene(1, 160, 240)
    shown = Image.fromarray(base)
    jpeg = encode(base, "JPEG", quality=90)
    frames = [Image.fromarray(scene(k, 80, 120)) for k in range(3)]
    sixteen = (np.arange(160 * 240, dtype=np.uint32).reshape(160, 240) * 65535 // (160 * 240)).astype(np.uint16)
    deep = base.astype(">u2") * 257  # as PNG stores it
    rows = b"".join(b"\0" + deep[y].tobytes() for y in range(160))
    clear = np.dstack([base, np.where(np.arange(240) < 120, 0, 255)[None].repeat(160, 0).astype(np.uint8)])
    clear[:, :120, :3] = 0
    fine = {
        "webp_bytes.jpg": saved(shown, "WEBP"),
        "cmyk.jpg": saved(shown.convert("CMYK"), "JPEG"),
        "grey16.png": saved(Image.fromarray(sixteen), "PNG"),
        "rgb16.png": png(240, 160, 16, 2, zlib.compress(rows)),
        "grey16.tif": saved(Image.fromarray(sixteen), "TIFF"),
        "alpha.png": saved(Image.fromarray(clear), "PNG"),
        "palette.gif": saved(shown.convert("P"), "GIF"),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "avif.avif": saved(shown, "AVIF"),
        "two_short.jpg": jpeg[:-2],  # no end, but every pixel
        "sliver.png": encode(np.zeros((2, 20000, 3), np.uint8), "PNG"),
        "dot.png": encode(base[:1, :1], "PNG"),
    }
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        fine[f"exif{orientation}.jpg"] = saved(shown, "JPEG", exif=exif)
    rotten = bytearray(jpeg)  # a few wrong bytes can still be an image's, to any decoder; a thousand are not
    rotten[5000:6000] = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    bad = {
        "half.jpg": (jpeg[: len(jpeg) // 2], "damaged image"),
        "four_short.jpg": (jpeg[:-4], "damaged image"),
        "rotten.jpg": (bytes(rotten), "damaged image"),
        "claims.png": (png(65000, 65000, 8, 2, b""), "too many pixels"),
        "bomb400.png": (one_bit(20000), "too many pixels"),
        "bomb100.png": (one_bit(10000), "too many pixels"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        "drawing.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
        "empty.jpg": (b"", "empty file"),
        "brand.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "damaged image"),
    }
    return fine, bad


@pytest.fixture(scope="module")
def edit(model_edit: Runner) -> Runner:
    return model_edit


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    folder.mkdir()
    fine, bad = hostile()
    for name, data in {**fine, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    (folder / "good.jpg").write_bytes(encode(house(1), "JPEG"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {
        "--clip": tiny.save_clip(root / "clip"),
        "--dino": tiny.save_dino(root / "dino"),
        "--classifier": tiny.save_classifier(root / "classifier"),
        "--aesthetic-head": tiny.save_aesthetic(root / "aesthetic"),
        "sscd": tiny.save_sscd(root / "sscd"),
        "--foreground": tiny.save_segmenter(root / "segmenter"),
    }


DECODED_ONLY = {"half.jpg", "four_short.jpg", "rotten.jpg"}  # their headers are whole


def check(folder: Path, decoded: bool = True) -> dict[str, dict[str, Any]]:
    """Every file is a row or a reject with the right reason. Returns the rows by the names of their files."""
    fine, bad = hostile()
    rows = {row["provenance"]["path"]: row for row in rows_of(folder)}
    reasons = {reject["path"]: reject["reason"] for reject in rejects_of(folder)}
    assert len(rows) + len(reasons) == len(fine) + len(bad) + 1 and not rows.keys() & reasons.keys()
    assert reasons == {name: why for name, (_, why) in bad.items() if decoded or name not in DECODED_ONLY}
    return rows


ONE_IMAGE = [name for name, item in all_filters().items() if item.measure is not None]
HEADER = [name for name, item in all_filters().items() if item.from_size is not None or item.from_header is not None]


def test_filters_of_one_image(edit: Runner, crowd: Path, tmp_path: Path) -> None:
    for package in ("cv2", "zxingcpp", "rapidocr", "libsvm", "skvideo"):
        pytest.importorskip(package)
    bounds = [part for name in ONE_IMAGE for part in (all_filters()[name].flag, "..")]
    edit(
        "filter", crowd, *bounds, "--fix-rotation", "--max-pixels", LIMIT, "--max-errors", "100%", "-o", tmp_path / "o"
    )
    rows = check(tmp_path / "o")
    for name, row in rows.items():
        assert row["scores"].keys() == {*ONE_IMAGE, "rotation", "orientation"}
        assert all(math.isfinite(value) for value in row["scores"].values()), name
    # What an image gets does not depend on its neighbours.
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "good.jpg").write_bytes((crowd / "good.jpg").read_bytes())
    edit("filter", alone, *bounds, "--fix-rotation", "-o", tmp_path / "a")
    assert rows_of(tmp_path / "a")[0]["scores"] == rows["good.jpg"]["scores"]
    # Conversions are right: brightness of 16 bits is that of 8, transparency is white, an animation its first frame.
    white = (codec.decode((crowd / "alpha.png").read_bytes())[:, :120] == 255).all()
    assert white and rows["grey16.png"]["scores"]["brightness"] == pytest.approx(127.5, abs=1)
    assert rows["rgb16.png"]["scores"]["brightness"] == pytest.approx(
        rows["webp_bytes.jpg"]["scores"]["brightness"], abs=2
    )
    assert [rows[f"exif{k}.jpg"]["scores"]["orientation"] for k in (3, 6, 8)] == [3, 6, 8]


@pytest.mark.parametrize("name", HEADER)
def test_filters_of_the_header(name: str, edit: Runner, crowd: Path, tmp_path: Path) -> None:
    flag = all_filters()[name].flag
    edit("filter", crowd, flag, "..", "--max-pixels", LIMIT, "--max-errors", "100%", "-o", tmp_path / "o")
    check(tmp_path / "o", decoded=False)


def test_filters_of_pairs_and_models(edit: Runner, crowd: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """Every file as the target of a pair, and as the source of another."""
    pytest.importorskip("cv2")
    fine, bad = hostile()
    where = tmp_path / "in"
    shutil.copytree(crowd, where)
    texts = {"caption": "a house", "source_caption": "a hut", "instruction": "change it"}
    rows = []
    for name in (*fine, *bad):
        rows.append({"id": f"t-{name.replace('.', '-')}", "source": ["good.jpg"], "target": name, **texts})
        rows.append({"id": f"s-{name.replace('.', '-')}", "source": [name], "target": "good.jpg", **texts})
    (where / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [part for flag, folder in folders.items() for part in (flag, folder) if flag != "sscd"]
    scored = [name for name, item in all_filters().items() if item.score is not None]
    bounds = [part for name in scored for part in (all_filters()[name].flag, "..")]
    edit("filter", where / "rows.jsonl", *bounds, *models, "--label", "fake", "--max-pixels", LIMIT,
         "--max-errors", "100%", "-o", tmp_path / "models")  # fmt: skip
    kept, lost = {row["id"]: row for row in rows_of(tmp_path / "models")}, rejects_of(tmp_path / "models")
    assert kept.keys() == {f"{side}-{name.replace('.', '-')}" for name in fine for side in "ts"}
    assert all(math.isfinite(value) for row in kept.values() for value in row["scores"].values())
    wanted = {f"{side}-{name.replace('.', '-')}": why for name, (_, why) in bad.items() for side in "ts"}
    assert {reject["id"]: reject["reason"] for reject in lost} == wanted
    # Of one size are only the pairs of an image with itself.
    same = [{"id": name.replace(".", "-"), "source": [name], "target": name, **texts} for name in (*fine, *bad)]
    (where / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    edit("filter", where / "same.jsonl", "--motion", "..", "--camera-motion", "..", *models, "--max-pixels", LIMIT,
         "--max-errors", "100%", "-o", tmp_path / "motion")  # fmt: skip
    still = {row["id"]: row["scores"] for row in rows_of(tmp_path / "motion")}
    assert still.keys() == {name.replace(".", "-") for name in fine}
    assert all(0 <= value < 0.2 for scores in still.values() for value in scores.values())


@pytest.mark.parametrize("method", ["exact", "pixels", "phash", "clip", "dino", "sscd"])
def test_signatures(method: str, edit: Runner, crowd: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    named = {"clip": folders["--clip"], "dino": folders["--dino"], "sscd": folders["sscd"]}.get(method, method)
    edit("dedup", crowd, "--method", named, "--max-pixels", LIMIT, "--max-errors", "100%", "-o", tmp_path / "out")
    fine, bad = hostile()
    rows = {row["provenance"]["path"] for row in rows_of(tmp_path / "out")}
    rejects = {reject["path"]: reject for reject in rejects_of(tmp_path / "out")}
    assert rows | rejects.keys() == {*fine, *bad, "good.jpg"}, "no file is silently missing"
    failed = {name: reject["reason"] for name, reject in rejects.items() if reject["failed"]}
    assert failed == {name: why for name, (_, why) in bad.items() if method != "exact" or name not in DECODED_ONLY}
    assert "good.jpg" in rows and not rows & rejects.keys()
    if method == "pixels":  # the same 16 bits in two containers
        assert len({"grey16.png", "grey16.tif"} & rows) == 1
    if method == "exact":
        assert len(rows) == len(fine) + len(DECODED_ONLY) + 1, "no two files are equal"


def test_sscd_in_both_modes(edit: Runner, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shown = [scene(k, 120, 300) for k in range(3)]
    for k, pixels in enumerate(shown):
        (folder / f"{k}.png").write_bytes(encode(pixels, "PNG"))
    vectors = {}
    for square in (False, True):
        more = ["--square"] if square else []
        fingerprints = tmp_path / f"prints{square}"
        edit("dedup", folder, "--method", folders["sscd"], *more, "--phase", "fingerprint", "-o", fingerprints)
        stored = pq.read_table(fingerprints / "00000.parquet").column("signatures").to_pylist()
        vectors[square] = np.stack([np.frombuffer(value, np.float16).astype(np.float32) for value in stored])
        expected = load_embedder(str(folders["sscd"]), square=square).images(shown)
        assert np.allclose(vectors[square], expected, atol=2e-3)
    assert not np.allclose(vectors[False], vectors[True], atol=1e-2)
    method = ["--method", folders["sscd"]]
    mixed = edit("dedup", tmp_path / "printsTrue", *method, "--phase", "decide", "-o", tmp_path / "v", check=2)
    assert "--square: the fingerprints were made with True, not None" in mixed.stderr
    other = edit("dedup", folder, "--method", folders["--clip"], "--square", "-o", tmp_path / "out", check=2)
    assert "--square: " in other.stderr and "has no such option" in other.stderr


def test_many_good_ones_and_one_page(edit: Runner, tmp_path: Path) -> None:
    """One HTML file among 1,500 images costs one row (a peer loses the other thousand of its batch)."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(1500):
        Image.fromarray(np.full((8, 8, 3), k % 256, np.uint8)).save(folder / f"p{k:04}.jpg")
    (folder / "p0700_page.jpg").write_bytes(b"<html></html>")
    edit("filter", folder, "--brightness", "..", "--min-side", "1", "-o", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 1500
    assert [(reject["path"], reject["reason"]) for reject in rejects_of(tmp_path / "out")] == [
        ("p0700_page.jpg", "not an image")
    ]
