"""Pairs found in public sources, images before and after an edit (Step1X-Edit 3.1.1 has those of beautification).

Which images belong together is read from the names in a folder or an archive:

    words    `x_before.jpg` and `x_after.jpg`, `Before - x.png` and `After - x.jpg`, `before/x.jpg` and `after/x.jpg`,
             `修图前/x.jpg` and `修图后/x.jpg`, or a word on one side alone: `x.jpg` and `x_retouched.jpg`
    letters  `1a.jpg` and `1b.jpg`, if there is no `1c.jpg`
    numbers  `x_1.jpg` and `x_2.jpg`, or 0 and 1, if there is no further number

in this order, and the column `pairing` says by which. An image that has no partner, or that several may belong to, is a
reject: nothing is guessed. So is an image of both, such as `x_before_after.jpg`, if it is not to be cut in two
(--halves, then also what lies in `before_after/`). Every archive is read by itself. Or a table `pairs.csv` or
`pairs.jsonl` has `before` and `after`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from edittools.errors import RowError
from edittools.ingest.dataset import PublishedDataset
from edittools.stream.input_reader import IMAGE_ENDINGS
from edittools.stream.layouts import Layout
from edittools.stream.text import valid

_BEFORE = {"before", "source", "src", "input", "original", "orig", "raw", "unedited", "原图", "原圖"}
_AFTER = {"after", "target", "tgt", "output", "edited", "edit", "retouched", "retouch", "result", "精修", "成图"}
_HAN = "\u4e00-\u9fff"
# Other signs than those that divide words are part of one: `C++` is not `C`, and a vowel may be a mark on its letter.
_WORD = re.compile(rf"\d+|[{_HAN}]+|[^\s\d_.,()\[\]\-{_HAN}]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # of `annaBefore`
# By what series are known, and which ends of a name make a pair where no others are there.
_SERIES = {"letters": ("[a-z]", [["a", "b"]]), "numbers": (r"\d+", [["1", "2"], ["0", "1"]])}
_BOTH = "before and after in one name"  # one image of both, side by side
_SEVERAL = "several may belong together"
_ALONE = "no partner"

Key = tuple[str, ...]


def pair(names: Iterable[str], *, halves: bool = False) -> Iterator[dict[str, Any]]:
    """The records of the images among these paths, in their order: pairs, and images that are `unpaired`. With `halves`
    an image of both is the `whole` of a record."""
    images = [name for name in names if name.rpartition(".")[2].lower() in IMAGE_ENDINGS and not _of_macos(name)]
    partners: dict[str, tuple[str, str, str]] = {}  # either image of a pair: before, after, and how they were found
    why = {name: "name is not UTF-8" for name in images if not _is_text(name)}
    told = {name: _told(name, halves) for name in images if name not in why}
    _by_words(told, partners, why)
    for kind, (pattern, wanted) in _SERIES.items():
        rest = [name for name in images if name not in partners and name not in why]
        _by_series(rest, kind, re.compile(pattern), wanted, partners, why)
    for name in images:
        if halves and why.get(name) == _BOTH:
            yield {"whole": name, "pairing": "halves", "path": name}
        elif name not in partners:
            yield {"before": None, "after": None, "unpaired": why.get(name, _ALONE), "path": name}
        elif name == min((found := partners[name])[:2]):
            before, after, kind = found
            yield {"before": before, "after": after, "pairing": kind, "path": after}


def _by_words(told: dict[str, tuple[Key, str]], partners: dict[str, tuple[str, str, str]], why: dict[str, str]) -> None:
    groups: dict[Key, dict[str, list[str]]] = {}
    for name, (key, role) in told.items():
        groups.setdefault(key, {}).setdefault(role, []).append(name)
    for group in groups.values():
        why.update(dict.fromkeys(group.get("both", ()), _BOTH))
        before, after, plain = (group.get(role, []) for role in ("before", "after", ""))
        if not before and not after:
            continue
        before, after = before or plain, after or plain  # `x.jpg` and `x_after.jpg`
        if len(before) == len(after) == 1:
            partners.update(dict.fromkeys((*before, *after), (before[0], after[0], "words")))
        else:
            why.update(dict.fromkeys((*before, *after), _SEVERAL if before and after else _ALONE))


def _by_series(
    names: list[str],
    kind: str,
    pattern: re.Pattern[str],
    wanted: list[list[str]],
    partners: dict[str, tuple[str, str, str]],
    why: dict[str, str],
) -> None:
    """Pair those whose names are the same but for their last letter, or number."""
    groups: dict[Key, list[tuple[str, str]]] = {}
    for name in names:
        *folders, words = (tuple(_words(part)) for part in _parts(name))
        if words and pattern.fullmatch(words[-1]):
            key = tuple(" ".join(part) for part in (*folders, words[:-1]))
            groups.setdefault(key, []).append((words[-1].lstrip("0") or "0", name))
    for group in groups.values():
        ends, of_group = zip(*sorted(group))
        if [*ends] in wanted:
            partners.update(dict.fromkeys(of_group, (of_group[0], of_group[1], kind)))
        elif len(group) > 1:
            why.update(dict.fromkeys(of_group, _SEVERAL))


def _of_macos(name: str) -> bool:
    """What macOS puts beside the files of an archive, with their names."""
    return "__MACOSX" in name.split("/") or name.rpartition("/")[2].startswith("._")


def _is_text(name: str) -> bool:
    """A folder's listing has U+FFFD for what is not, an archive half a pair."""
    return "\ufffd" not in name and valid(name) == name


def _told(name: str, halves: bool = False) -> tuple[Key, str]:
    """What an image is called without the words that say what it is, and what these say: `before`, `after`, `both` or
    nothing. The last part of its path that says one of them counts; its name may say both, with `halves` any part."""
    parts, role = [_words(part) for part in _parts(name)], ""
    for place in reversed(range(len(parts))):
        said = [_role(word) for word in parts[place]]
        found = {one for one, _ in said if one}
        if len(found) == 2 and (halves or place == len(parts) - 1):
            return tuple(" ".join(part) for part in parts), "both"
        if len(found) == 1:
            role, parts[place] = found.pop(), [left for _, left in said if left]
            break
    return tuple(" ".join(part) for part in parts if part), role


def _parts(name: str) -> list[str]:
    """The folders of a path, and the file's name without its ending."""
    return name.rpartition(".")[0].split("/")


def _words(part: str) -> list[str]:
    """`Before - anna_01` as words in small letters, and numbers."""
    return [word.casefold() for word in _WORD.findall(_HUMP.sub(" ", unicodedata.normalize("NFC", part)))]


def _role(word: str) -> tuple[str, str]:
    """What a word says, and what is left of it: of `修图前` that which `修图后` has as well."""
    if word in _BEFORE or word in _AFTER:
        return ("before" if word in _BEFORE else "after"), ""
    if re.match(rf"[{_HAN}]", word) and word[-1] in "前后後":
        return ("before" if word[-1] == "前" else "after"), word[:-1]
    return "", word


def _refused(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("unpaired"):
        raise RowError(str(record["unpaired"]), record.get("path"))
    return {}


DATASET = PublishedDataset(
    title="found pairs",
    home="any folder or archive of images before and after",
    license="of each image",
    size="as found",
    tables=("pairs.csv", "pairs.jsonl"),
    pair=pair,
    layouts=(
        Layout(
            has=("before", "after"),
            columns={"source": "before", "target": "after", "instruction": "instruction", "provenance.path": "path"},
            derive=_refused,
        ),
        Layout(has=("whole",), columns={"target": "whole", "provenance.path": "path"}, needs=("target",)),
    ),
)
