"""Names of judges, and what the columns of their scores end with."""

from __future__ import annotations

import re

from edittools.errors import UsageError

PLAIN = "plain"
"""Name for the judge without a name, whose columns have no ending."""

ALL = "all"
"""Name for the mean over all judges; no judge can have it."""

ENSEMBLE = "ensemble"
"""Name for an ensemble of judges of one rubric; no judge can have it."""

MARK = "__"  # before a judge's name; in no rubric's and no dimension's


def check_judge_name(name: str) -> str:
    """The name. Raises UsageError where it has other characters than a column can be made of, or means something."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise UsageError(f"--judge {name}: a name has letters, digits, `_`, `-` and `.`")
    if name.casefold() in (ALL, PLAIN, ENSEMBLE):
        raise UsageError(
            f"--judge {name}: `{ALL}` means all judges, `{PLAIN}` the one without a name, `{ENSEMBLE}` what --ensemble "
            "makes of several"
        )
    return name


def ending_of(judge: str | None) -> str:
    """Ending of a named judge's score columns; `-` and `.` become `_`, so that SQL needs no quotes."""
    return "" if judge is None else MARK + re.sub("[-.]", "_", judge)
