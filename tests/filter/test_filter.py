"""`edit filter`: measures against independent ones, bounds, quantiles, SQL, and what is done to bad rows."""

from __future__ import annotations

import colorsys
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EDIT, Runner, encode, image, pixels, rejects_of, rows_of, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import laplace

from edittools.errors import EditError, RowError, UsageError
from edittools.filter import PHOTOMETRIC, Bounds, Filter, all_filters
from edittools.rounding import significant
from edittools.stream import codec

PHOTOMETRICS = [name for name, item in all_filters().items() if item.raster == PHOTOMETRIC]


def measure(name: str, array: np.ndarray) -> float:
    found = all_filters()[name].measure
    assert found is not None
    return found(array)


def luma(array: np.ndarray) -> np.ndarray:
    red, green, blue = (array[..., k].astype(np.float64) for k in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def entropy(array: np.ndarray) -> float:
    from skimage.measure import shannon_entropy

    return float(np.mean([shannon_entropy(array[..., k]) for k in range(3)]))


def saturation(array: np.ndarray) -> float:
    return float(np.mean([colorsys.rgb_to_hsv(*(pixel / 255))[1] for pixel in array.reshape(-1, 3).astype(float)]))


def sharpness(array: np.ndarray) -> float:
    return float(laplace(luma(array))[1:-1, 1:-1].var()) if min(array.shape[:2]) > 2 else 0.0


def texture(array: np.ndarray) -> float:
    y = luma(array)
    tops, lefts = (range(0, side - 7, 8) for side in y.shape)
    blocks = [y[top : top + 8, left : left + 8].std() for top in tops for left in lefts]
    return float(np.mean(blocks)) if blocks else float(y.std())


INDEPENDENT = {
    "brightness": lambda array: float(luma(array).mean()),
    "entropy": entropy,
    "saturation": saturation,
    "sharpness": sharpness,
    "texture": texture,
}

# ---------------------------------------------------------------- measures


MEASURES = list(INDEPENDENT)


def test_every_measure_is_checked() -> None:
    """Here, or in a file of its own."""
    own = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(PHOTOMETRICS) == set(INDEPENDENT) | (set(PHOTOMETRICS) & own)
    assert {name for name, item in all_filters().items() if item.from_size is not None} == {"aspect", "short_side"}


def test_every_filter_is_in_the_manuals_table() -> None:
    from edittools.cli.manual import command_page

    page = command_page("filter")
    table = page[page.index(".TS") : page.index(".TE")].replace("\\-", "-")
    for item in all_filters().values():
        row = next(row for row in table.split("\n_\n") if f"T{{\n{item.flag}\nT}}" in row)
        assert row.count("T{\n") == 5
        assert (
            f"\n{item.cost_class}" in row
            and item.unit in row
            and item.source.replace("`", "\\fB", 1).split("\\fB")[0] in row
        )


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 3), (8, 8), (17, 31), (40, 25)])
def test_measures_against_independent_ones(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for array in (noise, pixels(3, *shape), np.zeros_like(noise), np.full_like(noise, 255), noise // 100 * 100):
        assert measure(name, array) == pytest.approx(INDEPENDENT[name](array), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"bare": "most", "measure": np.mean, "raster": PHOTOMETRIC}, "bare is 'most'"),
        ({}, "one of measure, "),
        ({"measure": np.mean, "from_size": np.minimum, "raster": PHOTOMETRIC}, "one of measure, "),
        ({"measure": np.mean}, "no raster"),
        ({"measure": np.mean, "raster": PHOTOMETRIC, "name": "warm-th"}, "letters, digits and _"),
        ({"measure": np.mean, "raster": PHOTOMETRIC, "help": "Warmth, at most this."}, "bare is 'min'"),
        ({"measure": np.mean, "raster": PHOTOMETRIC, "cost": "6"}, "cost is '6'"),
    ],
)
def test_a_declaration_that_measures_nothing_is_refused(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(EditError, match=says):
        Filter(**{"name": "odd", "help": "help", "unit": "unit", "source": "source"} | declared)


def test_two_filters_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edittools.filter import FILTERS

    monkeypatch.setitem(FILTERS.modules, "zz", "edittools.filter.filters.sharpness")
    all_filters.cache_clear()
    assert all_filters()  # the same one twice
    other = types.ModuleType("other")
    other.FILTER = dataclasses.replace(all_filters()["sharpness"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other", other)
    monkeypatch.setitem(FILTERS.modules, "zz", "other")
    all_filters.cache_clear()
    with pytest.raises(EditError, match=r"`sharpness` is in both .*sharpness and .*other"):
        all_filters()
    all_filters.cache_clear()


def test_what_measures_no_number_is_named() -> None:
    from edittools.filter.stage import finite

    for value in (np.zeros(3), "7 px", [1, 2]):
        with pytest.raises(EditError, match=r"filter `warmth` measured .* no number"):
            finite("warmth", value)
    assert finite("warmth", np.float32(0.5)) == 0.5
    with pytest.raises(RowError):
        finite("warmth", None)


def test_what_is_no_number_rejects_its_row(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edittools.filter.config import FilterConfig
    from edittools.filter.stage import FilterStage
    from edittools.stream.run import RunOptions, open_input, run

    measure = all_filters()["brightness"].measure
    values = iter([np.nan, np.inf])
    odd = dataclasses.replace(all_filters()["brightness"], measure=lambda image: next(values, 0) or measure(image))
    monkeypatch.setitem(all_filters(), "brightness", odd)
    stage = FilterStage(FilterConfig(brightness=".."), jobs=1)
    run(
        "filter",
        open_input([str(shards)], RunOptions()),
        [stage],
        {},
        RunOptions(output=f"{tmp_path}/out/", quiet=True, max_errors="2"),
    )
    rejects = rejects_of(tmp_path / "out")
    assert [reject["reason"] for reject in rejects] == 2 * ["brightness is not a number"]
    assert all(reject["failed"] for reject in rejects)


def test_measures_by_hand() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert measure("brightness", red) == pytest.approx(0.299 * 255)
    assert measure("saturation", red) == pytest.approx(1)
    assert measure("entropy", red) == 0
    halves = np.zeros((8, 16, 3), np.uint8)
    halves[:, 8:] = 255
    assert measure("entropy", halves) == pytest.approx(1)  # two values, equally often
    assert measure("texture", halves) == 0  # the edge lies between two blocks
    assert measure("texture", halves[:, 4:12]) == pytest.approx(127.5)
    point = np.zeros((5, 5, 3), np.uint8)
    point[2, 2] = 100
    # Laplacian of a point inside: -4 at it, 1 at its four neighbours, 0 at the other four, times 100.
    assert measure("sharpness", point) == pytest.approx(100**2 * (16 + 4) / 9, rel=1e-5)


@pytest.mark.parametrize("name", ["aspect", "short_side"])
def test_sizes(name: str) -> None:
    found = all_filters()[name].from_size
    assert found is not None
    width, height = np.array([100.0, 50, 30]), np.array([50.0, 100, 30])
    assert found(width, height).tolist() == {"aspect": [2, 2, 1], "short_side": [50, 50, 30]}[name]


# ---------------------------------------------------------------- bounds


number = st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: float(f"{x:.6g}"))


@settings(max_examples=60, deadline=None)
@given(st.none() | number, st.none() | number, st.floats(-2e9, 2e9))
def test_fixed_bounds(low: float | None, high: float | None, value: float) -> None:
    text = f"{'' if low is None else repr(low)}..{'' if high is None else repr(high)}"
    if low is not None and high is not None and low > high:
        with pytest.raises(UsageError, match="above"):
            Bounds.parse(text, "min", "--x")
        return
    bounds = Bounds.parse(text, "min", "--x")
    assert (bounds.low, bounds.high, bounds.empirical) == (low, high, False)
    expected = (low is None or value >= low) and (high is None or value <= high)
    assert bounds.passes(np.array([value, np.nan])).tolist() == [expected, False]


def test_spellings() -> None:
    assert Bounds.parse("5", "min", "--x") == Bounds(low=5)
    assert Bounds.parse("5", "max", "--x") == Bounds(high=5)
    assert Bounds.parse(" 5 .. 9e1 ", "min", "--x") == Bounds(5, 90)
    assert Bounds.parse("..", "min", "--x") == Bounds()
    assert Bounds.parse("q05", "min", "--x") == Bounds(low_q=0.05)
    assert Bounds.parse("q005..q995", "max", "--x") == Bounds(low_q=0.005, high_q=0.995)
    assert Bounds.parse("..q5", "min", "--x") == Bounds(high_q=0.5)
    assert Bounds.parse("q05..90", "min", "--x") == Bounds(low_q=0.05, high=90)


@pytest.mark.parametrize(
    "text",
    # q100 is no 10%: who writes it wants everything
    ["", " ", "x", "q", "q0.5", "q-5", "nan..5", "inf", "1..-inf", "9..5", "q9..q1", "1..2..3", "5%", "q²", "q100"],
)
def test_bad_bounds_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--x"):
        Bounds.parse(text, "min", "--x")


@settings(max_examples=80, deadline=None)
@given(st.text("0123456789.q-+e _naif", max_size=8))
def test_any_text_is_bounds_or_a_usage_error(text: str) -> None:
    try:
        bounds = Bounds.parse(text, "min", "--x")
    except UsageError:
        return
    assert all(b is None or math.isfinite(b) for b in (bounds.low, bounds.high))
    assert all(q is None or 0 <= q < 1 for q in (bounds.low_q, bounds.high_q))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6).map(significant), min_size=1, max_size=50), st.integers(0, 99), st.integers(0, 99))
def test_quantiles_are_numpys_and_lose_no_value_of_their_own(values: list[float], low: int, high: int) -> None:
    low, high = min(low, high), max(low, high)
    array = np.array(values)
    bounds = Bounds.parse(f"q{low:02}..q{high:02}", "min", "--x").resolve(array)
    assert bounds.low == significant(float(np.quantile(array, low / 100)))
    assert bounds.high == significant(float(np.quantile(array, high / 100)))
    if len(set(values)) == 1:
        assert bounds.passes(array).all()
    assert Bounds.parse("q05", "min", "--x").resolve(np.zeros(0)) == Bounds()


# ---------------------------------------------------------------- the command


def lines(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(folder: Path) -> dict[str, dict[str, float]]:
    return {row["provenance"]["path"]: row["scores"] for row in rows_of(folder)}


ALL = [part for name in MEASURES for part in (f"--{name}", "..")]


def test_scores_are_the_measures_to_6_digits(edit: Runner, shards: Path, crawl: Path, tmp_path: Path) -> None:
    edit("filter", shards, *ALL, "-o", tmp_path / "out")
    found = scores(tmp_path / "out")
    assert len(found) == 24  # `..` bounds nothing
    for path, row in found.items():
        raster = codec.decode((crawl / path).read_bytes(), PHOTOMETRIC)
        assert row.keys() == set(MEASURES)
        for name, value in row.items():
            assert value == float(f"{measure(name, raster):.6g}") == float(f"{value:.6g}")


def test_large_images_are_measured_at_short_side_256(edit: Runner, tmp_path: Path) -> None:
    array = pixels(4, 300, 520)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encode(array, "PNG"))
    edit("filter", tmp_path / "in", *ALL, "-o", tmp_path / "out")
    raster = np.asarray(Image.fromarray(array).resize((444, 256), Image.Resampling.BOX))
    assert scores(tmp_path / "out")["a.png"] == {
        name: pytest.approx(INDEPENDENT[name](raster), rel=1e-4) for name in MEASURES
    }


def test_what_is_dropped_says_why_and_how_much(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("filter", shards, *ALL, "-o", tmp_path / "all")
    all_scores = scores(tmp_path / "all")
    values = sorted(row["brightness"] for row in all_scores.values())
    low, high = values[5], values[-5]
    edit("filter", shards, "--brightness", f"{low!r}..{high!r}", "-o", tmp_path / "out")
    kept = scores(tmp_path / "out")
    assert len(kept) == 15 and all(low <= row["brightness"] <= high for row in kept.values())
    dropped = {reject["path"]: reject for reject in rejects_of(tmp_path / "out")}
    assert kept.keys() | dropped.keys() == all_scores.keys() and not kept.keys() & dropped.keys()
    for path, reject in dropped.items():
        assert reject["value"] == all_scores[path]["brightness"]
        assert (reject["stage"], reject["reason"], reject["failed"]) == ("filter", "brightness", False)


def test_quantiles_are_those_of_the_whole_set(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("filter", shards, *ALL, "-o", tmp_path / "all")
    values = np.array([row["sharpness"] for row in scores(tmp_path / "all").values()])
    low, high = (significant(float(np.quantile(values, q))) for q in (0.1, 0.75))
    edit("filter", shards, "--sharpness", "q10..q75", "-j", 1, "-o", tmp_path / "out")
    assert sorted(row["sharpness"] for row in scores(tmp_path / "out").values()) == sorted(
        value for value in values if low <= value <= high
    )
    edit("filter", shards, "--sharpness", "q10..q75", "-j", 4, "-o", tmp_path / "four")
    assert tree(tmp_path / "out") == tree(tmp_path / "four")
    # Of a pipe the same, although it cannot be read twice.
    edit.pipe(["cat", shards], ["filter", "--sharpness", "q10..q75", "-o", tmp_path / "pipe"])
    assert rows_of(tmp_path / "pipe") == rows_of(tmp_path / "out")
    verdict = json.loads(next((tmp_path / "out/_verdict").iterdir()).read_text())
    assert verdict["bounds"] == {"sharpness": [low, high]}


def test_steps_apart_are_one_run(edit: Runner, shards: Path, tmp_path: Path) -> None:
    bounds = ("--texture", "q25", "--max-aspect", "q95", "--brightness", "20..240")
    edit("filter", shards, *bounds, "-o", tmp_path / "one")
    assert "--decisions" in edit("filter", shards, *bounds, "--task", "0/2", "-o", tmp_path / "no", check=2).stderr
    edit("filter", shards, *bounds, "--phase", "decide", "-o", tmp_path / "decisions.json")
    assert (
        "--overwrite"
        in edit("filter", shards, *bounds, "--phase", "decide", "-o", tmp_path / "decisions.json", check=1).stderr
    )
    for task in (1, 0):
        edit("filter", shards, *bounds, "--decisions", tmp_path / "decisions.json", "--task", f"{task}/2", "-o",
             tmp_path / "tasks")  # fmt: skip
    one = {name: data for name, data in tree(tmp_path / "one").items() if not name.startswith("_verdict")}
    assert one == tree(tmp_path / "tasks")
    for text in ("[]", "{}", '{"bounds": {"texture": ["x", 1]}}', '{"bounds": {"texture": 5}}', "\x80", "nonsense"):
        (tmp_path / "junk").write_text(text)
        result = edit("filter", shards, *bounds, "--decisions", tmp_path / "junk", "-o", tmp_path / "no", check=1)
        assert "no decisions" in result.stderr


def test_a_verdict_of_other_bounds_is_refused(edit: Runner, shards: Path, tmp_path: Path) -> None:
    bounds, verdict, out = ("--sharpness", "q05..q995", "--brightness", "20.."), tmp_path / "v.json", tmp_path / "out"
    edit("filter", shards, *bounds, "--phase", "decide", "-o", verdict)
    for option, bound, said in (
        ("--sharpness", "q20", "--sharpness q05..q995, not q20.."),
        ("--brightness", "30", "--brightness 20.., not 30.."),
    ):
        given = [bound if before == option else word for before, word in zip(("", *bounds), bounds)]
        assert said in edit("filter", shards, *given, "--decisions", verdict, "-o", out, check=1).stderr
    edit("filter", shards, *bounds, "--decisions", verdict, "-o", out)
    edit("filter", shards, *bounds, "--decisions", verdict, "--limit", 9, "-o", tmp_path / "first")
    assert [row["id"] for row in rows_of(tmp_path / "first")] == [row["id"] for row in rows_of(out)][: len(
        rows_of(tmp_path / "first"))]  # fmt: skip
    # Decisions that says nothing of this, as older ones, is applied.
    old = {key: value for key, value in json.loads(verdict.read_text()).items() if key in ("version", "bounds")}
    verdict.write_text(json.dumps(old))
    edit("filter", shards, *bounds, "--decisions", verdict, "-o", tmp_path / "older")
    assert rows_of(tmp_path / "older") == rows_of(out)


def test_equal_aspects_pass_their_own_quantile(edit: Runner, tmp_path: Path) -> None:
    """4:3 is no number of 6 digits: the bound and the value have to be rounded alike."""
    (tmp_path / "in").mkdir()
    for k in range(4):
        (tmp_path / f"in/{k}.png").write_bytes(image(k, "PNG", 30, 40))
    for bound in ("q95", "q05..", "q50..q50"):
        edit("filter", tmp_path / "in", "--max-aspect", bound, "--overwrite", "-o", tmp_path / "out")
        assert len(rows_of(tmp_path / "out")) == 4


def test_again_does_nothing(edit: Runner, shards: Path, tmp_path: Path) -> None:
    for _ in range(2):
        edit("filter", shards, "--sharpness", "q20", "-o", tmp_path / "out")
        state = tree(tmp_path / "out"), (tmp_path / "out/00000.parquet").stat().st_mtime_ns
    for path in [tmp_path / "out/_end.json", tmp_path / "out/00001.parquet"]:
        path.unlink()
    edit("filter", shards, "--sharpness", "q20", "-o", tmp_path / "out")
    assert state == (tree(tmp_path / "out"), (tmp_path / "out/00000.parquet").stat().st_mtime_ns)


# ---------------------------------------------------------------- scores that are there already


def test_scores_of_earlier_are_used_without_a_image(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("filter", shards, "--brightness", "..", "--texture", "..", "-o", tmp_path / "all")
    median = float(np.median([row["brightness"] for row in scores(tmp_path / "all").values()]))
    edit("filter", tmp_path / "all", "--brightness", median, "-o", tmp_path / "expected")
    stream = edit("cat", tmp_path / "all").stdout
    for path in (tmp_path / "all").glob("*.tar"):
        path.unlink()
    result = edit("filter", "--brightness", median, "-f", "jsonl", "-o", tmp_path / "rows.jsonl", stdin=stream)
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept] == [row["id"] for row in rows_of(tmp_path / "expected")]
    assert "12" in result.stderr
    # What nobody measured yet needs the images.
    missing = edit("filter", "--entropy", "1", "-f", "jsonl", stdin=stream, check=1)
    assert "cannot be opened" in missing.stderr


def test_only_missing_scores_are_measured(edit: Runner, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "target": "a.jpg", "scores": {"brightness": 7.5, "mine": 3}},
        {"id": "b", "target": "b.jpg", "scores": {"brightness": None, "mine": 4}},
        {"id": "c", "target": "c.jpg"},
    ]
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(image(ord(name)))
    result = edit("filter", lines(tmp_path, rows), "--brightness", "..", "-f", "jsonl")
    found = {row["id"]: row["scores"] for row in result.lines}
    assert found["a"] == {"brightness": 7.5, "mine": 3}
    for name in "bc":
        raster = codec.decode((tmp_path / f"{name}.jpg").read_bytes(), PHOTOMETRIC)
        assert found[name]["brightness"] == significant(measure("brightness", raster))
    assert found["b"]["mine"] == 4 and found["c"]["mine"] is None


def test_scores_of_the_target_are_not_those_of_the_source(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "dark.png").write_bytes(encode(np.full((20, 20, 3), 10, np.uint8), "PNG"))
    (tmp_path / "light.png").write_bytes(encode(np.full((20, 20, 3), 200, np.uint8), "PNG"))
    rows = lines(tmp_path, [{"id": "a", "source": ["dark.png", "light.png"], "target": "light.png"}])
    results = edit.pipe(
        ["filter", rows, "--brightness", "150.."],
        ["filter", "--image", "source", "--brightness", "..50"],
        ["filter", "--brightness", "150..", "-f", "jsonl"],
    )
    assert [row["scores"] for row in results[-1].lines] == [{"brightness": 200, "source_brightness": 10}]
    of_source = ("--image", "source", "--brightness", "150")
    dropped = edit("filter", rows, *of_source, "--rejects", tmp_path / "r", "-f", "jsonl")
    assert not dropped.stdout
    reject = json.loads((tmp_path / "r").read_text())
    assert (reject["reason"], reject["value"]) == ("source_brightness", 10)
    nothing = lines(tmp_path, [{"id": "a", "target": "light.png"}], "one.jsonl")
    assert "no `source`" in edit("filter", nothing, "--image", "source", "--brightness", "1", check=2).stderr


def test_scores_that_are_no_numbers(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1, "PNG"))
    rows = lines(tmp_path, [{"id": "a", "target": "a.png", "scores": {"brightness": "high"}}])
    assert "not a number" in edit("filter", rows, "--brightness", "1", check=1).stderr
    rows = lines(tmp_path, [{"id": "a", "target": "a.png", "scores": 5}])
    assert "scores" in edit("filter", rows, "--brightness", "1", check=2).stderr


# ---------------------------------------------------------------- sizes


def test_sizes_come_from_the_header_alone(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sizes = {"wide": (40, 161), "small": (39, 80), "tall": (160, 40), "good": (40, 40)}
    for name, (height, width) in sizes.items():
        data = image(1, "JPEG", height, width)
        # Cut behind the header: decoding would fail.
        (tmp_path / f"in/{name}.jpg").write_bytes(data[: data.index(b"\xff\xda") + 30])
    edit("filter", tmp_path / "in", "--min-side", "40", "--max-aspect", "4", "-o", tmp_path / "out")
    assert {row["provenance"]["path"] for row in rows_of(tmp_path / "out")} == {"tall.jpg", "good.jpg"}
    assert {r["path"]: (r["reason"], r["value"]) for r in rejects_of(tmp_path / "out")} == {
        "wide.jpg": ("aspect", 4.025),
        "small.jpg": ("short_side", 39),
    }


def test_a_long_header_is_read_to_its_end(edit: Runner, tmp_path: Path) -> None:
    """The size stands behind 130 KB of other segments, further than what is read at first."""
    (tmp_path / "in").mkdir()
    data = image(1, "JPEG", 30, 60)
    segment = b"\xff\xe2\xff\xff" + bytes(65_533)
    (tmp_path / "in/a.jpg").write_bytes(data[:2] + 2 * segment + data[2:])
    (tmp_path / "in/b.jpg").write_bytes(data[:2] + 2 * segment)
    edit("filter", tmp_path / "in", "--min-side", "30", "--max-errors", "1", "-o", tmp_path / "out")
    assert [row["provenance"]["path"] for row in rows_of(tmp_path / "out")] == ["a.jpg"]
    assert [(r["path"], r["reason"]) for r in rejects_of(tmp_path / "out")] == [("b.jpg", "damaged image")]


def test_sizes_are_those_of_the_image_as_shown(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in/a.jpg").write_bytes(encode(pixels(1, 30, 60), "JPEG", exif=exif))
    expression = "target.width = 30 and target.height = 60"
    edit.pipe(["shard", tmp_path / "in"], ["filter", "--where", expression, "-o", tmp_path / "out"])
    assert len(rows_of(tmp_path / "out")) == 1


# ---------------------------------------------------------------- SQL


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {"id": "a", "task": "text", "n": 1, "scores": {"x": 0.5}, "tags": ["u", "v"], "deep": {"er": {"k": 1}}},
        {"id": "b", "task": "add", "n": 2, "scores": {"x": None}, "tags": [], "deep": {"er": {"k": 2}}},
        {"id": "c", "task": None, "n": 3, "scores": None, "tags": None, "deep": None},
        {"id": "d", "task": "add", "n": None, "scores": {"x": -1.0}, "tags": ["v"], "deep": {"er": None}},
    ]
    return lines(tmp_path, rows)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("n > 1", "bc"),
        ("n > 1 or n is null", "bcd"),
        ("scores.x > 0", "a"),
        ("scores.x is null", "bc"),
        ("task <> 'text'", "bd"),
        ("deep.er.k = 2", "b"),
        ("list_contains(tags, 'v')", "ad"),
        ("len(list_filter(tags, lambda t: t = 'v')) = 1", "ad"),
        ("n", "abc"),
        ("null", ""),
        ("true", "abcd"),
        ("id in ('a', 'd')", "ad"),
        ("n between 1 and 2 and task like 'a%'", "b"),
        ("case when n = 1 then false else true end", "bcd"),
        ("not (n = 1)", "bc"),
        ("id = 'x'' or true --'", ""),
    ],
)
def test_expressions(edit: Runner, table: Path, tmp_path: Path, expression: str, expected: str) -> None:
    result = edit("filter", table, "--where", expression, "-f", "jsonl", "--rejects", tmp_path / "r")
    assert "".join(row["id"] for row in result.lines) == expected
    rejects = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert {r["id"] for r in rejects} == set("abcd") - set(expected)
    assert {(r["reason"], r["failed"]) for r in rejects} <= {(f"not {expression}", False)}


@pytest.mark.parametrize(
    "expression",
    [
        "absent > 1", "", "n >", "n > 1; select 1", "scores.absent = 1", "n = 'word'", "cast(task as int) = 1",
        # More than one row's business: it would depend on how the rows are cut into batches.
        "count(*) > 1", "n = max(n)", "row_number() over () = 1", "n > (select avg(n) from edit_rows)",
        "exists(from edit_rows)", "n in (select n from edit_rows)", "random() < 0.5", "now() is not null",
        "n > 1, true", "true) from edit_rows where (true", "true) order by (n", "true) union select (true",
        "true) limit (1",
        # Files.
        "(select content from read_text('/etc/hostname')) is not null", "exists(from '/etc/hostname')",
        "exists(from glob('/*'))", "true) from read_text('/etc/hostname') where (true",
        "true)::BOOLEAN, false) FROM edit_rows; COPY (SELECT 1) TO 'made.csv' --",
        "true); COPY (SELECT 1) TO 'made.csv'; SELECT (true", "true); SET enable_external_access=true; SELECT (true",
        "true); ATTACH 'made.db'; SELECT (true", "true); INSTALL httpfs; SELECT (true",
    ],
)  # fmt: skip
def test_expressions_that_are_refused(edit: Runner, table: Path, tmp_path: Path, expression: str) -> None:
    (tmp_path / "cwd").mkdir()
    result = edit("filter", table, "--where", expression, "-o", tmp_path / "out", cwd=tmp_path / "cwd", check=2)
    first, *_ = result.stderr.splitlines()
    assert first.startswith("edit filter: --where") and not result.stdout
    assert not list((tmp_path / "cwd").iterdir())
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_bytes_of_images_cannot_break_an_expression(edit: Runner, shards: Path) -> None:
    stream = edit("cat", shards, "--inline").stdout
    expression = "octet_length(target.bytes) > 0 and target.width = 40"
    result = edit("filter", "--where", expression, "-f", "jsonl", stdin=stream)
    assert len(result.lines) == 24


def test_missing_duckdb_is_said_in_one_line(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [EDIT, "filter", str(shards), "--where", "true"],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    first, hint = result.stderr.splitlines()
    assert "duckdb" in first and "not installed" in first and "edittools[sql]" in hint


# ---------------------------------------------------------------- marks, order, hostile images


def test_mark_keeps_every_row(edit: Runner, shards: Path, tmp_path: Path) -> None:
    edit("filter", shards, *ALL, "-o", tmp_path / "all")
    found = scores(tmp_path / "all")
    bright = float(np.median([row["brightness"] for row in found.values()]))
    texture = float(np.median([row["texture"] for row in found.values()]))
    bounds = ("--brightness", bright, "--texture", texture, "--min-side", "32", "--max-aspect", "1.25")
    for where in ((), ("--where", "caption is null")):
        out = tmp_path / f"marked{len(where)}"
        edit("filter", shards, *bounds, *where, "--mark", "why", "-o", out)
        for row in rows_of(out):
            own, expected = found[row["provenance"]["path"]], None
            if where and row["caption"] is not None:
                expected = "not caption is null"
            elif own["brightness"] < bright:
                expected = f"brightness {own['brightness']:.6g}"
            elif own["texture"] < texture:
                expected = f"texture {own['texture']:.6g}"
            assert row["why"] == expected
            assert row["scores"] == {name: own[name] for name in ("brightness", "texture")}
        assert len(rows_of(out)) == 24 and not rejects_of(out)
    again = edit("filter", tmp_path / "marked0", *bounds, "--mark", "why", "-o", tmp_path / "no", check=2)
    assert "already" in again.stderr


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_pipe_of_two_filters_is_one_call(edit: Runner, shards: Path, data: st.DataObject) -> None:
    ranges = {"brightness": (90, 150), "saturation": (0.2, 0.6), "sharpness": (10, 300), "entropy": (5, 8),
              "texture": (3, 20)}  # fmt: skip
    first, second = data.draw(st.lists(st.sampled_from(sorted(ranges)), min_size=2, max_size=2, unique=True))
    bounds = {}
    for name in (first, second):
        low = significant(data.draw(st.floats(*ranges[name])))
        bounds[name] = data.draw(st.sampled_from([f"{low}..", f"..{low}", ".."]))
    calls = [["filter", f"--{name}", bounds[name]] for name in (first, second)]
    piped = edit.pipe([*calls[0], shards], [*calls[1], "-f", "jsonl"])[-1]
    joined = edit(*calls[0], *calls[1][1:], shards, "-f", "jsonl")
    assert piped.lines == joined.lines


def test_hostile_images_are_rejected(edit: Runner, tmp_path: Path) -> None:
    good = image(1, "PNG", 64, 64)
    (tmp_path / "in").mkdir()
    bad = {
        "truncated.jpg": image(1)[:400],
        "truncated.png": good[: len(good) // 2],
        "empty.png": b"",
        "text.jpg": b"<html>",
        "header.gif": b"GIF89a",
        "flipped.png": good[:60] + bytes(b ^ 0xFF for b in good[60:90]) + good[90:],
        "webp.webp": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8),
        "bomb.png": encode(np.zeros((600, 600, 3), np.uint8), "PNG"),
    }
    for name, data in {**bad, "good.png": good}.items():
        (tmp_path / "in" / name).write_bytes(data)
    options = ("--brightness", "..", "--max-pixels", 100_000, "--max-errors", "100%")
    edit("filter", tmp_path / "in", *options, "-o", tmp_path / "out")
    assert [row["provenance"]["path"] for row in rows_of(tmp_path / "out")] == ["good.png"]
    rejects = {reject["path"]: reject for reject in rejects_of(tmp_path / "out")}
    assert rejects.keys() == bad.keys() and all(r["failed"] for r in rejects.values())
    assert rejects["bomb.png"]["reason"] == "too many pixels"
    # With quantiles, what cannot be measured does not count, and is rejected once.
    edit("filter", tmp_path / "in", "--brightness", "q01", *options[2:], "-o", tmp_path / "q")
    assert {r["path"] for r in rejects_of(tmp_path / "q")} == bad.keys()
    assert len(rejects_of(tmp_path / "q")) == len(bad)
    edit("filter", tmp_path / "in", "--min-side", "q01", *options[2:], "-o", tmp_path / "s")
    assert "bomb.png" not in {row["provenance"]["path"] for row in rows_of(tmp_path / "s")}


def test_usage(edit: Runner, shards: Path, tmp_path: Path) -> None:
    assert "--help" in edit("filter", shards, check=2).stderr
    assert "--brightness" in edit("filter", shards, "--brightness", "bright", check=2).stderr
    rows = lines(tmp_path, [{"id": "a"}, {"id": "b", "n": 1}])
    edit("filter", rows, "--brightness", "1", check=2)
    shutil.copytree(shards, tmp_path / "copy")
    (tmp_path / "copy/_end.json").unlink()
    edit("filter", tmp_path / "copy", "--brightness", "..", check=4)


@pytest.mark.parametrize("name", ["text", "fix_rotation", "clip"])
def test_a_filter_is_not_called_as_a_setting_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edittools.filter import config

    taken = dataclasses.replace(all_filters()["sharpness"], name=name)
    monkeypatch.setattr(config, "all_filters", lambda: {name: taken})
    with pytest.raises(EditError, match=f"filter `{name}`: `edit filter` has a setting .*of this name"):
        list(config._fields())
