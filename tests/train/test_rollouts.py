"""Reinforcement with images made on the way: what an iteration is, interruptions, judges that fail, alarms."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from training import ONLINE, MemoryRows, pairs, preferences, random_run, run, tiny

import edittools
from edittools.errors import EditError, UsageError
from edittools.metrics.pixels import psnr
from edittools.metrics.rewards import Reward, optimality
from edittools.metrics.text_layout import Letter
from edittools.nets.flow import euler_times
from edittools.nets.images import to_image
from edittools.sample.stage import row_seed
from edittools.settings import from_words
from edittools.stream import codec
from edittools.stream.fetch import Fetcher
from edittools.stream.rows import column_values
from edittools.train import checkpoint, rollout
from edittools.train.hacks import ALARMS, Hacks, observe

Score = Callable[[str], float | None]


@dataclasses.dataclass
class Judge:
    """Rewards that a function of the id gives; counts what it is asked, and notes how much of it at a time."""

    score: Score
    slow: bool = False  # answers when it has been asked everything
    asked: Counter[str] = dataclasses.field(default_factory=Counter)
    times: list[int] = dataclasses.field(default_factory=list)
    rewards: tuple[Reward, ...] = (Reward("psnr"),)
    rejected: str = ""

    def stream(self, rounds: Iterable[pa.RecordBatch]) -> Iterator[dict[str, dict[str, float | None]]]:
        drawn = list(rounds) if self.slow else rounds
        self.times += [len(drawn)] if isinstance(drawn, list) else []
        for cases in drawn:
            names = column_values(cases, "id")
            self.asked.update(names)
            yield {name: {"psnr": self.score(name)} for name in names}


def judged(monkeypatch: pytest.MonkeyPatch, score: Score) -> Judge:
    judge = Judge(score)

    @contextlib.contextmanager
    def opened(*_: object) -> Iterator[Judge]:
        yield judge

    monkeypatch.setattr(rollout, "open_rewards", opened)
    return judge


def online(steps: int = 6, **settings: Any) -> Any:
    common = {
        "optimizer": "adamw",
        "lr": 3e-3,
        "region_weight": False,
        "log_every": 1,
        "checkpoint_every": 1,
        "ema": 0.0,
    }
    return tiny(steps=steps, **common, objective="nft", objective_settings={**ONLINE, "kl": 0.0, **settings})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(out)
    assert newest is not None
    return {name: t for path in newest.glob("*.safetensors") for name, t in load_file(path).items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Kill(Exception):
    pass


def killed(step: int) -> Callable[[Any], None]:
    def on_step(report: Any) -> None:
        if report.step == step:
            raise Kill

    return on_step


def test_an_iteration_is_candidates_rewards_and_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are what Euler's method makes of each seed, scored as `edit score` does; the shares add up."""
    rows, out, made = MemoryRows(pairs()), tmp_path / "run", {}
    plain = rollout.sampled

    def watched(model: Any, batch: Any, seeds: list[int], steps: int, negative: None = None) -> torch.Tensor:
        found = plain(model, batch, seeds, steps)
        for k, seed in enumerate(seeds):  # each row alone, step by step
            x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            times = euler_times(steps, model.recipe.shift).tolist()
            conditioning = {name: value[k : k + 1] for name, value in batch.conditioning.items()}
            for t, after in itertools.pairwise(times):
                at = torch.tensor([t])
                guess = model.network(x, at, [each[k : k + 1] for each in batch.references], conditioning)
                x = x + (after - t) * (x - guess) / t
            assert torch.allclose(x[0], found[k], atol=1e-4)
            made[seed] = to_image(found[k])
        return found

    monkeypatch.setattr(rollout, "sampled", watched)
    run(
        online(steps=2, kl=0.1, floor="copy_psnr:1", export="old"),
        rows,
        out,
        heldout=MemoryRows(pairs(27)[20:]),
        stirred=0.05,
    )
    found = list(edittools.read(str(out / "rollouts/00000.parquet")).rows())
    groups = [[row for row in found if row["group"] == name] for name in dict.fromkeys(row["group"] for row in found)]
    assert len(groups) == 6 and all(len(group) == 4 for group in groups)
    for group in groups:
        for k, row in enumerate(group):
            assert row["id"] == f"{row['group']}-c{k}" and row["provenance"]["parents"] == [row["group"].split("-i")[0]]
            result, target = (codec.decode(Fetcher().get(row[name])) for name in ("result", "target"))
            assert np.array_equal(result, made[row_seed(row["seed"], row["group"])])
            assert row["scores"]["psnr"] == pytest.approx(psnr(result, target), rel=1e-5)
    (line,) = lines(out / "rollouts.jsonl")
    worth = [optimality([row["scores"]["psnr"] for row in group], 5.0) for group in groups]
    assert line["reward"]["psnr"]["mean"] == pytest.approx(np.mean([row["scores"]["psnr"] for row in found]))
    spread = np.mean([np.std([row["scores"]["psnr"] for row in group]) for group in groups])
    assert line["reward"]["psnr"]["within"] == pytest.approx(spread)
    assert line["r"]["std"] == pytest.approx(np.std(worth)) and line["flat"] == line["failed"] == 0
    log = lines(out / "log.jsonl")
    # two of four candidates an update, twice each; the first update is on policy
    assert [each["samples"] for each in log] == [6 * 2 * 2, 2 * 6 * 2 * 2] and log[0]["objective"]["from_old"] == 0
    assert np.mean([each["objective"]["r"] for each in log]) == pytest.approx(0.5, abs=1e-6)
    held = lines(out / "rewards.jsonl")
    assert [each["step"] for each in held] == [0, 2] and held[0]["rows"] == 6
    # it can be learned from offline
    assert {"group", "seed", "scores", "result", "instruction"} <= found[0].keys()
    # the old weights, after iteration 1: d = 0.1
    kept, start = weights(out), weights_of_start(out)
    for name, value in start.items():
        assert torch.allclose(kept[f"copy/old/{name}"], 0.1 * value + 0.9 * kept[f"model/{name}"], atol=1e-6), name

    # and these are the ones that are left
    left = {name: t for path in (out / "transformer").glob("*.safetensors") for name, t in load_file(path).items()}
    found_old = {name: kept[f"copy/old/transformer.{name}"] for name in left if f"copy/old/transformer.{name}" in kept}
    assert len(found_old) > 20 and equal(found_old, {name: left[name] for name in found_old})
    assert json.loads((out / "_end.json").read_text())["weights"] == "old"


def weights_of_start(out: Path) -> dict[str, torch.Tensor]:
    """Copies of the start, of a run with a KL term."""
    return {name[11:]: value for name, value in weights(out).items() if name.startswith("copy/start/")}


def test_interrupted_in_the_middle_of_an_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a judge that never says the same twice: bit for bit the same end, and nothing is asked twice."""
    dice = random.Random(0)
    judge = judged(monkeypatch, lambda name: None if dice.random() < 0.2 else dice.random())
    rows, out = MemoryRows(pairs()), tmp_path / "run"
    for step in (3, 4):  # within the second iteration, and at its end
        with pytest.raises(Kill):
            run(online(), rows, out, on_step=killed(step), stirred=0.05)
    run(online(), rows, out, stirred=0.05)
    assert set(judge.asked.values()) == {1}
    told = {
        line["id"]: (line["scores"] or {}).get("psnr")
        for k in range(3)
        for line in lines(out / f"rollouts/{k:05d}.jsonl")
    }
    assert None in told.values()

    again = judged(monkeypatch, told.__getitem__)
    run(online(), rows, tmp_path / "whole", stirred=0.05)
    assert equal(weights(out), weights(tmp_path / "whole")) and set(again.asked) == set(judge.asked)
    for name in ("log.jsonl", "rollouts.jsonl"):
        one, two = lines(out / name), lines(tmp_path / "whole" / name)
        kept = ("step", "loss", "objective", "reward", "r", "flat", "failed", "observed")
        assert [{k: line.get(k) for k in kept} for line in one] == [{k: line.get(k) for k in kept} for line in two]


def test_interrupted_after_held_out_rows_were_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had no reward there has none when the run goes on, and is not asked again; a judge that says the same shows
    that it is the line of a run that was not interrupted.
    """
    heldout, dice = MemoryRows(pairs(27)[20:]), random.Random(1)
    said: dict[str, float | None] = {}

    def score(name: str) -> float | None:
        return said.setdefault(name, None if dice.random() < 0.3 else dice.random())

    judge, out, plain = judged(monkeypatch, score), tmp_path / "run", rollout.Rollouts.iteration

    def dies(*_: object) -> None:
        raise Kill

    monkeypatch.setattr(rollout.Rollouts, "iteration", dies)
    with pytest.raises(Kill):
        run(online(steps=2), MemoryRows(pairs()), out, heldout=heldout, stirred=0.05)
    (before,) = lines(out / "rewards.jsonl")
    monkeypatch.setattr(rollout.Rollouts, "iteration", plain)
    run(online(steps=2), MemoryRows(pairs()), out, heldout=heldout, stirred=0.05)
    assert before["failed"] > 0 and None in said.values()
    for name, count in judge.asked.items():
        assert count == (2 if name.endswith("-plain") else 1), "held-out rows at the start and at the end"
    run(online(steps=2), MemoryRows(pairs()), tmp_path / "whole", heldout=heldout, stirred=0.05)
    assert lines(out / "rewards.jsonl") == lines(tmp_path / "whole/rewards.jsonl") and before["step"] == 0


def test_adapters_keep_copies_of_themselves_alone(tmp_path: Path) -> None:
    """And held-out rows are sampled with guidance too, where the model is used with it."""
    base, held = random_run(tmp_path / "base"), MemoryRows(pairs(27)[20:])
    lora = {"model_weights": str(base), "model_word_dropout": 0.0, "model.lora.rank": 2, "sample_guidance": 3.0}
    settings = {
        "steps": 2,
        "lr": 1e-2,
        "ema": 0.0,
        "optimizer": "adamw",
        "region_weight": False,
        "log_every": 1,
        **lora,
    }
    for name, objective, rows, told in (
        ("dpo", "dpo", preferences(), {}), ("nft", "nft", pairs(), {**ONLINE, "kl": 0.1})
    ):  # fmt: skip
        recipe = tiny(**settings, objective=objective, objective_settings=told)
        run(recipe, MemoryRows(rows), tmp_path / name, heldout=held)
        kept = weights(tmp_path / name)
        assert recipe.copies == (("reference",) if name == "dpo" else ("old", "start"))
        trained = {key for key in kept if key.startswith("model/")}
        assert all("lora" in key for key in trained)
        for copy in recipe.copies:
            assert {f"model/{key.split('/', 2)[2]}" for key in kept if key.startswith(f"copy/{copy}/")} == trained
    line = lines(tmp_path / "nft/rewards.jsonl")[-1]
    assert line["rows"] == 6 and line["guided"]["psnr"]["mean"] != line["reward"]["psnr"]["mean"]


def test_a_dead_judge_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out, alive = MemoryRows(pairs()), tmp_path / "run", {"alive": True}
    judge = judged(
        monkeypatch, lambda name: float(len(name) * ord(name[-1])) if alive["alive"] or "c0" in name else None
    )
    recipe = online(patience=0.01)

    def dies(report: Any) -> None:
        alive["alive"] = report.step < 2

    with pytest.raises(EditError, match="18 of 24 images have no reward"):
        run(recipe, rows, out, on_step=dies, stirred=0.05)
    newest = checkpoint.newest(out)
    assert newest is not None and checkpoint.step_of(newest) == 2
    before, alive["alive"] = Counter(judge.asked), True
    run(recipe, rows, out, stirred=0.05)
    again = {name for name in before if judge.asked[name] > before[name]}
    assert again and all("i1" in name and not name.endswith("c0") for name in again)  # what had no reward alone


def test_a_run_that_goes_on_with_another_reward_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an iteration, whose images have the other one."""
    judged(monkeypatch, lambda name: float(ord(name[-1])))
    rows, out = MemoryRows(pairs()), tmp_path / "run"
    with pytest.raises(Kill):
        run(online(), rows, out, on_step=killed(3), stirred=0.05)
    monkeypatch.undo()
    run(online(by="l1"), rows, out, stirred=0.05)
    assert [set(line["reward"]) for line in lines(out / "rollouts.jsonl")] == [{"psnr"}, {"psnr"}, {"l1"}]
    names = [set(line["scores"]) for line in lines(out / "rollouts/00001.jsonl")]
    assert names == [{"psnr"}] * 24 + [{"l1"}] * 24


def test_what_has_no_reward_or_no_spread_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with one reward, one where all are equal, and halves: weight 0, and never a bad reward."""

    def score(name: str) -> float | None:
        row, candidate = int(name.split("-")[1]) % 3, int(name[-1])
        return {0: 1.0 if candidate else None, 1: 1.0, 2: float(candidate) if candidate % 2 else None}[row]

    judged(monkeypatch, score)
    out = tmp_path / "run"
    run(online(steps=2, times=1), MemoryRows(pairs()), out, stirred=0.05)
    found = lines(out / "rollouts/00000.jsonl")
    useful = [line for line in found if int(line["id"].split("-")[1]) % 3 == 2 and line["scores"]]
    (line,) = lines(out / "rollouts.jsonl")
    assert line["flat"] == pytest.approx(1 - len(useful) / 2 / 6) and useful
    log = lines(out / "log.jsonl")  # c1 and c3 are both of the second update
    assert [each["samples"] for each in log] == [0, len(useful)] and log[1]["objective"]["r"] == pytest.approx(0.5)


def test_a_score_that_nobody_gives_is_said_before_much_is_sampled(tmp_path: Path) -> None:
    for settings, said in (
        ({"by": "psnr2"}, "no score `psnr2`"),
        ({"rewards": "score --ocrr"}, "`rewards`: score: no option `--ocrr`"),
        ({"rewards": "guess"}, "`rewards`: guess: commands that give scores are score, judge and filter"),
        ({"group": 1}, "`group` must be at least 2"),
        ({"updates": 5}, "more `updates` than images"),
        ({"by": ""}, "`by` says which scores"),
    ):
        with pytest.raises(UsageError, match=said):
            run(online(**settings), MemoryRows(pairs()), tmp_path / said[:8], stirred=0.05)


def test_options_are_read_as_a_command_line_has_them() -> None:
    from edittools.judge.config import JudgeConfig
    from edittools.score.config import ScoreConfig

    assert from_words(ScoreConfig, ["--ocr", "--layout", "--max-pixels=9"]) == ScoreConfig(
        ocr=True, layout=True, max_pixels=9
    )
    made = from_words(JudgeConfig, ["--rubric", "viescore", "--model", "m", "--soft", "--concurrency", "3"])
    assert (made.rubric, made.models, made.soft, made.concurrency) == ("viescore", ("m",), True, 3)
    with pytest.raises(UsageError, match="--rubric needs a value"):
        from_words(JudgeConfig, ["--rubric"])


def walk(name: str, values: list[float]) -> list[bool]:
    """Whether the alarm of a number rings, iteration by iteration; the others stay as they are."""
    watch, others = Hacks(), {alarm.number: 0.3 for alarm in ALARMS}
    return [name in watch.heed({**others, name: value}) for value in values]


@pytest.mark.parametrize("name, hack, honest", [
    ("copied", [0.1] * 4 + [0.5] * 6, [0.1, 0.2, 0.1, 0.2, 0.15, 0.25, 0.2, 0.1]),
    ("copied", [0.0] * 4 + [0.3] * 6, [0.0] * 8),
    ("change", [0.1] * 4 + [0.25] * 6, [0.1, 0.11, 0.1, 0.12, 0.09, 0.13, 0.1, 0.1]),
    ("edit_ratio", [0.6] * 4 + [0.1] * 6, [0.6, 0.5, 0.6, 0.7, 0.55, 0.5, 0.5, 0.6]),
    ("diversity", [0.4] * 4 + [0.05] * 6, [0.4, 0.38, 0.4, 0.3, 0.28, 0.26, 0.25, 0.24]),
    ("psnr", [24.0] * 4 + [19.0] * 6, [24.0, 23.5, 24.4, 24.2, 24.1, 24.8, 25.0, 24.3]),
    ("text_size", [30.0] * 4 + [50.0] * 6, [30.0, 33.0, 28.0, 31.0, 35.0, 30.0, 29.0, 34.0]),
])  # fmt: skip
def test_alarms_ring_on_their_hack_alone(name: str, hack: list[float], honest: list[float]) -> None:
    rings = walk(name, [hack[0], *hack, *hack[-3:]])
    assert not any(rings[:5]) and rings[-1] and not any(walk(name, honest * 3))


@pytest.mark.parametrize(
    "name, first, last", [("change", 0.01, 0.2), ("edit_ratio", 1.0, 0.2), ("diversity", 0.4, 0.1)]
)
def test_what_brings_images_nearer_to_the_truth_is_no_hack(name: str, first: float, last: float) -> None:
    """A model that begins by copying learns to edit; one that paints everything anew learns what to leave alone."""

    def rings(psnr: float) -> bool:
        watch = Hacks()
        seen = [(first, 18.0)] * 6 + [(last, psnr)] * 6
        return any(name in watch.heed({name: value, "psnr": truth}) for value, truth in seen)

    enough = 22.5 if name == "diversity" else 20.0  # the mean of all images is by 3 dB nearer than each
    assert rings(18.0) and rings(17.0) and not rings(enough) and rings(20.0) is (name == "diversity")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_no_alarm_rings_in_an_honest_run(tmp_path: Path, seed: int) -> None:
    """Rewarded by the truth for twelve iterations, images come nearer to it or stay where they are."""
    settings = {**ONLINE, "evaluate_every": 0, "kl": 0.0, "old_rate": 0.0}
    recipe = tiny(steps=24, optimizer="adamw", lr=1e-3, microbatches=2, region_weight=False, log_every=8, seed=seed,
                  objective="nft", objective_settings=settings)  # fmt: skip
    run(recipe, MemoryRows(pairs()), tmp_path / "run", stirred=0.05)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and not [line["alarms"] for line in lines if line["alarms"]]


def test_what_is_observed_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.full((8, 8, 3), 100, np.uint8)
    result = source.copy()
    result[:4] += 51
    assert observe(result, source, result) == {"copied": 0.0, "change": 0.1, "edit_ratio": 0.5, "psnr": 100.0}
    assert observe(source, source, None)["copied"] == 1.0 and observe(result, None, None) == {}
    letters = [Letter("a", 0, 0, 1, 2), Letter("b", 2, 0, 1, 4)]
    monkeypatch.setattr("edittools.metrics.ocr.read_letters", lambda _: ("ab", letters))
    assert observe(result, None, None, writing=True) == {"text_size": 3 / 8}


def float_of(name: str) -> float:
    return float(ord(name[-1]))


def test_an_iteration_is_asked_about_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge whose first answer comes after the last question keeps nobody: but for the first round of a run, by which
    it is seen whether anybody answers, all rounds of an iteration are one stream of questions."""
    judge = judged(monkeypatch, float_of)
    judge.slow = True
    run(online(steps=4), MemoryRows(pairs()), tmp_path / "run", stirred=0.05)
    made = lines(tmp_path / "run" / "rollouts.jsonl")
    rounds = judge.times[1] + 1
    assert judge.times == [1, rounds - 1, rounds] and rounds == 4
    assert [line["failed"] for line in made] == [0.0, 0.0] and set(judge.asked.values()) == {1}


def test_a_judge_that_breaks_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves unanswered is asked again, and each image that has a reward keeps it."""
    judge, broken = judged(monkeypatch, float_of), []

    def stream(rounds: Iterable[pa.RecordBatch]) -> Iterator[dict[str, dict[str, float | None]]]:
        for number, found in enumerate(plain(rounds)):
            if number == 2 and not broken:
                broken.append(number)
                raise EditError("nobody is there")
            yield found

    plain, judge.stream = judge.stream, stream  # type: ignore[method-assign]
    run(online(steps=2), MemoryRows(pairs()), tmp_path / "run", stirred=0.05)
    (line,) = lines(tmp_path / "run" / "rollouts.jsonl")
    assert broken and line["failed"] == 0.0
    assert Counter(judge.asked.values()) == {1: 18, 2: 6}, "the last round alone is asked again"
