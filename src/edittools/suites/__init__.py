"""Public benchmarks, one per file, and nothing of one anywhere else; tables of papers (`bench/published/`) name theirs.

A file declares `BENCHMARK`, a Benchmark (`shared/types.py`), whose name is the file's: its tasks and what we call them,
cases, the judge's messages and how replies are read, metrics, scoring released outputs again, writing such outputs,
options of its own. The `official` numbers are those of the released scripts, their defects included; `strict` numbers
count what failed and enforce what the rubrics ask for.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from edittools.registry import Registry

if TYPE_CHECKING:
    from edittools.suites.shared.types import Benchmark

SUITES = Registry("edittools.suites", "edittools.benchmarks", files_only=True)


def benchmark_names() -> tuple[str, ...]:
    """In alphabetical order; none is imported."""
    return SUITES.names


def load_benchmark(name: str) -> Benchmark:
    """Raises KeyError."""
    return SUITES.load(name).BENCHMARK


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """Every public benchmark by name."""
    return SUITES.each("BENCHMARK")
