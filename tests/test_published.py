"""The published tables: complete, inside their scales, and consistent where the papers can be recomputed."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest

from edittools.bench import published
from edittools.bench.score_report import published_tables
from edittools.errors import UsageError

TABLES = [published.load(name) for name in published.names()]
WITH_OVERALL = [table for table in TABLES if table.overall]


def by_name(table: published.Table) -> str:
    return table.name


def test_the_tables_of_the_three_papers_are_there() -> None:
    assert published.names() == [
        "firered-gedit-cn",
        "firered-gedit-en",
        "firered-imgedit",
        "firered-rededit-cn",
        "firered-rededit-en",
        "firered-rededit-text",
        "imgedit-ablation",
        "imgedit-basic",
        "imgedit-judge",
        "imgedit-top2",
        "step1x-gedit-cn-full",
        "step1x-gedit-cn-intersection",
        "step1x-gedit-en-full",
        "step1x-gedit-en-intersection",
        "step1x-user-study",
    ]


@pytest.mark.parametrize("table", TABLES, ids=by_name)
def test_numbers_are_inside_the_scale_and_models_named_once(table: published.Table) -> None:
    low, high = table.scale
    assert all(low <= score <= high for row in table.rows for score in row.scores.values())
    models = [row.model for row in table.rows]
    assert len(set(models)) == len(models)
    assert table.exceptions.keys() <= set(models)
    for column in table.columns:  # one number of digits per column: nothing was reread as a float
        digits = {row.scores[column].as_tuple().exponent for row in table.rows}
        assert len(digits) == 1, column


@pytest.mark.parametrize("table", WITH_OVERALL, ids=by_name)
def test_overall_is_the_mean_of_the_tasks_but_for_the_named_rows(table: published.Table) -> None:
    assert table.overall and table.tolerance
    off = {
        row.model
        for row in table.rows
        if abs(table.mean(row) - float(row.scores[table.overall])) > table.tolerance + 1e-9
    }
    assert off == table.exceptions.keys()


@pytest.mark.parametrize("table", [t for t in TABLES if "G_O" in t.columns], ids=by_name)
def test_overall_of_viescore_is_possible(table: published.Table) -> None:
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


def own_rows(benchmark: str, found: dict) -> dict[str, list[str]]:
    """Name of a table -> the cells of the model's own row, as the report shows them."""
    made = {}
    names = {f"{table.title}: {table.paper}, {table.table}": table.name for table in TABLES}
    for part in published_tables(benchmark, found, "m").split("<details>")[1:]:
        title = re.search("<summary>(.*?)</summary>", part)
        row = re.search("<tr>(<td[^>]*>m \\(here\\)</td>.*?)</tr>", part)
        assert title
        made[names[title[1]]] = re.findall("<td[^>]*>(.*?)</td>", row[1])[1:] if row else []
    return made


def means(**values: float) -> dict:
    return {name: {"mean": value, "interval": None} for name, value in values.items()}


def test_a_model_is_put_beside_the_tables_of_its_benchmark_language_and_subset() -> None:
    tasks = {"add": means(score=3.5), "compose": means(score=2.25)}
    found = own_rows("imgedit", {"macro": means(score=2.875), "strict": {"tasks": tasks}})
    assert len(found) == 3
    columns = published.load("firered-imgedit").columns
    shown = dict(zip(columns, found["firered-imgedit"]))
    assert (shown["Add"], shown["Hybrid"], shown["Overall"], shown["Style"]) == ("3.500", "2.250", "2.875", "–")
    # The mean of ImgEdit's other suite is no score for this one.
    second = {"macro": means(score=4.0), "strict": {"tasks": {"uge": means(score=4.0)}}}
    assert not any(own_rows("imgedit", second).values())

    inside = {"macro": means(semantics=5.0, quality=6.0, overall=5.5), "tasks": {}}
    whole = means(semantics=7.0, quality=8.0, overall=7.5)
    found = own_rows("gedit", {"macro": {"en": whole}, "strict": {"en": {"tasks": {}, "intersection": inside}}})
    assert found["firered-gedit-en"] == ["7.000", "8.000", "7.500"]
    assert found["firered-gedit-cn"] == []
    assert found["step1x-gedit-en-intersection"][:4] == ["5.000", "6.000", "5.500", "–"]
    assert published_tables("kris", second, "m") == ""
