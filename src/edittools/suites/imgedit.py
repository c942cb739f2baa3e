"""ImgEdit-Bench (ImgEdit, section 4): the basic suite of nine edit types, and understanding-grounding-editing (UGE).

Outputs are the judge script's result.json ({key: reply}) or BAGEL's result.jsonl ({"key", "result"} per line).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.json_file import read_json
from edittools.rubric import Dimension, Rubric, number_of
from edittools.rubric.calls import Call, Prompts, named_text, text_of_task
from edittools.rubric.calls import JudgedEdit as Asked
from edittools.rubric.parsing import RATING, Scores, Unparsed, labelled_strict, of_the_answer, official_average
from edittools.rubric.prompts import PromptLayout
from edittools.rubric.three import THREE, read_three
from edittools.suites.shared.lmms import LMMS_FAILED, LMMS_NOTE, lmms_samples
from edittools.suites.shared.scores import (
    Score,
    count_tasks,
    crashed,
    official,
    released_json,
    that_end_well,
    unreadable,
)
from edittools.suites.shared.types import Benchmark, Case, CaseChoice, JudgedRow, NewCase, Outputs, Rescored, known_task
from edittools.vlm.images import Encoding, raw_image

CANONICAL = {  # ten single-turn types, nine of them scored in the basic suite; three dialogue kinds
    "add": "add",
    "remove": "remove",
    "replace": "replace",
    "adjust": "adjust",
    "alter": "adjust",  # the data set and a fork of the benchmark use this name
    "background": "background",
    "style": "style",
    "extract": "extract",
    "action": "motion",
    "compose": "hybrid",
    "hybrid": "hybrid",
    "visual": "visual",
    "content_memory": "hybrid",
    "content_understanding": "hybrid",
    "version_backtracking": "hybrid",
    "uge": "visual",
}
SUITES = ("basic", "uge")
TYPES = ("replace", "add", "adjust", "remove", "style", "action", "extract", "background", "compose")
_TYPES = {"alter": "adjust"}  # UniWorld-V1's name for it
_UGE = "uge"


def rescore(outputs: Outputs) -> Rescored:
    suite = outputs.suite or "basic"
    if suite == _MULTITURN and outputs.path.name == _DIALOGUES:  # what `write` left: no script reads it
        return Rescored({}, {"": {}}, {"": []}, {"": None}, [OURS])
    if suite not in SUITES:
        raise UsageError(f"--suite {suite}: expected one of {', '.join(SUITES)}")
    if (samples := lmms_samples(outputs.path, "imgedit_avg_score")) is not None:
        return _of_lmms(samples)
    path = outputs.path
    if path.is_dir():
        found = [path / name for name in ("result.json", "result.jsonl") if (path / name).exists()]
        if not found:
            raise EditError(f"{path}: holds no result.json or result.jsonl")
        path = found[0]
    notes: list[str] = []
    replies, broken = _lines(path, notes) if path.suffix == ".jsonl" else released_json(path)
    notes += unreadable((path, broken))
    meta: Any = None
    unlisted = None
    if outputs.meta is not None:
        listed = _list(outputs.meta, suite)
        meta, unlisted = released_json(listed)
        notes += unreadable((listed, unlisted))
        if not isinstance(meta, dict) and not unlisted:
            notes.append(f"{listed}: not {{key: {{...}}}} as in {_LISTS[suite][-1]}")
    if suite == "uge":
        types: dict[str, str | None] | None = dict.fromkeys(meta, _UGE) if isinstance(meta, dict) else None
        made, means, clean = _official_uge(replies, broken)
    elif outputs.meta is None:
        raise UsageError("the basic suite needs --meta basic_edit.json, which says the edit types")
    else:
        types = _edit_types(meta)
        made, means, clean = _official_basic(replies, meta, broken, unlisted)
        notes.append(NO_OVERALL)
    strange = 0 if types is None or not isinstance(replies, dict) else len(replies.keys() - types.keys())
    if strange:
        notes.append(f"{strange} replies are to no case of the list: ours leave them out")
    expected = None if types is None else count_tasks(kind for kind in types.values() if kind is not None)
    listed_items = meta if isinstance(meta, dict) else {}
    scores = [
        replace(score, abilities=abilities(score.task, item))
        if isinstance(item := listed_items.get(score.key), dict)
        else score
        for score in _scores(replies, types, suite)
    ]
    if suite == _UGE and not any(score.abilities for score in scores):
        notes.append(NO_ABILITIES)
    return Rescored(made, {"": means}, {"": scores}, {"": expected}, notes, {"": clean})


NO_ABILITIES = (
    "no means per ability: the list of cases says of none what it asks for, and nor does the released one; an entry "
    '`"ability": ["grounding"]` would'
)
OURS = "dialogues are judged by a rubric of ours: the benchmark has people's yes or no, and no score to compare with"
NO_OVERALL = "no official overall exists: BAGEL averages all samples, FireRed's table the nine types"

_Means = dict[str, dict[str, float]]


def _official_uge(replies: Any, broken: dict[str, str] | None) -> tuple[Any, _Means, _Means]:
    """What get_average_score.py makes of it; the means for a table; those without the cases that end it."""

    def means(found: Any) -> _Means:
        return {} if crashed(found) or found["average"] is None else {"average": {"score": found["average"]}}

    def compute(replies: Any) -> Any:
        return {"average": _uge_average(replies)}

    made: Any = broken or official(lambda: compute(replies))
    if not crashed(made) or not isinstance(replies, dict):
        return made, means(made), {}
    return made, {}, means(compute(that_end_well(replies, compute)))


def _official_basic(
    replies: Any, meta: Any, broken: dict[str, str] | None, unlisted: dict[str, str] | None
) -> tuple[Any, _Means, _Means]:
    """What the two scripts make of it; the means for a table; those without the cases that end either of them."""

    def means(found: Any) -> _Means:
        return {str(kind): {"score": mean} for kind, mean in found.get("typescore", {}).items()}

    made = broken or _basic(replies, meta)
    if unlisted and "average_score" in made:
        made = {"average_score": made["average_score"], **unlisted}
    if not crashed(made) or not isinstance(replies, dict) or not isinstance(meta, dict):
        return made, means(made), {}
    return made, means(made), means(_basic(that_end_well(replies, lambda part: _basic(part, meta)), meta))


def _of_lmms(samples: list[dict[str, Any]]) -> Rescored:
    """lmms-eval's samples: three numbers per case, which its own averages count as 0 where it has failed."""
    scores = []
    printed: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        facts = sample["imgedit_avg_score"] if isinstance(sample.get("imgedit_avg_score"), dict) else {}
        parts = [sample.get(f"imgedit_score{number}") for number in (1, 2, 3)]
        numbers = [part.get("score") if isinstance(part, dict) else None for part in parts]
        good = [float(n) for n in numbers if type(n) in (int, float) and 1 <= n <= 5]  # type: ignore[operator, arg-type]
        if type(facts.get("score")) in (int, float):
            printed[str(facts.get("edit_type"))].append(facts["score"])
        key, kind = str(facts.get("key")), facts.get("edit_type")
        task = _TYPES.get(kind, kind) if isinstance(kind, str) else str(kind)
        if task not in TYPES:
            scores.append(Score(key, task, {}, "failed", f"{task!r} is no task of the benchmark"))
        elif len(good) < 3:
            reason = LMMS_FAILED if not any(numbers) else f"not three scores from 1 to 5: {numbers}"
            scores.append(Score(key, task, {}, "failed", reason))
        else:
            scores.append(Score(key, task, {"score": fmean(min(number, good[0]) for number in good)}))
    means = {f"imgedit_{kind}_score": fmean(found) for kind, found in printed.items()}
    every = [number for found in printed.values() for number in found]
    made = {"imgedit_avg_score": fmean(every) if every else None, **means}
    return Rescored(made, {"": {}}, {"": scores}, {"": BENCHMARK.wanted(scores) or None}, [LMMS_NOTE])


def _lines(path: Path, notes: list[str]) -> tuple[Any, dict[str, str] | None]:
    """What BAGEL's collect_jsonl_to_dict makes of its lines: one that it cannot read is left out.

    The keys are those of the JSON file that it then writes: 1 and "1" are one.
    """
    found: dict[Any, Any] = {}
    lost = []
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        return None, {"raises": type(error).__name__}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            said = json.loads(line)
            found[said["key"]] = said["result"]
        except (ValueError, TypeError, KeyError, RecursionError):
            if line.strip():
                lost.append(number)
    if lost:
        notes.append(f"{path}: {len(lost)} lines are no JSON with `key` and `result`, the first is line {lost[0]}")
    return json.loads(json.dumps(found)), None


def _basic(replies: Any, meta: Any) -> dict[str, Any]:
    """step1_get_avgscore.py and step2_typescore.py; the second ends where the first did."""
    averages = official(lambda: _averages(replies))
    if crashed(averages):
        return averages
    kinds = official(lambda: _type_averages(averages, meta))
    if crashed(kinds):
        return {"average_score": averages, **kinds}
    return {"average_score": averages, "typescore": kinds}


def _averages(replies: Any) -> dict[str, float]:
    means = {key: official_average(imgedit_official(reply)) for key, reply in replies.items()}
    return {key: mean for key, mean in means.items() if mean is not None}


def _type_averages(averages: dict[str, float], meta: Any) -> dict[str, float]:
    by_type: dict[str, list[float]] = defaultdict(list)
    for key, average in averages.items():
        kind = meta.get(key, {}).get("edit_type")
        if kind is not None:
            by_type[kind].append(average)
    return {kind: round(sum(found) / len(found), 2) for kind, found in by_type.items()}


def _uge_average(replies: Any) -> float | None:
    """get_average_score.py; None where it prints that there are no valid scores."""
    averages = list(_averages(replies).values())
    return round(sum(averages) / len(averages), 2) if averages else None


def _edit_types(meta: Any) -> dict[str, str | None]:
    items = meta.items() if isinstance(meta, dict) else ()
    kinds = {key: item.get("edit_type") for key, item in items if isinstance(item, dict)}
    return {key: _TYPES.get(kind, kind) if isinstance(kind, str) else None for key, kind in kinds.items()}


def _scores(replies: Any, types: Mapping[str, str | None] | None, suite: str) -> list[Score]:
    """Ours: three labelled scores from 1 to 5, capped; all else has failed. Keys that the data lack are left out."""
    if not isinstance(replies, dict):
        return []
    found = []
    for key, reply in replies.items():
        task = _UGE if types is None else types.get(key)
        if task is None:
            continue
        if not isinstance(reply, str):
            found.append(Score(key, task, {}, "failed", f"no reply: {reply!r}"[:200]))
            continue
        scores = uge_strict(reply) if suite == _UGE else labelled_strict(reply)
        if isinstance(scores, Unparsed):
            found.append(Score(key, task, {}, "failed", scores.reason))
        else:
            found.append(Score(key, task, {"score": fmean(scores.values.values())}))
    return found


_MULTITURN = "multiturn"
_DIALOGUES = "dialogues.json"
_KINDS = {"memory": "content_memory", "understanding": "content_understanding", "backtrack": "version_backtracking"}
_LISTS = {"basic": ("singleturn.json", "basic_edit.json"), "uge": ("UGE_edit.json",)}


def cases(path: Path, language: str | None, suite: str | None, images: Path | None) -> list[Case]:
    """Read the cases from the list in a folder of the unpacked Benchmark.tar (`singleturn/`, `hard/`)."""
    from edittools.suites.shared.images import loose_image

    suite = suite or "basic"
    if suite == _MULTITURN:
        return _dialogues(path, images)
    if suite not in _LISTS:
        raise UsageError(f"--suite {suite}: expected one of {', '.join(_LISTS)}, {_MULTITURN}")
    listed = _list(path, suite)
    try:
        return [
            Case(
                key,
                _UGE if suite == _UGE else _type(item["edit_type"], f"{listed}: {key}"),
                item["prompt"],
                "en",
                [loose_image((images or listed.parent) / item["id"])],
                f"{key}.png",
                facts={"ability": list(named)} if (named := abilities(_UGE, item)) else {},
            )
            for key, item in read_json(listed).items()
        ]
    except (AttributeError, TypeError, KeyError) as error:
        raise EditError(f"{listed}: not {{key: {{id, prompt, edit_type}}}}: {error!r}") from error


def publish(cases: Sequence[NewCase], folder: Path) -> None:
    """Write singleturn.json and its images: the basic suite, which has English instructions only. Raises EditError."""
    from edittools.stream import codec

    listed = {}
    for number, case in enumerate(cases, 1):
        if "en" not in case.instruction:
            raise EditError(f"case {case.id}: no English instruction, and ImgEdit-Bench has no other")
        kind = codec.sniff(case.image) or "png"
        name = f"{case.task}/{case.key}.{'jpg' if kind == 'jpeg' else kind}"
        (folder / case.task).mkdir(exist_ok=True)
        (folder / name).write_bytes(case.image)
        listed[str(number)] = {"id": name, "prompt": case.instruction["en"], "edit_type": case.task}
    (folder / _LISTS["basic"][0]).write_text(json.dumps(listed, ensure_ascii=False, indent=1), encoding="utf-8")


def abilities(task: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What a case asks for - understanding, grounding, editing - where the list says it, as one name or several."""
    named = facts.get("ability")
    return tuple(map(str, named)) if isinstance(named, list) else (named,) if isinstance(named, str) else ()


def _type(named: Any, where: str) -> str:
    return known_task(_TYPES.get(named, named) if isinstance(named, str) else named, TYPES, where)


def _list(path: Path, suite: str) -> Path:
    """The list of cases: the file itself, or the first of its usual names in a folder. Raises EditError."""
    found = [path] if path.is_file() else [file for name in _LISTS[suite] for file in sorted(path.rglob(name))]
    if not found:
        raise EditError(f"{path}: holds no {' or '.join(_LISTS[suite])}")
    return found[0]


def _dialogues(path: Path, images: Path | None) -> list[Case]:
    """The multi-turn suite: a list per kind, {key: {id, turn1, turn2, ...}}. People judge it: no script does."""
    from edittools.suites.shared.images import loose_image

    made = []
    for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
        kind = next((kind for word, kind in _KINDS.items() if word in file.stem.lower()), None)
        if kind is None:
            continue
        for key, item in read_json(file).items():
            try:
                turns = tuple(item[name] for name in ("turn1", "turn2", "turn3") if item.get(name))
                beside = (file.parent, file.parent / file.stem, file.parent.parent)
                places = [folder / item["id"] for folder in (beside if images is None else (images,))]
                image = next((place for place in places if place.exists()), places[0])
                case = Case(key, kind, turns[0], "en", [loose_image(image)], "", turns=turns)
                # no script reads them: one image per turn, where `edit eval study` looks
                made.append(replace(case, result_path=f"{case.id}.turn.{len(turns)}.png"))
            except (AttributeError, TypeError, KeyError, IndexError) as error:
                raise EditError(f"{file}: {key} is no dialogue of ImgEdit-Bench: {error!r}") from error
    if not made:
        raise EditError(f"{path}: holds no lists of dialogues ({', '.join(_KINDS.values())})")
    return made


def values(dimensions: dict[str, float], case: dict[str, Any]) -> dict[str, float] | None:
    return {"score": dimensions["overall"]} if "overall" in dimensions else None


def write(rows: list[JudgedRow], folder: Path, model: str) -> Outputs:
    """result.json of basic_bench.py (and UGE_bench.py), of the first pass, and the list of cases it belongs to.

    Of the basic suite also what the next two scripts write, as far as they come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replies = {row.case["key"]: next(iter(row.replies.values()), {"error": "no reply"}) for row in rows}
    meta = {
        row.case["key"]: {"prompt": row.instruction, "edit_type": row.case["task"]}
        | {name: value for name, value in json.loads(row.case["facts"] or "{}").items() if name == "ability"}
        for row in rows
    }
    if rows and all(row.case["task"] in _KINDS.values() for row in rows):
        (folder / _DIALOGUES).write_text(json.dumps(replies, ensure_ascii=False, indent=4), "utf-8")
        return Outputs(folder / _DIALOGUES, suite=_MULTITURN)
    suite = _UGE if all(row.case["task"] == _UGE for row in rows) else None
    for name, content in (("result.json", replies), ("cases.json", meta)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=4), "utf-8")
    made = {} if suite == _UGE else _basic(replies, meta)
    for name in ("average_score", "typescore"):
        if name in made:
            (folder / f"{name}.json").write_text(json.dumps(made[name], indent=2), "utf-8")
    return Outputs(folder / "result.json", folder / "cases.json", suite=suite)


# ---------------------------------------------------------------- what a judge is asked


def ask(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """Text, original, edited; the bytes of the files, labelled PNG whatever they are."""
    return [_call(case, text_of_task(prompts, _prompt_name(case.task, prompts)))]


def ask_uge(case: Asked, prompts: Prompts, encoding: Encoding | None = None) -> list[Call]:
    """The UGE suite: the same message with one rubric for every edit."""
    return [_call(case, named_text(prompts, "prompt"))]


def _prompt_name(task: str, prompts: Prompts) -> str:
    """The name under which the prompts have a task."""
    # A fork renames `adjust` in its list of edits and not in its prompts.
    return "adjust" if task == "alter" and "alter" not in prompts else task


def _call(case: Asked, rubric: str) -> Call:
    text = rubric.replace("<edit_prompt>", case.instruction)
    shown = (raw_image(case.source, "image/png"), raw_image(case.edited, "image/png"))
    return Call("judge", (text, *shown), "bytes of the files, labelled image/png")


# ---------------------------------------------------------------- its replies


def imgedit_official(reply: str) -> list[int]:
    """The numbers that ImgEdit's script counts: lines of exactly one `: ` whose second part is all digits.

    Neither labels nor count nor range matter. Raises ValueError for digits that are no decimals (`²`) and
    AttributeError for what is no text, as the script does.
    """
    if not isinstance(reply, str):
        raise AttributeError(f"'{type(reply).__name__}' object has no attribute 'splitlines'")
    halves = (line.strip().split(": ") for line in reply.splitlines())
    return [int(half[1]) for half in halves if len(half) == 2 and half[1].isdigit()]


_SCORE = re.compile(r"\bscore\b[\s*_`]*[:：][\s*_`]*(\S+)", re.IGNORECASE)


_OUT_OF = re.compile(r"^[\s*_`]*(?:/|(?:out\s+)?of\b)\s*(\d+)", re.IGNORECASE)


@of_the_answer
def uge_strict(reply: str) -> Scores | Unparsed:
    """One number after `Score:`, an integer from 1 to 5, on its own line or at the end of the reasoning.

    The suite's rubric asks for no score line, so the place is left to the reply; two numbers must agree.
    """
    found = []
    for match in _SCORE.finditer(reply):
        rating = RATING.fullmatch(match[1].strip("*_`,;"))
        if rating is None:
            return Unparsed("`Score` has no number")
        value = float(rating["number"].replace(",", "."))
        scale = rating["of"] or next(iter(_OUT_OF.findall(reply[match.end() : match.end() + 40])), None)
        if value != int(value) or not 1 <= value <= 5 or scale not in (None, "5"):
            return Unparsed(f"`Score` is {rating[0]}, not an integer from 1 to 5")
        begin = match.start(1) + match[1].index(rating["number"])
        found.append((value, (begin, begin + len(rating["number"]))))
    if not found:
        return Unparsed("no `Score`")
    if len({value for value, _ in found}) > 1:
        return Unparsed("`Score` is there twice, with different numbers")
    return Scores({"score": found[-1][0]}, {"score": found[-1][1]})


def read(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    return read_three(reply, prompts.get(_prompt_name(case.task, prompts), ""))


RUBRIC = Rubric(
    name="imgedit",
    summary="ImgEdit's own, basic suite: three numbers, 1 to 5; overall is their mean",
    dimensions=THREE,
    ask=ask,
    read=read,
    ratings=(1, 2, 3, 4, 5),
    layout=PromptLayout("imgedit", ("prompts.json", "judge_prompt.json"), ("replace", "add")),
)


def read_uge(reply: str, call: str, case: Asked, prompts: Prompts) -> Scores | Unparsed:
    return uge_strict(reply)


UGE_RUBRIC = Rubric(
    name=_UGE,
    summary="ImgEdit's own, UGE suite: one number, 1 to 5",
    dimensions=(Dimension("overall", ("judge",), number_of("judge", "score"), 1, 5),),
    ask=ask_uge,
    read=read_uge,
    ratings=(1, 2, 3, 4, 5),
    layout=PromptLayout(_UGE, ("UGE_bench.py",), ("prompt",)),
)


BENCHMARK = Benchmark(
    name="imgedit",
    title="ImgEdit-Bench",
    source="Ye et al., ImgEdit (2025), section 4",
    canonical=CANONICAL,
    metrics={"score": (1.0, 5.0)},
    suites=(TYPES, (_UGE,), tuple(_KINDS.values())),
    rubrics=(RUBRIC, UGE_RUBRIC),
    rescore=rescore,
    cases=cases,
    values=values,
    write=write,
    publish=publish,
    abilities=abilities,
    outputs="result.json(l)",
    columns={"Hybrid": "compose", "Addition": "add"},
    choices=(
        CaseChoice(
            "suite",
            "basic (default), or uge (means per ability only where your list of cases has a field `ability`: the "
            "released one has none)",
            ("rescore",),
        ),
        CaseChoice(
            "suite",
            "basic (default), uge, or multiturn (it has no rubric; ours is `edit judge --rubric multiturn`)",
            ("cases", "report", "compare"),
        ),
    ),
    examples={
        "rescore": (
            ("edit eval rescore imgedit result.json --meta basic_edit.json", "the official means, ours beside them"),
        ),
        "judge": (
            (
                "edit judge results/ --rubric imgedit --prompts ImgEdit/ --model gpt-4.1 -o judged/",
                "a benchmark's own words, out of your checkout of it; then `edit eval report imgedit judged/`",
            ),
        ),
    },
)
