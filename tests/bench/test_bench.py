"""From scores to the report: statistics, the summary's arithmetic, a page that is safe and self-contained."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from edittools.bench import heldout, terminal
from edittools.bench.cases import CaseRow, pick_cases
from edittools.bench.dataset import DatasetStatistics
from edittools.bench.report import render_report
from edittools.metrics import intervals
from edittools.report import digits, plots, thumbnails

HOSTILE = "</script><script src=http://evil/x.js></script><img src=x onerror=alert(1)> \"'&$title\x00\ud800"


def row(id: str, kind: str, psnr: float | None, copy: float, **scores) -> dict:
    return {
        "id": id,
        "task": "tone" if kind in ("warm", "gray") else kind,
        "provenance": {"template": kind},
        "instruction": {"en": f"do {kind}", "zh": "做"},
        "scores": {"psnr": psnr, "copy_psnr": copy, **scores},
    }


@pytest.fixture
def rows() -> list[dict]:
    extra = {"shuffled_psnr": 12.0, "ssim": 0.5, "copy_ssim": 0.25}
    made = [row(f"w{i}", "warm", 20.0 + i % 4, 15.0, **extra) for i in range(8)]
    made += [row(f"g{i}", "gray", 10.0 - i % 2, 14.0, shuffled_psnr=9.0) for i in range(8)]
    made += [row(f"i{i}", "invert", 30.0, 4.0, psnr_inside=25.0, copy_psnr_inside=3.0) for i in range(5)]
    return made


def case(kind: str = "warm", side: int = 32, **changes) -> CaseRow:
    images = np.random.default_rng(side).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    scores = {"psnr": 20.0, "copy_psnr": 15.0, "psnr_inside": None}
    values = {"id": "a-1", "task": "tone", "instruction": {"en": "warmer", "zh": "暖一点"}} | changes
    return CaseRow(kind=kind, source=images[0], result=images[1], truth=images[2], scores=scores, **values)


# Statistics


def limits_of(groups, scale, seed=0):
    """Of the mean over groups of values in one column."""
    samples = [intervals.BootstrapSample(values, [seed, number]) for number, values in enumerate(groups)]
    return intervals.bounded_limits(samples, [1] * len(samples), [scale], seed)[0]


@pytest.mark.parametrize(
    ("hits", "cases", "low", "high"),
    [(4, 5, 0.2836, 0.9949), (5, 5, 0.4782, 1), (0, 10, 0, 0.3085), (2, 20, 0.0123, 0.3170)],
)
def test_limits_of_two_values_are_those_of_clopper_and_pearson(hits, cases, low, high):
    values = np.array([[1.0]] * hits + [[0.0]] * (cases - hits))
    assert limits_of([values], (0, 1)) == pytest.approx((low, high), abs=0.02)  # of 10,000 draws


def test_limits_of_many_values_are_the_normal_ones():
    values = np.clip(np.random.default_rng(1).normal(50, 3, (2000, 1)), 0, 100)
    low, high = limits_of([values], (0, 100))
    margin = 1.96 * values.std() / math.sqrt(2000)
    # The one more row, at an end of the scale, weighs 1 in 2001.
    assert low == pytest.approx(values.mean() - margin, abs=0.06)
    assert high == pytest.approx(values.mean() + margin, abs=0.06)


RATINGS = {  # of one judge: probabilities of the scores
    "one to five": ((1, 5), [1, 2, 3, 4, 5], [0.05, 0.1, 0.2, 0.35, 0.3]),
    "mostly the best": ((1, 5), [1, 4, 5], [0.08, 0.02, 0.9]),
    "zero to ten": ((0, 10), list(range(11)), [1 / 11] * 11),
    "some are zero": ((0, 10), [0, 7, 8, 9], [0.25, 0.25, 0.25, 0.25]),
}


@pytest.mark.parametrize("name", RATINGS)
@pytest.mark.parametrize("cases", [5, 12])
def test_intervals_of_ratings_hold_what_they_say(name, cases, monkeypatch):
    """The share of intervals that hold the true mean, over 300 samples; 93% less three standard errors at most."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    scale, values, shares = RATINGS[name]
    truth = float(np.dot(values, shares))
    drawn = np.random.default_rng(cases).choice(values, (300, cases), p=shares).astype(float)
    held = 0
    for seed, sample in enumerate(drawn):
        low, high = intervals.interval(limits_of([sample[:, None]], scale, seed), cases)
        assert scale[0] <= low <= sample.mean() <= high <= scale[1]
        held += low <= truth <= high
    assert held / 300 >= 0.93


@pytest.mark.parametrize("name", RATINGS)
def test_intervals_of_a_mean_over_tasks_hold_too(name, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    scale, values, shares = RATINGS[name]
    truth = float(np.dot(values, shares))
    held = 0
    for seed, tasks in enumerate(np.random.default_rng(3).choice(values, (150, 9, 5), p=shares).astype(float)):
        low, high = limits_of([task[:, None] for task in tasks], scale, seed)
        assert scale[0] <= low <= tasks.mean() <= high <= scale[1]
        held += low <= truth <= high
    assert held / 150 >= 0.93


def test_weights_of_several_samples():
    """Two samples of equal values: the mean is the weighted one, and the doubt that of one case more."""
    samples = [intervals.BootstrapSample(np.full((20, 1), value), 0) for value in (2.0, 4.0)]
    low, high = intervals.bounded_limits(samples, [1, 3], [(0, 10)], 0)[0]
    # The heaviest case weighs 3/4 of 1/20; a further one like it is below 13% of the whole, 97.5% of the time.
    further = 1 - 0.025 ** (3 / 80)
    assert (low, high) == pytest.approx((3.5 - further * 3.5, 3.5 + further * 6.5), abs=0.03)


def test_halves_of_students_limits_add_up_as_squares():
    assert intervals.combined([(-1.0, 5.0), (1.0, 9.0)]) == pytest.approx((3.5 - 2.5, 3.5 + 2.5))
    assert intervals.combined([(-1.0, 5.0), intervals.NO_LIMITS]) == intervals.NO_LIMITS


def test_students_limits_are_those_of_the_tables():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5 / 5)
    assert intervals.student_limits(values) == pytest.approx((3 - half, 3 + half), abs=1e-3)
    assert intervals.student_limits(np.array([7.0, 9.0])) == pytest.approx((8 - 12.706, 8 + 12.706), abs=1e-3)


def test_there_is_no_interval_below_five_cases():
    assert intervals.interval((1.0, 2.0), 4) is None and intervals.interval((1.0, 2.0), 5) == [1, 2]
    assert intervals.interval(intervals.student_limits(np.array([1.0])), 9) is None
    assert intervals.interval(limits_of([np.ones((1, 1)), np.ones((8, 1))], (0, 1)), 9) is None


@pytest.mark.parametrize(
    ("mean", "bounds", "shown", "between"),
    [
        (7.4231, [6.56, 8.28], "7.4", "6.6–8.3"),
        (7.4231, [7.38, 7.47], "7.42", "7.38–7.47"),
        (7.4231, [7.4230, 7.4232], "7.423", "7.423–7.423"),
        (61.27, [41, 82], "61", "41–82"),
        (7.4231, None, "7.4", "too few cases"),
    ],
)
def test_digits_are_those_that_the_interval_allows(mean, bounds, shown, between):
    assert digits.with_digits(mean, bounds) == shown and digits.bounds(bounds, 3) == between
    assert digits.bounds(None, 0) == "" and digits.with_digits(None, None) == "–"


def test_limits_are_deterministic_and_independent_of_the_block(monkeypatch):
    values = np.random.default_rng(2).uniform(0, 5, (37, 1))
    whole = limits_of([values, values], (0, 5), seed=3)
    monkeypatch.setattr(intervals, "BLOCK", 1000)
    assert whole == pytest.approx(limits_of([values, values], (0, 5), seed=3))
    drawn = [limits_of([values], (0, 5), seed=seed) for seed in (-1, 1, 10**30)]
    assert drawn[0] == limits_of([values], (0, 5), seed=-1) != drawn[1]


def test_mean_skips_what_is_missing():
    assert intervals.mean([1.0, None, 3.0]) == 2
    assert intervals.mean([None]) is None


# The summary


def test_summary_arithmetic(rows):
    summary = heldout.summarize(rows)
    warm, gray, invert = (summary["kinds"][kind] for kind in ("warm", "gray", "invert"))
    assert (warm["n"], warm["edit"], warm["copy"], warm["gain"]) == (8, 21.5, 15.0, 6.5)
    assert warm["shuffled"] == 12 and warm["ssim"] == {
        "edit": 0.5, "copy": 0.25, "n": 8, "edit_interval": [0.5, 0.5], "copy_interval": [0.25, 0.25],
    }  # fmt: skip
    assert gray["gain"] == -4.5 and set(gray["ssim"].values()) == {None, 0}
    assert [invert["inside"][name] for name in ("edit", "copy", "n")] == [25, 3, 5] and invert["shuffled"] is None
    assert [entry["verdict"] for entry in (warm, gray, invert)] == ["better", "worse", "better"]
    assert summary["mean"]["edit"] == pytest.approx((21.5 + 9.5 + 30) / 3, rel=1e-5)
    assert summary["mean"]["shuffled"] == 10.5  # over the kinds that have it
    assert summary["mean_rows"]["edit"] == pytest.approx((8 * 21.5 + 8 * 9.5 + 5 * 30) / 21, rel=1e-5)
    assert summary["mean_without_invert"]["edit"] == 15.5
    assert summary["tasks"]["tone"]["n"] == 16
    # Student's t of 20, 21, 22, 23 twice each: 2.365 x sqrt(10 / 7) / sqrt(8).
    assert warm["interval"] == pytest.approx([21.5 - 0.99925, 21.5 + 0.99925], abs=1e-3)
    assert sum(summary["gain_histogram"]["counts"]) == 21
    assert summary["coverage"] == {"expected": 21, "generated": 21, "judged": 21, "failed": 0, "missing": 0}


def test_summary_does_not_depend_on_order_and_a_kind_not_on_others(rows):
    summary = heldout.summarize(rows)
    assert heldout.summarize(rows[::-1])["mean"]["edit"] == summary["mean"]["edit"]
    alone = heldout.summarize([one for one in rows if one["provenance"]["template"] == "warm"])
    assert alone["kinds"]["warm"] == summary["kinds"]["warm"]


def test_coverage_by_kind_and_in_total(rows):
    unjudged = [*rows, row("n", "warm", None, 15.0), row("inf", "warm", float("inf"), 15.0)]
    summary = heldout.summarize(unjudged, expected={"warm": 12, "gray": 8, "invert": 6}, failed={"warm": 1})
    assert summary["coverage"] == {"expected": 26, "generated": 23, "judged": 21, "failed": 1, "missing": 2}
    assert (summary["kinds"]["warm"]["failed"], summary["kinds"]["warm"]["missing"]) == (1, 1)
    assert (summary["kinds"]["invert"]["failed"], summary["kinds"]["invert"]["missing"]) == (0, 1)
    assert summary["unjudged"] == []
    lost = heldout.summarize([*rows, row("f", "flip", None, 9.0)], expected={"warm": 4, "blur": 3})
    assert lost["unjudged"] == ["blur", "flip"]
    total = heldout.summarize(rows, expected=27, failed=2)
    assert total["coverage"]["missing"] == 4
    assert total["warnings"] == ["22% of the rows have no score (6 of 27): the means speak of the others only"]
    assert heldout.summarize(rows)["warnings"] == []
    assert total["kinds"]["warm"]["failed"] is total["kinds"]["warm"]["missing"] is None


def test_one_row_says_nothing_of_others():
    summary = heldout.summarize([row("a", "warm", 20.0, 15.0)])
    entry = summary["kinds"]["warm"]
    assert entry["interval"] is entry["gain_interval"] is None
    assert entry["verdict"] == summary["mean"]["verdict"] == "unclear"
    assert summary["mean_without_invert"] is not None
    assert heldout.summarize([row("a", "invert", 20.0, 15.0)])["mean_without_invert"] is None


def test_nothing_judged_is_an_error():
    with pytest.raises(ValueError, match="copy_psnr"):
        heldout.summarize([{"id": "a", "task": "tone", "scores": None}])


@pytest.mark.parametrize("values", [[5.0], [-0.3, 0.3], [-12.0, 0.0, 31.7], list(np.linspace(-3, 9, 100))])
def test_histogram_counts_all_and_never_straddles_zero(values):
    found = heldout.histogram(values)
    assert sum(found["counts"]) == len(values)
    assert len(found["counts"]) + 1 == len(found["edges"]) <= 42
    assert found["edges"][0] <= min(values) and max(values) <= found["edges"][-1]
    assert not any(low < 0 < high for low, high in zip(found["edges"], found["edges"][1:]))


def test_report_json_shape(rows):
    summary = json.loads(terminal.summary_json(heldout.summarize(rows, dataset={"rows": 14})))
    means = {"mean", "mean_rows", "mean_without_invert"}
    assert summary.keys() == {"kinds", "tasks", *means, "gain_histogram", "unjudged", "coverage", "warnings", "dataset"}
    common = {"n", "edit", "copy", "gain", "shuffled", "verdict"}
    common |= {"interval", "copy_interval", "gain_interval", "shuffled_interval"}
    common |= {"inside", "outside", "ssim", "l1", "clip", "dino"}
    assert all(summary[name].keys() == common for name in means)
    assert all(entry.keys() == common | {"failed", "missing"} for entry in summary["kinds"].values())


# The data set


def test_dataset_statistics():
    counted = DatasetStatistics()
    image = {"width": 100, "height": 50, "format": "jpeg"}
    large = {"width": 4000, "height": 3000, "format": "png"}
    counted.add({
        "task": "add", "source": [image], "target": large, "scores": {"edit_ratio": 0.005, "vlm": 4.0},
        "instruction": {"en": "Add a red car, a RED one", "zh": "加一辆红车"},
    })  # fmt: skip
    counted.add({"task": "add", "source": image, "scores": {"edit_ratio": 0.5, "visible": True}})
    counted.add({"task": "hybrid", "source": [], "instruction": None, "turns": [
        {"instruction": {"en": {"detailed": "don't", "concise": "car"}}, "target": image},
        {"instruction": {"en": "undo", "zh": "车"}, "target": image},
    ]})  # fmt: skip
    result = counted.result()
    assert result["rows"] == 3 and result["images"] == 5
    assert result["tasks"] == {"add": 2, "hybrid": 1} and result["formats"] == {"jpeg": 4, "png": 1}
    assert result["words"] == len({"add", "a", "red", "car", "one", "don't", "undo"})
    assert result["characters"] == len(set("加一辆红车"))
    assert result["multi_turn"] == 1
    assert result["tiny_region_share"] == 0.5
    assert result["scores"]["vlm"] == {"n": 1, "mean": 4.0, "min": 4.0, "max": 4.0}
    assert "visible" not in result["scores"]
    assert result["size"]["width"] == {"min": 100, "median": 100, "max": 4000}
    assert result["size"]["megapixels"]["max"] == 12
    assert [bin["count"] for bin in result["size"]["histogram"]] == [4, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    json.dumps(result, allow_nan=False)


def test_an_empty_data_set():
    result = DatasetStatistics().result()
    assert result["rows"] == 0 and result["size"] is None and result["tiny_region_share"] is None


# Which cases are shown


def test_picking():
    scores = [(f"{kind}{i}", kind, gain + i) for kind, gain in (("a", 0), ("b", 100)) for i in range(10)]
    assert pick_cases(scores, worst=2, best=1, per_kind=0) == ["a0", "a1", "b9"]
    assert pick_cases(scores, worst=1, best=1, per_kind=2) == ["a0", "a1", "a8", "a9", "b0", "b1", "b8", "b9"]
    assert pick_cases(reversed(scores), 3, 3, 1) == pick_cases(scores, 3, 3, 1)
    assert pick_cases(scores[:2], worst=5, best=5, per_kind=5) == ["a0", "a1"]
    assert pick_cases([]) == []


# The page


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects attributes, table cells and text."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.words += data
        if "td" in self.open:
            self.cells[-1] += data


def rendered(rows, cases, **changes) -> str:
    counted = DatasetStatistics()
    for one in rows:
        counted.add({**one, "source": [{"width": 32, "height": 32, "format": "png"}]})
    settings = {
        "title": "Held out",
        "loss": [(step, 1 / (step + 1)) for step in range(300)],
        "history": [{"command": "edit train", "version": "0.1.0", "settings": {"lr": 0.02, "kinds": ["a"]}}],
        "rejects": {"decode": 3},
    } | changes
    return render_report(heldout.summarize(rows, dataset=counted.result()), cases, **settings)


def test_page_is_well_formed_and_needs_nothing_else(rows):
    html = rendered(rows, [case(), case("gray", 300, id="b-1")])
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert (value or "").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", html)
    assert sum(tag == "img" for tag, _ in page.elements) == 8
    assert sum(tag == "svg" for tag, _ in page.elements) == 6
    assert "暖一点" in page.words and "warmer" in page.words
    assert "lr=0.02" in page.words and 'kinds=["a"]' in page.words
    html.encode("utf-8")


def test_every_number_of_the_summary_is_in_the_table(rows):
    summary = heldout.summarize(rows)
    expected = [cell for name, entry in summary["kinds"].items() for cell in digits.cells(name, entry)]
    for name, entry in digits.mean_entries(summary).items():
        expected += digits.cells(name, entry)
    assert Page(rendered(rows, [])).cells[: len(expected)] == expected
    warm = expected[expected.index("warm") :][: len(digits.COLUMNS)]
    assert warm[:4] == ["warm", "8", "▲", "21.5"] and warm[5:7] == ["15.000", "+6.5"]


def test_hostile_text_stays_text(rows):
    hostile_rows = [*rows, row("h", HOSTILE, 20.0, 15.0), row("h2", HOSTILE, 21.0, 15.0)]
    hostile = case(HOSTILE, id=HOSTILE, task=HOSTILE, instruction={HOSTILE: HOSTILE, "zh": HOSTILE})
    html = rendered(
        hostile_rows, [hostile], title=HOSTILE, rejects={HOSTILE: 1},
        history=[{"command": HOSTILE, "version": HOSTILE, "settings": {HOSTILE: [HOSTILE]}}],
    )  # fmt: skip
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.elements) == 2  # the page's own, and the frame's
    assert sum(tag == "img" for tag, _ in page.elements) == 4
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "onerror=alert(1)" in page.words  # shown, as text
    assert "\x00" not in html
    html.encode("utf-8")


def test_page_without_loss_cases_or_history(rows):
    page = Page(rendered(rows[:1], [], loss=None, history=[], rejects={}))
    assert "No row was rejected" in page.words and "No history was recorded" in page.words


def test_a_diverged_loss_is_said_not_drawn(rows):
    html = rendered(rows, [], loss=[(0, 1.0), (1, 0.5), (2, float("nan")), (3, float("inf"))])
    assert "where it is finite" in html and "nan" not in html
    assert "Training loss" not in rendered(rows, [], loss=[(0, float("nan"))])


def test_images_keep_their_pixels_when_tiny():
    tiny = np.random.default_rng(0).integers(0, 256, (32, 20, 3), dtype=np.uint8)
    kind, data = thumbnails.data_uri(tiny).split(";base64,")
    assert kind == "data:image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), tiny)
    kind, data = thumbnails.data_uri(np.zeros((1000, 500, 3), np.uint8)).split(";base64,")
    assert kind == "data:image/jpeg" and Image.open(io.BytesIO(base64.b64decode(data))).size == (128, 256)


def test_heat_map_grows_with_the_difference():
    truth = np.zeros((1, 256, 3), np.uint8)
    result = truth.copy()
    result[0, :, 1] = np.arange(256)
    heat = thumbnails.heat_map(result, truth)[0].astype(int).sum(axis=-1)
    assert np.all(np.diff(heat[: thumbnails.HEAT_FULL + 1]) > 0)
    assert np.all(heat[thumbnails.HEAT_FULL :] == heat[-1])


@pytest.mark.parametrize("low, high", [(0, 1), (-0.3, 27.4), (0, 3), (5, 5), (1e-4, 3e-4), (0, 123456)])
def test_ticks_enclose_the_data(low, high):
    ticks = plots.nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9


@pytest.mark.parametrize("loss", [[(0, 1.0)], [(5, 0.0), (6, -1.0)], [(0, 2.0), (10, 2.0)], [(1, 1.0), (2, 1e-5)]])
def test_loss_curve_of_odd_runs(loss):
    assert "nan" not in plots.loss_curve(loss)


# Other printings


def test_terminal_and_markdown_print_the_same_cells(rows):
    from rich.console import Console

    rows = [*rows, row("b", "[red]a|b", 20.0, 15.0)]
    summary = heldout.summarize(rows)
    output = io.StringIO()
    Console(file=output, width=250).print(terminal.summary_table(summary))
    markdown = terminal.summary_markdown(summary)
    for cell in digits.cells("warm", summary["kinds"]["warm"]):
        assert cell in output.getvalue() and cell in markdown
    assert "[red]a|b" in output.getvalue() and "[red]a\\|b" in markdown
    bars = [line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert set(bars) == {len(digits.COLUMNS) + 1}


def test_a_tabular_holds_the_cells_that_the_terminal_shows(rows):
    summary = heldout.summarize([*rows, row("b", "low_key", 20.0, 15.0), row("c", "low_key", 10.0, 15.0)])
    lines = terminal.summary_latex(summary).splitlines()
    (found,) = [line for line in lines if line.startswith(r"low\_key")]
    signs = {"−": "$-$", "–": "--", "≈": r"$\approx$", "▲": r"$\uparrow$", "▼": r"$\downarrow$"}
    cells = [signs.get(cell, cell.replace("−", "$-$")) for cell in digits.cells("low_key", summary["kinds"]["low_key"])]
    assert found.removesuffix(r" \\").split(" & ")[1:] == cells[1:]
    assert lines[1] == r"\begin{tabular}{l" + "r" * (len(digits.COLUMNS) - 1) + "}" and f"% {digits.LEGEND}" in lines


def test_numbers_have_one_spelling():
    shown = [digits.with_digits(value, None, "+") for value in (7.42, -0.34, -0.04, 0.0)]
    assert shown == ["+7.4", "−0.3", "0.0", "0.0"]
    assert digits.decibels(-0.01) == "0.0" and digits.with_digits(None, None) == "–"
    assert digits.with_digits(10.04, None, "+") == "+10.0"


def test_decibels_have_the_digits_that_their_intervals_allow():
    """Half a width of 0.04 dB allows two decimals, of 3 dB none; one where there is no interval."""
    shown = [digits.with_digits(21.4567, [21.4567 - half, 21.4567 + half]) for half in (3, 0.4, 0.04, 0.004, 0.00004)]
    assert shown == ["21", "21.5", "21.46", "21.457", "21.457"] and digits.with_digits(21.4567, None) == "21.5"
    made = [row(f"a{k}", "warm", 30 + 0.05 * (k % 2), 20 + 4.0 * (k % 2), ssim=0.9 + 0.0002 * (k % 2), copy_ssim=0.5)
            for k in range(400)]  # fmt: skip
    shown = dict(zip(digits.COLUMNS, digits.cells("warm", heldout.summarize(made)["kinds"]["warm"])))
    # Halves by hand: 1.966 * deviation / 20 of 0.025, 2, 1.975 and 0.0001, with n - 1 in the deviation.
    assert shown["edit, dB"] == "30.025" and shown["95% interval"] == "30.023–30.027"
    assert shown["copy, dB"] == "22.0" and shown["gain, dB"] == "+8.0"
    assert shown["SSIM: edit"] == "0.900" and shown["SSIM: copy"] == "0.500" and shown["wrong text, dB"] == "–"
    few = dict(zip(digits.COLUMNS, digits.cells("warm", heldout.summarize(made[:4])["kinds"]["warm"])))
    assert few["95% interval"] == "too few cases" and few["SSIM: edit"] == "0.9" and few["edit, dB"] == "30.0"
