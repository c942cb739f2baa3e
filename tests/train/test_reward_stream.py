"""Rewards of a real judge's stages, asked while images are made: nothing is asked twice, and nothing told is lost,
whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edittools.errors import EditError
from edittools.pair.rewards import Rewards
from edittools.stream.row_images import image_value
from edittools.train.rewards import RewardJournal, RewardStream, RolloutCase, open_rewards
from edittools.vlm import Reply, Request
from edittools.vlm.store import count_stored

JUDGE = "judge --rubric rating --model echo --backend echo --concurrency 4 --judge {0} --cache-dir {1}/{0}"


def case(k: int) -> RolloutCase:
    source, result = (image_value(np.random.default_rng(n).integers(0, 256, (16, 16, 3), np.uint8)) for n in (999, k))
    return RolloutCase(f"c{k}", f"g{k}", "p", 1, "add", "en", "add a dog", [source], None, result, f"h{k}")


class Slow:
    """A model that takes its time, and cannot be asked the first `breaks` times."""

    name = "slow"

    def __init__(self, seconds: float = 0.05, breaks: int = 0) -> None:
        self.seconds, self.breaks, self.calls = seconds, breaks, Counter[str]()

    def draws(self, request: Request) -> bool:
        return True

    def prepare(self, request: Request) -> None:
        pass

    async def ask(self, request: Request, begin: Callable[[], Any]) -> Reply:
        await begin()
        if self.breaks:
            self.breaks -= 1
            raise EditError("nobody is there")
        self.calls[request.key] += 1
        await asyncio.sleep(self.seconds)
        return Reply("ok", "4", model="m")

    async def close(self) -> None:
        pass


@contextlib.contextmanager
def opened(folder: Path, **judges: Slow) -> Iterator[Rewards]:
    """Rewards of several judges, one behind the other."""
    told = {"rewards": " | ".join(JUDGE.format(name, folder) for name in judges), "floor": []}
    told["by"] = [f"judge_rating_rating__{name}" for name in judges]
    with open_rewards(told, folder / "run") as rewards:
        for stage, client in zip(rewards.stages, judges.values()):
            stage.ask.client = client  # type: ignore[attr-defined]
        yield rewards


def asking() -> int:
    return sum(thread.name == "asking" for thread in threading.enumerate())


def test_what_was_asked_is_kept_where_the_run_dies(tmp_path: Path) -> None:
    """Rounds that nobody was asked about are dropped; what is under way is waited for, and stored."""
    model = Slow(0.3)
    with pytest.raises(RuntimeError, match="out of memory"), opened(tmp_path, a=model) as rewards:
        journal = RewardJournal(rewards, tmp_path / "journal.jsonl")
        with ThreadPoolExecutor(2) as pool, RewardStream(journal, pool) as stream:
            for k in range(30):
                stream.put([case(4 * k + n) for n in range(4)])
            while not model.calls:
                time.sleep(0.01)
            raise RuntimeError("out of memory")
    asked = model.calls.total()
    assert 0 < asked < 60 and count_stored(str(tmp_path / "a")) == asked
    with opened(tmp_path, a=model) as rewards:  # which goes on
        journal = RewardJournal(rewards, tmp_path / "journal.jsonl")
        journal.ask([[case(k) for k in range(120)]])
        assert all(journal.scores(case(k)) for k in range(120))
    assert model.calls.total() == 120 and max(model.calls.values()) == 1


def test_a_second_judge_that_breaks_asks_the_first_nothing_twice(tmp_path: Path) -> None:
    first, second = Slow(0.1), Slow(0.01, breaks=1)
    before = asking()
    with opened(tmp_path, a=first, b=second) as rewards, ThreadPoolExecutor(2) as pool:
        journal, cases = RewardJournal(rewards, tmp_path / "journal.jsonl"), []
        with RewardStream(journal, pool) as stream:
            for k in range(8):
                cases += (round_ := [case(4 * k + n) for n in range(4)])
                stream.put(round_)
                time.sleep(0.05)
        wait(stream.end())
        assert journal.broke and "nobody is there" in journal.problem
        journal.ask([[each for each in cases if journal.scores(each) is None]])
        assert all(journal.scores(each) for each in cases)
    assert len(first.calls) == 32 and max(first.calls.values()) == 1 and max(second.calls.values()) == 1
    assert asking() == before


def test_rounds_behind_one_that_broke_are_asked_at_once(tmp_path: Path) -> None:
    model = Slow(0.01, breaks=1)
    with opened(tmp_path, a=model) as rewards, ThreadPoolExecutor(2) as pool:
        journal = RewardJournal(rewards, tmp_path / "journal.jsonl")
        with RewardStream(journal, pool) as stream:
            stream.put([case(0)])
            wait(stream.asked)
            stream.put([case(1)])
        wait(stream.end())
        assert journal.broke and journal.scores(case(0)) is None and journal.scores(case(1)) is not None


def test_filters_measure_what_was_made_and_say_what_they_reject(tmp_path: Path) -> None:
    """The target is the same for all candidates, and nothing could be learned of it."""
    flat = image_value(np.full((32, 32, 3), 90, np.uint8))
    noise = image_value(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    cases = [case(0), case(1)]
    for each, shown in zip(cases, (flat, noise)):
        each.target, each.result = flat, shown
    found = {}
    for bound in ("0..", "1.."):
        told = {"rewards": f"filter --sharpness {bound}", "by": ["result_sharpness"], "floor": []}
        with open_rewards(told, tmp_path) as rewards:
            journal = RewardJournal(rewards, tmp_path / f"{bound}.jsonl")
            journal.ask([cases])
            found[bound] = [journal.scores(each) for each in cases], journal.problem
    (dull, sharp), problem = found["0.."]
    assert dull == {"result_sharpness": 0.0} and sharp is not None and sharp["result_sharpness"] > 100 and not problem
    assert found["1.."][0] == [None, sharp] and "sharpness" in found["1.."][1]
