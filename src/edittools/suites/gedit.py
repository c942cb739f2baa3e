"""GEdit-Bench (Step1X-Edit, section 4): semantic consistency and quality, 0 to 10, of 11 tasks in English and Chinese.

Outputs are the judge script's CSV files, one per task, of Step1X-Edit or of its forks in UniWorld-V1, BAGEL and
EditScore; or lmms-eval's samples.
A case is (task, language, key): keys alone are not unique.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.json_file import read_json
from edittools.rubric import Dimension, Numbers, Rubric
from edittools.rubric.calls import Call, Prompts, named_text
from edittools.rubric.calls import JudgedEdit as Asked
from edittools.rubric.parsing import Random, Scores, Unparsed, viescore_strict
from edittools.rubric.prompts import PromptLayout
from edittools.suites.shared.csv_table import plain_number, read_csv
from edittools.suites.shared.lmms import LMMS_FAILED, LMMS_NOTE, lmms_samples
from edittools.suites.shared.scores import Score, count_tasks, official, read_lines
from edittools.suites.shared.types import (
    LANGUAGES,
    Benchmark,
    Case,
    CaseChoice,
    JudgedRow,
    NewCase,
    Outputs,
    Rescored,
    known_task,
    spoken_language,
)
from edittools.vlm.images import Encoding, open_image, rgb, saved

if TYPE_CHECKING:
    from PIL import Image

CANONICAL = {  # in the benchmark's own order
    "background_change": "background",
    "color_alter": "color",
    "material_alter": "material",
    "motion_change": "motion",
    "ps_human": "portrait",
    "style_change": "style",
    "subject-add": "add",
    "subject-remove": "remove",
    "subject-replace": "replace",
    "text_change": "text",
    "tone_transfer": "tone",
}
TASKS = list(CANONICAL)
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
        made = {language: official(functools.partial(_official, tables, language)) for language in LANGUAGES_HERE}
        means = {language: _means(found) for language, found in made.items() if wanted in (None, language)}
        notes += _further_samples(folder, made, [wanted] if wanted else LANGUAGES_HERE)
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


_SAMPLE = re.compile(rf"({'|'.join(map(re.escape, TASKS))})_gpt_score_sample(\d+)\.csv")


def _further_samples(folder: Path, made: dict[str, Any], languages: list[str]) -> list[str]:
    """EditScore's best of several: TASK_gpt_score_sampleN.csv are a further result of each case, from 1 on.

    Adds `best_of` to the official numbers of each language, number of samples -> the same numbers of each case's best,
    for 2, 4, 8 ... and all of them. Returns notes.
    """
    numbers = [int(match[2]) for file in folder.iterdir() if (match := _SAMPLE.fullmatch(file.name))]
    if not numbers:
        return []
    every = max(numbers) + 1
    counts = sorted({2**power for power in range(1, every.bit_length()) if 2**power < every} | {every})
    notes = [f"{every} results of each case; ours and the official means are of the first, but for the best of several"]
    for language in languages:
        best = {count: official(functools.partial(_best_of, folder, language, count)) for count in counts}
        if isinstance(made[language], dict):
            made[language] = {**made[language], "best_of": {str(count): found for count, found in best.items()}}
        for count, found in best.items():
            crash = found.get("raises")
            shown = crash or ", ".join(f"{name} {found[name][f'avg_{name}']:.3f}" for name in _METRICS)
            notes.append(f"official, best of {count}, {language}: {shown}")
    return notes


def _best_of(folder: Path, language: str, samples: int) -> dict[str, dict[str, float]]:
    """What EditScore's calculate_statistics.py computes: of each case the scores of the sample with the best overall,
    their mean over cases, and the mean over tasks. Files that are not there are skipped."""
    kept: dict[str, dict[str, float]] = {metric: {} for metric in _METRICS}
    for task in TASKS:
        cases: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for number in range(samples):
            path = folder / f"{task}_gpt_score{f'_sample{number}' if number else ''}.csv"
            if not path.exists():
                continue
            table = read_csv(path)
            for source, _, _, semantics, quality, _, spoken in zip(*(table[name] for name in _COLUMNS)):
                if spoken == language:
                    key = Path(str(source)).name.partition("_SRCIMG")[0]
                    cases[key].append((semantics, quality, math.sqrt(semantics * quality)))
        best = [max(scores, key=lambda one: one[2]) for scores in cases.values()]
        for place, metric in enumerate(_METRICS):
            kept[metric][task] = _mean([one[place] for one in best])
    return {metric: {**means, f"avg_{metric}": _mean(list(means.values()))} for metric, means in kept.items()}


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
    import numpy as np

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
    if language is None:  # the place of its images has it too
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


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """Read the cases from the hub's Parquet files, or UniWorld's gedit_edit.json and its images (English only)."""
    wanted = spoken_language(language)
    found = [path] if path.is_file() else sorted(path.rglob("*.parquet")) or sorted(path.glob("gedit_edit.json"))
    if not found:
        raise EditError(f"{path}: no Parquet files of GEdit-Bench, and no gedit_edit.json")
    made: list[Case] = []
    for file in found:
        if file.suffix != ".json" and images is not None:
            raise UsageError(f"--images has no meaning with {file}, which holds its images itself")
        made += _of_json(file, images or file.parent) if file.suffix == ".json" else _of_parquet(file)
    return [case for case in made if wanted in (None, case.language)]


def _of_parquet(path: Path) -> list[Case]:
    import pyarrow.parquet as pq

    from edittools.stream import files
    from edittools.stream.input_reader import reference
    from edittools.stream.ipc import arrow_errors

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
        image = reference(file=str(path.resolve()), row=number, column="input_image", etag=tag)
        made.append(Case(
            row["key"], task, row["instruction"], row["instruction_language"], [image],
            f"{place}.png", f"{place}_SRCIMG.png", bool(row["Intersection_exist"]),
        ))  # fmt: skip
    return made


def _of_json(path: Path, images: Path) -> list[Case]:
    from edittools.suites.shared.images import loose_image

    try:
        return [
            Case(
                key,
                known_task(item["edit_type"], TASKS, f"{path}: {key}"),
                item["prompt"],
                "en",
                [loose_image(images / item["id"])],
                item["id"],
            )
            for key, item in read_json(path).items()
        ]
    except (AttributeError, TypeError, KeyError) as error:
        raise EditError(f"{path}: not {{key: {{id, prompt, edit_type}}}}: {error!r}") from error


def publish(cases: Sequence[NewCase], folder: Path) -> None:
    """Write a Parquet file of the hub's columns, two rows per case where it has both languages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from edittools.record import HF_IMAGE

    rows = [
        {
            "task_type": case.task,
            "key": case.key,
            "instruction": case.instruction[language],
            "instruction_language": LANGUAGES[language],
            "input_image": (image := {"bytes": case.image, "path": None}),
            "input_image_raw": image,
            "Intersection_exist": True,
        }
        for language in ("en", "zh")
        for case in cases
        if language in case.instruction
    ]
    text = ("task_type", "key", "instruction", "instruction_language")
    images = ("input_image", "input_image_raw")
    features = {name: {"dtype": "string", "_type": "Value"} for name in text} | {n: {"_type": "Image"} for n in images}
    features["Intersection_exist"] = {"dtype": "bool", "_type": "Value"}
    fields = [
        *((name, pa.string()) for name in text),
        *((n, HF_IMAGE) for n in images),
        ("Intersection_exist", pa.bool_()),
    ]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "data").mkdir(exist_ok=True)
    with pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", schema) as file:
        for start in range(0, len(rows), 100):
            file.write_table(pa.Table.from_pylist(rows[start : start + 100], schema=schema))


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
    parsed = [viescore_official(replies.get(name, "")) for name in ("SC", "PQ")]
    if any(isinstance(part, (Unparsed, Random)) for part in parsed):
        return None
    try:
        return viescore_official_scores(*parsed)[:2]
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


# ---------------------------------------------------------------- what a judge is asked

_VIE_SC = ("_context_no_delimit", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC")
_VIE_PQ = ("_context_no_delimit", "_prompts_0shot_rule_PQ")


def final_texts(prompts: Prompts, instruction: str) -> dict[str, str]:
    """The two final prompts of VIEScore for an edit with one source: {SC, PQ}."""
    semantics = "\n".join(named_text(prompts, name) for name in _VIE_SC)
    quality = "\n".join(named_text(prompts, name) for name in _VIE_PQ)
    return {"SC": semantics.replace("<instruction>", instruction), "PQ": quality}


def ask(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """VIEScore as GEdit-Bench asks GPT: text first, then the source and the edited image; PQ sees the edited only.

    The edited image is brought to the source's size (Pillow's default filter, the aspect is not kept); both are
    turned upright by EXIF, made RGB and sent as JPEG in Pillow's default quality, 75.
    """
    from PIL import ImageOps

    shown = []
    for image in _shown_images(case):
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception as error:  # whatever Pillow meets in damaged EXIF; the script ends here
            raise RowError("damaged EXIF", describe(error)) from None
        shown.append(saved(rgb(image), "JPEG"))
    texts = final_texts(prompts, case.instruction)
    sent = "jpeg, quality 75, upright, edited at the source's size"
    parameters = {"max_tokens": 1400}
    return [
        Call("SC", (texts["SC"], *shown), sent, parameters),
        Call("PQ", (texts["PQ"], shown[1]), sent, parameters),
    ]


def ask_qwen(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """The same for its local Qwen2.5-VL: images first, as PNG in whatever mode they have; greedy, 512 tokens."""
    shown = [saved(image, "PNG") for image in _shown_images(case)]
    texts = final_texts(prompts, case.instruction)
    sent = "png, edited at the source's size"
    parameters = {"max_tokens": 512, "temperature": 0.0}
    return [
        Call("SC", (*shown, texts["SC"]), sent, parameters),
        Call("PQ", (shown[1], texts["PQ"]), sent, parameters),
    ]


def _shown_images(case: Asked) -> tuple[Image.Image, Image.Image]:
    source, edited = open_image(case.source), rgb(open_image(case.edited))
    return source, edited if edited.size == source.size else edited.resize(source.size)


# ---------------------------------------------------------------- its replies


_DELIMITER = "||V^=^V||"


def viescore_official(reply: str, later: bool = False) -> Any | Unparsed | Random:
    """What VIEScore takes a reply for: its dictionary, `Unparsed` (both calls are asked again), or `Random`.

    `later` is a second or later try. The script then guesses wherever a reply has no braces, even for a list that it
    had understood the first time. A reply with braces that cannot be repaired stays unparsed for ever. The returned
    dictionary may lack `score`, or hold anything in it; between delimiters it need not even be a dictionary.
    """
    if reply.count(_DELIMITER) == 2:
        body = reply[reply.find(_DELIMITER) + len(_DELIMITER) : reply.rfind(_DELIMITER)]  # two may overlap
        if not body:
            return Unparsed("nothing between the delimiters")
        return _vie_object(body)
    opening, closing = reply.find("{"), reply.rfind("}")
    if opening >= 0 and closing >= 0:
        return _vie_object(reply[opening : closing + 1])
    if later:
        return Random(0, 10)
    start, end = reply.find("["), reply.rfind("]") + 1
    if re.match(r"^\[\d+, ?\d+\]$", reply[start:end]):
        return _vie_object(f'{{"score": {reply[start:end]}}}')
    try:
        number = int(reply)
    except ValueError:
        return Unparsed("no JSON object")
    return {"score": [number]} if 0 <= number <= 10 else Unparsed("no JSON object")


def _vie_object(text: str) -> Any | Unparsed:
    text = text.strip().replace("\n", "")
    try:
        found = json.loads(text)
        if not isinstance(found["score"], list):
            found["score"] = [found["score"]]
        return found
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        pass
    try:
        return json.loads(_vie_repaired(text))
    except (ValueError, RecursionError):
        return Unparsed("braces that cannot be repaired")


def _vie_repaired(text: str) -> str:
    """VIEScore's repair: bare words before a colon become keys, and every value up to the next `,` or `}` is quoted.

    Numbers are put into lists instead, and true, false and null left alone. The script uses the package `regex`, whose
    idea of a word differs from `re`'s in a few characters.
    """
    import regex

    def quoted(match: Any) -> str:
        key, value, close = match[1], match[2].strip(), match[3]
        if re.match(r"^-?\d+(\.\d+)?$", value):
            value = "[" + value + "]"
        elif value.lower() not in ("true", "false", "null"):
            value = '"' + value + '"'
        return key + ": " + value + close

    return regex.sub(r'(".*?"):(.*?)(,|})', quoted, regex.sub(r"(\w+):", r'"\1":', text))


def viescore_official_scores(semantics: Any, quality: Any) -> tuple[Any, Any, float]:
    """[SC, PQ, overall] from two dictionaries; raises what the script raises (it then waits and asks again)."""
    lowest, plain = min(semantics["score"]), min(quality["score"])
    return lowest, plain, math.sqrt(lowest * plain)


def read(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    return viescore_strict(reply)


def _overall(numbers: Numbers) -> float:
    return math.sqrt(min(numbers["SC"].values()) * min(numbers["PQ"].values()))


RUBRIC = Rubric(
    name="gedit",
    summary="GEdit-Bench's own: VIEScore's SC and PQ, 0 to 10; overall is sqrt(SC * PQ)",
    dimensions=(
        Dimension("sc", ("SC",), lambda numbers: min(numbers["SC"].values()), 0, 10),
        Dimension("pq", ("PQ",), lambda numbers: min(numbers["PQ"].values()), 0, 10),
        Dimension("overall", ("SC", "PQ"), _overall, 0, 10),
    ),
    ask=ask,
    read=read,
    ratings=tuple(range(11)),
    layout=PromptLayout(
        "gedit",
        ("vie_prompts.py", "prompts_raw"),
        (
            "_context_no_delimit",
            "_prompts_0shot_two_image_edit_rule",
            "_prompts_0shot_tie_rule_SC",
            "_prompts_0shot_rule_PQ",
        ),
    ),
)


QWEN_RUBRIC = replace(
    RUBRIC,
    name="gedit_qwen",
    summary="GEdit-Bench's own, in the message layout of its Qwen2.5-VL judge",
    ask=ask_qwen,
)


BENCHMARK = Benchmark(
    name="gedit",
    title="GEdit-Bench",
    source="Liu et al., Step1X-Edit (2025), section 4",
    canonical=CANONICAL,
    metrics={metric: (0.0, 10.0) for metric in _METRICS},
    suites=(tuple(TASKS),),
    rubrics=(RUBRIC, QWEN_RUBRIC),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    publish=publish,
    outputs="folder of CSV files or any parent",
    columns={"G_SC": "semantics", "G_PQ": "quality", "G_O": "overall"},  # `Q_` is another judge's: no row of ours
    choices=(
        CaseChoice(
            "language", "one language, en (also eng) or cn (also zh)", ("cases", "rescore", "report", "compare")
        ),
    ),
    examples={
        "build": (("edit eval build reviewed/ --layout gedit -o MyBench/", "in the layout of the released benchmark"),),
        "cases": (
            ("edit eval cases gedit GEdit-Bench/ | edit sample --model run/ -o results/", "edit a benchmark's cases"),
            (
                "edit eval cases gedit GEdit-Bench/ --results out/their-model/ | edit judge --rubric gedit --prompts "
                "Step1X-Edit/ --model gpt-4.1 -o judged/",
                "judge what another model made",
            ),
        ),
        "export": (("edit eval export results/ -o out/my-model/", "the images where the official judge script looks"),),
        "report": (
            ("edit eval report gedit judged/ --meta GEdit-Bench/ -o gedit.html", "means, coverage, gallery"),
            (
                "edit eval report gedit judged/ --outputs official/ -f json",
                "also the files that the official script would have written",
            ),
        ),
        "compare": (
            ("edit eval compare gedit ours=judged/ theirs=judged-theirs/", "two models over the cases that both have"),
        ),
        "rescore": (
            ("edit eval rescore gedit results/ -f json", "what the official judge script wrote, again, offline"),
        ),
        "sample": (
            (
                "edit eval cases gedit GEdit-Bench/ | edit sample --model step1x-v1.1/ --device cuda --dtype bfloat16 "
                "--resolution 786 -o results/",
                "a benchmark's cases; `edit eval export results/ -o DIR/` then writes its official layout",
            ),
        ),
    },
)
