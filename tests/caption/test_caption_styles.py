"""Instruction captions: three styles, two languages, from slots alone."""

import json
import re

import numpy as np
import pytest
from signs import tools

from edittools.caption.captions import caption, style_names
from edittools.synth.synthesis import synthesize, template_names

TOOLS = tools()
CJK = re.compile(r"[\u4e00-\u9fff]")
STYLES = {"concise", "detailed", "user_like"}


def slots_of(name: str, row: str = "row") -> dict:
    image = np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    samples, skipped = synthesize(image, row, templates=[name], tools=TOOLS)
    assert not skipped, skipped
    # what a caption command reads is JSON
    return json.loads(json.dumps(samples[0].slots))


@pytest.mark.parametrize("name", template_names())
def test_every_kind_in_every_style_and_language(name: str) -> None:
    slots = slots_of(name)
    for row in range(25):
        texts = caption(name, slots, f"row-{row}", 0)
        assert set(texts) == STYLES == set(style_names())
        for text in texts.values():
            assert set(text) == {"en", "zh"}
            assert not re.search(r"[<>{}\[\]|]", text["en"] + text["zh"])
            assert re.match(r"[A-Z].*[.?!]$", text["en"]), text["en"]
            assert not re.search(r"\s[,.?!]|  |\ba [aeiou]", text["en"]), text["en"]
            assert CJK.search(text["zh"]) and text["zh"][-1] in "。？！"


@pytest.mark.parametrize("name", ["add", "gray", "replace", "text_change", "hybrid", "brighten"])
def test_styles_differ_in_length_and_vary(name: str) -> None:
    slots = slots_of(name)
    many = [caption(name, slots, f"r{i}", 0) for i in range(60)]
    for lang in ("en", "zh"):
        mean = {s: sum(len(c[s][lang]) for c in many) / len(many) for s in STYLES}
        assert mean["concise"] < mean["user_like"] and mean["concise"] < mean["detailed"]
        assert len({c["user_like"][lang] for c in many}) >= 40
        assert len({c["concise"][lang] for c in many}) >= 5


def test_captions_say_all_that_determines_the_edit() -> None:
    slots = {"color": "orange", "shape": "star", "size": "small", "place": "top_left"}
    for i in range(50):
        for style, text in caption("add", slots, f"r{i}", 0).items():
            for word in ("orange", "star", "small", "left"):
                assert word in text["en"], (style, text)
            for word in ("橙色", "星", "小", "左上"):
                assert word in text["zh"], (style, text)


def test_detailed_says_what_stays() -> None:
    slots = slots_of("add")
    for i in range(20):
        text = caption("add", slots, f"r{i}", 0)["detailed"]
        assert re.search(r"unchanged|untouched|as it is|must not change|the same|not touched", text["en"])
        assert re.search("不变|不要改动|保持原样", text["zh"])


def test_user_like_asks() -> None:
    slots = slots_of("flip")
    for i in range(20):
        text = caption("flip", slots, f"r{i}", 0)["user_like"]
        assert re.search(r"\b(could|can|would|like you to|love you to)\b", text["en"], re.IGNORECASE)
        assert re.search("能|可|麻烦|请|希望", text["zh"])


def test_turns_keep_their_references_and_dialogues_join_them() -> None:
    turn = {"color": "red", "shape": "star", "size": "small", "place": "left", "wording": "same_color"}
    for i in range(20):
        text = caption("add", turn, f"r{i}", 0)["concise"]
        assert "red" not in text["en"] and "color" in text["en"] and "颜色" in text["zh"]
    first = turn | {"wording": "rule"}
    whole = caption("dialogue", {"kind": "content_memory", "turns": [
        {"parent": -1, "template": "add", "slots": first},
        {"parent": 0, "template": "add", "slots": turn},
    ]}, "r", 0)  # fmt: skip
    assert "red" in whole["concise"]["en"] and "first" in whole["concise"]["en"]


def test_pure_function() -> None:
    slots = slots_of("replace")
    assert caption("replace", slots, "a", 1) == caption("replace", dict(slots), "a", 1)
    assert caption("replace", slots, "a", 1) != caption("replace", slots, "a", 2)
