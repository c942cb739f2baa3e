"""Stochastic instruction alignment (FireRed 3.2): references shuffled and dropped, the text rewritten.

Names of references are counted from 1: "Figure 2", "fig. 2", "Image #2", "Figures 1, 2 and 3", "images 1-3",
"the second image", "图2", "图片一", "图1、2和3", "第2张图", "第一张和第二张图".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
CHINESE = "一二三四五六七八九"

_IMAGE = r"(?:figure|fig\.?|image|img|picture|pic|photo)"
_IMAGES = r"(?:figures|figs\.?|images|imgs|pictures|pics|photos)"
# "rotate the image 90 degrees", "the image 2x": a measure, no name
_UNITS = r"(?!\s*(?:times|degrees?|percent|px|pixels?|steps|stops|inch(?:es)?|cm|seconds?)\b|\s*[%°×])"
_ARABIC = rf"\d{{1,2}}(?![0-9A-Za-z_]|[.:]\d){_UNITS}"
_AND = r"\s*(?:,\s*(?:(?:and|or)\b|&)?|(?:and|or|through)\b|[&/+~–-])\s*#?"
# "image 1 and 2 are", but "image 1 and 2 cats": after one image a further number needs a word that is no noun
_NO_NOUN = (
    r"(?=\s*(?:$|[^\w\s]|[^\x00-\x7f])|\s+(?:and|or|through|to|into|in|on|onto|with|from|for|as|by|at|of|are|is|were|be"
    r"|should|must|so|together|using|while|side|both|\w+ly)\b)"
)
_ORDINAL = rf"(?:{'|'.join(ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))"

# "与图片一致", "图片四周", "图片二次元": the numeral belongs to the next word
_OTHER_WORD = (
    r"(?!一[样起致边直些个定同般半切共旦并次会]|一下(?![方面角边部])|二[次值维]|三[维分等角]|四[周角边面处分]|五[官颜彩]"
    r"|六边|七彩|八角|九宫|十[分字足])"
)
_MEASURE = r"(?!\s*(?:[张幅个次倍种只条位名块份年月米寸度号像]|[.:]?\d|[A-Za-z_%°×]))"
_CHINESE = rf"(?:\d{{1,2}}|{_OTHER_WORD}(?:[二三四五六七八九]?十[{CHINESE}]?|[{CHINESE}])){_MEASURE}"
_CHINESE_AND = r"\s*[、,，和与及跟或至/&+~–-]\s*"
_CHINESE_NO_NOUN = r"(?=\s*(?:$|[^\w\s]|[的中里内上和与及跟或至合融拼放进到一起都]))"
_COUNTED = rf"(?:\d{{1,2}}|[二三四五六七八九]?十[{CHINESE}]?|[{CHINESE}])"

NAME = re.compile(
    rf"(?<![A-Za-z]){_IMAGE}\s*[#_-]?\s*(?P<one>{_ARABIC}(?:{_AND}{_ARABIC}{_NO_NOUN})*)"
    rf"|(?<![A-Za-z]){_IMAGES}\s*#?\s*(?P<many>{_ARABIC}(?:{_AND}{_ARABIC})*)"
    rf"|(?<![A-Za-z0-9])(?P<ordinals>{_ORDINAL}(?:{_AND}\s*(?:the\s+)?{_ORDINAL})*)"
    rf"\s+(?:(?:reference|input|source)\s+)?(?:{_IMAGES}|{_IMAGE})(?![A-Za-z])"
    rf"|图[片像]?\s*(?P<chinese>{_CHINESE}(?:{_CHINESE_AND}{_CHINESE}{_CHINESE_NO_NOUN})*)"
    rf"|(?P<counted>第\s*{_COUNTED}(?:{_CHINESE_AND}第?\s*{_COUNTED})*)\s*"
    rf"(?:[张幅个]?\s*(?:图|照片|相片)|[张幅](?=\s*(?:$|[^\w\s]|[的和与及跟或中里上放])))",
    re.IGNORECASE,
)
# Names of images that no new number mends: where there is one, the references stay as they are.
UNCLEAR = re.compile(
    rf"(?<![A-Za-z])(?:last|previous|next|other|remaining)\s+(?:\w+\s+)?(?:{_IMAGES}|{_IMAGE})(?![A-Za-z])"
    rf"|(?<![A-Za-z])first\s+(?:two|three|four|five|\d)\s+{_IMAGES}(?![A-Za-z])"
    r"|[前后][两二三四五\d]\s*[张幅]|(?:最后|上|下|另|另外)一?\s*[张幅]|其[余他它].{0,2}图",
    re.IGNORECASE,
)
_NUMBER = re.compile(rf"{'|'.join(ORDINALS)}|\d+(?:st|nd|rd|th)|\d+|[十{CHINESE}]+", re.IGNORECASE)
_RANGE = re.compile(
    r"(?P<first>\d+|[十一二三四五六七八九]+)(?P<to>\s*(?:[~–-]|至|through)\s*)(?P<last>\d+|[十一二三四五六七八九]+)"
)


def _value(written: str) -> int:
    if written.lower() in ORDINALS:
        return ORDINALS.index(written.lower()) + 1
    if "十" in written:
        tens, _, ones = written.partition("十")
        return 10 * (CHINESE.index(tens) + 1 if tens else 1) + (CHINESE.index(ones) + 1 if ones else 0)
    return CHINESE.index(written) + 1 if written in CHINESE else int(re.sub(r"\D", "", written))


def _written(number: int, like: str) -> str:
    """A number as `like` is written: a digit, an ordinal, a Chinese numeral."""
    if like.lower() in ORDINALS and number <= len(ORDINALS):
        word = ORDINALS[number - 1]
        return word.capitalize() if like[0].isupper() else word
    if like[-1].isalpha() and like[-1].isascii():
        return f"{number}{'th' if number in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
    if like[0] in "十" + CHINESE and number < 100:
        tens, ones = divmod(number, 10)
        begin = ("" if tens == 1 else CHINESE[tens - 1]) + "十" if tens else ""
        return begin + (CHINESE[ones - 1] if ones else "")
    return str(number)


def _list(m: re.Match[str]) -> str:
    return next(group for group in m.groupdict() if m[group])


def _spelt(numbers: str) -> str:
    """A list of numbers with its ranges spelt out: "1-3" -> "1, 2, 3"."""

    def one(m: re.Match[str]) -> str:
        first, last = _value(m["first"]), _value(m["last"])
        if not first < last:
            return m[0]
        comma = "、" if m["first"][0] in "十" + CHINESE or "至" in m["to"] else ", "
        return comma.join(_written(k, m["first"]) for k in range(first, last + 1))

    return _RANGE.sub(one, numbers)


def named(text: str) -> set[int]:
    """The references that a text names, counted from 1."""
    return {_value(n) for m in NAME.finditer(text) for n in _NUMBER.findall(_spelt(m[_list(m)]))}


def renumber(text: str, numbers: Mapping[int, int]) -> str:
    """Rewrite every name of a reference by old number -> new number; a number that is not in it stays."""
    if all(old == new for old, new in numbers.items()):
        return text

    def one(m: re.Match[str]) -> str:
        group = _list(m)
        new = _NUMBER.sub(lambda n: _written(numbers.get(_value(n[0]), _value(n[0])), n[0]), _spelt(m[group]))
        begin, end = m.start(group) - m.start(), m.end(group) - m.start()
        return m[0][:begin] + new + m[0][end:]

    return NAME.sub(one, text)


def align(text: str, count: int, *, shuffle: bool, drop: float, random: np.random.Generator) -> tuple[str, list[int]]:
    """Choose and order `count` references -> the text with their new numbers, and the old ones (from 0) in order.

    Every reference that the text does not name is dropped with probability `drop`; none where the text names none, for
    then all of them are meant.
    """
    kept = list(range(count))
    spoken = named(text) & set(range(1, count + 1))
    if not spoken or UNCLEAR.search(text):
        return text, kept
    if drop:
        lost = random.random(count) < drop
        kept = [k for k in kept if k + 1 in spoken or not lost[k]]
    if shuffle:
        kept = [kept[k] for k in random.permutation(len(kept))]
    return renumber(text, {old + 1: new + 1 for new, old in enumerate(kept)}), kept
