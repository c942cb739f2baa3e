"""GEdit-Bench (Step1X-Edit, section 4): semantic consistency and quality, 0 to 10, of 11 tasks in English and Chinese.

Outputs are the judge script's CSV files, one per task, of Step1X-Edit or of its forks in UniWorld-V1 and BAGEL.
A case is (task, language, key): keys alone are not unique.
"""

from __future__ import annotations

import csv
import functools
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edittools.bench.csv_table import read_csv
from edittools.bench.public import LANGUAGES, Benchmark, Outputs, Rescored, known_task, spoken_language
from edittools.bench.scores import Score, count_tasks, numeric, official, read_lines
from edittools.errors import EditError, UsageError
from edittools.json_file import read_json
from edittools.record import NATIVE_TASKS

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow

TASKS = list(NATIVE_TASKS["gedit"])
_FILE = re.compile(rf"(.+)_({'|'.join(map(re.escape, TASKS))})_gpt_score\.csv")
_METRICS = ("semantics", "quality", "overall")


def rescore(outputs: Outputs) -> Rescored:
    folder, model = _find(outputs.path, outputs.model)
    wanted = spoken_language(outputs.language)
    languages = ["en", "cn"] if wanted is None else [wanted]
    tables = {task: folder / f"{model}_{task}_gpt_score.csv" for task in TASKS}
    cases = _expected(outputs.meta) if outputs.meta is not None else {}
    notes = []
    if outputs.language == "zh":
        notes.append("the released script's `--language zh` finds no rows (the data say cn) and prints nan")
    scores, duplicates = _scores(tables)
    if duplicates:
        notes.append(f"{duplicates} rows are there twice: the official means count both, ours the last one")
    made = {language: official(functools.partial(_official, tables, language)) for language in languages}
    return Rescored(
        made,
        {language: _means(found) for language, found in made.items()},
        {language: scores[language] for language in languages},
        {language: cases.get(language) for language in languages},
        notes,
    )


def _find(path: Path, model: str | None) -> tuple[Path, str]:
    """The folder of the CSV files and the model's name in front of theirs."""
    if path.is_file():
        path = path.parent
    found: set[tuple[Path, str]] = set()
    for file in path.rglob("*_gpt_score.csv"):
        match = _FILE.fullmatch(file.name)
        if match and (model is None or match[1] in (model, _file_name(model))):
            found.add((file.parent, match[1]))
    if not found:
        raise EditError(f"{path}: no score files of GEdit-Bench (MODEL_TASK_gpt_score.csv)")
    if len(found) > 1:
        names = ", ".join(sorted(f"{folder.relative_to(path)}/{name}" for folder, name in found))
        raise UsageError(f"{path}: holds several results: {names}", hint="name one folder, or one with --name")
    return found.pop()


def _official(tables: dict[str, Path], language: str) -> dict[str, dict[str, float]]:
    """What calculate_statistics.py computes: the mean over tasks of the means over rows."""
    kept: dict[str, dict[str, list]] = {}
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


def _scores(tables: dict[str, Path]) -> tuple[dict[str, list[Score]], int]:
    """Our scores by language, and how many rows repeat another."""
    found: dict[tuple[str, str, str], Score] = {}
    rows = 0
    for task, path in tables.items():
        if not path.exists():
            continue
        try:
            table = read_csv(path)
            columns = [table[name] for name in _COLUMNS]
        except (ValueError, KeyError):
            continue  # the official result says what is wrong; its cases are missing here
        for _, edited, _, semantics, quality, subset, spoken in zip(*columns):
            language = LANGUAGES.get(str(spoken))
            if language is None:
                continue
            rows += 1
            key = Path(str(edited)).stem
            found[task, language, key] = _score(key, task, semantics, quality, subset)
    by_language: dict[str, list[Score]] = {"en": [], "cn": []}
    for (_, language, _), score in found.items():
        by_language[language].append(score)
    return by_language, rows - len(found)


def _score(key: str, task: str, semantics: Any, quality: Any, subset: Any) -> Score:
    member = str(subset).strip().lower() in ("true", "1", "1.0")
    values = [numeric(semantics), numeric(quality)]
    if not all(0 <= value <= 10 for value in values):
        return Score(key, task, {}, "failed", f"not scores from 0 to 10: {semantics!r}, {quality!r}", member)
    made = {"semantics": values[0], "quality": values[1], "overall": math.sqrt(values[0] * values[1])}
    return Score(key, task, made, subset=member)


def _expected(meta: Path) -> dict[str, dict[str, int] | None]:
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
    tuple(TASKS),
    values,
    write,
)
