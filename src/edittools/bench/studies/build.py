"""Human studies: a blind, randomised page for raters, and the key that stays behind.

The designs are those of Step1X-Edit (4.2.2), ImgEdit (4.1 and A.5) and FireRed (5.1).

A study is one HTML file that can be sent to fifty people who have nothing but a browser: it needs no server, no
network and no neighbour; `serve` gives the same page to people who come to it. Opened from a file, the page keeps
every answer in IndexedDB with strict durability and calls it saved only when the browser reports that it is on the
disk. Measured with Chromium 156: killed right after an answer, localStorage had lost it every time, IndexedDB never.

Blind means: a case's results are called a, b, c, ... in an order drawn for that case from the seed, so a letter
says nothing about the next case; images are decoded, brought to one size and encoded alike, so neither name nor
metadata nor size nor compression tells who made them (a model's own aspect ratio still can). Which letter is which
model is in key.json alone. The page draws the order of cases, and of results within each, from the study and the
rater's name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from edittools.bench.studies.answers import ANSWERS_FORMAT, KEY_FORMAT, VERSION
from edittools.bench.studies.design import Design, StudyDimension, all_designs
from edittools.bench.studies.items import ROW, Item, readable
from edittools.errors import EditError, RowError, UsageError
from edittools.report.markup import text
from edittools.report.thumbnails import encoded_uri, is_tiny
from edittools.stream import codec, files

LETTERS = "abcdefgh"
"""Names of a case's results; so at most eight models."""

SIDE = 1024
"""Longest side of the page's images, in pixels: about 200 KB each in the page."""

PAGE, KEY = "study.html", "key.json"
CASES = "<!--cases-->"

C = TypeVar("C", "StudyCase", Item)

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class StudyCase:
    """One thing to rate. A dialogue has one instruction per turn, any other case exactly one."""

    id: str
    task: str
    instructions: tuple[dict[str, str], ...]  # by language
    source: str  # path of the source image


def read_cases(path: str) -> list[StudyCase]:
    """The case list: JSON lines with id, task, instruction and source; a dialogue has `turns` for instruction.

    An instruction is {"en": ..., "zh": ...}, either of them, or a string (English). `source` is a path from the
    list's own folder; `edit eval cases BENCH ... -f jsonl` writes such lists. Raises EditError, with the line, for
    anything else.
    """
    try:
        lines = files.read_bytes(path).decode("utf-8").split("\n")
    except OSError as error:
        raise EditError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: not UTF-8 text: {error}") from error
    folder = os.path.dirname(path)
    cases: dict[str, StudyCase] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            case = _case(json.loads(line), folder)
        except json.JSONDecodeError as error:
            raise EditError(f"{path}: line {number}: not JSON: {error}") from error
        except ValueError as error:
            raise EditError(f"{path}: line {number}: {error}") from error
        if case.id in cases:
            raise EditError(f"{path}: line {number}: id `{case.id}` is there twice")
        cases[case.id] = case
    if not cases:
        raise EditError(f"{path}: no case in it")
    return list(cases.values())


def _case(row: Any, folder: str) -> StudyCase:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    source, turns = row.get("source"), row.get("turns")
    if isinstance(source, list) and source and isinstance(source[0], dict):  # as `edit eval cases` lists it
        row = {**row, "source": source[0].get("file")}
    for name in ("id", "task", "source"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"`{name}` is not a text")
    if files.leads_out(row["id"]):
        raise ValueError(f"id `{row['id']}` leads out of the folders of results")
    said = [row.get("instruction")] if turns is None else turns
    if not isinstance(said, list) or not said:
        raise ValueError("`turns` is not a list of instructions")
    said = [turn["instruction"] if isinstance(turn, dict) and "instruction" in turn else turn for turn in said]
    return StudyCase(row["id"], row["task"], tuple(map(_instruction, said)), os.path.join(folder, row["source"]))


def _instruction(value: Any) -> dict[str, str]:
    spoken = {"en": value} if isinstance(value, str) else value
    if not isinstance(spoken, dict):
        raise ValueError('`instruction` is neither a text nor {"en": ..., "zh": ...}')
    kept = {language: words for language, words in spoken.items() if isinstance(words, str) and words.strip()}
    if not kept:
        raise ValueError("`instruction` is empty")
    return kept


def build_study(
    cases: Iterable[StudyCase],
    models: Mapping[str, str],
    design: str,
    out: str,
    seed: int = 0,
    *,
    title: str = "Image editing study",
    per_task: int | None = None,
    incomplete: bool = False,
    side: int = SIDE,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write OUT/study.html, for the raters, and OUT/key.json, which is not for them; returns the key.

    `models` are folders of results by model name: ID.png (or .jpg, .jpeg, .webp), of a dialogue ID.turn.1.png,
    ID.turn.2.png, ... A case without a readable image of its source or of any model leaves the study and is
    listed in the key under `dropped`; with `incomplete` it stays as long as enough models have one, and counts for
    the full set but not for the intersection (Step1X-Edit 4.2.1). `per_task` draws so many cases of each task.
    """
    asked = _check(design, models, title)
    page_path, key_path = study_paths(out, overwrite)
    chosen, dropped = _present(list(cases), models, asked, incomplete)
    if per_task is not None:
        chosen = draw(chosen, per_task, seed)
    shown = _rated(chosen, dropped, models, asked, incomplete, seed, side)
    key = _write_page(page_path, asked, shown, dropped, title, [design, seed])
    return _write_key(key_path, key | {"design": design, "seed": seed, "models": list(models)}, dropped)


def build_items(
    items: Sequence[Item],
    design: str,
    out: str,
    seed: int = 0,
    *,
    title: str = "Image editing study",
    dimensions: Sequence[StudyDimension] = (),
    side: int = SIDE,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The same of rows, one at a time; `dimensions` are asked about where they are given. An item without a readable
    image leaves the study and is listed in the key under `dropped`.
    """
    asked = _design(design)
    if not asked.rows:
        raise UsageError(f"design {design} compares models, each with a folder of results", hint="--model NAME=DIR")
    if dimensions:
        asked = dataclasses.replace(asked, dimensions=tuple(dimensions))
    page_path, key_path = study_paths(out, overwrite)
    dropped: list[dict[str, Any]] = []
    shown = (_shown_item(*one, side) for one in readable(items, dropped))
    names = [dimension.name for dimension in asked.dimensions]
    key = _write_page(page_path, asked, shown, dropped, title, [design, seed, *names])
    return _write_key(key_path, key | {"design": design, "seed": seed, "models": [ROW], "dimensions": names}, dropped)


def study_paths(out: str, overwrite: bool) -> tuple[str, str]:
    """Where the page and the key are. Raises UsageError for what exists."""
    paths = files.join(out, PAGE), files.join(out, KEY)
    for path in paths:
        files.refuse_existing(path, overwrite)
    return paths


def _write_page(
    path: str,
    asked: Design,
    rated: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    dropped: Sequence[Mapping[str, Any]],
    title: str,
    parts: list[Any],
) -> dict[str, Any]:
    """Write the page of (what it holds of a case, its line in the key); returns the study's name and its cases."""
    files.make_dirs(os.path.dirname(path) or ".")
    before, _, after = template().partition(CASES)
    digest = hashlib.sha256(json.dumps(parts).encode())
    kept: list[dict[str, Any]] = []
    with files.atomic(path) as page:
        page.write(before.replace("<!--title-->", text(title)).encode())
        for shown, key in rated:
            data = _json(shown)
            digest.update(data)
            page.write(b'<script type="application/json" id="case-%d">%s</script>\n' % (len(kept), data))
            kept.append(key)
        if not kept:
            first = f", first {dropped[0]['id']}: {dropped[0]['reason']}" if dropped else ""
            raise EditError(f"no case is left to rate ({len(dropped)} dropped{first})")
        study = digest.hexdigest()[:16]
        header = _json(_header(asked, study, len(kept)))
        page.write(b'<script type="application/json" id="study">%s</script>\n' % header)
        page.write(after.encode())
    return {"study": study, "cases": kept}


def _write_key(path: str, key: dict[str, Any], dropped: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("study", "design", "seed", "models", "dimensions", "cases")
    key = {"format": KEY_FORMAT, "version": VERSION, **{name: key[name] for name in names if name in key}}
    key["dropped"] = dropped
    files.write_bytes(path, (json.dumps(key, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace"))
    return key


def _design(name: str) -> Design:
    if name not in all_designs():
        raise UsageError(f"`{name}`: no such design", hint=f"designs: {', '.join(all_designs())}")
    return all_designs()[name]


def _check(design: str, models: Mapping[str, str], title: str) -> Design:
    asked = _design(design)
    if asked.rows:
        raise UsageError(f"design {design} is about rows, not about folders of results", hint="without --model")
    if not asked.fewest <= len(models) <= len(LETTERS):
        raise UsageError(f"design {design} compares {asked.fewest} to {len(LETTERS)} models, not {len(models)}")
    for name, folder in models.items():
        if not name.strip():
            raise UsageError(f"{folder}: a model without a name")
        if not os.path.isdir(folder):
            raise EditError(f"{folder}: no such folder (results of {name})")
        # as a word: a model called `a` is not in "Image editing study", one called Step1X is in "Step1X-Edit"
        if re.search(rf"(?<![a-z0-9]){re.escape(name.casefold())}(?![a-z0-9])", title.casefold()):
            raise UsageError(f"the title names the model {name}: the raters would read it", hint="another --title")
    return asked


def _present(
    cases: list[StudyCase], models: Mapping[str, str], asked: Design, incomplete: bool
) -> tuple[list[StudyCase], list[dict[str, Any]]]:
    """Cases with enough result files, and what is wrong with the others; nothing is decoded yet."""
    chosen, dropped = [], []
    for case in cases:
        if asked.dialogue != (len(case.instructions) > 1):
            needs = "`turns`" if asked.dialogue else "one instruction"
            raise EditError(f"case {case.id}: this design needs {needs}")
        missing = [name for name, folder in models.items() if not _paths(folder, case)]
        enough = len(models) - len(missing) >= asked.fewest
        if missing and not (incomplete and enough):
            dropped.append({"id": case.id, "task": case.task, "reason": f"no picture of {', '.join(missing)}"})
        else:
            chosen.append(case)
    return chosen, dropped


def _paths(folder: str, case: StudyCase) -> list[str]:
    """The result files of a case, one per turn; empty if one is not there."""
    turns = len(case.instructions)
    stems = [case.id] if turns == 1 else [f"{case.id}.turn.{turn}" for turn in range(1, turns + 1)]
    found = []
    for stem in stems:
        here = [path for ext in _EXTENSIONS if os.path.isfile(path := os.path.join(folder, stem + ext))]
        if len(here) > 1:
            names = " and ".join(os.path.basename(path) for path in here)
            raise EditError(f"{folder}: {names}: which one is meant?")
        found += here
    return found if len(found) == len(stems) else []


def draw(cases: Sequence[C], per_task: int, seed: int) -> list[C]:
    """At most so many cases of each task, at random, in their order."""
    by_task: dict[str, list[C]] = defaultdict(list)
    for case in cases:
        by_task[case.task].append(case)
    drawn: set[str] = set()
    for task, members in by_task.items():
        order = _generator(seed, "task", task).permutation(len(members))
        drawn.update(members[index].id for index in order[:per_task])
    return [case for case in cases if case.id in drawn]


def _rated(
    chosen: list[StudyCase], dropped: list[dict[str, Any]], *how: Any
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """`_shown` of every case that can be rated; the others go to `dropped`."""
    for case in chosen:
        try:
            yield _shown(case, *how)
        except RowError as error:
            dropped.append({"id": case.id, "task": case.task, "reason": str(error)})


def _shown(
    case: StudyCase, models: Mapping[str, str], asked: Design, incomplete: bool, seed: int, side: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page holds of a case, and its line in the key. Raises RowError if it cannot be rated."""
    source = _decode(case.source, "source")
    results: dict[str, list[np.ndarray]] = {}
    for name, folder in models.items():
        paths = _paths(folder, case)
        try:
            if paths:
                results[name] = [_decode(path, name) for path in paths]
        except RowError:
            if not incomplete:
                raise
    if len(results) < asked.fewest:
        raise RowError("too few readable results", len(results))
    everything = [source, *(image for made in results.values() for image in made)]
    tiny = all(map(is_tiny, everything))
    longest = min(side, max(max(image.shape[:2]) for image in everything))
    names = list(results)
    order = _generator(seed, "letters", case.id).permutation(len(names))
    letters = {LETTERS[place]: names[index] for place, index in enumerate(order)}
    shown = {
        "instructions": case.instructions,
        "tiny": tiny,
        "aspect": source.shape[1] / source.shape[0],
        "source": _data_uri(source, longest, tiny),
        "results": {
            letter: [_data_uri(image, longest, tiny) for image in results[name]] for letter, name in letters.items()
        },
    }
    return shown, {"id": case.id, "task": case.task, "results": letters}


def _shown_item(
    item: Item, sources: list[np.ndarray], shown: dict[str, np.ndarray], side: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page holds of a row, and its line in the key."""
    everything = [*sources, *shown.values()]
    tiny = all(map(is_tiny, everything))
    longest = min(side, max(max(image.shape[:2]) for image in everything))
    uris = [_data_uri(image, longest, tiny) for image in sources]
    alone = (sources or list(shown.values()))[0]
    letters = dict(zip(LETTERS, shown))
    page = {
        "instructions": [item.instruction],
        "tiny": tiny,
        "aspect": alone.shape[1] / alone.shape[0],
        "source": uris[0] if uris else None,
        "references": uris[1:],
        "results": {letter: [_data_uri(shown[name], longest, tiny)] for letter, name in letters.items()},
    }
    return page, {"id": item.id, "task": item.task, "results": letters}


def _decode(path: str, whose: str) -> np.ndarray:
    try:
        return codec.decode(files.read_bytes(path))
    except OSError as error:
        raise RowError(f"{whose}: {error.strerror}") from error
    except RowError as error:
        raise RowError(f"{whose}: {error}") from error


def _data_uri(pixels: np.ndarray, longest: int, tiny: bool) -> str:
    """A data: URI of the same size and encoding, whatever the image came as; tiny ones exactly."""
    image = Image.fromarray(pixels)
    if not tiny:
        scale = longest / max(image.size)
        image = image.resize([max(1, round(edge * scale)) for edge in image.size], Image.Resampling.LANCZOS)
    return encoded_uri(image, tiny, quality=88, subsampling=0)


def _header(asked: Design, study: str, cases: int) -> dict[str, Any]:
    return {
        "format": ANSWERS_FORMAT,
        "version": VERSION,
        "study": study,
        "cases": cases,
        "question": asked.question,
        "dimensions": [{"name": dimension.name, "meaning": dimension.meaning} for dimension in asked.dimensions],
        "levels": asked.levels,
        "picks": asked.picks,
        "dialogue": asked.dialogue,
        "rows": asked.rows,
        "keys": asked.keys,
        "reasons": asked.reasons,
        "edits": asked.edits,
        "rewords": asked.rewords,
        "none": asked.none,
    }


def _json(value: Any) -> bytes:
    """JSON that may stand inside <script>: pure ASCII, and no `<` that could close the element."""
    return json.dumps(value).replace("<", "\\u003c").encode("ascii")


def _generator(seed: int, *names: str) -> np.random.Generator:
    """Seeded by names, so that no draw depends on which others were made."""
    return np.random.default_rng([seed & 0xFFFFFFFF, *(zlib.crc32(name.encode("utf-8", "replace")) for name in names)])


def template() -> str:
    """The page without its cases: one file, with its style and program inside."""
    folder = resources.files("edittools.bench.studies")
    page = folder.joinpath("study.html").read_text(encoding="utf-8")
    for name in ("study.css", "study.js", "viewer.js"):
        page = page.replace(f"/*{name}*/", folder.joinpath(name).read_text(encoding="utf-8"))
    return page


def models_of(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=DIR, several times, as {name: folder}."""
    models: dict[str, str] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"--model {pair}: not of the form NAME=DIR")
        if name in models:
            raise UsageError(f"--model {pair}: `{name}` is there twice")
        models[name] = folder
    return models
