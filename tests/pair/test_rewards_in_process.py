"""Rewards in one process: what the commands write from file to file, and None for what failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of
from test_pair import candidates

import edittools
from edittools.errors import UsageError
from edittools.pair.rewards import Rewards
from edittools.score.config import ScoreConfig
from edittools.score.stage import score_stage


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return candidates(tmp_path, [[{"level": 40 * g + 30 * k, "q": 0} for k in range(4)] for g in range(2)])


def batch_of(rows: Path) -> pa.RecordBatch:
    (batch,) = (batch.rows for batch in edittools.read(str(rows)).batches() if batch.rows.num_rows)
    return batch


def test_one_reward_is_the_score_that_the_command_writes(rows: Path, tmp_path: Path) -> None:
    edittools.read(str(rows)).score().write(str(tmp_path / "scored"))
    written = rows_of(tmp_path / "scored")
    stage = score_stage(ScoreConfig())
    assert Rewards([stage], ["psnr"]).score(batch_of(rows)) == [row["scores"]["psnr"] for row in written]
    assert Rewards([stage], ["l1"]).score(batch_of(rows)) == [-row["scores"]["l1"] for row in written]


def test_several_are_normalised_within_each_group(rows: Path, tmp_path: Path) -> None:
    edittools.read(str(rows)).score().write(str(tmp_path / "scored"))
    scores = [row["scores"] for row in rows_of(tmp_path / "scored")]
    wanted = []
    for few in (scores[:4], scores[4:]):
        near, copied = (np.array([one[name] for one in few]) for name in ("psnr", "result_edit_ratio"))
        total = 2 * (near - near.mean()) / near.std()
        wanted += (total + ((copied - copied.mean()) / copied.std() if copied.std() > 1e-6 else 0)).tolist()
    made = Rewards([score_stage(ScoreConfig())], ["psnr:2", "result_edit_ratio"]).score(batch_of(rows))
    assert made == pytest.approx(wanted, abs=1e-5)


def test_what_failed_is_no_reward(rows: Path) -> None:
    batch = batch_of(rows)
    held = [*batch.column("result").to_pylist()]
    held[1] = {**held[1], "bytes": b"no image", "file": None, "offset": None, "length": None}
    broken = batch.set_column(
        batch.schema.get_field_index("result"), "result", pa.array(held, batch.schema.field("result").type)
    )
    rewards = Rewards([score_stage(ScoreConfig())], ["psnr"])
    whole, made = rewards.score(batch), rewards.score(broken)
    assert made[1] is None and [*made[:1], *made[2:]] == [*whole[:1], *whole[2:]]
    with pytest.raises(UsageError, match="no score `z`"):
        Rewards([score_stage(ScoreConfig())], ["z"]).score(batch)
