"""Hard negatives of templates: another edit is asked for, in words that tell nothing by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Runner, pixels, rows_of

from edittools.bench.probe import LabelledText, probe
from edittools.caption.kinds.slots import negative
from edittools.caption.lexicon import LANGUAGES
from edittools.caption.telling import judge, parts_of
from edittools.caption.wording import instruct
from edittools.metrics.pixels import psnr
from edittools.synth.core import Inapplicable, Pair, Tools
from edittools.synth.registry import load

TEMPLATES = ("add", "tint", "rotate", "posterize", "background", "mirror", "zoom", "shape_color", "brighten")


@pytest.fixture(scope="module")
def made() -> list[tuple[str, dict, np.ndarray, np.ndarray, dict, tuple | None]]:
    tools, found = Tools(), []
    for k in range(540):
        name, rng = TEMPLATES[k % len(TEMPLATES)], np.random.default_rng([k, 1])
        image, template = pixels(k, 48, 48), load(name)
        try:
            slots = template.slots(image, rng, tools)
            target = template.apply(image, slots, tools)
        except Inapplicable:
            continue
        if isinstance(target, Pair):
            assert negative(name, slots, target.source, target.target, rng, tools) is None
            continue
        texts = instruct(name, slots, dict.fromkeys(LANGUAGES, rng))
        found.append((name, slots, image, target, texts, negative(name, slots, image, target, rng, tools)))
    return found


def test_a_negative_asks_for_another_edit(made) -> None:
    there = [each for each in made if each[-1] is not None]
    assert len({name for name, *_ in there}) >= 5 and len(there) > 200
    for name, slots, _, _, texts, (slot, others) in there:
        assert slot in slots
        for language in LANGUAGES:
            assert judge(texts[language], language, parts_of(name, slots, language)).perfect
            assert not judge(others[language], language, parts_of(name, slots, language)).perfect


def test_what_it_asks_for_looks_different(made) -> None:
    """By another way than the kind's own: the values that the negative names are put into the template again."""
    names = {each[0] for each in made if each[-1] is not None}
    assert "tint" in names
    for name, slots, image, target, _, found in made:
        if name != "tint" or found is None:
            continue
        said = [
            colour
            for colour in load("tint").apply.__globals__["TINTS"]
            if judge(found[1]["en"], "en", parts_of(name, {**slots, "color": colour}, "en")).perfect
        ]
        assert len(said) == 1 and said[0] != slots["color"]
        assert psnr(load(name).apply(image, {"color": said[0]}, Tools()), target) < 30


def test_words_alone_tell_nothing(made) -> None:
    samples = []
    for k, (_, _, _, _, texts, found) in enumerate(made):
        if found is not None:
            samples += [LabelledText(texts["en"], False, f"r{k}"), LabelledText(found[1]["en"], True, f"r{k}")]
    assert probe(samples)["auc"] <= 0.55


def test_of_rows(edit: Runner, crawl, tmp_path) -> None:
    edit(
        "synth", crawl, "--templates", "tint,gray,add", "--crop", "32", "-o", tmp_path / "pairs", "--max-errors", "100%"
    )
    edit("caption", tmp_path / "pairs", "--kinds", "slots", "-o", tmp_path / "told")
    rows = rows_of(tmp_path / "told")
    of = {row["provenance"]["template"]: row for row in rows if row["instruction_negative"]}
    assert {"tint", "add"} <= set(of) and "gray" not in of  # which has no slots
    assert of["tint"]["perturbation"]["operator"] == "color"
    assert of["tint"]["instruction_negative"]["en"] != of["tint"]["instruction"]["en"]
