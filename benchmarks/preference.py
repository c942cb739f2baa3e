"""Preference pairs and reinforcement on small models: what they gain, what controls gain, what goes wrong and is seen.

    python benchmarks/preference.py --photos DIR [--heldout-photos DIR] [--seeds 0 1 2] [--only NAME ...] [--json FILE]

Crops of 60 pixels, edits of `edit synth`; the model is the recipe `demo` after 150 steps (`small`: two layers, after
300). All figures are of held-out photographs: PSNR of results against the truth, and the share of rows that are better
than before at equal noise (`win`). Rates and other settings were chosen on other photographs than the held-out ones of
--heldout-photos. `dpo`, `nft`, `hack` and `mining` take 5 to 15 CPU minutes for each seed, `judge` and
`captioner` two.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # on a busy machine waiting threads would spin: before torch is loaded

import argparse
import contextlib
import dataclasses
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from stream import Report, of_tests
from vlm_requests import loopback

import edittools
from edittools.metrics.rewards import Reward, optimality
from edittools.stream import codec
from edittools.stream.fetch import Fetcher
from edittools.stream.rows import column_values
from edittools.stream.run import RunOptions, open_input
from edittools.train import rollout
from edittools.train.console import TrainOptions, train_with_progress
from edittools.train.settings import TrainConfig

TEMPLATES = "gray,invert,sepia,warm,cool,tint,brighten,darken,saturate,contrast,blur,flip,add,remove"
CRAWL = Path(__file__).resolve().parent.parent / "examples" / "make_crawl.py"
TINY = {"model.layers": 2, "model.heads": 2, "model.head_dim": 48, "model.text_width": 64, "model.text_heads": 2}


@dataclasses.dataclass
class Given:
    """What all parts share."""

    folder: Path
    seeds: list[int]
    quick: bool  # only tried
    report: Report
    kept: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # PSNR of held-out rows, by model

    @property
    def train(self) -> str:
        return str(self.folder / "train")

    @property
    def heldout(self) -> str:
        return str(self.folder / "heldout")

    def steps(self, count: int) -> int:
        return 2 if self.quick else count


def prepare(given: Given, photos: Path | None, others: Path | None) -> None:
    """Rows to learn from, and rows of other photographs."""
    crops = ["40", "4"] if given.quick else ["3000", "100"]
    for name, source in (("crops", photos), *([("other-crops", others)] if others else [])):
        told = ["--crops", crops[0] if name == "crops" else "130", "--heldout", crops[1]]
        told += ["--photos", str(source)] if source else []
        subprocess.run([sys.executable, CRAWL, given.folder / name, *told], check=True, capture_output=True)
    rows = edittools.read(str(given.folder / "crops" / "crawl")).synth(crop=60, templates=TEMPLATES, per_row=8)
    rows.write(given.train, max_errors="100%")
    found = given.folder / "other-crops" / "crawl" if others else given.folder / "crops" / "heldout"
    rows = edittools.read(str(found)).synth(crop=60, templates=TEMPLATES, per_row=3, seed=1)
    rows.write(given.heldout, max_errors="100%")


def learn(given: Given, recipe: str, rows: str, name: str, heldout: bool = False, **settings: Any) -> str:
    """Train, unless it is done; returns the run's folder. Settings may name tables: objective_settings__beta."""
    told = {key.replace("__", "."): value for key, value in settings.items()}
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in told.items())
    config = TrainConfig(recipe=recipe, overrides=overrides, encoder_dtype="float32")
    out, options = given.folder / name, RunOptions()
    asked = TrainOptions(
        config, str(out), heldout=open_input([given.heldout], options) if heldout else None, quiet=True
    )
    train_with_progress(config.load(), open_input([rows], options), asked)
    return str(out)


def base(given: Given, seed: int, small: bool = False) -> str:
    steps = given.steps(300 if small else 150)
    more = TINY if small else {}
    return learn(given, "demo", given.train, f"base{'-small' * small}-{seed}", steps=steps, seed=seed, **more)


def held(given: Given, model: str) -> dict[str, float]:
    """PSNR of every held-out row by its id."""
    if model not in given.kept:
        rows = edittools.read(given.heldout, limit=8 if given.quick else 300).sample(model).score().rows()
        given.kept[model] = {row["id"]: row["scores"]["psnr"] for row in rows}
    return given.kept[model]


def gain(given: Given, model: str, before: str) -> dict[str, float]:
    """What a model gains over another on the held-out rows, in dB, and the share of rows that gain."""
    new, old = held(given, model), held(given, before)
    return {
        "start": statistics.fmean(old.values()),
        "gain": statistics.fmean(new[name] - old[name] for name in old),
        "win": statistics.fmean(float(new[name] > old[name]) for name in old),
    }


def log_of(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]


def iterations(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "rollouts.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- pairs


def pairs_of(given: Given, model: str, name: str, truth: bool) -> str:
    """1,000 pairs of the truth and the worst of 8, or 500 of the best and the worst of 8."""
    out = given.folder / name
    rows = edittools.read(given.train, limit=12 if given.quick else 1000 if truth else 500)
    chosen = rows.sample(model, candidates=2 if given.quick else 8).score()
    more: dict[str, Any] = {"winners": ("target",)} if truth else {}
    chosen.pair(by=("psnr",), near_equal=100, **more).write(str(out), max_errors="100%")
    return str(out)


def compare_pairs(given: Given, seed: int, small: bool) -> dict[str, dict[str, float]]:
    """Every loss on the same pairs, from the same model."""
    start = base(given, seed, small)
    tag = f"{'small-' * small}{seed}"
    found = {}
    for truth in (True, False):
        kind = "truth" if truth else "own"
        pairs = pairs_of(given, start, f"pairs-{kind}-{tag}", truth)
        common = {"model__weights": start, "seed": seed, "log_every": 5}
        plain = {"objective_settings__omega": 1.0}
        runs = {f"plain {kind} 200": ("demo-dpo", {"steps": given.steps(200), **plain})}
        runs[f"psr {kind} {100 if truth else 200}"] = ("demo-dpo", {"steps": given.steps(100 if truth else 200)})
        control = {"objective": "flow", "objective_settings": {}, "batch_tokens": 288, "loss_spike_factor": 10.0}
        runs[f"supervised {kind} 200"] = ("demo-dpo", {"steps": given.steps(200), **control})
        for name, (recipe, settings) in runs.items():
            run = learn(given, recipe, pairs, f"{name.replace(' ', '-')}-{tag}", **common, **settings)
            found[name] = gain(given, run, start)
            lines = log_of(run)
            differences = [
                line["objective"]["win_difference"] for line in lines if "win_difference" in line.get("objective", {})
            ]
            if differences:
                found[name] |= {
                    "win_difference": differences[-1],
                    "lowest": min(differences),
                    "lose_difference": lines[-1]["objective"]["lose_difference"],
                    "warned": float(any("warning" in line for line in lines)),
                }
            given.report.numbers[f"pairs {tag}"] = found
    return found


def dpo(given: Given) -> None:
    for seed in given.seeds:
        found = compare_pairs(given, seed, small=False)
        add = given.report.add
        truth, plain, own = found["psr truth 100"], found["plain truth 200"], found["psr own 200"]
        add(f"seed {seed}: truth winners, 100 steps: gain", truth["gain"], 0.7, "dB")
        add(f"seed {seed}: truth winners, 100 steps: win", truth["win"], 0.70, "")
        add(f"seed {seed}: … less plain DPO at 200 steps", truth["gain"] - plain["gain"], 0.5, "dB")
        add(f"seed {seed}: own images, 200 steps: gain", own["gain"], 0.5, "dB")
        add(
            f"seed {seed}: … less supervision on the same winners",
            own["gain"] - found["supervised own 200"]["gain"],
            0,
            "dB",
        )
        add(
            f"seed {seed}: supervision on the truth, 200 steps: gain", found["supervised truth 200"]["gain"], None, "dB"
        )


def small(given: Given) -> None:
    """A small model unlearns both images under plain DPO; that is said, and ω = 2 cures it."""
    for seed in given.seeds:
        found = compare_pairs(given, seed, small=True)
        plain, cured = found["plain truth 200"], found["psr truth 100"]
        add = given.report.add
        add(f"small, seed {seed}: plain DPO, 200 steps: gain", plain["gain"], 0, "dB", least=False)
        add(f"small, seed {seed}: … ΔL_w above its lowest", plain["win_difference"] - plain["lowest"], 1e-9, "")
        add(f"small, seed {seed}: … warned", plain["warned"], 1, "")
        add(f"small, seed {seed}: ω = 2, 100 steps: gain", cured["gain"], 0.5, "dB")
        add(f"small, seed {seed}: … warned", cured["warned"], 0, "", least=False)


# ---------------------------------------------------------------- reinforcement


class Rewarded:
    """Rewards by a function of the rows, in the place of commands'."""

    def __init__(self, plain: Any, score: Callable[[Any, pa.RecordBatch], dict[str, float | None]], name: str) -> None:
        self.plain, self.score, self.rewards = plain, score, [Reward(name)]

    def scores(self, cases: pa.RecordBatch) -> dict[str, dict[str, float | None]]:
        return {key: {self.rewards[0].name: value} for key, value in self.score(self.plain, cases).items()}


@contextlib.contextmanager
def rewarded(score: Callable[[Any, pa.RecordBatch], dict[str, float | None]], name: str = "psnr") -> Iterator[None]:
    """Within the block rollouts are rewarded so."""
    opened = rollout.open_rewards

    @contextlib.contextmanager
    def other(settings: Any, out: Path) -> Iterator[Rewarded]:
        with opened({**settings, "by": "psnr"}, out) as plain:
            yield Rewarded(plain, score, name)

    rollout.open_rewards = other  # type: ignore[assignment]
    try:
        yield
    finally:
        rollout.open_rewards = opened


def by_psnr(plain: Any, cases: pa.RecordBatch) -> dict[str, float | None]:
    return {name: scores["psnr"] for name, scores in plain.scores(cases).items()}


def failing(plain: Any, cases: pa.RecordBatch) -> dict[str, float | None]:
    """Every fifth reward does not come."""
    dice = {name: random.Random(name).random() for name in column_values(cases, "id")}
    return {name: None if dice[name] < 0.2 else value for name, value in by_psnr(plain, cases).items()}


def warm(plain: Any, cases: pa.RecordBatch) -> dict[str, float | None]:
    """How much redder than blue a result is: what is easily cheated."""
    fetcher, found = Fetcher(), {}
    for name, image in zip(column_values(cases, "id"), column_values(cases, "result")):
        pixels = codec.decode(fetcher.get(image), codec.FULL).astype(float)
        found[name] = float((pixels[..., 0] - pixels[..., 2]).mean())
    return found


@contextlib.contextmanager
def shuffled() -> Iterator[None]:
    """Within the block every group's rewards are handed out anew."""
    dice = np.random.default_rng(0)

    def other(values: Sequence[float | None], clip: float) -> list[float | None]:
        made = optimality(values, clip)
        return [made[k] for k in dice.permutation(len(made))]

    rollout.optimality = other  # type: ignore[assignment]
    try:
        yield
    finally:
        rollout.optimality = optimality


@contextlib.contextmanager
def all_groups() -> Iterator[None]:
    """Within the block groups whose images are all alike are learned from too, each image as worth ½."""

    def other(values: Sequence[float | None], clip: float) -> list[float | None]:
        made = optimality(values, clip)
        return [0.5 if r is None and value is not None else r for r, value in zip(made, values)]

    rollout.optimality = other  # type: ignore[assignment]
    try:
        yield
    finally:
        rollout.optimality = optimality


def reinforce(given: Given, start: str, name: str, seed: int, rows: str | None = None, **settings: Any) -> str:
    common = {"model__weights": start, "seed": seed, "steps": given.steps(80)}
    if given.quick:
        common |= {"objective_settings__group": 2, "batch_tokens": 72}
    return learn(given, "demo-nft", rows or given.train, f"nft-{name}-{seed}", **{**common, **settings})


def nft(given: Given) -> None:
    alarms = 0
    for seed in given.seeds:
        start = base(given, seed)
        found = {}
        for name, context in (
            ("honest", contextlib.nullcontext()),
            ("shuffled", shuffled()),
            ("failing", rewarded(failing)),
        ):
            with context:
                run = reinforce(given, start, name, seed)
            found[name] = gain(given, run, start)
            lines = iterations(run)
            found[name] |= {"failed": statistics.fmean(line["failed"] for line in lines)}
            seconds = {k: sum(line["seconds"][k] for line in lines) for k in ("sampling", "waiting")}
            found[name] |= seconds
            if name != "shuffled":
                alarms += any(line["alarms"] for line in lines)
        given.report.numbers[f"nft {seed}"] = found
        add = given.report.add
        add(f"seed {seed}: 40 iterations of 16 x 8: gain", found["honest"]["gain"], 0.8, "dB")
        add(f"seed {seed}: 40 iterations of 16 x 8: win", found["honest"]["win"], 0.75, "")
        add(f"seed {seed}: rewards shuffled: gain", found["shuffled"]["gain"], 0.1, "dB", least=False)
        note = f"{found['failing']['failed']:.0%} failed"
        add(f"seed {seed}: a fifth of the rewards failing: share of the gain",
            found["failing"]["gain"] / max(found["honest"]["gain"], 1e-9), 0.5, "", note=note)  # fmt: skip
    given.report.add("honest runs in which an alarm rang", float(alarms), 0, "", least=False)


def hack(given: Given) -> None:
    """A reward that is cheated by making everything warm."""
    for seed in given.seeds[:1]:
        start, found = base(given, seed), {}
        for kl in (0.0, 10.0):
            with rewarded(warm, "warm"):
                run = reinforce(given, start, f"warm-{kl:g}", seed, objective_settings__kl=kl)
            lines = iterations(run)
            first, last = (
                statistics.fmean(line["reward"]["warm"]["mean"] for line in part) for part in (lines[:3], lines[-3:])
            )
            rang = next((line["iteration"] for line in lines if line["alarms"]), None)
            found[f"kl {kl:g}"] = {**gain(given, run, start), "first": first, "last": last, "rang": rang,
                                   "alarms": sorted({name for line in lines for name in line["alarms"]})}  # fmt: skip
        given.report.numbers[f"hack {seed}"] = found
        free, tied = found["kl 0"], found["kl 10"]
        add = given.report.add
        add(
            f"seed {seed}: 'warm' without KL: an alarm rings",
            float(free["rang"] is not None),
            1,
            "",
            note=str(free["alarms"]),
        )
        add(f"seed {seed}: … loss of PSNR", -free["gain"], None, "dB")
        add(f"seed {seed}: … with KL, as a share of it", -tied["gain"] / max(-free["gain"], 1e-9), 0.5, "", least=False)


def mining(given: Given) -> None:
    """Prompts worth their images, by a rating of five steps: semi-hard against random at the same budget, from the
    small model. (A larger one gains more from random prompts, too.)

    Half a decibel above the start and below is the lowest rating, three more the highest: most groups are all bad.
    """
    for seed in given.seeds:
        start = base(given, seed, small=True)
        lowest = statistics.fmean(held(given, start).values()) + 0.5

        def rating(value: float | None, lowest: float = lowest) -> float | None:
            return None if value is None else round(min(max((value - lowest) / 3, 0), 1) * 4) / 4

        def rated(plain: Any, cases: pa.RecordBatch) -> dict[str, float | None]:
            return {name: rating(value) for name, value in by_psnr(plain, cases).items()}

        count, pool = (12, 4) if given.quick else (1200, 240)
        rows = edittools.read(given.train, limit=count).sample(start, candidates=2 if given.quick else 8).score().rows()
        groups: dict[str, list[float]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(rating(row["scores"]["psnr"]) or 0.0)
        means = {name: statistics.fmean(values) for name, values in groups.items()}
        good = [name for name in groups if means[name] >= 0.3]
        semi = sorted(good, key=lambda name: -statistics.pstdev(groups[name]))[:pool]
        chance = random.Random(seed).sample(list(groups), pool)
        found = {}
        left_out = contextlib.nullcontext()  # groups all alike are, by the recipe
        for name, chosen, context in (("semi", semi, left_out), ("random", chance, left_out),
                                      ("random-kept", chance, all_groups())):  # fmt: skip
            out = given.folder / f"pool-{name}-{seed}"
            kept = ",".join(f"'{each}'" for each in chosen)
            edittools.read(given.train, limit=count).filter(where=f"id IN ({kept})").write(str(out), max_errors="100%")
            with rewarded(rated, "psnr"), context:
                run = reinforce(given, start, f"mined-{name}", seed, rows=str(out))
            now, before = (
                statistics.fmean(rating(v) or 0.0 for v in held(given, each).values()) for each in (run, start)
            )
            flat = statistics.fmean(line["flat"] for line in iterations(run))
            found[name] = {"before": before, "now": now, "flat": flat, **gain(given, run, start)}
        given.report.numbers[f"mining {seed}"] = found
        semi_gain, random_gain, kept_gain = (found[name]["now"] - found[name]["before"] for name in found)
        note = f"groups all alike: {found['semi']['flat']:.0%}, of random ones {found['random']['flat']:.0%}"
        given.report.add(f"seed {seed}: semi-hard prompts: gain of the rating", semi_gain, 0.015, "", note=note)
        given.report.add(f"seed {seed}: … less twice that of random ones", semi_gain - 2 * random_gain, 0, "")
        given.report.add(f"seed {seed}: random ones", random_gain, None, "")
        given.report.add(f"seed {seed}: random ones, learned from groups all alike too", kept_gain, None, "")


def endpoint(given: Given) -> None:
    """Rewards of an endpoint that answers in 0.2 s, beside PSNR."""
    start = base(given, given.seeds[0])
    reply = json.dumps({"rationale": "so", "compliance": 4, "naturalness": 4, "coherence": 4})
    with loopback(0.2, reply) as (address, _):
        rewards = f"score | judge --rubric dimensions --model loopback --api-base {address}"
        by = "psnr,judge_dimensions_overall"
        began = time.perf_counter()
        told = {"objective_settings__rewards": rewards, "objective_settings__by": by}
        run = reinforce(given, start, "endpoint", given.seeds[0], steps=given.steps(20), **told)
        seconds = time.perf_counter() - began
    lines = iterations(run)[1:] or iterations(run)  # the first waits for its first round
    waiting = statistics.fmean(line["seconds"]["waiting"] for line in lines)
    each = seconds / len(iterations(run))
    given.report.numbers["endpoint"] = {"iterations": iterations(run), "seconds": seconds}
    given.report.add("an endpoint of 0.2 s: waiting, of an iteration", 100 * waiting / each, 10, "%", least=False)


def judge(given: Given) -> None:
    """Vision-language models of random weights that learn how much brighter a picture is now, in 120 steps of 16."""
    from scipy.stats import spearmanr

    made, tiny = of_tests("test_judge"), of_tests("tiny_vlm")
    for seed in given.seeds:
        rows, others = (
            made.brighter(given.folder / f"{name}-{seed}", 10 if given.quick else count, seed + more)
            for name, count, more in (("rated", 400, 1000), ("rated-heldout", 100, 2000))
        )
        for kind in made.KINDS:
            start = tiny.tiny_model(given.folder / f"{kind}-{seed}", kind)
            # Both see a picture in one token, and 16 rows a step. At 56 pixels, Qwen2.5-VL has 4 and Qwen3-VL 1, and 64
            # tokens of images a step are 8 rows of the one and 32 of the other; with 8 it is chance what is learned.
            settings = {"resolution": [28, 28], "batch_tokens": 32, "steps": given.steps(120), "seed": seed}
            # rates, rows a step and sizes were chosen on other rows than these
            settings |= {"lr": 2e-3, "model__vision_rate": 1.0, "schedule": "cosine", "warmup": 10}
            run = made.learn(rows, given.folder / f"judge-{kind}-{seed}", start, checkpoint_every=1000, **settings)
            found = {}
            for name, model in (("untrained", start), ("trained", run)):
                judged = [row["scores"] for row in made.judge(others, model)]
                away = [abs((each["judge_rating_rating"] or 99) - each["human"]) for each in judged]
                soft = [(each["judge_rating_rating_soft"] or 3.0, each["human"]) for each in judged]
                found[name] = {
                    "within": statistics.fmean(value <= 1 for value in away),
                    "exact": statistics.fmean(value == 0 for value in away),
                    "spearman": float(np.nan_to_num(spearmanr(*zip(*soft)).statistic)),
                }
            given.report.numbers[f"judge {kind} {seed}"] = found
            now, before = found["trained"], found["untrained"]
            for name, bar, constant in (("within", 0.9, "0.60"), ("exact", 0.35, "0.20"), ("spearman", 0.85, "0")):
                note = f"untrained {before[name]:.2f}, a constant {constant}"
                given.report.add(f"{kind}, seed {seed}: {name}", now[name], bar, "", note=note)


def captioner(given: Given) -> None:
    """A vision-language model of random weights that learns to tell 32 edits, by the recipe `captioner`; the exact test
    of captioners, of new pictures, before and after."""
    made = of_tests("tiny_captions")
    for seed in given.seeds:
        folder = given.folder / f"captioner-{seed}"
        rows = made.drawn(folder / "train", 64 if given.quick else 832, seed + 1000)
        others = made.drawn(folder / "heldout", 4 if given.quick else 64, seed + 2000, taught=False)
        start = made.untrained(folder / "vlm", rows)
        run = made.learn(rows, folder / "run", start, given.steps(500), seed)
        before, now = (made.told_right(others, model, folder / f"told-{model.name}") for model in (start, run))
        given.report.numbers[f"captioner {seed}"] = {"untrained": before, "trained": now}
        for name, bar in {"right": 0.8, "claims": 0.8, "colour": 0.9, "side": 0.8}.items():
            note = f"untrained {before[name]:.2f}"
            given.report.add(f"captioner, seed {seed}: {name}", now[name], bar, "", note=note)
        said = f"captioner, seed {seed}: right of another row's edit"
        given.report.add(said, now["shuffled"], 0.1, "", least=False)


PARTS: dict[str, Callable[[Given], None]] = {
    "dpo": dpo, "nft": nft, "endpoint": endpoint, "hack": hack, "small": small, "mining": mining, "judge": judge,
    "captioner": captioner,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs; without, those of scikit-image")
    parser.add_argument("--heldout-photos", type=Path, help="that are held out, in place of a tenth of --photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", choices=PARTS, help="a part of the benchmark")
    parser.add_argument("--tmp", type=Path, help="a folder that is kept: what is trained there is not trained again")
    parser.add_argument("--quick", action="store_true", help="two steps of everything: the script is only tried")
    parser.add_argument("--json", type=Path, help="write every measured number there")
    given = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        all_of = Given(given.tmp or Path(folder), given.seeds, given.quick, report)
        all_of.folder.mkdir(parents=True, exist_ok=True)
        if (
            not {"judge", "captioner"}.issuperset(given.only or PARTS)
            and not Path(all_of.heldout, "_end.json").exists()
        ):
            prepare(all_of, given.photos, given.heldout_photos)
        for name, part in PARTS.items():
            if not given.only or name in given.only:
                with report.attempt(name):
                    part(all_of)
                report.write(given.json)
    sys.exit(report.end(given.json))


if __name__ == "__main__":
    main()
