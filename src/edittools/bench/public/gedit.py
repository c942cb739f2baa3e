"""GEdit-Bench (Step1X-Edit, section 4): semantic consistency and quality, 0 to 10, of 11 tasks in English and Chinese.

Outputs are the judge script's CSV files, one per task, of Step1X-Edit or of its forks in UniWorld-V1, BAGEL and
EditScore; or lmms-eval's samples.
A case is (task, language, key): keys alone are not unique.
"""

from __future__ import annotations

import csv
import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edittools.bench.csv_table import plain_number, read_csv
from edittools.bench.lmms import LMMS_FAILED, LMMS_NOTE, lmms_samples
from edittools.bench.public import LANGUAGES, Benchmark, Outputs, Rescored, known_task, spoken_language
from edittools.bench.scores import Score, count_tasks, official, read_lines
from edittools.errors import EditError, UsageError
from edittools.json_file import read_json
from edittools.record import NATIVE_TASKS

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow

TASKS = list(NATIVE_TASKS["gedit"])
_FILE = re.compile(rf"(?:(.+)_)?({'|'.join(map(re.escape, TASKS))})_gpt_score\.csv")
_METRICS = ("semantics", "quality", "overall")
LANGUAGES_HERE = ["en", "cn"]


def rescore(outputs: Outputs) -> Rescored:
    cases = _expected(outputs.meta) if outputs.meta is not None else {}
    wanted = spoken_language(outputs.language)
    samples = lmms_samples(outputs.path, "gedit_bench_overall_score")
    if samples is not None:
        rows, official_result, notes = _of_lmms(samples)
        made, means = {language: official_result for language in LANGUAGES_HERE}, {}
    else:
        folder, model = _find(outputs.path, outputs.model)
        tables = {task: folder / _table_name(model, task) for task in TASKS}
        rows, notes = _rows(tables)
        notes += _further_samples(folder)
        made = {language: official(functools.partial(_official, tables, language)) for language in LANGUAGES_HERE}
        means = {language: _means(found) for language, found in made.items() if wanted in (None, language)}
    if outputs.language == "zh":
        notes.append("the released script's `--language zh` finds no rows (the data say cn) and prints nan")
    languages = [wanted] if wanted else LANGUAGES_HERE
    rows = _placed(rows, wanted)
    if wanted and (other := sum(row.language != wanted for row in rows)):
        notes.append(f"{other} rows in another language than {wanted} do not count here")
    kept = {language: _last_of_each(rows, language) for language in languages}
    repeated = sum(row.language in languages for row in rows) - sum(map(len, kept.values()))
    if repeated:
        notes.append(f"{repeated} rows are there twice: the official means count both, ours the last one")
    expected = {language: cases.get(language) or BENCHMARK.wanted(kept[language]) or None for language in languages}
    return Rescored(
        {language: made[language] for language in languages},
        means,
        kept,
        expected,
        notes,
        {language: found for language in means if (found := _without_failed(rows, language, means[language]))},
    )


def _table_name(model: str, task: str) -> str:
    return "_".join(filter(None, (model, task, "gpt_score.csv")))


def _find(path: Path, model: str | None) -> tuple[Path, str]:
    """The folder of the CSV files and the model's name in front of theirs; EditScore's have none."""
    if path.is_file():
        path = path.parent
    found: set[tuple[Path, str]] = set()
    for file in path.rglob("*_gpt_score.csv"):
        match = _FILE.fullmatch(file.name)
        if match and (None in (model, match[1]) or match[1] in (model, _file_name(str(model)))):
            found.add((file.parent, match[1] or ""))
    if not found:
        raise EditError(f"{path}: no score files of GEdit-Bench ([MODEL_]TASK_gpt_score.csv)")
    if len(found) > 1:
        names = ", ".join(sorted(f"{folder.relative_to(path)}/{name}" for folder, name in found))
        raise UsageError(f"{path}: holds several results: {names}", hint="name one folder, or one with --name")
    return found.pop()


def _further_samples(folder: Path) -> list[str]:
    found = list(folder.glob("*_gpt_score_sample*.csv"))
    return [f"{len(found)} files of further samples (best of several) are not read"] if found else []


def _official(tables: dict[str, Path], language: str) -> dict[str, dict[str, float]]:
    """What calculate_statistics.py computes: the mean over tasks of the means over rows."""
    kept: dict[str, dict[str, list[Any]]] = {}
    for task, path in tables.items():
        table = read_csv(path)
        rows = kept[task] = defaultdict(list)
        if not any(table.values()):
            continue
        columns = [table[name] for name in _COLUMNS]
        for *_, semantics, quality, subset, spoken in zip(*columns):
            if spoken != language:
                continue
            overall = math.sqrt(semantics * quality)
            for suffix in ("", "_intersection") if subset else ("",):
                for metric, value in zip(_METRICS, (semantics, quality, overall)):
                    rows[metric + suffix].append(value)
    result = {}
    for suffix in ("", "_intersection"):
        for metric in _METRICS:
            means = {task: _mean(kept[task][metric + suffix]) for task in TASKS}
            means[f"avg_{metric}"] = _mean([means[task] for task in TASKS])
            result[metric + suffix] = means
    return result


def _means(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    if "raises" in found:
        return {}
    means = {task: {metric: found[metric][task] for metric in _METRICS} for task in TASKS}
    for name, suffix in (("average", ""), ("intersection", "_intersection")):
        means[name] = {metric: found[metric + suffix][f"avg_{metric}"] for metric in _METRICS}
    return means


# In the order in which the script looks them up: a column that is not there is a KeyError.
_COLUMNS = (
    "source_image", "edited_image", "instruction",
    "sementics_score", "quality_score", "intersection_exist", "instruction_language",
)  # fmt: skip


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _without_failed(rows: list[_Row], language: str, means: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The script's formula over the rows that have scores and the tasks that have such rows; empty where the script
    itself comes to an average, and where there is nothing to take one of."""
    if means and not math.isnan(means["average"]["overall"]):
        return {}
    good = [row.score for row in rows if row.language == language and row.score.state == "ok"]
    found: dict[str, dict[str, float]] = {}
    for name, chosen in (("average", good), ("intersection", [score for score in good if score.subset])):
        by_task = {task: [score.values for score in chosen if score.task == task] for task in TASKS}
        task_means = {
            task: {metric: _mean([one[metric] for one in values]) for metric in _METRICS}
            for task, values in by_task.items()
            if values
        }
        if name == "average":
            found |= task_means
        if task_means:
            found[name] = {metric: _mean([one[metric] for one in task_means.values()]) for metric in _METRICS}
    return found


# ---------------------------------------------------------------- ours


class _Row(NamedTuple):
    """A row of a score file: its language, as far as it says one, and its score, failed where it cannot be read."""

    language: str | None
    score: Score


def _rows(tables: dict[str, Path]) -> tuple[list[_Row], list[str]]:
    """Every row of every file, also of one that the script cannot read; and notes on such files."""
    found: list[_Row] = []
    notes = []
    for task, path in tables.items():
        if not path.exists():
            continue
        try:
            lines = list(csv.reader(path.read_text("utf-8-sig", "replace").splitlines(keepends=True)))
        except csv.Error as error:
            notes.append(f"{path}: {error}")
            continue
        lines = [line for line in lines if "".join(line).strip(" \t")]
        header = lines[0] if lines else []
        places = [header.index(name) if name in header else None for name in _COLUMNS]
        if None in places:
            notes.append(f"{path}: lacks the column {_COLUMNS[places.index(None)]}")
        for line in lines[1:]:
            fits = None not in places and len(line) == len(header)
            cells = [line[place] if fits and place is not None else "" for place in places]
            found.append(_row(task, line, cells, None if fits else f"{len(line)} cells for {len(header)} columns"))
    return found, notes


def _row(task: str, line: list[str], cells: list[str], wrong: str | None) -> _Row:
    _, edited, _, semantics, quality, subset, spoken = cells
    language = LANGUAGES.get(spoken)
    if language is None:  # the place of its pictures has it too
        folders = {part for cell in line for part in Path(cell).parts[:-1]}
        language = next((name for name in LANGUAGES_HERE if name in folders), None)
    if wrong is None and spoken not in LANGUAGES:
        wrong = f"no language of the benchmark: {spoken!r}"
    key = Path(edited).stem if edited else "|".join(line)
    if wrong is not None:
        return _Row(language, Score(key, task, {}, "failed", wrong))
    return _Row(language, _score(key, task, semantics, quality, subset))


def _score(key: str, task: str, semantics: str, quality: str, subset: str) -> Score:
    member = subset.strip().lower() in ("true", "1", "1.0")
    values = [plain_number(semantics), plain_number(quality)]
    if not all(value is not None and 0 <= value <= 10 for value in values):
        return Score(key, task, {}, "failed", f"not scores from 0 to 10: {semantics!r}, {quality!r}", member)
    first, second = (float(value or 0) for value in values)
    made = {"semantics": first, "quality": second, "overall": math.sqrt(first * second)}
    return Score(key, task, made, subset=member)


def _last_of_each(rows: list[_Row], language: str) -> list[Score]:
    """A case is one of task and key; of a case that is there twice, the last row counts."""
    return list({(row.score.task, row.score.key): row.score for row in rows if row.language == language}.values())


def _placed(rows: list[_Row], wanted: str | None) -> list[_Row]:
    """Rows that say nothing of their language count in the one that is wanted, or that most of the others are in."""
    usual = Counter(row.language for row in rows if row.language)
    rest = wanted or (usual.most_common(1)[0][0] if usual else LANGUAGES_HERE[0])
    return [row if row.language else row._replace(language=rest) for row in rows]


def _of_lmms(samples: list[dict[str, Any]]) -> tuple[list[_Row], dict[str, Any], list[str]]:
    """Rows of lmms-eval's samples, and the averages it prints: of samples, with 0 for what failed."""
    rows = []
    printed: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        found = {metric: sample.get(f"gedit_bench_{metric}_score") for metric in _METRICS}
        facts = next((one for one in found.values() if isinstance(one, dict)), {})
        numbers = [one.get("score") if isinstance(one, dict) else None for one in found.values()]
        for metric, number in zip(_METRICS, numbers):
            if isinstance(number, int | float):
                printed[metric].append(number)
        task, key = str(facts.get("task_type")), str(facts.get("key"))
        subset = str(bool(facts.get("intersection_exist")))
        spoken = str(facts.get("instruction_language"))
        if task not in TASKS:
            score = Score(key, task, {}, "failed", f"{task!r} is no task of the benchmark")
        elif not any(numbers):
            score = Score(key, task, {}, "failed", LMMS_FAILED)
        else:
            score = _score(key, task, str(numbers[0]), str(numbers[1]), subset)
        rows.append(_Row(LANGUAGES.get(spoken), score))
    means = {f"gedit_bench_{metric}_score": _mean(values) for metric, values in printed.items()}
    return rows, means, [LMMS_NOTE]


def _expected(meta: Path) -> dict[str, Mapping[str, int | None] | None]:
    """Cases of each task by language, from a dataset's rows as JSON (lines), or UniWorld's gedit_edit.json."""
    if meta.is_dir() or meta.suffix == ".parquet":
        listed = cases(meta, None, None, None)
        rows: Any = [{"task_type": case.task, "instruction_language": case.language} for case in listed]
    else:
        rows = read_lines(meta) if meta.suffix == ".jsonl" else read_json(meta)
    try:
        if isinstance(rows, dict):  # UniWorld: {key: {edit_type, ...}}, English only
            rows = [{"task_type": row["edit_type"], "instruction_language": "en"} for row in rows.values()]
        counts = {
            language: count_tasks(row["task_type"] for row in rows if row["instruction_language"] == language)
            for language in ("en", "cn")
        }
        return {language: found or None for language, found in counts.items()}  # nothing is said of the others
    except (TypeError, KeyError) as error:
        raise EditError(f"{meta}: not the cases of GEdit-Bench: {error!r}") from error


def cases(path: Path, language: str | None, suite: str | None, pictures: Path | None) -> list[Case]:
    """Of the hub's Parquet files, or of UniWorld's gedit_edit.json with the pictures beside it (English only)."""
    wanted = spoken_language(language)
    found = [path] if path.is_file() else sorted(path.rglob("*.parquet")) or sorted(path.glob("gedit_edit.json"))
    if not found:
        raise EditError(f"{path}: no Parquet files of GEdit-Bench, and no gedit_edit.json")
    made: list[Case] = []
    for file in found:
        if file.suffix != ".json" and pictures is not None:
            raise UsageError(f"--images has no meaning with {file}, which holds its pictures itself")
        made += _of_json(file, pictures or file.parent) if file.suffix == ".json" else _of_parquet(file)
    return [case for case in made if wanted in (None, case.language)]


def _of_parquet(path: Path) -> list[Case]:
    import pyarrow.parquet as pq

    from edittools.bench.case_list import Case
    from edittools.stream import files
    from edittools.stream.units import reference
    from edittools.stream.wire import arrow_errors

    names = ["task_type", "key", "instruction", "instruction_language", "Intersection_exist"]
    with arrow_errors(str(path)), pq.ParquetFile(path) as file:
        absent = [name for name in [*names, "input_image"] if name not in file.schema_arrow.names]
        if absent:
            raise EditError(f"{path}: not GEdit-Bench: it has no column `{absent[0]}`")
        rows = file.read(columns=names).to_pylist()
    tag = files.etag(str(path))
    made = []
    for number, row in enumerate(rows):
        task = known_task(row["task_type"], TASKS, f"{path}: {row['key']}")
        place = f"fullset/{task}/{row['instruction_language']}/{row['key']}"
        picture = reference(file=str(path.resolve()), row=number, column="input_image", etag=tag)
        made.append(Case(
            row["key"], task, row["instruction"], row["instruction_language"], [picture],
            f"{place}.png", f"{place}_SRCIMG.png", bool(row["Intersection_exist"]),
        ))  # fmt: skip
    return made


def _of_json(path: Path, pictures: Path) -> list[Case]:
    from edittools.bench.case_list import Case, loose_picture

    try:
        return [
            Case(
                key,
                known_task(item["edit_type"], TASKS, f"{path}: {key}"),
                item["prompt"],
                "en",
                [loose_picture(pictures / item["id"])],
                item["id"],
            )
            for key, item in read_json(path).items()
        ]
    except (AttributeError, TypeError, KeyError) as error:
        raise EditError(f"{path}: not {{key: {{id, prompt, edit_type}}}}: {error!r}") from error


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    names = {"semantics": "sc", "quality": "pq", "overall": "overall"}
    if any(name not in dimensions for name in names.values()):
        return None
    return {metric: dimensions[name] for metric, name in names.items()}


def _file_name(model: str) -> str:
    """A model's name as a part of paths: `Qwen/Qwen-Image-Edit` is no folder in a folder."""
    return re.sub(r"^\.+|[^\w .+-]", "_", model)


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """The CSV files of test_gedit_score.py, of the first pass; a case that its parser cannot read has no row."""
    model = _file_name(model)
    place = folder / model / _backbone(rows) / "eval_results_new"
    place.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[list[Any]]] = {task: [] for task in TASKS}
    for row in rows:
        scores = _official_pair(row.replies)
        if scores is None:
            continue
        case = row.case
        paths = [f"{model}/{case[name] or ''}" for name in ("source_path", "result_path")]
        subset = str(bool(case["subset"]))
        lines[case["task"]].append([*paths, row.instruction, *scores, subset, case["language"]])
    every = [line for task in TASKS for line in lines[task]]
    for name, part in [*lines.items(), ("combined", every)]:
        with open(place / f"{model}_{name}_gpt_score.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *part])
    return Outputs(place, model=model)


def _backbone(rows: list[JudgedRow]) -> str:
    """The folder where calculate_statistics.py looks for what this judge said."""
    rubrics = {judgement["rubric"] for row in rows for one in row.passes for judgement in one.values()}
    return "qwen25vl" if "gedit_qwen" in rubrics else "gpt4o"


def _official_pair(replies: dict[str, str]) -> tuple[Any, Any] | None:
    """SC and PQ as the script's parser reads them on its first try."""
    from edittools.judges.parsing import Random, Unparsed, viescore_official, viescore_official_scores

    parsed = [viescore_official(replies.get(name, "")) for name in ("SC", "PQ")]
    if any(isinstance(part, (Unparsed, Random)) for part in parsed):
        return None
    try:
        return viescore_official_scores(*parsed)[:2]
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


BENCHMARK = Benchmark(
    "gedit",
    "Liu et al., Step1X-Edit (2025), section 4",
    {metric: (0.0, 10.0) for metric in _METRICS},
    rescore,
    cases,
    (tuple(TASKS),),
    values,
    write,
)
