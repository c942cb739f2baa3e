"""The rubrics of trained judges: their checkouts' texts, and scores by their published formulas without guesses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, pixels

from edittools.judge.rubrics import load_rubric
from edittools.rubric import Rubric
from edittools.rubric.calls import JudgedEdit
from edittools.rubric.parsing import Scores, Unparsed
from edittools.rubric.prompts import read_prompts
from edittools.vlm.images import Encoding

# Words of our own in the places where the checkouts have theirs.
VIE = """
_context_no_delimit_reasoning_first = "Answer as JSON (10 words)."
_prompts_0shot_two_image_edit_rule = "Two images, rated."
_prompts_0shot_tie_rule_SC = "From 0 to 10, and 0 to 10. Asked: <instruction>"
_prompts_0shot_rule_PQ = "Naturalness 0 to 10, artifacts 0 to 10."
"""
FOLLOWING = 'instruction = ""\nproblem = "Done? 0 to 25.\\nAsked:" + f"{instruction}\\n"\n'
QUALITY = 'problem = "Natural? 0 to 25."\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in (
        ("editscore/vie_prompts.py", VIE),
        ("UnifiedReward-Edit/edit_pointwise_instruction_following.py", FOLLOWING),
        ("UnifiedReward-Edit/edit_pointwise_quality.py", QUALITY),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


CASE = JudgedEdit("tone", "make it red", (encode(pixels(0), "PNG"),), encode(pixels(1), "PNG"))


def asked(name: str, checkout: Path) -> tuple[Rubric, dict[str, str], dict[str, list[str]]]:
    rubric = load_rubric(name)
    assert rubric.layout is not None
    prompts = read_prompts(str(checkout), rubric.layout).texts
    calls = rubric.ask(CASE, prompts, Encoding())
    return rubric, prompts, {call.name: [p if isinstance(p, str) else p.mime for p in call.parts] for call in calls}


def scores(rubric: Rubric, replies: dict[str, list[float]]) -> dict[str, float]:
    numbers = {}
    for call, few in replies.items():
        read = rubric.read(json.dumps({"reasoning": "so", "score": few}), call, CASE, {})
        assert isinstance(read, Scores)
        numbers[call] = read.values
    return {one.name: one.value(numbers) for one in rubric.dimensions}


def test_editscore_asks_on_a_scale_of_25(checkout: Path) -> None:
    _, _, calls = asked("editscore", checkout)
    context = "Answer as JSON (10 words).\n"  # not a scale: stays
    semantics = context + "Two images, rated.\nFrom 0 to 25, and 0 to 25. Asked: make it red"
    assert calls["SC"] == ["<img1>: ", "image/png", "<img2>: ", "image/png", semantics]
    assert calls["PQ"] == ["<img1>: ", "image/png", context + "Naturalness 0 to 25, artifacts 0 to 25."]


def test_editscore_is_its_published_formula(checkout: Path) -> None:
    """min / (range / 10) of each call, and the root of their product; over random ratings."""
    rubric, _, _ = asked("editscore", checkout)
    rng = np.random.default_rng(0)
    for _ in range(20):
        sc, pq = rng.integers(0, 26, 2).tolist(), rng.uniform(0, 25, 2).round(1).tolist()
        semantics, quality = min(sc) / (25 / 10), min(pq) / (25 / 10)
        wanted = {
            "following": sc[0] / 2.5, "consistency": sc[1] / 2.5, "pq": quality,
            "overall": math.sqrt(semantics * quality),
        }  # fmt: skip
        assert scores(rubric, {"SC": sc, "PQ": pq}) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["editscore", "unifiedreward_following", "unifiedreward_quality"])
@pytest.mark.parametrize("reply", ["", "great", '{"score": []}', '{"score": [26, 3]}', '{"score": [-1, 3]}', "[5, 6]"])
def test_what_cannot_be_read_is_no_score(name: str, reply: str) -> None:
    """The released code guesses, or counts half the scale; a rating out of range became 12.5 of 10."""
    rubric = load_rubric(name)
    for call in {call for one in rubric.dimensions for call in one.calls}:
        assert isinstance(rubric.read(reply, call, CASE, {}), Unparsed)


def test_unifiedreward_asks_and_reads(checkout: Path) -> None:
    rubric, _, calls = asked("unifiedreward_following", checkout)
    assert calls == {"judge": ["image/jpeg", "image/jpeg", "Done? 0 to 25.\nAsked:make it red\n"]}
    assert scores(rubric, {"judge": [20, 7.5]}) == {"success": 20, "preservation": 7.5}
    rubric, _, calls = asked("unifiedreward_quality", checkout)
    assert calls == {"judge": ["image/jpeg", "Natural? 0 to 25."]}
    assert scores(rubric, {"judge": [25, 0]}) == {"naturalness": 25, "artifacts": 0}
