"""The published tables: complete, inside their scales, and consistent where the papers can be recomputed."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest

from edittools.bench import published
from edittools.bench.score_report import published_tables
from edittools.bench.terminal import ScoreTable
from edittools.errors import UsageError
from edittools.suites import imgedit, load_benchmark

TABLES = [published.load(name) for name in published.names()]
WITH_OVERALL = [table for table in TABLES if table.overall]


def by_name(table: published.PublishedTable) -> str:
    return table.name


def test_the_tables_of_the_three_papers_are_there() -> None:
    assert set(published.names()) >= {
        "firered-benchmarks",
        "firered-gedit-cn",
        "firered-gedit-en",
        "firered-imgedit",
        "firered-rededit-cn",
        "firered-rededit-en",
        "firered-rededit-text",
        "firered-training",
        "imgedit-ablation",
        "imgedit-basic",
        "imgedit-benchmarks",
        "imgedit-datasets",
        "imgedit-judge",
        "imgedit-statistics",
        "imgedit-top2",
        "step1x-benchmarks",
        "step1x-gedit-cn-full",
        "step1x-gedit-cn-intersection",
        "step1x-gedit-en-full",
        "step1x-gedit-en-intersection",
        "step1x-user-study",
    }


@pytest.mark.parametrize("table", TABLES, ids=by_name)
def test_numbers_are_inside_the_scale_and_models_named_once(table: published.PublishedTable) -> None:
    if table.scale is not None:
        low, high = table.scale
        assert all(low <= score <= high for row in table.rows for score in row.scores.values())
    models = [row.model for row in table.rows]
    assert len(set(models)) == len(models)
    assert table.exceptions.keys() <= set(models)
    for column in table.columns:  # one number of digits per column: nothing was reread as a float
        kinds = {type(row.scores[column]) for row in table.rows}
        assert len(kinds) == 1, column
        if kinds == {Decimal}:
            digits = {row.scores[column].as_tuple().exponent for row in table.rows}
            assert len(digits) == 1, column


def test_what_the_papers_say_of_benchmarks_and_data() -> None:
    """Cells and sums against the papers: the three tables of benchmarks agree where they speak of the same."""
    step1x, ours, firered = (published.load(f"{name}-benchmarks") for name in ("step1x", "imgedit", "firered"))
    for model, size in (("MagicBrush", 1053), ("AnyEdit", 1250)):
        assert [table.row(model).scores["Size"] for table in (step1x, ours, firered)] == [size] * 3
    assert step1x.row("GEdit-Bench").scores["#Sub-tasks"] == firered.row("GEdit-Bench").scores["Sub-tasks"] == 11
    pairs = [row.scores["#Image pairs"] for row in published.load("imgedit-statistics").rows]
    assert len(pairs) == 13 and sum(pairs) == 1161483
    data = published.load("imgedit-datasets").row("ImgEdit").scores
    assert (str(data["Fake score"]), data["Tiny-ROE ratio"], data["Types"]) == ("0.050", "0.8%", 13)
    for row in published.load("firered-training").rows:
        shares = [str(row.scores[f"{kind} caption"]) for kind in ("Original", "Structured", "Instructive")]
        assert sum(int(share.rstrip("%")) for share in shares) == 100, row.model


@pytest.mark.parametrize("table", WITH_OVERALL, ids=by_name)
def test_overall_is_the_mean_of_the_tasks_but_for_the_named_rows(table: published.PublishedTable) -> None:
    assert table.overall and table.tolerance
    off = {
        row.model
        for row in table.rows
        if abs(table.mean(row) - float(row.scores[table.overall])) > table.tolerance + 1e-9
    }
    assert off == table.exceptions.keys()


@pytest.mark.parametrize("table", [t for t in TABLES if "G_O" in t.columns], ids=by_name)
def test_overall_of_viescore_is_possible(table: published.PublishedTable) -> None:
    """O is the mean of sqrt(SC PQ), so at most sqrt of the product of the means (Cauchy-Schwarz)."""
    for judge in {column[0] for column in table.columns}:
        for row in table.rows:
            consistency, quality = float(row.scores[f"{judge}_SC"]), float(row.scores[f"{judge}_PQ"])
            assert float(row.scores[f"{judge}_O"]) <= math.sqrt(consistency * quality)


def test_two_picks_of_every_case() -> None:
    assert sum(row.scores["Top-2 Pick Ratio"] for row in published.load("imgedit-top2").rows) == 200


def test_firered_repeats_imgedits_numbers() -> None:
    """Rows that both papers print agree, but for BAGEL, Kontext and MagicBrush's overall, as the notes say."""
    ours, theirs = published.load("imgedit-basic"), published.load("firered-imgedit")
    assert ours.columns == theirs.columns
    shared = {"MagicBrush", "AnyEdit", "UltraEdit", "ICEdit", "UniWorld-V1", "OmniGen2", "BAGEL"}
    different = {model for model in shared if ours.row(model).scores != theirs.row(model).scores}
    assert different == {"MagicBrush", "BAGEL"}
    magic = dict(theirs.row("MagicBrush").scores)
    assert (magic.pop("Overall"), ours.row("MagicBrush").scores["Overall"]) == (Decimal("1.90"), Decimal("1.83"))
    assert all(ours.row("MagicBrush").scores[column] == score for column, score in magic.items())


def test_firered_repeats_one_row() -> None:
    for name in ("firered-gedit-en", "firered-gedit-cn"):
        table = published.load(name)
        assert table.row("Qwen-Image-Edit-2509").scores == table.row("Step1X-Edit-v1.2").scores
        assert any("same six numbers" in note for note in table.notes)


def test_an_unknown_table_is_one_line_and_a_hint() -> None:
    with pytest.raises(UsageError, match="no such published table") as error:
        published.load("gedit")
    assert "imgedit-basic" in (error.value.hint or "")


def own_rows(benchmark: str, official: dict, languages: bool = False) -> dict[str, list[list[str]]]:
    """Name of a table -> the cells of the model's own rows, as the report shows them."""
    made = {}
    names = {f"{table.title}: {table.paper}, {table.table}": table.name for table in TABLES}
    strict: dict = {"en": {"tasks": {}}, "cn": {"tasks": {}}} if languages else {"tasks": {}}
    tables = ScoreTable({"strict": strict, **official}, ["score"], "strict")
    for part in published_tables(benchmark, load_benchmark(benchmark), tables, "m").split("<details>")[1:]:
        title = re.search("<summary>(.*?)</summary>", part)
        assert title
        rows = re.findall("<tr>(<td[^>]*>m \\(here.*?)</tr>", part)
        made[names[title[1]]] = [re.findall("<td[^>]*>(.*?)</td>", row) for row in rows]
    return made


def test_a_model_is_put_beside_the_tables_of_its_benchmark_language_and_subset() -> None:
    """With its official means, as the papers' are, whatever else the report shows."""
    columns = published.load("firered-imgedit").columns
    tasks = {"add": {"score": 3.5}, "compose": {"score": 2.25}}
    (row,) = own_rows("imgedit", {"official_means": tasks})["firered-imgedit"]
    shown = dict(zip(["", *columns], row))
    assert (shown["Add"], shown["Hybrid"], shown["Overall"], shown["Style"]) == ("3.500", "2.250", "–", "–")
    # No official overall exists: it is the mean of the nine types, where all are there.
    every = {task: {"score": float(k)} for k, task in enumerate(imgedit.TYPES)}
    (row,) = own_rows("imgedit", {"official_means": every})["firered-imgedit"]
    assert dict(zip(["", *columns], row))["Overall"] == "4.000"
    # The mean of ImgEdit's other suite is no score for this one.
    assert not any(own_rows("imgedit", {"official_means": {"average": {"score": 4.0}}}).values())

    whole = {"semantics": 7.0, "quality": 8.0, "overall": 7.5}
    inside = {"semantics": 5.0, "quality": 6.0, "overall": 5.5}
    found = own_rows("gedit", {"official_means": {"en": {"average": whole, "intersection": inside}}}, True)
    assert found["firered-gedit-en"] == [["m (here)", "7.000", "8.000", "7.500"]]
    assert found["firered-gedit-cn"] == []
    assert found["step1x-gedit-en-intersection"][0][1:5] == ["5.000", "6.000", "5.500", "–"]
    # Where the script crashes or ends in NaN, the means without failed cases stand below, named so.
    nan = {"average": dict.fromkeys(whole, "nan")}
    official = {"official_means": {"en": nan}, "official_without_failed": {"en": {"average": whole}}}
    assert own_rows("gedit", official, True)["firered-gedit-en"] == [
        ["m (here)", "nan", "nan", "nan"],
        ["m (here, official without failed cases)", "7.000", "8.000", "7.500"],
    ]
    empty = ScoreTable({"strict": {"tasks": {}}}, ["score"], "strict")
    assert published_tables("kris", load_benchmark("kris"), empty, "m") == ""
