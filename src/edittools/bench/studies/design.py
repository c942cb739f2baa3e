"""Designs of human studies. One file of designs/ declares `STUDY`, and --design takes the file's name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edittools.errors import EditError
from edittools.registry import Registry

DESIGNS = Registry("edittools.bench.studies.designs", "edittools.designs")


@dataclass(frozen=True)
class StudyDimension:
    name: str
    meaning: str


@dataclass(frozen=True)
class Design:
    """What is asked of a rater. `values` are what the levels count, in the order of the keys 1, 2, 3, ...

    `report` is the module that makes sense of the answers: `score(key, answers, seed)`, `as_text(found, markdown)` and
    `export(key, answers)`, the lines that other commands read.
    """

    help: str  # of --design NAME
    question: str
    dimensions: tuple[StudyDimension, ...]  # of a study with --rubric: those of the rubric
    levels: tuple[str, ...]
    values: tuple[float, ...]
    measure: str  # level of measurement, for agreement.krippendorff_alpha
    picks: int = 0  # so many results are picked, and nothing else is asked
    dialogue: bool = False
    rows: bool = False  # one row at a time is asked about, and not the results of several models
    keys: tuple[str, ...] = ()  # letters for the levels, beside 1, 2, 3, ...
    reasons: tuple[str, ...] = ()  # of which the last level needs one
    edits: str = ""  # the level that says that the rater has corrected the instruction
    candidates: str = ""  # of rows: the column of what is picked from; else the edited image is asked about
    rewords: bool = False  # the instruction may be changed, whatever is picked
    none: str = ""  # of picks: the answer that nothing is to be picked
    raters: int | None = None  # who rate each case, and where they disagree one more; None: everybody
    report: str = "edittools.bench.studies.score"

    @property
    def fewest(self) -> int:
        """Results a case must have: picking two of two says nothing."""
        return 1 if self.rows else self.picks + 1 if self.picks else 2

    def reporter(self) -> Any:
        """The module `report`."""
        return importlib.import_module(self.report)


@functools.cache
def all_designs() -> dict[str, Design]:
    return {name: DESIGNS.load(name).STUDY for name in DESIGNS.names}


def design_of(key: Mapping[str, Any]) -> Design:
    """The design of a study by its key, asking about the dimensions that it was built with. Raises EditError."""
    if not {"study", "models", "cases", "dropped"} <= key.keys() or key.get("design") not in all_designs():
        raise EditError("no key of a study: it names no known design, models and cases")
    asked = all_designs()[key["design"]]
    if "dimensions" in key:
        asked = dataclasses.replace(asked, dimensions=tuple(StudyDimension(name, "") for name in key["dimensions"]))
    return asked
