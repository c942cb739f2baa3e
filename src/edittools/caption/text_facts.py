"""What an instruction says that no rewording may lose: quoted text, numbers, sides, colours, negation; its language.

Counted by words, in English and Chinese. Both languages give the same names, so that a translation can be compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial

_QUOTED = re.compile(r"“([^”]*)”|\"([^\"]*)\"|「([^」]*)」|『([^』]*)』|‘([^’]*)’(?!\w)|(?<!\w)'([^']+)'(?!\w)")

_COLOURS = {
    "red": "crimson scarlet 红", "orange": "橙 橘", "yellow": "golden 黄", "green": "绿", "cyan": "turquoise teal 青",
    "blue": "navy 蓝", "purple": "violet 紫", "pink": "magenta 粉", "brown": "棕 褐 咖啡色", "black": "黑",
    "white": "白", "gray": "grey silver 灰 银色",
}  # fmt: skip
# 黄昏, 白天 ... are no colours, and neither is "golden hour"; "black and white" is one notion.
_NO_COLOUR = re.compile(
    r"黄昏|黑夜|白天|白日|黑暗|青年|红外|灰暗|(?<!透)明白|空白|黑白灰?|灰度|白平衡|棕褐|灰色?的?(?=照片|图|画面)"
    r"|white balance|golden hour|black[- ]and[- ]white|orange (?:juice|peel|slice)s?|oranges\b"
    r"|(?:shades of|monochrome) gr[ae]y|gr[ae]y(?=[- ](?:picture|photo|image|version|scale))",
    re.IGNORECASE,
)
_SIDES = {name: re.compile(words, re.IGNORECASE) for name, words in {
    "left": r"\bleft(?:most)?\b(?![- ](?:to[- ])?right)|左(?!右)",
    "right": r"(?<!left[- ])(?<!left[- ]to[- ])\bright(?:most)?\b(?! (?:now|away|amount|size|colou?r|angle))|(?<!左)右",
    "top": r"(?<!on )\b(?:top|upper|uppermost|above)\b|顶部|上方|上面|上端|上侧|从上|上角|上边|[左右正中]上|上半"
    r"|上(?=[红橙橘黄绿青蓝紫粉棕褐黑白灰])",
    "bottom": r"\b(?:bottom|lowermost|below|beneath)\b|\blower[- ](?:left|right|half|part|corner|third|edge|area|middle"
    r"|center|centre|section|portion|side)|底部|下方|下面|下端|下侧|到下|下角|下边|[左右正中]下|下半|下(?=[红橙橘黄绿青蓝紫粉棕褐黑白灰])",
    "clockwise": r"(?<!counter)(?<!counter-)(?<!anti)(?<!anti-)\bclockwise\b|(?<!逆)顺时针",
    "counterclockwise": r"\b(?:counter|anti)-?clockwise\b|逆时针",
    "horizontal": r"\bhorizontal(?:ly)?\b|\bmirror(?:s|ed|ing)?\b(?! image of)|\bleft[- ](?:to[- ])?right\b"
    r"|水平|镜像|左右|横条",
    "vertical": r"\bvertical(?:ly)?\b|垂直|竖直|上下(?=镜像|翻转|对调|颠倒|互换)",
}.items()}  # fmt: skip
_CAMERA = r"\b(?:camera|viewpoint|viewed|seen)\b|镜头|相机|视角|机位"
# The image turned; where the camera goes to the left, no image is.
_TURNED = [
    (
        re.compile(
            f"(?P<camera>(?:{_CAMERA})(?:(?!\\b(?:and|then|also)\\b)[^.;。；并再])*)?(?:{words})", re.IGNORECASE
        ),
        meant,
    )
    for words, meant in {
        r"(?<=[°es]) (?:clockwise )?to the right|向右(?=旋?转)": " clockwise ",
        r"(?<=[°es]) (?:counterclockwise )?to the left|向左(?=旋?转)": " counterclockwise ",
    }.items()
]
_MEANT = [
    (re.compile(words, re.IGNORECASE), meant)
    for words, meant in {
        r"\b(?:half a turn|half turn|upside[- ]down)\b|半圈": " 180 ",
        r"\b(?:a quarter of a|quarter) turn\b|四分之一圈": " 90 ",
        r"\btwofold\b": " 2 ",
        r"\bleft (?:and|with|for) (?:the )?right\b": " horizontally ",
        r"\b(?:top|up) (?:and|with|for) (?:the )?(?:bottom|down)\b": " vertically ",
    }.items()
]
_NUMBERS = {
    word: number
    for number, words in enumerate(
        "zero 零;one 一;two twice both 二 两;three 三;four 四;five 五;six 六;seven 七;eight 八;nine 九;ten 十;"
        "eleven 十一;twelve 十二".split(";")
    )
    for word in words.split()
}
_ORDINALS = {
    word: number
    for number, words in enumerate("first 第一;second 第二;third 第三;fourth 第四;fifth 第五".split(";"), start=1)
    for word in words.split()
}
_CLASSIFIERS = "个只条张位颗朵辆件块把双片株棵座盏支本台架头匹群排行列级次倍种道"
_ENGLISH_NUMBER = re.compile(rf"(?<![\w.])(?:{'|'.join(w for w in {**_NUMBERS, **_ORDINALS} if w.isascii())})\b", re.I)
_CHINESE_NUMBER = re.compile(rf"第([一二三四五])|(十[一二]|[零二两三四五六七八九十])(?=[{_CLASSIFIERS}])")
_DIGITS = re.compile(r"(?<![A-Za-z0-9.])[-−]?\d+(?:\.\d+)?(?=\D|\Z)")
_ONE = ("1", "#1")  # "one of the dogs", 一只, "the first one": said or left out as one likes
_GRID = re.compile(r"three[- ]by[- ]three|九宫格", re.IGNORECASE)
# What a text says about the rest of the image, which stays: no rewording has to keep it.
_STAYS = re.compile(
    r"(?:(?:everything|anything|all|the rest|others?|nothing|no)\b[^.;,]*|[^.;,]*)"
    r"\b(?:stays?|remains?|unchanged|untouched|not touched|must not|as (?:it is|they are)"
    r"|(?:added|removed|moved|changed)(?=, removed| or ))\b[^.;]*"
    r"|[^.;,。；，:：]*(?:不变|原样|不增加|不改变|不移动|一样不少|不要改动|不动)[^.;。；]*",
    re.IGNORECASE,
)
# What people say about themselves, and how they ask.
_ASKING = re.compile(
    r"(.)不\1|不好意思|不懂|不太?会|不擅长|不知道|不熟"
    r"|[^,.;]*\bI(?:'m| am| was|'ve| have| do|)?\b(?: not| no| don't| can't| never)"
    r" (?:good|great|sure|know|figure|experienced|used|able|idea)[^,.;]*|why (?:don't|not)|if you don't mind",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not|never|without|none|neither|nor|don't|do not|doesn't|isn't|mustn't|can't)\b"
    r"|不要|不能|不得|不可|不许|不是|不带|不含|别(?=[把让在动改])|勿|没有|无需|禁止",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['’][a-z]+)?")


@dataclass(frozen=True)
class Facts:
    """What a text says that has to be kept: names without repetition, in order, and whether it negates something."""

    quotes: tuple[str, ...]
    numbers: tuple[str, ...]
    sides: tuple[str, ...]
    colours: tuple[str, ...]
    negated: bool


NAMES = tuple(field.name for field in fields(Facts))


def quoted(text: str) -> list[str]:
    """Every text in quotation marks, in order. An apostrophe opens none."""
    return [next(group for group in match.groups() if group is not None) for match in _QUOTED.finditer(text)]


def unquoted(text: str, instead: str = " ") -> str:
    return _QUOTED.sub(instead, text)


def _unless_of_camera(meant: str, found: re.Match[str]) -> str:
    return found[0] if found["camera"] else meant


def of_the_edit(text: str) -> str:
    """The text without what it says of the rest of the image, and with turns and flips called by one name each."""
    bare = _STAYS.sub(" ", text)
    for words, meant in _TURNED:
        bare = words.sub(partial(_unless_of_camera, meant), bare)
    for words, meant in _MEANT:
        bare = words.sub(meant, bare)
    return bare


def facts_of(text: str) -> Facts:
    """The facts of an English or Chinese instruction. What it says of the rest of the image counts for quotes only."""
    bare = of_the_edit(unquoted(text))
    counted = _GRID.sub(" ", bare)
    numbers = {str(float(found[0].replace("−", "-"))).removesuffix(".0") for found in _DIGITS.finditer(counted)}
    for found in _ENGLISH_NUMBER.finditer(counted):
        word = found[0].lower()
        numbers.add(f"#{_ORDINALS[word]}" if word in _ORDINALS else str(_NUMBERS[word]))
    for found in _CHINESE_NUMBER.finditer(counted):
        numbers.add(f"#{_ORDINALS['第' + found[1]]}" if found[1] else str(_NUMBERS[found[2]]))
    plain = _NO_COLOUR.sub(" ", bare)
    return Facts(
        quotes=tuple(sorted(set(quoted(text)))),
        numbers=tuple(sorted(numbers.difference(_ONE))),
        sides=tuple(name for name, words in _SIDES.items() if words.search(bare)),
        colours=tuple(name for name in _COLOURS if COLOUR[name].search(plain)),
        negated=_NEGATION.search(_ASKING.sub(" ", bare)) is not None,
    )


def _colour_pattern(name: str, others: str) -> re.Pattern[str]:
    words = [name, *others.split()]
    english = "|".join(word for word in words if word.isascii())
    chinese = [word for word in words if not word.isascii()]
    return re.compile(rf"\b(?:{english})(?:dish|ish|est|er|s)?\b|{'|'.join(chinese)}", re.IGNORECASE)


COLOUR = {name: _colour_pattern(name, others) for name, others in _COLOURS.items()}


def first_sentence(text: str) -> str:
    """Up to the first full stop, which has to be followed by a space or a capital (not `1.5` or `e.g.`)."""
    found = re.search(r"[。！？]|[.!?](?=[\s”\"]+[A-Z\u4e00-\u9fff]|\s*\Z)", text)
    return text[: found.end()] if found else text


def differences(before: str, after: str, names: tuple[str, ...] = NAMES, *, required: str | None = None) -> list[str]:
    """What a rewording lost or invented, as sentences; empty where both say the same in these facts.

    `required` is the part of `before` that must not be lost, where that is not all of it: a detailed caption describes
    more than a concise one has to say.
    """
    old, new = facts_of(before), facts_of(after)
    needed = old if required is None else facts_of(required)
    problems = []
    for name in names:
        was, must, now = getattr(old, name), getattr(needed, name), getattr(new, name)
        if name == "negated":
            problems += ["the negation is gone"] * (must and not now) + ["a negation was put in"] * (now and not was)
            continue
        problems += [f"{_SINGULAR[name]} {item!r} is gone" for item in must if item not in now]
        problems += [f"{_SINGULAR[name]} {item!r} was put in" for item in now if item not in was]
    return problems


_SINGULAR = {"quotes": "quoted text", "numbers": "number", "sides": "side", "colours": "colour"}


def language_of(text: str) -> str | None:
    """`en`, `zh`, another script's name (`ja`), or None where there is nothing to count.

    By counting what is not in quotation marks: Han signs against Latin words (two signs are about a word). Short
    instructions mislead statistical detectors: "Add a hat" is Welsh to some.
    """
    bare = unquoted(text)
    if _KANA.search(bare):
        return "ja"
    han, latin = len(_HAN.findall(bare)), len(_LATIN.findall(bare))
    if not han and not latin:
        return None
    return "zh" if han >= latin else "en"


def check_language(text: str, language: str) -> None:
    """Raises ValueError where a text is in another language than it should be, or mixes both outside of quotes."""
    spoken = language_of(text)
    if spoken is not None and spoken != language:
        raise ValueError(f"is not in {_LANGUAGES.get(language, language)}: {text[:80]!r}")
    if language == "en" and _HAN.search(unquoted(text)):
        raise ValueError(f"has Chinese outside of quotation marks: {text[:80]!r}")


_LANGUAGES = {"en": "English", "zh": "Chinese"}
