"""`edit eval coverage`: counts and neighbours as brute force has them, a radius that holds on unseen templates."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import Runner

sys.path.insert(0, str(Path(__file__).parent.parent / "caption"))

from tellers import TOOLS
from tiny_models import save_clip

from edittools.bench.coverage import Index, Radius, calibrated, coverage, wordings
from edittools.bench.text_vectors import TextVectors, plain
from edittools.cli import eval_coverage
from edittools.errors import UsageError


def test_texts_are_compared_without_quotes_and_numbers() -> None:
    assert plain('Write "SALE", 3 times!') == plain("write “打折” 12 times") == " write quoted 0 times "
    assert plain("把猫删掉") == " 把 猫 删 掉 "
    vectors = TextVectors(["Remove the cat.", "Make it blue.", "删除猫"]).texts(
        ['Add "A" 2 times', 'add "B" 3 times', "Remove the dog.", "", "删除猫。"]
    )
    assert vectors[0] @ vectors[1] == pytest.approx(1) and vectors[0] @ vectors[2] < 0.3
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0, 1])


def test_an_encoder_sees_no_quotes_and_numbers(edit: Runner, tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "instruction": {"en": 'Write "SALE" 3 times'}}) + "\n")
    (tmp_path / "asked.txt").write_text('Write "a much longer text" 100 times\n')
    words = ["eval", "coverage", tmp_path / "rows.jsonl", "--queries", tmp_path / "asked.txt", "--encoder", folder]
    (found,) = json.loads(edit(*words, "--radius", 0.5, "-f", "json").stdout)["found"]
    assert found["nearest"][0]["cosine"] == pytest.approx(1, abs=2e-3)


def test_the_index_finds_what_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:7] + 0.1 * rng.normal(size=(7, 16)).astype(np.float32)
    counts, best, rows = Index([vectors[:5000], vectors[5000:]]).look(queries, 0.5, 4)
    every = queries @ vectors.astype(np.float16).astype(np.float32).T
    order = np.argsort(-every, axis=1)[:, :4]
    assert (counts == (every >= 0.5).sum(axis=1)).all() and (rows == order).all()
    assert best == pytest.approx(np.take_along_axis(every, order, 1), abs=1e-5)
    few = Index([vectors[:2]]).look(queries, 0.5, 4)
    assert few[1].shape == (7, 2) and few[1][0, 0] >= few[1][0, 1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_radius_holds_on_templates_it_was_not_calibrated_on(language) -> None:
    texts, _ = wordings(language, TOOLS)
    model = TextVectors(texts)
    narrow, wide = (calibrated(model, language, recall, TOOLS) for recall in (0.3, 0.6))
    for radius, recall in ((narrow, 0.3), (wide, 0.6)):
        assert abs(radius.recall - recall) < 0.03
        assert radius.precision > 20 * recall * 0.016  # one pair in 60 is of one template
    assert narrow.cosine > wide.cosine and narrow.precision > 0.7 > wide.precision
    assert narrow.recall_range[0] < narrow.recall < narrow.recall_range[1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_help_says_what_the_radius_is_worth(language) -> None:
    """And it is what a radius from other templates does, pair by pair."""
    texts, templates = wordings(language, TOOLS)
    model = TextVectors(texts)
    said = " ".join(str(eval_coverage.command.help).split())
    part = said[said.index("English") : said.rindex("Chinese")] if language == "en" else said[said.rindex("Chinese") :]
    figures = {
        float(target): (float(recall), float(precision))
        for target, recall, precision in re.findall(r"(0\.\d): (?:recall )?(0\.\d\d) at (?:precision )?(0\.\d\d)", part)
    }
    assert figures.keys() == {0.3, 0.5, 0.7, 0.9}
    for target, told in figures.items():
        radius = calibrated(model, language, target, TOOLS)
        assert (radius.recall, radius.precision) == pytest.approx(told, abs=0.05)  # a template more moves them by .01
    # One division by hand: of odd templates for even ones.
    vectors = model.texts(texts)
    odd, even = ([k for k, t in enumerate(templates) if t % 2 == rest] for rest in (1, 0))
    known = [float(vectors[a] @ vectors[b]) for a, b in combinations(odd, 2) if templates[a] == templates[b]]
    cosine = np.quantile(known, 0.5)
    near = [(a, b) for a, b in combinations(even, 2) if vectors[a] @ vectors[b] >= cosine]
    right = sum(templates[a] == templates[b] for a, b in near)
    pairs = sum(templates[a] == templates[b] for a, b in combinations(even, 2))
    radius = calibrated(model, language, 0.5, TOOLS)
    for value, (low, high) in ((right / pairs, radius.recall_range), (right / len(near), radius.precision_range)):
        assert low - 0.1 <= value <= high + 0.1


def test_gaps_are_what_nothing_is_near(edit: Runner, tmp_path: Path) -> None:
    texts, templates = wordings("en", TOOLS)
    left_out = int(templates[-1])
    corpus = [text for text, template in zip(texts, templates) if template != left_out]
    queries = [texts[-1], texts[0]]
    found = coverage(TextVectors(corpus), corpus, queries, Radius(0.5), nearest=2)
    assert [one["query"] for one in found["found"]] == queries and found["gaps"] == 1
    assert found["found"][1]["nearest"][0] == {"text": texts[0], "cosine": pytest.approx(1, abs=1e-3)}
    with pytest.raises(UsageError, match="no instruction"):
        coverage(TextVectors([]), [], queries, Radius(0.5))

    rows = [{"id": f"r{k}", "instruction": {"en": text}} for k, text in enumerate(corpus[:40])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "asked.txt").write_text(f"{corpus[0]}\n\nTeach the parrot to sing.\n")
    words = ["eval", "coverage", tmp_path / "rows.jsonl", "--queries", tmp_path / "asked.txt"]
    done = edit(*words, "--gaps", tmp_path / "gaps.jsonl", "-f", "json")
    said = json.loads(done.stdout)
    assert said["instructions"] == 40 and said["gaps"] == 1 and 0 < said["radius"]["recall"] < 1
    assert json.loads((tmp_path / "gaps.jsonl").read_text())["instruction"] == {"en": "Teach the parrot to sing."}
    assert "exists" in edit(*words, "--gaps", tmp_path / "gaps.jsonl", check=None).stderr
    (tmp_path / "none.txt").write_text("\n")
    refused = edit("eval", "coverage", tmp_path / "rows.jsonl", "--queries", tmp_path / "none.txt", check=2)
    assert "there is none" in refused.stderr
