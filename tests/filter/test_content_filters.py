"""Detectors of unwanted content, image quality without a reference, and motion pairs."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import EDIT, Runner, encode, rejects_of, rows_of, tree
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edittools.filter import all_filters, flow
from edittools.filter import natural as natural_statistics
from edittools.filter.config import FilterConfig
from edittools.filter.stage import FilterStage
from edittools.record import COLUMNS
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard
from edittools.stream.input_reader import reference

for package in ("cv2", "zxingcpp", "rapidocr", "onnxruntime"):
    pytest.importorskip(package)

CONTENT = ["borders", "collage", "corner_mark", "mosaic", "privacy_mask", "qr", "text_overlay", "tilt", "watermark"]
QUALITY = ["brisque", "niqe"]


def scene(seed: int, height: int = 360, width: int = 540, falloff: float = 1.5) -> np.ndarray:
    """A made-up natural image: coloured noise with about the spectrum of photographs; a low falloff is rough."""
    rng = np.random.default_rng(seed)
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = 1 / np.maximum(np.hypot(down, across), 1 / max(height, width)) ** falloff
    shared = rng.normal(size=(height, width))
    layers = [np.fft.ifft2(np.fft.fft2(shared + 0.4 * rng.normal(size=shared.shape)) * spectrum).real for _ in range(3)]
    image = np.stack(layers, axis=-1)
    return np.clip(image / image.std() * 45 + 120, 0, 255).astype(np.uint8)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def measure(name: str, image: np.ndarray, quality: int = 90) -> float:
    """The score of an image that was stored as JPEG."""
    item = all_filters()[name]
    assert item.measure is not None and item.raster is not None
    return item.measure(codec.decode(encode(image, "JPEG", quality=quality), item.raster))


def bound(name: str) -> float:
    return float(sys.modules[f"edittools.filter.filters.{name}"].BOUND)


# ---------------------------------------------------------------- what is planted


def with_code(seed: int) -> np.ndarray:
    import zxingcpp

    kind = (zxingcpp.QRCode, zxingcpp.DataMatrix, zxingcpp.Code128)[seed % 3]
    drawn = Image.fromarray(np.array(zxingcpp.create_barcode("EXAMPLE 12345", kind).to_image(scale=2 + (seed % 3 < 2))))
    card = Image.new("L", (drawn.width + 24, drawn.height + 24), 255)
    card.paste(drawn, (12, 12))
    image = Image.fromarray(scene(seed))
    image.paste(card.convert("RGB"), (20 + 10 * seed, 60))
    return np.asarray(image)


def with_caption(seed: int) -> np.ndarray:
    image = Image.fromarray(scene(seed))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 270, 540, 330), fill="white" if seed % 2 else "black")
    draw.text((30, 282), "Weather report tonight", fill="black" if seed % 2 else "white", font=font(32))
    return np.asarray(image)


def with_signature(seed: int) -> np.ndarray:
    image = Image.fromarray(scene(seed))
    draw = ImageDraw.Draw(image)
    draw.text((360, 330), "www.example.org", fill="white", font=font(20), stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def with_tiles(seed: int) -> np.ndarray:
    layer = Image.new("L", (900, 900))
    draw = ImageDraw.Draw(layer)
    for y in range(0, 900, 70):
        for x in range(0, 900, 130):
            draw.text((x, y), "SAMPLE", fill=90, font=font(26))
    layer = layer.rotate(20 * (seed % 3)).crop((180, 270, 720, 630))
    image = Image.fromarray(scene(seed))
    image.paste((255, 255, 255), (0, 0), layer)
    return np.asarray(image)


def with_mosaic(seed: int) -> np.ndarray:
    image = scene(seed)
    size = (10, 14, 18)[seed % 3]
    part = Image.fromarray(image[60:240, 100:316])
    small = part.resize((216 // size, 180 // size), Image.Resampling.BOX)
    blocks = np.asarray(small).repeat(size, axis=0).repeat(size, axis=1)
    image[60 : 60 + blocks.shape[0], 100 : 100 + blocks.shape[1]] = blocks
    return image


def with_patch(seed: int) -> np.ndarray:
    image = Image.fromarray(scene(seed, falloff=1.1))
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    box = (150, 80, 290, 200)
    draw.rectangle(box, 255) if seed % 2 else draw.ellipse(box, 255)
    changed = image.filter(ImageFilter.GaussianBlur(10)) if seed % 4 < 2 else Image.new("RGB", image.size, "black")
    image.paste(changed, (0, 0), mask)
    return np.asarray(image)


def two_panels(seed: int) -> np.ndarray:
    left, right = scene(seed, 360, 270), scene(seed + 100, 360, 270)
    if seed % 2:
        left[:, -4:] = 255
    return np.concatenate([left, right], axis=1)


def with_bars(seed: int) -> np.ndarray:
    image = scene(seed)
    shade = (0, 255, 60)[seed % 3]
    if seed % 2:
        image[:40] = image[-40:] = shade
    else:
        image[:, :50] = image[:, -50:] = shade
    return image


def crooked(seed: int) -> np.ndarray:
    """A house front, turned by 4 to 9 degrees."""
    return house(seed, 4 + seed)


def house(seed: int, degrees: float = 0) -> np.ndarray:
    big = Image.fromarray(scene(seed, 700, 900))
    draw = ImageDraw.Draw(big)
    for y in range(60, 640, 90):
        for x in range(50, 850, 110):
            draw.rectangle((x, y, x + 60, y + 50), fill=(30, 40, 50), outline=(220, 220, 210), width=3)
    return np.asarray(big.rotate(-degrees, Image.Resampling.BICUBIC).crop((150, 150, 750, 550)))


PLANTED: dict[str, Callable[[int], np.ndarray]] = {
    "borders": with_bars,
    "collage": two_panels,
    "corner_mark": with_signature,
    "mosaic": with_mosaic,
    "privacy_mask": with_patch,
    "qr": with_code,
    "text_overlay": with_caption,
    "tilt": crooked,
    "watermark": with_tiles,
}


# ---------------------------------------------------------------- the detectors


def test_every_new_filter_is_tested() -> None:
    assert set(PLANTED) == set(CONTENT)
    photometric = {"aspect", "brightness", "entropy", "saturation", "sharpness", "short_side", "texture"}
    assert set(all_filters()) >= {*CONTENT, *QUALITY, "motion", "camera_motion", *photometric}


@pytest.mark.parametrize("name", CONTENT)
def test_planted_cases_are_found(name: str) -> None:
    for seed in range(5):
        for quality in (95, 75):
            found = measure(name, PLANTED[name](seed), quality)
            assert found > bound(name), f"{name} {seed} {quality}: {found}"


@pytest.mark.parametrize("name", CONTENT)
def test_clean_images_pass(name: str) -> None:
    for seed in range(10, 15):
        assert measure(name, scene(seed)) <= bound(name)
    assert measure(name, scene(3, 300, 301), 50) <= bound(name)


@pytest.mark.parametrize("name", ["borders", "collage", "corner_mark", "mosaic", "privacy_mask", "qr", "text_overlay"])
def test_photographs_pass(name: str) -> None:
    data = pytest.importorskip("skimage.data")
    for photograph in (data.chelsea(), data.coffee(), data.astronaut()):
        assert measure(name, photograph) <= bound(name)


HOSTILE = {
    "one pixel": np.full((1, 1, 3), 7, np.uint8),
    "a row": np.full((1, 3000, 3), 90, np.uint8),
    "a column": np.arange(3000 * 2 * 3, dtype=np.uint32).reshape(3000, 2, 3).astype(np.uint8),
    "black": np.zeros((200, 300, 3), np.uint8),
    "white": np.full((777, 1033, 3), 255, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (200, 320, 3), dtype=np.uint8),
    "stripes": np.tile(np.array([0, 0, 255, 255], np.uint8)[:, None], (50, 300))[..., None].repeat(3, 2),
    "gray": scene(1)[..., :1].repeat(3, 2),
    "small": scene(2, 15, 33),
    "wide": scene(3, 40, 1500),
}


@pytest.mark.parametrize("name", CONTENT + QUALITY)
def test_hostile_images(name: str) -> None:
    item = all_filters()[name]
    assert item.measure is not None and item.raster is not None
    if name in QUALITY:
        pytest.importorskip("libsvm")  # comes with the package whose model is read
    for kind, image in HOSTILE.items():
        data = encode(image, "PNG")
        with np.errstate(all="raise", under="ignore"):
            first = item.measure(codec.decode(data, item.raster))
        assert math.isfinite(first), kind
        assert first == item.measure(codec.decode(data, item.raster)), kind
        if name not in QUALITY:
            assert first >= 0, kind
            if item.unit.endswith("0 to 1"):
                assert first <= 1, kind
        if kind in ("one pixel", "black", "white", "small") and name not in QUALITY:
            assert first == 0, kind


def test_gray_files_are_like_colour_ones() -> None:
    gray = Image.fromarray(with_mosaic(1)).convert("L")
    buffer = io.BytesIO()
    gray.save(buffer, "PNG")
    item = all_filters()["mosaic"]
    assert item.measure is not None and item.raster is not None
    assert item.measure(codec.decode(buffer.getvalue(), item.raster)) > bound("mosaic")


# ---------------------------------------------------------------- exact values


def raw(name: str, gray: np.ndarray) -> float:
    function = all_filters()[name].measure
    assert function is not None
    return function(gray)


def test_borders_by_hand() -> None:
    gray = scene(4)[..., 0] // 2 + 100  # never near the border's colour
    gray[:36] = 0
    gray[-18:] = 0
    gray[:, :27] = 255
    assert raw("borders", gray) == pytest.approx(1 - (360 - 54) * (540 - 27) / (360 * 540))
    gradient = np.tile(np.arange(360, dtype=np.uint8)[:, None] // 2, (1, 540))
    assert raw("borders", gradient) == 0  # even rows, but no step


def test_seam_by_hand() -> None:
    halves = np.tile(np.arange(120, dtype=np.uint8)[:, None], (1, 160))  # so that no row or column is a border
    halves[:, 80:] += 100
    assert raw("collage", halves) == 1
    halves[:20, 80:] -= 100  # the seam lacks one sixth of its span: one of the three weaker parts is empty
    assert raw("collage", halves) == pytest.approx(2 / 3)


def test_code_share_by_hand() -> None:
    import zxingcpp

    drawn = np.array(zxingcpp.create_barcode("12345", zxingcpp.QRCode).to_image(scale=4))
    image = np.full((500, 500), 255, np.uint8)
    image[100 : 100 + drawn.shape[0], 100 : 100 + drawn.shape[1]] = drawn
    dark = np.argwhere(image < 128)
    side = dark.max(axis=0) - dark.min(axis=0) + 1
    assert raw("qr", image) == pytest.approx(side[0] * side[1] / 250_000, rel=0.05)


def test_tilt_angle() -> None:
    for degrees in (-12, -7, -3.5, 0, 5, 9):
        from edittools.filter.filters.tilt import angle

        found, sure = angle(np.asarray(Image.fromarray(house(0, degrees)).convert("L")))
        assert found == pytest.approx(degrees, abs=0.5) and sure > (1.8 if degrees else 0)


def test_asymmetric_gaussian_by_its_samples() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 2, 400_000)
    shape, mean, left, right = natural_statistics.asymmetric(normal)
    assert (shape, mean, left, right) == (
        pytest.approx(2, abs=0.02),
        pytest.approx(0, abs=0.02),
        *[pytest.approx(2, abs=0.01)] * 2,
    )
    laplace = rng.laplace(0, 1, 400_000)
    skewed = np.where(laplace < 0, laplace * 0.5, laplace * 1.5)
    # The two halves of this one hold equally many samples; those of the model hold as many as their widths.
    assert natural_statistics.asymmetric(laplace)[0] == pytest.approx(1, abs=0.02)
    assert natural_statistics.asymmetric(skewed)[2:] == (
        pytest.approx(0.5 * 2**0.5, rel=0.01),
        pytest.approx(1.5 * 2**0.5, rel=0.01),
    )
    assert natural_statistics.asymmetric(np.zeros(10)) == (pytest.approx(0.2), 0, 0, 0)


def photograph(name: str) -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    found = getattr(data, name)()
    return found if found.ndim == 2 else np.asarray(Image.fromarray(found).convert("L"))


# scikit-video 1.1.11's own `niqe`, and the features and support vectors of the package brisque 0.2.0 through libsvm.
@pytest.mark.parametrize(
    ("name", "niqe", "brisque"),
    [("camera", 9.070684, -7.879404), ("chelsea", 11.753471, 3.542125), ("coffee", 8.349135, 3.106764)],
)
def test_quality_equals_independent_code(name: str, niqe: float, brisque: float) -> None:
    gray = photograph(name)
    assert raw("niqe", gray) == pytest.approx(niqe, rel=1e-3)
    assert raw("brisque", gray) == pytest.approx(brisque, abs=0.1)


def test_quality_gets_worse_with_distortion() -> None:
    gray = photograph("coffee")
    blurred = [np.asarray(Image.fromarray(gray).filter(ImageFilter.GaussianBlur(r))) for r in (0, 1, 2.5)]
    rng = np.random.default_rng(0)
    noisy = [np.clip(gray + rng.normal(0, s, gray.shape), 0, 255).astype(np.uint8) for s in (0, 15, 40)]
    for name in QUALITY:
        for images in (blurred, noisy):
            values = [raw(name, image) for image in images]
            assert values[0] < min(values[1:]), name


def test_a_pickle_that_names_a_class_is_refused(tmp_path: Path) -> None:
    import pickle

    from edittools.filter.filters.brisque import _Numbers

    with pytest.raises(pickle.UnpicklingError, match="system"):
        _Numbers(io.BytesIO(b"cos\nsystem\n(S'true'\ntR.")).load()
    assert _Numbers(io.BytesIO(pickle.dumps({"min_": [1.5]}))).load() == {"min_": [1.5]}


# ---------------------------------------------------------------- motion


def moved(dx: int, dy: int, camera: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A patch that moves by dx, dy over a background that moves sideways by `camera` pixels."""
    background, patch = scene(1, 300, 400)[..., 0], scene(2, 100, 120)[..., 0]
    source = background.copy()
    source[100:200, 140:260] = patch
    target = np.roll(background, camera, axis=1)
    target[100 + dy : 200 + dy, 140 + dx : 260 + dx] = patch
    mask = np.zeros_like(source)
    mask[100:200, 140:260] = 255
    return source, target, mask


def pair(name: str, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    function = all_filters()[name].measure_flow
    assert function is not None
    return function(flow.per_cent(flow.dis(source, target)), mask > 127)


def pair_row(source: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> Batch:
    """A row of gray images."""
    made = [None if item is None else reference(bytes=encode(item, "PNG")) for item in (source, target, mask)]
    arrays = [pa.array([value], COLUMNS[name]) for name, value in
              (("id", "a"), ("source", made[:1]), ("target", made[1]), ("mask", made[2]))]  # fmt: skip
    return Batch(pa.record_batch(arrays, names=["id", "source", "target", "mask"]), Shard(0, 1, ""))


def test_motion_of_known_shifts() -> None:
    diagonal = 500 / 100  # pixels of one per cent
    still = moved(0, 0)
    assert pair("motion", *still) == pytest.approx(0, abs=0.01)
    assert pair("camera_motion", *still) == pytest.approx(0, abs=0.01)
    runs = moved(6, 8)  # 10 pixels
    assert pair("motion", *runs) * diagonal == pytest.approx(10, rel=0.1)
    assert pair("camera_motion", *runs) * diagonal < 1
    pans = moved(5, 0, camera=5)
    assert pair("motion", *pans) * diagonal == pytest.approx(5, rel=0.1)
    assert pair("camera_motion", *pans) * diagonal == pytest.approx(5, rel=0.1)
    assert pair("motion", *runs) == pair("motion", *[item.copy() for item in runs])


def test_motion_means_are_those_of_the_flow() -> None:
    source, target, mask = moved(3, -4, camera=2)
    field = flow.dis(source, target) / (500 / 100)
    inside = mask > 127
    assert pair("motion", source, target, mask) == pytest.approx(float(np.hypot(*field[inside].T).mean()), rel=1e-5)
    mean = field[~inside].astype(np.float64).mean(axis=0)
    assert pair("camera_motion", source, target, mask) == pytest.approx(float(np.hypot(*mean)), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 2), (8, 8), (64, 65)])
def test_motion_of_odd_sizes(shape: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for mask in (np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        for name in ("motion", "camera_motion"):
            assert math.isfinite(pair(name, source, 255 - source, mask))


def test_motion_needs_a_mask_and_equal_sizes() -> None:
    source, target, mask = moved(0, 0)
    for row, reason in (
        (pair_row(source, target, None), "no mask picture"),
        (pair_row(source, target[:, 1:], mask), "source and target differ in size"),
        (pair_row(source, target, mask[1:]), "source and mask differ in size"),
    ):
        for name in ("motion", "camera_motion"):
            (done,) = FilterStage(FilterConfig(**{name: ".."}))(iter([row]))
            assert [(reject.reason, reject.failed) for reject in done.rejects] == [(reason, True)]
            if "target" in reason:
                assert done.rejects[0].value == "400x300 and 399x300"


# ---------------------------------------------------------------- on the command line


def make_pairs(folder: Path) -> None:
    folder.mkdir()
    for key, shift, with_mask in (("runs", (12, 6), True), ("still", (0, 0), True), ("bare", (9, 0), False)):
        source, target, mask = moved(*shift)
        (folder / f"{key}.source.png").write_bytes(encode(source, "PNG"))
        (folder / f"{key}.target.png").write_bytes(encode(target, "PNG"))
        if with_mask:
            (folder / f"{key}.mask.png").write_bytes(encode(mask, "PNG"))
        (folder / f"{key}.json").write_text(json.dumps({"instruction": "move it"}))


def test_motion_filters_pairs(edit: Runner, tmp_path: Path) -> None:
    make_pairs(tmp_path / "in")
    edit("filter", tmp_path / "in", "--motion", "1", "--camera-motion", "0.5", "--max-errors", "1", "-o",
         tmp_path / "out")  # fmt: skip
    kept = rows_of(tmp_path / "out")
    assert [Path(row["provenance"]["path"]).name.split(".")[0] for row in kept] == ["runs"]
    source, target, mask = moved(12, 6)
    for name in ("motion", "camera_motion"):
        assert kept[0]["scores"][name] == pytest.approx(pair(name, source, target, mask), rel=1e-5)
    rejects = {Path(r["path"]).name.split(".")[0]: r for r in rejects_of(tmp_path / "out")}
    assert rejects["still"]["reason"] == "motion" and rejects["still"]["value"] < 0.1
    assert rejects["bare"]["reason"] == "no mask picture" and rejects["bare"]["failed"]
    # A pair is the same whichever image the other filters look at, and a quantile takes the second pass.
    edit("filter", tmp_path / "in", "--motion", "..", "--image", "source", "--brightness", "..", "--max-errors", "1",
         "-o", tmp_path / "source")  # fmt: skip
    assert {tuple(sorted(row["scores"])) for row in rows_of(tmp_path / "source")} == {("motion", "source_brightness")}
    edit("filter", tmp_path / "in", "--motion", "q5", "--max-errors", "1", "-o", tmp_path / "half")
    assert [row["scores"]["motion"] for row in rows_of(tmp_path / "half")] == [kept[0]["scores"]["motion"]]


def test_detectors_filter_a_folder(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("collage", "mosaic", "privacy_mask"):
        (tmp_path / f"in/{name}.jpg").write_bytes(encode(PLANTED[name](1), "JPEG", quality=90))
    (tmp_path / "in/clean.jpg").write_bytes(encode(scene(11), "JPEG", quality=90))
    names = ("collage", "mosaic", "privacy_mask")
    bounds = [part for name in names for part in (all_filters()[name].flag, bound(name))]
    edit("filter", tmp_path / "in", *bounds, "-o", tmp_path / "out")
    assert [row["provenance"]["path"] for row in rows_of(tmp_path / "out")] == ["clean.jpg"]
    assert {r["path"].split(".")[0]: r["reason"] for r in rejects_of(tmp_path / "out")} == {
        name: name for name in ("collage", "mosaic", "privacy_mask")
    }
    for jobs in (1, 4):
        edit("filter", tmp_path / "in", *(p for n in CONTENT for p in (all_filters()[n].flag, "..")), "-j", jobs, "-o",
             tmp_path / f"j{jobs}")  # fmt: skip
    assert tree(tmp_path / "j1") == tree(tmp_path / "j4")


MISSING = {
    "--qr": ("zxingcpp", "content"),
    "--privacy-mask": ("cv2", "content"),
    "--tilt": ("cv2", "content"),
    "--text-overlay": ("rapidocr", "ocr"),
    "--corner-mark": ("rapidocr", "ocr"),
    "--brisque": ("cv2", "iqa"),
    "--niqe": ("skvideo", "iqa"),
}


@pytest.mark.parametrize("flag", MISSING)
def test_a_missing_extra_is_one_line(flag: str, tmp_path: Path) -> None:
    package, extra = MISSING[flag]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encode(scene(0, 220, 220), "PNG"))
    absent = tmp_path / "absent" / package
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text(f"raise ImportError('no {package}')\n")
    result = subprocess.run(
        [EDIT, "filter", tmp_path / "in", flag, "..", "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{absent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    first, hint = result.stderr.strip().splitlines()[-2:]
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert first.startswith("edit filter: ") and "which is not installed" in first
    assert hint == f"hint: pip install 'edittools[{extra}]'"
