"""`edit eval probe`: negatives that their words give away are told, and those that only an image tells are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner
from sklearn.metrics import roc_auc_score

from edittools.bench.probe import LabelledText, features, probe, won
from edittools.errors import EditError

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
SIZES = ("small", "large", "old", "new", "round", "narrow", "left", "right")
PLACES = ("by the wall", "on the table", "in the rain", "near the tree", "at the shop", "in front", "behind", "above")
THINGS = ("car", "door", "hat", "chair", "boat", "lamp", "cup", "coat")


def said(rng: np.random.Generator) -> str:
    return f"paint the {rng.choice(SIZES)} {rng.choice(THINGS)} {rng.choice(PLACES)} {rng.choice(COLOURS)}"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(5)
    return [said(rng) for _ in range(300)]


def pairs(texts: list[str], negatives: list[str], operator: str = "") -> list[LabelledText]:
    made = [LabelledText(text, False, f"row-{k}", "color") for k, text in enumerate(texts)]
    return made + [LabelledText(text, True, f"row-{k}", "color", operator) for k, text in enumerate(negatives)]


def test_the_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, negative = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3  # with ties
    higher, count = won(scores, negative)
    assert higher / count == pytest.approx(roc_auc_score(negative, scores), abs=1e-12)


def test_features_by_hand() -> None:
    assert features("Red  hat") == ["red", "hat", "^ red", "red hat", "hat $", "ed ", "d h", " ha"]
    assert features("红帽") == ["红", "帽", "^ 红", "红 帽", "帽 $"]


def test_swapped_instructions_are_not_told_and_other_wordings_are(texts: list[str]) -> None:
    swapped = [texts[(k + 37) % len(texts)] for k in range(len(texts))]
    assert abs(probe(pairs(texts, swapped))["auc"] - 0.5) < 0.08
    rewritten = [f"Could you please {text}?" for text in swapped]
    found = probe(pairs(texts, rewritten))
    assert found["auc"] == 1 and found["interval"] == [1, 1]
    assert any("please" in word or "could" in word for word in found["telling"]["negative"])
    both = [f"Could you please {text}?" for text in texts]
    assert abs(probe(pairs(both, rewritten))["auc"] - 0.5) < 0.08


def test_a_share_that_gives_itself_away_is_measured(texts: list[str]) -> None:
    """40% of the negatives have a mark that no positive has: AUC = .4 x 1 + .6 x .5."""
    rng = np.random.default_rng(1)
    marked = [f"{said(rng)}, instead" if k % 5 < 2 else said(rng) for k in range(len(texts))]
    made = pairs(texts, marked)
    made[len(texts) :] = [
        one._replace(operator="over" if one.text.endswith("instead") else "colours") for one in made[len(texts) :]
    ]
    found = probe(made)
    assert found["auc"] == pytest.approx(0.7, abs=0.08)  # the standard error is .025
    assert found["interval"][0] < found["auc"] < found["interval"][1]
    assert found["operators"]["over"]["auc"] > 0.98 and found["operators"]["colours"]["auc"] < 0.6
    assert found["tasks"]["color"]["auc"] == found["auc"]


def test_too_few_rows_tell_nothing(texts: list[str]) -> None:
    with pytest.raises(EditError, match="19 rows are too few"):
        probe(pairs(texts[:19], texts[:19]))


def test_a_language_of_few_rows_keeps_no_other_from_being_measured(
    edit: Runner, tmp_path: Path, texts: list[str]
) -> None:
    rows = [
        {"id": f"r{k}", "instruction": {"en": text, "zh": "变红" if k < 5 else None},
         "instruction_negative": {"en": texts[k - 37], "zh": "变蓝" if k < 5 else None}}
        for k, text in enumerate(texts)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "told.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:5]), tmp_path / "few.parquet")
    words = ("eval", "probe", tmp_path / "told.parquet")
    told = json.loads(edit(*words, "-f", "json").stdout)
    assert told["passed"] and list(told["languages"]) == ["en"] and "5 rows are too few" in told["too_few"]["zh"]
    assert "not measured, zh: 5 rows are too few" in edit(*words, "-f", "markdown").stdout.decode()
    assert "en: 5 rows are too few" in edit("eval", "probe", tmp_path / "few.parquet", check=1).stderr


def test_the_command_is_a_gate(edit: Runner, tmp_path: Path, texts: list[str]) -> None:
    negatives = [f"{text}, instead" if k % 5 else None for k, text in enumerate(texts)]  # some rows have none
    column = pa.struct([("en", pa.string())])
    rows = pa.table({
        "id": [f"r{k}" for k in range(len(texts))],
        "instruction": pa.array([{"en": text} for text in texts], column),
        "instruction_negative": pa.array([{"en": text} for text in negatives], column),
        "human": pa.array([4.0] * len(texts)),
    })  # fmt: skip
    pq.write_table(rows, tmp_path / "told.parquet")
    failed = edit("eval", "probe", tmp_path / "told.parquet", "-f", "json", check=1)
    assert "the words alone tell negatives from positives: AUC 1.000, more than 0.55" in failed.stderr
    told = json.loads(failed.stdout)
    assert told["passed"] is False
    assert told["languages"]["en"]["negatives"] == told["languages"]["en"]["positives"] == 240
    swapped = rows.drop_columns(["instruction_negative"]).set_column(
        1, "instruction", rows["instruction"].take(pa.array(np.roll(np.arange(len(texts)), 37)))
    )
    pq.write_table(swapped, tmp_path / "swapped.parquet")
    words = ("eval", "probe", tmp_path / "told.parquet", "--negatives", tmp_path / "swapped.parquet")
    assert json.loads(edit(*words, "-f", "json").stdout)["passed"] is True
    assert "what the words alone tell, en" in edit(*words, "-f", "markdown").stdout.decode()
    both = pa.concat_tables([
        rows.drop_columns(["instruction_negative"]),
        swapped.set_column(2, "human", pa.array([1.0] * len(texts))),
    ])  # fmt: skip
    pq.write_table(both, tmp_path / "rated.parquet")
    rated = edit("eval", "probe", tmp_path / "rated.parquet", "--negative-if", "human < 3", "-f", "json")
    assert json.loads(rated.stdout)["languages"]["en"]["negatives"] == len(texts)
    assert "no `instruction_negative`" in edit("eval", "probe", tmp_path / "rated.parquet", check=2).stderr
