"""A benchmark is one module: its name stands in no other one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edittools
from edittools.judge.rubrics import rubric_names
from edittools.suites import benchmark_names, benchmarks, load_benchmark

ROOT = Path(edittools.__file__).parent


@pytest.mark.parametrize("name", benchmark_names())
def test_the_name_of_a_benchmark_stands_in_its_own_module_only(name: str) -> None:
    word = re.compile(rf"(?<![\w-]){name}(?![\w-])")  # `imgedit-region` is a preset of filters
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if word.search(path.read_text("utf-8"))}
    assert found == {f"suites/{name}.py"}


@pytest.mark.parametrize("name", benchmark_names())
def test_a_benchmark_declares_under_its_file_name_what_the_others_read(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name and benchmarks()[name] is benchmark
    assert set(benchmark.tasks) <= set(benchmark.canonical)
    assert benchmark.rubrics[0].name == name and benchmark.title
    assert bool(benchmark.outputs) == (benchmark.rescore is not None)
    assert {rubric.name for rubric in benchmark.rubrics} <= set(rubric_names())
