"""`edit man COMMAND NAME`: everything that one filter, rubric, benchmark or template declares."""

from __future__ import annotations

import pytest

from edittools.bench import published
from edittools.cli.entries import KINDS, entry
from edittools.errors import EditError
from edittools.filter import FILTERS, Filter
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.suites import benchmark_names, load_benchmark
from edittools.synth.registry import TEMPLATES, load


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("file", FILTERS.names)
def test_a_filter_says_all_that_its_file_declares(file: str) -> None:
    item: Filter = FILTERS.load(file).FILTER
    text = flat(entry("filter", item.flag.removeprefix("--")))
    assert text == flat(entry("filter", file)) == flat(entry("filter", item.name))
    wanted = [item.flag, item.help, item.unit, item.source, item.cost_class, f"`{item.name}`"]
    wanted += [f"--{model.setting.replace('_', '-')}: {model.help}" for model in (*item.models, *item.optional)]
    wanted += [f"scores.{item.name}"] if item.stored else ["no score"]
    wanted += [FILTERS.load(file).__doc__ or "-"]
    assert [words for words in wanted if flat(words) not in text] == []


def test_a_filter_has_the_bounds_of_presets() -> None:
    assert "--preset firered: q01..q99" in entry("filter", "sharpness")
    assert "--preset" not in entry("filter", "niqe")


@pytest.mark.parametrize("name", rubric_names())
def test_a_rubric_says_its_columns_and_whether_it_needs_prompts(name: str) -> None:
    rubric, text = load_rubric(name), flat(entry("judge", name))
    assert flat(rubric.summary) in text and (rubric.layout is not None) == ("--prompts" in text)
    assert all(f"scores.judge_{name}_{one.name}: {one.low:g} to {one.high:g}" in text for one in rubric.dimensions)


@pytest.mark.parametrize("name", benchmark_names())
def test_a_benchmark_says_its_tasks_options_and_published_tables(name: str) -> None:
    benchmark, text = load_benchmark(name), flat(entry("eval", name))
    assert all(f"{task}: {benchmark.canonical[task]}" in text for task in benchmark.tasks)
    assert all(flat(choice.help) in text for choice in benchmark.choices) and flat(benchmark.source) in text
    for table in map(published.load, published.names()):
        assert (f"{table.name}: " in text) == (table.benchmark == name)


@pytest.mark.parametrize("name", TEMPLATES.names)
def test_a_template_says_its_task_and_words(name: str) -> None:
    template, text = load(name), flat(entry("synth", name))
    assert template.task in text
    assert all(flat(words) in text for said in template.instruction.values() for words in said)


def test_what_there_is_not_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(EditError, match="filter sharp: no such page") as caught:
        entry("filter", "sharp")
    assert "sharpness" in (caught.value.hint or "")
    with pytest.raises(EditError) as caught:
        entry("cat", "sharpness")
    assert caught.value.hint == f"pages with a name are of {', '.join(KINDS)}"
