"""Published result tables, as they are printed.

One TOML file per table: those of the three papers in the folder `published/`, those of another benchmark beside its
module, as NAME.toml or NAME-*.toml. The file name is the table's name. Numbers are those of the
papers to the last digit, mistakes included: `notes` and `exceptions` say which are known. What the papers only
draw (scores by task of Step1X-Edit's figures 6 and 9, ImgEdit's figure 5 with its multi-turn and
understanding-grounding-editing suites, FireRed's human evaluation in figures 1 and 10) is not here. Signs for yes and
no are these words.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from edittools.errors import UsageError
from edittools.suites import SUITES


@dataclass(frozen=True)
class PublishedRow:
    model: str  # or whatever else a row is about
    scores: dict[str, Decimal | str]  # by column; a Decimal keeps the digits that are printed: 3.60, not 3.6


@dataclass(frozen=True)
class PublishedTable:
    name: str
    title: str
    paper: str
    table: str  # its number in the paper
    benchmark: str | None  # on whose report it stands: whose scores of models these are, or `dataset`
    language: str | None  # of the instructions, where the benchmark has several: en or cn
    subset: str | None  # of the cases, where it is not all of them
    metric: str
    judge: str | None
    scale: tuple[float, float] | None  # None where the columns are no scores
    columns: list[str]
    overall: str | None  # the column that is the mean of the others
    tolerance: float | None  # how far it may be from that mean: half of the last digit, or all of it where it was cut
    notes: list[str]
    exceptions: dict[str, str]  # model -> why its `overall` is not that mean
    rows: list[PublishedRow]

    def row(self, model: str) -> PublishedRow:
        for row in self.rows:
            if row.model == model:
                return row
        raise KeyError(model)

    def mean(self, row: PublishedRow) -> float:
        """The mean of the columns that `overall` should be the mean of."""
        parts = [float(score) for column, score in row.scores.items() if column != self.overall]
        return sum(parts) / len(parts)


def _files() -> dict[str, Path]:
    """The files of the tables by name."""
    own = Path(__file__).parent.joinpath("published").glob("*.toml")
    beside = (
        file
        for name in SUITES.names
        for pattern in (f"{name}.toml", f"{name}-*.toml")
        for file in SUITES.path(name).parent.glob(pattern)
    )
    return {file.stem: file for file in sorted([*own, *beside], key=lambda file: file.stem)}


def names() -> list[str]:
    """The names of the tables, sorted."""
    return list(_files())


def _cell(value: Decimal | int | str) -> Decimal | str:
    return value if isinstance(value, str) else Decimal(value)


def load(name: str) -> PublishedTable:
    """The table of this name. Raises UsageError if there is none."""
    known = _files()
    if name not in known:
        raise UsageError(f"`{name}`: no such published table", hint=f"tables: {', '.join(known)}")
    data = tomllib.loads(known[name].read_text(encoding="utf-8"), parse_float=Decimal)
    columns = data["columns"]
    rows = [
        PublishedRow(model, {column: _cell(cell) for column, cell in zip(columns, cells, strict=True)})
        for model, *cells in data["rows"]
    ]
    return PublishedTable(
        name=name,
        title=data["title"],
        paper=data["paper"],
        table=data["table"],
        benchmark=data.get("benchmark"),
        language=data.get("language"),
        subset=data.get("subset"),
        metric=data["metric"],
        judge=data.get("judge"),
        scale=(float(data["scale"][0]), float(data["scale"][1])) if "scale" in data else None,
        columns=columns,
        overall=data.get("overall"),
        tolerance=float(data["tolerance"]) if "tolerance" in data else None,
        notes=data.get("notes", []),
        exceptions=data.get("exceptions", {}),
        rows=rows,
    )
