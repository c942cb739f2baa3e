"""The published tables: complete, inside their scales, and consistent where the papers can be recomputed."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from edittools.bench import published
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
