"""KRIS-Bench: knowledge-based editing in 20 categories of seven types, scored 1 to 5 and shown as 0 to 100.

Outputs are a model's folder with CATEGORY/metrics.json. The summary is that of BAGEL, to which the authors refer.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edittools.bench.public import Benchmark, Outputs, Rescored, known_task
from edittools.bench.scores import Score, count_tasks, crashed, official, released_json, that_end_well
from edittools.errors import EditError
from edittools.json_file import read_json
from edittools.judges.parsing import kris_official, kris_official_dual
from edittools.judges.protocols import KRIS_KNOWLEDGE

if TYPE_CHECKING:
    from edittools.bench.case_list import Case
    from edittools.bench.judged import JudgedRow

_THREE = ("consistency_score", "quality_score", "instruction_score")
_FOUR = (*_THREE, "knowledge_score")
TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Attribute Perception": (
        ("count_change", "color_change", "size_adjustment", "part_completion", "anomaly_correction"),
        _THREE,
    ),
    "Spatial Perception": (("viewpoint_change", "position_movement"), _THREE),
    "Temporal Prediction": (("temporal_prediction",), _THREE),
    "Social Science": (("humanities", "practical_knowledge"), _FOUR),
    "Natural Science": (("biology", "chemistry", "geography", "medicine", "mathematics", "physics"), _FOUR),
    "Logical Reasoning": (("abstract_reasoning", "rule-based_reasoning"), _FOUR),
    "Instruction Decomposition": (("multi-element_composition", "multi-instruction_execution"), _THREE),
}
TASKS = tuple(name for names, _ in TYPES.values() for name in names)
_EARLIER = {  # names of the upstream script
    "object_count": "count_change",
    "view_pair": "viewpoint_change",
    "daily_life": "practical_knowledge",
    "rule_reasoning": "rule-based_reasoning",
}
META = {
    "Factual Knowledge": ("Attribute Perception", "Spatial Perception", "Temporal Prediction"),
    "Conceptual Knowledge": ("Social Science", "Natural Science"),
    "Procedural Knowledge": ("Logical Reasoning", "Instruction Decomposition"),
}
_UNNAMED = ("temporal_prediction", "multi-element_composition")  # whose scripts look for no key's words outside JSON
def abilities(task: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of knowledge and the type that a category belongs to."""
    kind = next((kind for kind, (names, _) in TYPES.items() if task in names), None)
    return () if kind is None else (next(name for name, kinds in META.items() if kind in kinds), kind)


SHORT = {"consistency_score": "VC", "quality_score": "VQ", "instruction_score": "IF", "knowledge_score": "KP"}


def rescore(outputs: Outputs) -> Rescored:
    if not outputs.path.is_dir():
        raise EditError(f"{outputs.path}: expected a folder of CATEGORY/metrics.json")
    made = official(lambda: _official(_metrics(outputs.path)))
    listed = None if outputs.meta is None else cases(outputs.meta, None, None, None)
    notes = ["a category's, a type's and the overall mean pool all single scores: not a mean of means"]
    if not any((outputs.path / name / "metrics.json").exists() for name in TASKS):
        notes.append(f"{outputs.path}: holds no CATEGORY/metrics.json; the script skips what is not there")
    scores = _scores(outputs.path)
    expected = BENCHMARK.wanted(scores) if listed is None else count_tasks(case.task for case in listed)
    clean = _table_means(_official(_readable(outputs.path))) if crashed(made) else {}
    return Rescored(made, {"": _table_means(made)}, {"": scores}, {"": expected or None}, notes, {"": clean})


def _table_means(made: Any) -> dict[str, dict[str, float]]:
    shown = {name: found["AVG"] for name, found in (made.get("type_avg", {}) | made.get("meta", {})).items()}
    if made.get("overall"):
        shown["average"] = made["overall"]["AVG"]
    return {name: {"score": mean} for name, mean in shown.items()}


def _metrics(folder: Path) -> dict[str, Any]:
    """What the files of the categories hold, those that are there. Raises what the script raises of them."""
    paths = {name: folder / name / "metrics.json" for name in TASKS}
    return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}


def _readable(folder: Path) -> dict[str, Any]:
    """The same of the files and the samples that do not end the script."""
    found = {}
    for name in TASKS:
        path = folder / name / "metrics.json"
        samples = released_json(path)[0] if path.exists() else None
        if isinstance(samples, dict):
            found[name] = that_end_well(samples, functools.partial(_of_category, name))
    return found


def _of_category(name: str, samples: dict[str, Any]) -> dict[str, Any]:
    return _official({name: samples})


def _official(samples: dict[str, Any]) -> dict[str, Any]:
    """summarize_benchmark_scores_with_normalization of BAGEL's summarize.py (its own main() cannot run), of category
    -> case -> metric -> score."""
    by_metric: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    pooled: dict[str, list[float]] = defaultdict(list)
    categories: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for kind, (names, metrics) in TYPES.items():
        for name in names:
            if name not in samples:
                continue
            found: dict[str, list[float]] = {metric: [] for metric in metrics}
            for sample in samples[name].values():
                for metric in metrics:
                    if metric in sample and sample[metric] is not None:
                        value = (sample[metric] - 1) * 25
                        found[metric].append(value)
                        by_metric[kind][metric].append(value)
                        pooled[kind].append(value)
            means = _means(found)
            if means:
                categories[kind][name] = means
    kinds = {}
    for kind in TYPES:
        means = _means(by_metric[kind])
        if pooled[kind]:
            means["AVG"] = _mean(pooled[kind])
            kinds[kind] = means
    meta = {name: [value for kind in members for value in pooled[kind]] for name, members in META.items()}
    everything = [value for kind in TYPES for value in pooled[kind]]
    return {
        "type_avg": kinds,
        "subitem": {kind: dict(found) for kind, found in categories.items()},
        "meta": {name: {"AVG": _mean(values)} for name, values in meta.items() if values},
        "overall": {"AVG": _mean(everything)} if everything else {},
    }


def _means(found: dict[str, list[float]]) -> dict[str, float]:
    """By the short names, in their order, without the empty ones."""
    return {SHORT[metric]: _mean(found[metric]) for metric in SHORT if found.get(metric)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _scores(folder: Path) -> list[Score]:
    """Ours: a case counts with the mean of its scores, and only if it has all of them, whole and from 1 to 5."""
    found = []
    for names, metrics in TYPES.values():
        for name in names:
            path = folder / name / "metrics.json"
            samples = released_json(path)[0] if path.exists() else {}
            if not isinstance(samples, dict):
                continue  # the official result says what is wrong
            for key, sample in samples.items():
                values = [sample.get(metric) if isinstance(sample, dict) else None for metric in metrics]
                good = [float(v) for v in values if type(v) in (int, float) and 1 <= v <= 5]  # type: ignore[operator, arg-type]
                asked = abilities(name, {})
                if len(good) < len(metrics):
                    why = f"scores are missing or outside 1 to 5: {values}"
                    found.append(Score(key, name, {}, "failed", why, abilities=asked))
                else:
                    found.append(Score(key, name, {"score": (sum(good) / len(good) - 1) * 25}, abilities=asked))
    return found


def cases(path: Path, language: str | None, suite: str | None, pictures: Path | None) -> list[Case]:
    """Of CATEGORY/annotation.json with the pictures beside it, or of BAGEL's list of all, final_data.json, with the
    pictures in the folder of their category; a case may have several sources."""
    files = [path] if path.is_file() else sorted(path.glob("*/annotation.json")) or sorted(path.rglob(_BAGEL))
    if not files:
        raise EditError(f"{path}: holds no CATEGORY/annotation.json of KRIS-Bench, and no {_BAGEL}")
    made = []
    for file in files:
        listed = read_json(file)
        beside = file.parent / "KRIS_Bench"
        usual = file.parent.parent if isinstance(listed, dict) else beside if beside.is_dir() else file.parent
        root = pictures or usual
        try:
            if isinstance(listed, dict):
                made += [_case(file, root, file.parent.name, key, item) for key, item in listed.items()]
            else:
                made += [_case(file, root, item["type"], str(item["id"]), item) for item in listed]
        except (TypeError, KeyError) as error:
            raise EditError(f"{file}: not a list of KRIS-Bench's cases: {error!r}") from error
    return made


_BAGEL = "final_data.json"


def _case(file: Path, root: Path, category: str, key: str, item: Any) -> Case:
    from edittools.bench.case_list import Case, loose_picture
    from edittools.judges.protocols import frame_numbers

    task = known_task(_EARLIER.get(category, category), TASKS, str(file))
    folder = root / category
    try:
        names = [item["ori_img"]] if isinstance(item["ori_img"], str) else item["ori_img"]
        facts = {"explain": item.get("explain_en") or item.get("explain"), "frames": frame_numbers(names)}
        if task == "viewpoint_change" and item.get("gt_img"):  # no other script reads it
            facts["gt_img"] = str((folder / item["gt_img"]).resolve())
        sources = [loose_picture(folder / name) for name in names]
        said = item.get("ins_en") or item["instruction"]
    except (AttributeError, TypeError, KeyError) as error:
        raise EditError(f"{file}: {key} is no case of KRIS-Bench: {error!r}") from error
    return Case(key, task, said, "en", sources, f"{category}/{key}.png", facts=facts)


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    metrics = next((metrics for names, metrics in TYPES.values() if case["task"] in names), _THREE)
    found = [dimensions.get(metric.removesuffix("_score")) for metric in metrics]
    good = [value for value in found if value is not None]
    return {"score": (sum(good) / len(good) - 1) * 25} if len(good) == len(found) else None


def _official_scores(replies: dict[str, str], category: str) -> dict[str, int | None]:
    """A case's scores as its category's script reads them: knowledge, where it is asked for, out of one reply with
    instruction."""
    dual = category in KRIS_KNOWLEDGE
    read = functools.partial(kris_official, named=category not in _UNNAMED, knowledge=dual)
    calls = ("consistency", "quality") if dual else ("consistency", "quality", "instruction")
    scores = {f"{call}_score": read(replies.get(call, ""), f"{call}_score") for call in calls}
    return scores | (kris_official_dual(replies.get("instruction", "")) if dual else {})


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """CATEGORY/metrics.json, of the first pass; a score that was not read is null, as the upstream script keeps it."""
    by_category: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        by_category[row.case["task"]][row.case["key"]] = _official_scores(row.replies, row.case["task"])
    for category, samples in by_category.items():
        (folder / category).mkdir(parents=True, exist_ok=True)
        (folder / category / "metrics.json").write_text(json.dumps(samples, indent=2), "utf-8")
    return Outputs(folder)


BENCHMARK = Benchmark(
    "kris",
    "Wu et al., KRIS-Bench (2025); summary of BAGEL",
    {"score": (0.0, 100.0)},
    rescore,
    cases,
    (TASKS,),
    values,
    write,
    abilities,
)
