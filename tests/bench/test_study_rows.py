"""Studies of rows: reviews and ratings, what they come to, and `edit filter --review` doing it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromium import Chromium, missing, wait
from click.testing import CliRunner
from conftest import image

import edittools
from edittools.bench.studies.answers import read_answers
from edittools.bench.studies.build import build_items
from edittools.bench.studies.design import all_designs
from edittools.bench.studies.items import Item, balanced, read_items
from edittools.bench.studies.rating import consensus
from edittools.bench.studies.score import _pairs
from edittools.cli import eval_study
from edittools.errors import EditError, UsageError
from edittools.metrics import intervals
from edittools.metrics.agreement import cohen_kappa
from edittools.metrics.crossed import Rated, crossed_limits, mean_of
from edittools.record import COLUMNS
from edittools.stream.input_reader import reference
from edittools.stream.run import RunOptions, open_input

browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def rows_file(path: Path, count: int = 6) -> Path:
    """Edit rows of two tasks with a score 1, 2, 1, 2, ...; the last one has no target."""
    names = ("id", "task", "instruction", "source", "target")
    schema = pa.schema([*((name, COLUMNS[name]) for name in names), ("scores", pa.struct([("s", pa.float64())]))])
    rows = [
        {
            "id": f"r{k}",
            "task": ("add", "style")[k % 2],
            "instruction": {"en": f"Do edit {k}", "zh": "改"},
            "source": [{"bytes": image(k)}],
            "target": {"bytes": image(50 + k)} if k < count - 1 else None,
            "scores": {"s": 1.0 + k % 2},
        }
        for k in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def items_of(path: Path, **more: Any) -> Any:
    return read_items(open_input([str(path)], RunOptions()).batches(lambda shard: True), **more)


def invoke(*words: Any) -> Any:
    ran = CliRunner().invoke(eval_study.command, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran


def answers_file(path: Path, key: dict[str, Any], rater: str, given: dict[str, dict[str, Any]], minute: int) -> Path:
    """What the page would export: row -> {level, and a reason or an instruction}."""
    numbers = {case["id"]: number for number, case in enumerate(key["cases"])}
    answers = {
        str(numbers[row]): {
            "given": {"a": {"decision": one["level"]}},
            "shown": ["a"],
            "at": f"2026-01-01T00:{minute:02}:00Z",
            **{name: value for name, value in one.items() if name != "level"},
        }
        for row, one in given.items()
    }
    head = {"format": "edittools study answers", "version": 1, "study": key["study"], "rater": rater}
    path.write_text(json.dumps({**head, "answers": answers}))
    return path


ACCEPT, CORRECT, REJECT = 1, 2, 3


def nominal_alpha(pairs: list[str]) -> float:
    """1 - D_o / D_e (Krippendorff 2011) by counting: of items with two values each, how often these differ, over how
    often any two of all values do."""
    values = "".join(pairs)
    differ = [a != b for a, b in itertools.combinations(values, 2)]
    return 1 - sum(a != b for a, b in pairs) / len(pairs) / (sum(differ) / len(differ))


def test_a_review_two_blind_a_third_where_they_differ_and_the_filter_does_it(tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "rows.parquet")
    out = tmp_path / "study"
    ran = invoke("build", rows, "--design", "review", "-o", out)
    assert "5 cases, 1 dropped" in ran.stderr and "dropped r5: no image to ask about" in ran.stderr
    key = json.loads((out / "key.json").read_text())
    why = {"level": REJECT, "reason": "nothing changed"}
    words = {"en": "Do it  better", "zh": "改"}
    ann = {
        "r0": {"level": ACCEPT},
        "r1": why,
        "r2": {"level": CORRECT, "instruction": words},
        "r3": {"level": ACCEPT},
        "r4": {"level": REJECT},  # without its reason: no answer yet
    }
    bo = {
        "r0": {"level": ACCEPT},
        "r1": why,
        "r2": {"level": CORRECT, "instruction": {"en": "Do it better", "zh": "改"}},
        "r3": {"level": REJECT, "reason": "other"},
        "r4": {"level": ACCEPT},
    }
    files = [
        answers_file(tmp_path / f"{name}.json", key, name, said, k)
        for k, (name, said) in enumerate((("Ann", ann), ("Bo", bo)))
    ]
    third = tmp_path / "third.html"
    ran = invoke(
        "score", out / "key.json", *files, "--third", third, "--export", tmp_path / "early.jsonl", "-f", "json"
    )
    found = json.loads(ran.stdout)
    assert found["decisions"] == {"accept": 1, "correct": 1, "reject": 1, "open": 2, "unseen": 0}
    assert found["agreement"]["items"] == 4 and found["agreement"]["same"] == 0.75
    # Ann: a r c a, Bo: a r c r. Observed 3/4; by chance 2/4 * 1/4 + 1/4 * 2/4 + 1/4 * 1/4 = 5/16.
    assert found["agreement"]["kappa"] == pytest.approx((3 / 4 - 5 / 16) / (1 - 5 / 16), abs=1e-6)
    assert found["agreement"]["alpha"] == pytest.approx(nominal_alpha(["aa", "rr", "cc", "ar"]), abs=1e-6)
    page = third.read_text()
    assert page.count('id="case-') == 1 and f'"only": [{[c["id"] for c in key["cases"]].index("r3")}]' in page

    files.append(answers_file(tmp_path / "Cy.json", key, "Cy", {"r3": {"level": ACCEPT}}, 9))
    reviews = tmp_path / "reviews.jsonl"
    said = invoke("score", out / "key.json", *files, "--export", reviews, "-f", "table").stdout
    assert f"kappa 0.636, Krippendorff's alpha {nominal_alpha(['aa', 'rr', 'cc', 'ar']):.3f}." in said  # not Cy's
    assert "same decision 0.750" in said and "Rejected for: nothing changed 1." in said
    decided = {line["id"]: line["decision"] for line in map(json.loads, reviews.read_text().splitlines())}
    assert decided == {"r0": "accept", "r1": "reject", "r2": "correct", "r3": "accept", "r4": "open"}

    made = list(edittools.read(str(rows)).filter(review=str(reviews)).rows())
    assert [row["id"] for row in made] == ["r0", "r2", "r3"]
    assert [row["instruction_reviewed"]["en"] for row in made] == ["Do edit 0", "Do it better", "Do edit 3"]
    assert made[1]["instruction"]["en"] == "Do edit 2"  # what was there stays
    told = json.loads(made[2]["provenance"]["review"])
    assert told["decision"] == "accept" and [vote["rater"] for vote in told["votes"]] == ["Ann", "Bo", "Cy"]
    edittools.read(str(rows)).filter(review=str(reviews)).write(str(tmp_path / "kept") + "/")
    lines = [json.loads(line) for line in (tmp_path / "kept/_rejects/00000.jsonl").read_text().splitlines()]
    assert {(line["id"], line["reason"], line["value"]) for line in lines} == {
        ("r1", "review: reject", "nothing changed"),
        ("r4", "review: open", None),
        ("r5", "not reviewed", None),
    }


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": "r0"}', "needs `id` and `decision`"),
        ('{"id": "r0", "decision": "perhaps"}', "needs `id` and `decision`"),
        ('{"id": "r0", "decision": "correct", "instruction": {"en": " "}}', "without its instruction"),
        ('{"id": "r0", "decision": "accept"}\n{"id": "r0", "decision": "accept"}', "line 2: row r0 comes twice"),
    ],
)
def test_reviews_that_are_none_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(line)
    rows = rows_file(tmp_path / "rows.parquet")
    with pytest.raises(EditError, match=message):
        edittools.read(str(rows)).filter(review=str(tmp_path / "x.jsonl"))


def test_kappa_by_hand() -> None:
    # Of five that both saw three are the same; by chance 2/5 * 4/5 + 3/5 * 1/5.
    assert cohen_kappa([1, 1, 2, 2, 2, None], [1, 1, 1, 2, 1, 2]) == pytest.approx((3 / 5 - 11 / 25) / (1 - 11 / 25))
    assert cohen_kappa([1, 1], [1, 1]) is None and cohen_kappa([None], [1]) is None


def test_ratings_by_a_rubric_calibrate_a_judge_and_are_compared_with_it(tmp_path: Path) -> None:
    """The answers become ratings that the judge's side reads; consensus by hand."""
    rows = rows_file(tmp_path / "rows.parquet", 13)
    items = balanced(items_of(rows, score="s"), 4, 0)
    assert sorted(item.score for item in items) == [1.0] * 4 + [2.0] * 4
    out = tmp_path / "study"
    build = ("build", rows, "--design", "rating", "--balance", "s", "--per-score", 9, "--rubric", "dimensions")
    invoke(*build, "-o", out)
    key = json.loads((out / "key.json").read_text())
    assert key["dimensions"] == ["compliance", "naturalness", "coherence"]
    assert "all of it, and nothing else" in (out / "study.html").read_text()
    files = []
    for k, rater in enumerate(("Ann", "Bo", "Cy")):
        given = {
            str(n): {"given": {"a": {name: 1 + (int(case["id"][1:]) + (k == 2)) % 5 for name in key["dimensions"]}}}
            for n, case in enumerate(key["cases"])
        }
        head = {"format": "edittools study answers", "version": 1, "study": key["study"], "rater": rater}
        (tmp_path / f"{rater}.json").write_text(json.dumps({**head, "answers": given}))
        files.append(tmp_path / f"{rater}.json")
    ran = invoke("score", out / "key.json", *files, "--export", tmp_path / "ratings.jsonl", "-f", "json")
    entry = json.loads(ran.stdout)["dimensions"]["compliance"]
    # Ann and Bo give row rN the score 1 + N mod 5, Cy one more: the consensus is theirs. r0 to r11, of 12 rows.
    assert entry["consensus"] == {"1": 3, "2": 3, "3": 2, "4": 2, "5": 2} and entry["without"] == 0

    from edittools.judge.agreement import read_ratings

    ratings = read_ratings(str(tmp_path / "ratings.jsonl"))
    assert len(ratings) == 3 * 12 * 3 and {rating.score for rating in ratings if rating.id == "r1"} == {2, 3}
    score = pa.struct([("judge_dimensions_compliance", pa.float64())])
    judged = [{"id": f"r{n}", "scores": {"judge_dimensions_compliance": 1.0 + n % 5}} for n in range(12)]
    table = pa.Table.from_pylist(judged, schema=pa.schema([("id", pa.string()), ("scores", score)]))
    pq.write_table(table, tmp_path / "judged.parquet")
    judged_by = ("--judged", tmp_path / "judged.parquet", "--rubric", "dimensions")
    ran = invoke("score", out / "key.json", *files, *judged_by, "-f", "table")
    assert "The judge on compliance: 12 items, " in ran.stdout
    agreed = ("--export", tmp_path / "agreed.jsonl", "--agreed", 2)
    invoke("score", out / "key.json", *files, *agreed, "-f", "json")
    kept = [line for line in read_ratings(str(tmp_path / "agreed.jsonl")) if line.dimension == "compliance"]
    assert sorted(line.score for line in kept) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all(line.score == 1 + int(line.id[1:]) % 5 and line.rater == "consensus" for line in kept)
    scale = list(edittools.read(str(tmp_path / "judged.parquet")).pipe(_calibration(ratings)).rows())
    assert all(row["scores"]["judge_dimensions_compliance_calibrated"] is not None for row in scale)
    for wrong in (("--dimension", "beauty"), ("--per-score", 3)):
        with pytest.raises(UsageError):
            invoke(*build[:4], *(("--rubric", "dimensions") if wrong[0] == "--dimension" else ()), *wrong, "-o", out)


def _calibration(ratings: Any) -> Any:
    from edittools.judge.calibration_stage import CalibrationStage

    return CalibrationStage(ratings, folds=3)


def test_consensus_is_what_two_or_more_gave() -> None:
    cases = [([], None), ([3], None), ([3, 4], None), ([3, 4, 3], 3), ([3, 3, 4, 4], None), ([2, 2, 2, 4, 4], 2)]
    assert [consensus(scores) for scores, _ in cases] == [wanted for _, wanted in cases]


# ---------------------------------------------------------------- intervals


Spread = tuple[float, float, float, float, float]
"""Standard deviations: of cases, of a model in a case, of raters, of a rater's taste for a model, and by chance."""


def ratings_from(values: np.ndarray) -> list[Rated]:
    return [Rated("t", c, r, v) for (c, r), v in np.ndenumerate(values) if not np.isnan(v)]


@pytest.mark.parametrize("raters", [3, 5, 10])
def test_intervals_cover_other_cases_and_other_raters(raters: int) -> None:
    """Of raters who differ and cases that differ, on five levels: at least 93% of 250 studies of each size."""
    draw = np.random.default_rng(raters)
    for cases, of_case, of_rater, chance in ((20, 0.8, 0.4, 0.8), (60, 0.5, 0.15, 1.0)):
        truth = _mean_level(of_case, of_rater, chance)
        hits = 0
        for _ in range(250):
            scatter = of_case * draw.standard_normal((cases, 1)) + of_rater * draw.standard_normal((1, raters))
            values = np.clip(np.round(3.2 + scatter + chance * draw.standard_normal((cases, raters))), 1, 5)
            low, high = crossed_limits(ratings_from(values))
            hits += low <= truth <= high
        assert hits / 250 >= 0.93, (cases, raters, hits)


def _ratings_of_two(draw: np.random.Generator, studies: int, cases: int, raters: int, spread: Spread) -> np.ndarray:
    """Levels 1 to 5, (studies, cases, raters, 2): cases and raters differ, also in how they take each of two models."""
    of_case, of_case_and_model, of_rater, of_taste, chance = spread
    off = of_case * draw.standard_normal((studies, cases, 1, 1)) + of_rater * draw.standard_normal(
        (studies, 1, raters, 1)
    )
    off = off + of_case_and_model * draw.standard_normal((studies, cases, 1, 2))
    off = off + of_taste * draw.standard_normal((studies, 1, raters, 2))
    return np.clip(np.round([3.4, 3.0] + off + chance * draw.standard_normal((studies, cases, raters, 2))), 1, 5)


@pytest.mark.parametrize("raters", [3, 5, 10])
def test_intervals_of_differences_and_win_rates_cover(raters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed of two models whom raters do not like alike: at least 93% of 400 studies.

    The truth is that of a million ratings that share neither case nor rater; intervals are drawn 100 times, not 10,000.
    """
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    draw, cases, spread = np.random.default_rng(raters), 30, (0.8, 0.7, 0.3, 0.5, 0.5)
    first, second = _ratings_of_two(draw, 1_000_000, 1, 1, spread).reshape(-1, 2).T
    truth = {"interval": 2 * (first - second).mean(), "win_interval": (1 + np.sign(first - second)).mean() / 2}
    hits = dict.fromkeys(truth, 0)
    key = {"models": ["A", "B"], "cases": [{"task": ("style", "tone")[k % 2]} for k in range(cases)]}
    for levels in _ratings_of_two(draw, 400, cases, raters, spread):
        rated = {(c, m): dict(enumerate(2 * levels[c, :, k])) for c in range(cases) for k, m in enumerate("AB")}
        (pair,) = _pairs(rated, key, all_designs()["rank"], 0)
        for name, value in truth.items():
            hits[name] += pair[name][0] <= value <= pair[name][1]
    assert min(hits.values()) / 400 >= 0.93, hits


def _mean_level(*deviations: float) -> float:
    """The mean of a rounded, clipped normal variable, by its distribution."""
    from math import erf, sqrt

    deviation = sqrt(sum(one**2 for one in deviations))
    below = [0.5 * (1 + erf((edge - 3.2) / deviation / sqrt(2))) for edge in (1.5, 2.5, 3.5, 4.5)]
    return 5 - sum(below)


def test_limits_by_hand_and_where_raters_saw_different_cases() -> None:
    """Two raters, two cases, no chance: V_c = 1, V_r = 1/4 (t of one degree of freedom: 12.706)."""
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    low, high = crossed_limits(ratings_from(values))
    assert (low + high) / 2 == 2.5
    assert (high - low) / 2 == pytest.approx(12.706205 * np.sqrt(1 + 1 / 4), rel=1e-5)
    assert crossed_limits(ratings_from(values[:, :1])) == (-np.inf, np.inf)  # one rater says nothing of others
    gaps = np.array([[1.0, np.nan, 2.0], [np.nan, 4.0, 5.0], [2.0, 2.0, np.nan]])
    assert mean_of(ratings_from(gaps)) == pytest.approx((1.5 + 4.5 + 2) / 3)
    assert all(np.isfinite(crossed_limits(ratings_from(gaps))))


# ---------------------------------------------------------------- the pages in a browser


@browser
def test_a_review_by_keyboard_and_two_tabs_of_one_rater(tmp_path: Path) -> None:
    key = build_items(items_of(rows_file(tmp_path / "rows.parquet", 5)), "review", str(tmp_path / "study"))
    page = tmp_path / "study/study.html"
    (tmp_path / "profile").mkdir()
    with Chromium(tmp_path / "profile", tmp_path) as chromium:
        chromium.open(page)
        chromium.type("Ann")
        chromium.press("Enter")
        wait(lambda: chromium.run("page !== null"))
        seen = {}

        def row() -> str:
            return str(key["cases"][chromium.run("order[position]")]["id"])

        seen[row()] = "accept"
        chromium.press("a", "Enter")
        seen[row()] = "reject"
        chromium.press("r", "Enter")  # not yet: why?
        assert chromium.run("position") == 1 and "Why?" in chromium.run("element('hint').textContent")
        assert chromium.run("document.querySelectorAll('#why button').length") == 7
        assert chromium.run("answerHere().first") is None
        chromium.press("3")
        first = chromium.run("answerHere().first")
        chromium.press("2")  # changed, and still where it was among those who looked at it
        assert first and chromium.run("answerHere().first") == first <= chromium.run("answerHere().at")
        chromium.press("Enter")
        seen[row()] = "correct"
        chromium.press("c")  # the words are the answer
        assert chromium.run("document.activeElement.lang") == "en"
        chromium.run("document.activeElement.select()")
        chromium.type("Another instruction a1")
        chromium.press("Escape")
        assert chromium.run("document.querySelector('[aria-checked=true]').textContent") == "correct"
        chromium.press("a")  # an accepted pair keeps its words
        assert "take that back" in chromium.run("element('hint').textContent")
        chromium.press("Enter")
        assert chromium.run("position") == 3
        # The difference of source and target while d is held; a screen reader's names of things.
        chromium.call("Input.dispatchKeyEvent", type="keyDown", key="d", windowsVirtualKeyCode=68, text="d")
        assert chromium.run("getComputedStyle(document.querySelector('.over')).mixBlendMode") == "difference"
        chromium.call("Input.dispatchKeyEvent", type="keyUp", key="d", windowsVirtualKeyCode=68)
        assert chromium.run("document.querySelectorAll('.over').length") == 0
        named = chromium.call("Accessibility.getFullAXTree")["nodes"]
        names = {(node["role"]["value"], node.get("name", {}).get("value")) for node in named if "role" in node}
        wanted = {("radiogroup", "edited, decision"), ("radio", "accept"), ("textbox", "Instruction, English")}
        assert wanted | {("image", "source"), ("image", "edited")} <= names

        # By Tab and arrows alone.
        for _ in range(20):
            chromium.press("Tab")
            if chromium.run("document.activeElement.textContent") == "accept":
                break
        chromium.press("ArrowDown")
        assert chromium.run("levelOf(page.cells[0])") == 1
        wait(lambda: chromium.run("element('saved').textContent") == "saved")

        # A second tab goes on; what the first one says from then on does not count, and it says so.
        second = chromium.tab()
        second.open(page)
        wait(lambda: second.run("rater === 'Ann' && order.length"))
        assert second.run("Object.keys(answers).length") == 4
        chromium.run("channel.onmessage = null; 0")
        chromium.press("r", "1")
        wait(lambda: not chromium.run("element('elsewhere').hidden"))
        assert chromium.run("element('saved').textContent") == "not saved"
        second.reload()
        wait(lambda: second.run("rater === 'Ann' && order.length"))
        assert second.run("Object.values(answers).at(-1).reason") is None
        second.run("document.querySelector('.export').click()")
        exported = wait(lambda: next(iter(tmp_path.glob("answers-Ann.json")), None))
        (said,) = wait(lambda: exported.stat().st_size and read_answers(str(exported)))
    from edittools.bench.studies.design import design_of
    from edittools.bench.studies.review import votes_of

    votes = votes_of(key, [said], design_of(key))
    decided = {key["cases"][n]["id"]: vote[0] for n, vote in votes.items()}
    assert {row: decided[row].decision for row in seen} == seen
    assert next(v for v in decided.values() if v.decision == "reject").reason == "nothing changed"
    assert next(v for v in decided.values() if v.decision == "correct").words[0] == ("en", "Another instruction a1")


@browser
def test_zoom_flicker_and_a_phone(tmp_path: Path) -> None:
    build_items(items_of(rows_file(tmp_path / "rows.parquet", 3)), "rating", str(tmp_path / "study"))
    (tmp_path / "profile").mkdir()
    with Chromium(tmp_path / "profile", tmp_path) as chromium:
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        chromium.call("Emulation.setDeviceMetricsOverride", **phone)
        chromium.open(tmp_path / "study/study.html")
        chromium.type("Ann")
        chromium.press("Enter")
        wait(lambda: chromium.run("page !== null && [...document.images].every((image) => image.complete)"))
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
        assert chromium.run("[...document.querySelectorAll('.cell button')].every((one) => one.offsetHeight >= 44)")
        assert chromium.run("document.querySelectorAll('.card img')[1].offsetWidth > 300")
        chromium.run("document.querySelectorAll('.frame')[1].click()")
        width = wait(lambda: chromium.run("element('stage').firstChild.offsetWidth"))
        assert chromium.run("element('viewer').open && element('seen').textContent") == "edited"
        chromium.press("+", "+")
        assert chromium.run("element('stage').firstChild.offsetWidth") == pytest.approx(4 * width, abs=4)
        own = chromium.run("element('stage').querySelector('img').src")
        chromium.press("f")
        wait(lambda: chromium.run("element('stage').querySelector('img').src") == chromium.run("page.data.source"))
        wait(lambda: chromium.run("element('stage').querySelector('img').src") == own)
        chromium.press("Escape")
        wait(lambda: not chromium.run("element('viewer').open"))
        chromium.run("document.querySelectorAll('.cell button')[3].click(); element('next').click(); 0")
        assert chromium.run("position") == 1


@browser
def test_a_public_image_is_picked_reworded_or_none_by_keyboard(tmp_path: Path) -> None:
    def picture(seed: int) -> dict[str, Any]:
        return reference(bytes=image(seed))

    items = [
        Item(
            f"private-{k}",
            "add",
            {"en": f"Paint boat {k}"},
            [picture(k)],
            {f"p{n}": picture(10 * k + n) for n in (1, 2, 3)},
        )
        for k in range(3)
    ]
    key = build_items(items, "replace", str(tmp_path / "study"))
    (tmp_path / "profile").mkdir()
    with Chromium(tmp_path / "profile", tmp_path) as chromium:
        chromium.open(tmp_path / "study/study.html")
        chromium.type("Ann")
        chromium.press("Enter")
        wait(lambda: chromium.run("page !== null"))

        def place(name: str) -> str:
            letters = key["cases"][chromium.run("order[position]")]["results"]
            return str(1 + [letters[letter] for letter in chromium.run("page.shown")].index(name))

        rows = [key["cases"][number]["id"] for number in chromium.run("order")]
        chromium.press(place("p3"), place("p1"), "Enter")  # another pick takes the place of the first
        assert chromium.run("position") == 1
        chromium.press(place("p2"), "e")
        chromium.run("document.activeElement.select()")
        chromium.type("Paint the ship")
        chromium.press("Escape", "Enter")
        assert chromium.run("position") == 2
        chromium.press("Enter")  # not yet
        assert "Pick 1 first" in chromium.run("element('hint').textContent")
        chromium.press(place("p1"), "0", "Enter")
        wait(lambda: chromium.run("!element('end').hidden && element('saved').textContent === 'saved'"))
        chromium.run("document.querySelector('.export').click()")
        exported = wait(lambda: next(iter(tmp_path.glob("answers-Ann.json")), None))
        said = wait(lambda: exported.stat().st_size and read_answers(str(exported)))
    from edittools.bench.studies.replace import export

    made = {line["id"]: line for line in map(json.loads, export(key, said).splitlines())}
    told = [(made[row]["decision"], made[row]["choice"], made[row]["instruction"]) for row in rows]
    assert told == [("replace", "p1", None), ("replace", "p2", {"en": "Paint the ship"}), ("reject", None, None)]
