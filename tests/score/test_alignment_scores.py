"""`edit score --alignment` and `edit filter --alignment`: what is measured between which images of a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, pixels, rejects_of, rows_of

import edittools
from edittools.errors import UsageError


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Pairs cut out of one image at places that differ by whole pixels: shifted targets and results by construction."""
    scene = np.concatenate([pixels(k, 160, 40) for k in range(6)], axis=1)
    rng = np.random.default_rng(0)
    scene = scene.repeat(1, 0) // 2 + (rng.integers(0, 128, (20, 30, 1)).repeat(8, 0).repeat(8, 1)).astype(np.uint8)

    def cut(x: int, y: int) -> dict[str, object]:
        return {"bytes": encode(scene[10 + y : 130 + y, 20 + x : 180 + x], "PNG"), "path": "x.png"}

    other = {"bytes": encode(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), "PNG"), "path": "y.png"}
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "source": pa.array([[cut(0, 0)]] * 3, pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
            "target": [cut(0, 0), cut(-3, 2), other],
            "result": [cut(1, 0), cut(0, -2), cut(0, 0)],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    return str(tmp_path / "in.parquet")


def test_scores_of_target_and_result(pairs: str) -> None:
    found = {row["id"]: row["scores"] for row in edittools.read(pairs).score(alignment=True).rows()}
    assert [found[k]["shift"] for k in "ab"] == pytest.approx([0, np.hypot(3, 2)], abs=0.02)
    # What was cut out farther to the left lies farther to the right in the cut.
    assert (found["b"]["shift_x"], found["b"]["shift_y"]) == pytest.approx((3, -2), abs=0.02)
    assert (found["b"]["zoom"], found["b"]["rotation"]) == pytest.approx((1, 0), abs=1e-3)
    assert [found["a"][name] for name in ("result_shift_x", "result_shift_y")] == pytest.approx([-1, 0], abs=0.02)
    assert [found["b"][name] for name in ("result_shift_x", "result_shift_y")] == pytest.approx([0, 2], abs=0.02)
    assert found["c"]["shift"] is None and found["c"]["visible"] == 1, "nothing to compare, and the row stays"
    assert "shift" not in next(edittools.read(pairs).score().rows())["scores"]


def test_filter_drops_what_is_shifted(pairs: str, tmp_path: Path) -> None:
    edittools.read(pairs).filter(alignment="0.5").write(str(tmp_path / "out"), max_errors="0")
    (row,) = rows_of(tmp_path / "out")
    assert row["id"] == "a" and row["scores"]["alignment"] == pytest.approx(0, abs=0.02)
    reasons = {one["id"]: (one["reason"], one["failed"]) for one in rejects_of(tmp_path / "out")}
    assert reasons == {"b": ("alignment", False), "c": ("not aligned", False)}
    edittools.read(pairs).filter(alignment="0.5", mark="why").write(str(tmp_path / "marked"), max_errors="0")
    row_of = {row["id"]: row for row in rows_of(tmp_path / "marked")}
    shifted = row_of["b"]["scores"]["alignment"]
    assert [row_of[name]["why"] for name in "abc"] == [None, f"alignment {shifted:.6g}", "alignment"]
    of_result = {
        row["id"]: row["scores"] for row in edittools.read(pairs).filter(alignment="..", image="result").rows()
    }
    assert [of_result[k]["result_alignment"] for k in "abc"] == pytest.approx([1, 2, 0], abs=0.02)


def test_it_is_no_score_of_writing() -> None:
    from edittools.score.config import ScoreConfig

    with pytest.raises(UsageError, match="--alignment changes nothing beside --ocr"):
        ScoreConfig(ocr=True, alignment=True)
