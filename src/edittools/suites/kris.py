"""KRIS-Bench: knowledge-based editing in 20 categories of seven types, scored 1 to 5 and shown as 0 to 100.

Outputs are a model's folder with CATEGORY/metrics.json, or with metrics.jsonl, in which BAGEL's scripts keep what they
have got so far. The summary is that of BAGEL, to which the authors refer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edittools.errors import EditError, RowError
from edittools.json_file import read_json
from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric.calls import Call, Prompts, absent, filled, named_text, reference_bytes
from edittools.rubric.calls import JudgedEdit as Asked
from edittools.rubric.parsing import Scores, Unparsed, json_strict
from edittools.rubric.prompts import PromptLayout
from edittools.suites.shared.scores import Score, count_tasks, crashed, official, released_json, that_end_well
from edittools.suites.shared.types import Benchmark, Case, JudgedRow, Outputs, Rescored, known_task
from edittools.vlm import EncodedImage
from edittools.vlm.images import Encoding, open_image, raw_image, rgb, saved

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
    paths = [outputs.path / name / "metrics.json" for name in TASKS]
    if not any(path.exists() for path in paths):
        notes.append(f"{outputs.path}: holds no CATEGORY/metrics.json; the script skips what is not there")
    if lines := [path for path in paths if path.with_suffix(_LINES).exists() and not path.exists()]:
        notes.append(f"{len(lines)} categories have metrics.jsonl only: official is what BAGEL makes of its lines")
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
    found = {}
    for name in TASKS:
        path = folder / name / "metrics.json"
        if path.exists():
            found[name] = json.loads(path.read_text("utf-8"))
        elif path.with_suffix(_LINES).exists():  # a run that was cut off before it wrote the other
            wanted = next(metrics for names, metrics in TYPES.values() if name in names)
            merged = _lines(path.with_suffix(_LINES))
            found[name] = {key: one for key, one in merged.items() if all(one.get(m) is not None for m in wanted)}
    return found


_LINES = ".jsonl"


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    """What BAGEL's collect_jsonl_to_dict gathers: {"key", "result"} per line, later results over earlier ones of a key,
    and no line that cannot be read. Keys are those of the JSON file that it then writes."""
    merged: dict[str, dict[str, Any]] = {}
    for line in path.read_text("utf-8", "replace").split("\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            said = json.loads(line)
            key, result = said["key"], said["result"]
            merged.setdefault(key if isinstance(key, str) else json.dumps(key), {}).update(result)
    return merged


def _judged(path: Path) -> Any:
    """Every sample of a category that anybody has asked about: BAGEL keeps those without all scores in its lines only.
    None where nothing can be read."""
    samples = released_json(path)[0] if path.exists() else {}
    lines = path.with_suffix(_LINES)
    return _lines(lines) | (samples if isinstance(samples, dict) else {}) if lines.exists() else samples


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
            samples = _judged(folder / name / "metrics.json")
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


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """Read the cases from CATEGORY/annotation.json and its images, or from BAGEL's list of all, final_data.json,
    with the images in the folder of their category; a case may have several sources."""
    files = [path] if path.is_file() else sorted(path.glob("*/annotation.json")) or sorted(path.rglob(_BAGEL))
    if not files:
        raise EditError(f"{path}: holds no CATEGORY/annotation.json of KRIS-Bench, and no {_BAGEL}")
    made = []
    for file in files:
        listed = read_json(file)
        beside = file.parent / "KRIS_Bench"
        usual = file.parent.parent if isinstance(listed, dict) else beside if beside.is_dir() else file.parent
        root = images or usual
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
    from edittools.suites.shared.images import loose_image

    task = known_task(_EARLIER.get(category, category), TASKS, str(file))
    folder = root / category
    try:
        names = [item["ori_img"]] if isinstance(item["ori_img"], str) else item["ori_img"]
        facts = {"explain": item.get("explain_en") or item.get("explain"), "frames": frame_numbers(names)}
        if task == "viewpoint_change" and item.get("gt_img"):  # no other script reads it
            facts["gt_img"] = str((folder / item["gt_img"]).resolve())
        sources = [loose_image(folder / name) for name in names]
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
    dual = category in KNOWLEDGE
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


# ---------------------------------------------------------------- what a judge is asked

KNOWLEDGE = (
    "abstract_reasoning mathematics medicine biology geography chemistry humanities physics "
    "practical_knowledge rule-based_reasoning daily_life rule_reasoning"  # the last two under their earlier names
).split()
_VIEW = ("view_pair", "viewpoint_change")


def ask(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """Three calls: consistency, instruction (with knowledge in ten categories), quality.

    Every image follows a line that says which it is. Bytes of the files, labelled JPEG; `temporal_prediction`
    alone re-encodes (RGB, JPEG, quality 85) and sends all frames in order, the predicted one at its place.
    """
    category = str(case.facts.get("category", case.task))
    instruct, explain = case.instruction, case.facts.get("explain") or ""
    if category == "temporal_prediction":
        return _asked_frames(case, prompts)
    edited = raw_image(case.edited, "image/jpeg")
    if category == "multi-element_composition":
        pairs = [(f"Reference Image {k}:", raw_image(data, "image/jpeg")) for k, data in enumerate(case.sources, 1)]
        shown = _flat([*pairs, ("Predicted Image:", edited)])
        consistency = filled(prompts, "prompt_consist_multi", instruct=instruct)
        instruction = filled(prompts, "prompt_instruction_multi", instruct=instruct)
        alone: tuple[str | EncodedImage, ...] = ("This is the image to evaluate:", edited)
        return _asked_calls(prompts, (consistency, *shown), (instruction, *shown), alone)
    original = raw_image(case.source, "image/jpeg")
    shown = ("This is the original image:", original, "This is the edited image:", edited)
    alone = ("This is the edited image:", edited)
    unchanged = (filled(prompts, "prompt_consist", instruct=instruct), *shown)
    if category in KNOWLEDGE:
        text = filled(prompts, "prompt_dual_evaluation", instruct=instruct, explanation=explain)
        return _asked_calls(prompts, unchanged, (text, *shown), alone)
    if category in _VIEW:
        if absent(case.facts.get("gt_img")):
            raise RowError("no ground truth picture")  # the script leaves such a case out
        text = filled(prompts, "prompt_view_instruction_following", instruct=instruct)
        truth = ("This is the ground truth image:", raw_image(reference_bytes(case.facts["gt_img"]), "image/jpeg"))
        return _asked_calls(prompts, unchanged, (text, *shown, *truth), alone)
    if "abnormality_correction" in category:  # the released folder is called anomaly_correction: never true there
        text = filled(prompts, "prompt_abnormal_instruction_following", instruct=instruct, explanation=explain)
    else:
        text = filled(prompts, "prompt_instruction_following", instruct=instruct)
    return _asked_calls(prompts, unchanged, (text, *shown), alone)


def _asked_frames(case: Asked, prompts: Prompts) -> list[Call]:
    numbers = list(case.facts.get("frames", ()))
    if len(numbers) != len(case.sources):
        raise RowError("frame numbers missing", f"{len(numbers)} of {len(case.sources)}")
    missing = sorted({1, 2, 3, 4} - set(numbers))
    predicted = missing[0] if len(missing) == 1 else max(numbers, default=0) + 1
    edited = _jpeg(case.edited)
    frames = [(number, "Reference", _jpeg(data)) for number, data in zip(numbers, case.sources)]
    frames.append((predicted, "Generated", edited))
    frames.sort(key=lambda frame: frame[0])
    shown = _flat([(f"Frame {number} ({kind}):", image) for number, kind, image in frames])
    words = {"N": predicted, "instruct": case.instruction}
    return _asked_calls(
        prompts,
        (filled(prompts, "prompt_consist_temporal", **words), *shown),
        (filled(prompts, "prompt_instruction_temporal", **words), *shown),
        ("This is the image to evaluate:", edited),
        "jpeg, quality 85",
    )


def _jpeg(data: bytes) -> EncodedImage:
    return saved(rgb(open_image(data)), "JPEG", quality=85)


def _asked_calls(
    prompts: Prompts,
    consistency: tuple[str | EncodedImage, ...],
    instruction: tuple[str | EncodedImage, ...],
    alone: tuple[str | EncodedImage, ...],
    encoding: str = "bytes of the files, labelled image/jpeg",
) -> list[Call]:
    quality = (named_text(prompts, "prompt_quality"), *alone)
    parts = {"consistency": consistency, "instruction": instruction, "quality": quality}
    return [Call(name, tuple(message), encoding, {"max_tokens": 1000}) for name, message in parts.items()]


def _flat(pairs: Sequence[tuple[str, EncodedImage]]) -> tuple[str | EncodedImage, ...]:
    return tuple(part for pair in pairs for part in pair)


def frame_numbers(names: Sequence[str]) -> list[int]:
    """The frame numbers that KRIS-Bench's file names carry (`ITEM-FRAME.png`)."""
    found = (re.search(r"(\d+)-(\d+)", name) for name in names)
    return [int(match.group(2)) for match in found if match]


# ---------------------------------------------------------------- its replies


_LOOSE = (r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5", r"\b([1-5])\b")


def kris_official(reply: str, key: str, *, named: bool = True, knowledge: bool = False) -> int | None:
    """One score as KRIS-Bench's scripts find it: a JSON object with `key`, else expressions, else any digit 1 to 5.

    `named` also looks for the key's own words before a number (the temporal and multi-element scripts do not);
    `knowledge` is the script of the ten knowledge categories, which wants a colon there.
    """
    found = re.search(r"\{[^{}]*" + re.escape(key) + r"[^{}]*\}", reply, re.DOTALL)
    if found:
        try:
            data = json.loads(found[0])
            value = data.get(key)
            if value is not None:
                return int(value)
            if knowledge:
                return None
        except Exception:  # the script catches everything and goes on looking
            pass
    words = key.removesuffix("_score") + r"[_\s]*score\s*[:：]" + ("" if knowledge else "?") + r"\s*([1-5])"
    for pattern in ((words,) if named or knowledge else ()) + _LOOSE:
        match = re.search(pattern, reply, re.IGNORECASE | re.DOTALL)
        if match:
            return int(match[1])
    return None


def kris_official_dual(reply: str) -> dict[str, int | None]:
    """Instruction and knowledge scores from the one reply that holds both."""
    keys = ("instruction_score", "knowledge_score")
    found = re.search(r"\{[^{}]*instruction_score[^{}]*\}", reply, re.DOTALL)
    if found:
        try:
            data = json.loads(found[0])
            return {key: None if data.get(key) is None else int(data[key]) for key in keys}
        except Exception:  # as above
            pass
    result: dict[str, int | None] = {}
    for key in keys:
        match = re.search(key.removesuffix("_score") + r"[_\s]*score\s*[:：]\s*([1-5])", reply, re.IGNORECASE)
        result[key] = int(match[1]) if match else None
    return result


def kris_strict(reply: str, keys: Sequence[str]) -> Scores | Unparsed:
    """A JSON object with every key, each an integer from 1 to 5."""
    return json_strict(reply, keys, 1, 5)


def read(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    dual = call == "instruction" and case.facts.get("category", case.task) in KNOWLEDGE
    return kris_strict(reply, (f"{call}_score", "knowledge_score") if dual else (f"{call}_score",))


RUBRIC = Rubric(
    name="kris",
    summary="KRIS-Bench's own: consistency, instruction, knowledge and quality, 1 to 5",
    dimensions=(
        *(
            Dimension(call, (call,), number_of(call, f"{call}_score"), 1, 5)
            for call in ("consistency", "instruction", "quality")
        ),
        Dimension("knowledge", ("instruction",), number_of("instruction", "knowledge_score"), 1, 5),
    ),
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    layout=PromptLayout("kris", ("prompts.py",), ("prompt_consist", "prompt_dual_evaluation")),
)


BENCHMARK = Benchmark(
    name="kris",
    title="KRIS-Bench",
    source="Wu et al., KRIS-Bench (2025); summary of BAGEL",
    canonical=dict.fromkeys(TASKS, "visual"),
    metrics={"score": (0.0, 100.0)},
    suites=(TASKS,),
    rubrics=(RUBRIC,),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    abilities=abilities,
    outputs="folder of metrics.json",
)
