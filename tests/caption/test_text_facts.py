"""Facts that no rewording may lose: planted errors of every kind, and false alarms on texts of the grammar."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
from signs import tools

from edittools.caption.captions import caption
from edittools.caption.text_facts import check_language, differences, facts_of, first_sentence, language_of, quoted
from edittools.synth.synthesis import synthesize, template_names

TOOLS = tools()
# Templates whose grammar itself leaves out a colour in some wordings, because a quoted text identifies the thing, or
# says "by its upper half" for both halves, or "two channels" of two that it names: their wordings differ in facts,
# and the check is right to say so.
_FREE = ("text_", "watermark", "mirror", "recolor")


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('Write "SALE" and “打折”', ["SALE", "打折"]),
        ("It's the dog's hat, isn't it?", []),
        ("写上「春天」和『夏』", ["春天", "夏"]),
        ("Change 'OPEN' to ‘CLOSED’", ["OPEN", "CLOSED"]),
        ('Say ""', [""]),
    ],
)
def test_quotes(text, marks) -> None:
    assert quoted(text) == marks


@pytest.mark.parametrize(
    ("english", "chinese", "facts"),
    [
        ("Add three red apples on the left.", "在左边添加三个红色的苹果。", ("numbers", ("3",))),
        ("Make the second house blue.", "把第二座房子变成蓝色。", ("numbers", ("#2",))),
        ("Rotate it 90 degrees clockwise.", "顺时针旋转90度。", ("sides", ("clockwise",))),
        ("Rotate it 90° to the right.", "向右旋转90度。", ("sides", ("clockwise",))),
        ("Flip the image horizontally.", "左右翻转图片。", ("sides", ("horizontal",))),
        ("Put the lamp in the top right corner.", "把灯放在右上角。", ("sides", ("right", "top"))),
        ("Make the grey cat white.", "把灰色的猫变成白色。", ("colours", ("white", "gray"))),
        ("Do not touch the sky.", "不要动天空。", ("negated", True)),
        ("Turn the exposure right now up.", "提高曝光。", ("sides", ())),
        ("Make it look like golden hour.", "变成黄昏的样子。", ("colours", ())),
        ("Could you make it brighter?", "能不能把它变亮？", ("negated", False)),
        ("One of the dogs gets a hat.", "给一只狗戴上帽子。", ("numbers", ())),
    ],
)
def test_facts_by_hand_in_both_languages(english, chinese, facts) -> None:
    name, value = facts
    assert getattr(facts_of(english), name) == value
    assert getattr(facts_of(chinese), name) == value


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Add a hat", "en"), ("添加文字“SALE”", "zh"), ('Write "春天快乐"', "en"), ("把logo放大", "zh"),
        ("帽子をかぶせて", "ja"),        ("“SALE”", None), ("Make it 2x", "en"), ("变亮", "zh"),
    ],
)  # fmt: skip
def test_languages_of_short_instructions(text, language) -> None:
    assert language_of(text) == language


def test_first_sentence() -> None:
    assert first_sentence("Scale it by 1.5 now. It is bigger. Fine.") == "Scale it by 1.5 now."
    assert first_sentence("把它变大。其余不变。") == "把它变大。"
    assert first_sentence("No full stop") == "No full stop"


def wordings(seeds: int = 1, rows: int = 6):
    """(template, wordings by style and language) of the grammar."""
    for name in template_names():
        for seed in range(seeds):
            image = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)
            samples, _ = synthesize(image, f"r{seed}", templates=[name], tools=TOOLS)
            for sample in samples:
                slots = json.loads(json.dumps(sample.slots))
                for number in range(rows):
                    yield name, caption(name, slots, f"{seed}-{number}", 0)


def test_false_alarms_on_the_grammar_are_two_in_a_hundred_at_most() -> None:
    asked, alarms = Counter(), Counter()
    for name, texts in wordings():
        if name.startswith(_FREE):
            continue
        for language in ("en", "zh"):
            detailed, concise, user_like = (texts[style][language] for style in ("detailed", "concise", "user_like"))
            for pair, found in {
                f"detailed, concise ({language})": differences(detailed, concise, required=first_sentence(detailed)),
                f"concise, user_like ({language})": differences(concise, user_like),
            }.items():
                asked[pair] += 1
                alarms[pair] += bool(found)
        for style in texts:
            for language, text in texts[style].items():
                check_language(text, language)
    rates = {pair: alarms[pair] / asked[pair] for pair in asked}
    assert max(rates.values()) <= 0.02, rates
    assert min(asked.values()) > 200


SWAPS = {
    "sides": {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "左": "右", "右": "左"},
    "colours": {
        "red": "green",
        "blue": "yellow",
        "white": "black",
        "brown": "cyan",
        "红": "绿",
        "蓝": "黄",
        "棕": "青",
    },
    "numbers": {"two": "five", "three": "seven", "90": "45", "180": "30", "两个": "五个", "三个": "七个"},
}


def planted(text: str, name: str) -> str | None:
    """The text with one fact of a kind swapped for another, outside of quotation marks; None where it has none."""
    for old, new in SWAPS[name].items():
        pattern = re.compile(rf"\b{old}\b" if old.isascii() else old)
        found = next((m for m in pattern.finditer(text) if text[: m.start()].count('"') % 2 == 0), None)
        if found:
            return text[: found.start()] + new + text[found.end() :]
    return None


def test_planted_errors_are_caught_nineteen_times_in_twenty() -> None:
    planted_in, caught = Counter(), Counter()
    for _, texts in wordings(rows=4):
        for language in ("en", "zh"):
            concise = texts["concise"][language]
            for name in SWAPS:
                if (wrong := planted(concise, name)) is not None:
                    planted_in[name, language] += 1
                    caught[name, language] += bool(differences(concise, wrong))
            marks = quoted(concise)
            if marks:
                wrong = concise.replace(marks[0], marks[0][::-1] + "Q")
                planted_in["quotes", language] += 1
                caught["quotes", language] += bool(differences(concise, wrong))
            wrong = f"Do not {concise[0].lower()}{concise[1:]}" if language == "en" else f"不要{concise}"
            planted_in["negation", language] += 1
            caught["negation", language] += bool(differences(concise, wrong))
    rates = {key: caught[key] / planted_in[key] for key in planted_in}
    assert {name for name, _ in rates} >= {"sides", "colours", "quotes", "negation"}
    assert min(rates.values()) >= 0.95, rates
