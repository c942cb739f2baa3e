"""Models compared two by two (`edit judge --rubric pairwise`): win rates, and strengths on one scale for all of them.

A row is one comparison. Rows about the same case are one cluster, since what makes one of them easy does so for the
others: intervals are over clusters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edittools.bench.pairwise_cases import SHOWN, Duel, Outcome, contested, duels, result_columns, shown_duel
from edittools.bench.panel import between_judges
from edittools.bench.rejects import stored_rejects
from edittools.errors import EditError, UsageError
from edittools.judge.judgements import Judgements, chosen_judges, in_order, judge_names, passes_of
from edittools.metrics import intervals
from edittools.stream.fetch import Fetcher
from edittools.stream.source import Source
from edittools.suites.shared.scores import MUCH
from edittools.suites.shared.types import JudgedCase, case_id

RUBRIC = "pairwise"
NAMES = (("model_a", "model_b"), ("first", "second"), ("model", "other_model"))
"""Columns that name the two models of a row, unless told."""
RESAMPLES = 1000
ELO = 400 / math.log(10)
"""Elo points of a natural logarithm: 400 of them are odds of ten to one."""
WEAK = 0.01
"""Precision of the prior on log strengths (sd 10, or 1,737 points): keeps those finite that win always."""

_HINT = "edit judge ROWS --rubric pairwise --other-column COLUMN --model J -o JUDGED/"


@dataclass(frozen=True)
class Comparison:
    """`outcome` are the shares of a win, a tie and a loss of `first` over the passes; None where nothing was read.

    Of several judges it is the mean of what each says, and `alone` that of each; None where one of them says nothing.
    `duel` is what a page shows of it, where its row has images.
    """

    cluster: str
    first: str
    second: str
    outcome: Outcome | None
    reason: str = ""
    alone: Mapping[str, Outcome | None] = field(default_factory=dict)
    duel: Duel | None = None


def read_comparisons(
    source: Source,
    models: tuple[str, str] | None,
    cluster: str | None,
    judge: str | None = None,
    images: bool = False,
) -> tuple[list[Comparison], dict[str, set[str]]]:
    """The comparisons of a set, and whom they are of: judge -> the models that answered.

    `models` are two columns that name the models compared, or their names; `judge` is chosen_judges'. Rows that were
    rejected on the way count as failed. With `images` comparisons have their duels. Raises UsageError where the rows
    are no such comparisons.
    """
    names = source.schema.names
    for name in ("judgements", *filter(None, [cluster])):
        if name not in names:
            raise UsageError(f"the input has no `{name}` column", hint=_HINT)
    usual = next((pair for pair in NAMES if set(pair) <= set(names)), None)
    pair = models or usual or ("first", "second")
    columns = set(pair) <= set(names)
    key = cluster or next(name for name in ("case", "group", "id") if name in names)
    answers: list[tuple[str, str, str, dict[str, tuple[Outcome | None, str]], Duel | None]] = []
    answered: dict[str, set[str]] = defaultdict(set)
    rejects = list(stored_rejects(source))
    pair_columns = result_columns(source.schema, source.history.nodes) if images else None
    for batch in source.batches(lambda shard: True):
        rejects += batch.rejects
        taken = {name: batch.rows.column(name).to_pylist() for name in {key, "judgements", *(pair if columns else ())}}
        every = duels(batch.rows, pair_columns, [*map(_by_judge, taken["judgements"])]) if pair_columns else []
        for number, judgements in enumerate(taken["judgements"]):
            first, second = (str(taken[name][number]) if columns else name for name in pair)
            said: dict[str, tuple[Outcome | None, str]] = {}
            for name in judge_names([judgements], RUBRIC):
                passes = passes_of(judgements, RUBRIC, name)
                said[name] = _outcome(passes)
                answered[name] |= {model for one in passes for said_so in one.values() if (model := said_so["model"])}
            answers.append((_cluster(taken[key][number]), first, second, said, every[number] if every else None))
    judges = chosen_judges(in_order(answered), judge)
    if not answered:
        raise UsageError(f"no row was judged by rubric {RUBRIC}", hint=_HINT)
    comparisons = [
        _comparison(case, first, second, {name: said.get(name, (None, "not judged")) for name in judges}, duel)
        for case, first, second, said, duel in answers
    ]
    if not columns:
        comparisons += [Comparison(one.id, *pair, None, f"rejected by {one.stage}: {one.reason}") for one in rejects]
    return comparisons, {name: answered[name] for name in judges}


def _cluster(value: Any) -> str:
    if isinstance(value, Mapping) and {"task", "language", "key"} <= value.keys():
        return case_id(value["task"], value["language"], value["key"])
    return str(value)


def _by_judge(judgements: Judgements | None) -> dict[str, list[Mapping[str, Any]]]:
    """Who said what of a row's two results, pass by pass."""
    names = judge_names([judgements], RUBRIC)
    passes = {name: passes_of(judgements, RUBRIC, name) for name in names}
    return {
        name: [one["preference"] for one in dimensions if "preference" in one] for name, dimensions in passes.items()
    }


def shown_cases(comparisons: Iterable[Comparison]) -> list[JudgedCase]:
    """What the page shows, the most contested first, with its images."""
    ranked = sorted(
        ((contested(one.outcome, one.alone.values()), one.duel.id, one) for one in comparisons if one.duel is not None),
        key=lambda ranked: ranked[:2],
    )
    fetcher = Fetcher()
    return [
        shown_duel(one.duel, one.first, one.second, one.outcome, one.reason, fetcher)
        for _, _, one in ranked[:SHOWN]
        if one.duel is not None
    ]


def _comparison(
    case: str, first: str, second: str, said: dict[str, tuple[Outcome | None, str]], duel: Duel | None
) -> Comparison:
    if duel is not None:
        duel = dataclasses.replace(duel, said={judge: one for judge, one in duel.said.items() if judge in said})
    if len(said) == 1:
        return Comparison(case, first, second, *next(iter(said.values())), duel=duel)
    alone = {judge: outcome for judge, (outcome, _) in said.items()}
    known = [outcome for outcome in alone.values() if outcome is not None]
    if len(known) < len(alone):
        why = next(f"{judge}: {reason}" for judge, (outcome, reason) in said.items() if outcome is None)
        return Comparison(case, first, second, None, why, alone, duel)
    mean: Any = tuple(math.fsum(shares) / len(shares) for shares in zip(*known))
    return Comparison(case, first, second, mean, "", alone, duel)


def _outcome(passes: list[dict[str, Mapping[str, Any]]]) -> tuple[Outcome | None, str]:
    mine = [one["preference"] for one in passes if "preference" in one]
    scores = [one["score"] for one in mine if one["score"] is not None]
    if not scores:
        return None, next((one["error"] or one["state"] for one in mine), "")
    return tuple(scores.count(value) / len(scores) for value in (1.0, 0.5, 0.0)), ""  # type: ignore[return-value]


def summarize(comparisons: list[Comparison], seed: int) -> dict[str, Any]:
    """Per model and per pair: wins, ties, losses and the win rate (a tie is half a win), each with its 95% interval
    over clusters; per model its strength in Elo points (mean 1,000) by Bradley and Terry's model with ties.

    Raises EditError where no comparison has an outcome.
    """
    known = [one for one in comparisons if one.outcome is not None]
    if not known:
        raise EditError("no comparison has an outcome")
    models = sorted({name for one in known for name in (one.first, one.second)})
    counts = _counts(known, models)
    elo, bounds, ties = _elo(counts, len(models), seed)
    pairs = list(itertools.combinations(range(len(models)), 2))
    entries = {}
    for k, name in enumerate(models):
        mine = [(one.cluster, one.outcome if one.first == name else one.outcome[::-1]) for one in known
                if one.outcome and name in (one.first, one.second)]  # fmt: skip
        entries[name] = {**_rate(mine, f"{name}", seed), "elo": elo[k], "elo_interval": bounds[k]}
        if entries[name]["cases"] < intervals.MIN_CASES:
            entries[name]["elo_interval"] = None
    pair_entries = []
    for first, second in pairs:
        a, b = models[first], models[second]
        mine = [(one.cluster, one.outcome if one.first == a else one.outcome[::-1]) for one in known
                if one.outcome and {one.first, one.second} == {a, b}]  # fmt: skip
        if mine:
            pair_entries.append({"first": a, "second": b, **_rate(mine, f"{a}\0{b}", seed)})
    failed = [one.reason or "not judged" for one in comparisons if one.outcome is None]
    reasons = {why: failed.count(why) for why in dict.fromkeys(failed)}
    return {
        "rubric": RUBRIC,
        "comparisons": len(known),
        "failed": len(failed),
        "cases": len({one.cluster for one in known}),
        "models": dict(sorted(entries.items(), key=lambda item: -(item[1]["elo"] or item[1]["win_rate"]))),
        "pairs": pair_entries,
        "tie": ties,
        "reasons": reasons,
        **_between(comparisons),
        "notes": ["a tie is half a win; Elo by Bradley and Terry's model with Davidson's ties, mean 1,000; 95% "
                  "intervals over cases"],
        "warnings": _warnings(len(known), len(failed), entries),
    }  # fmt: skip


def _between(comparisons: list[Comparison]) -> dict[str, Any]:
    """How far several judges agree on who wins; nothing of one."""
    scores: dict[str, list[dict[str, float]]] = {}
    for one in comparisons:
        for judge, outcome in one.alone.items():
            value = {} if outcome is None else {"preference": outcome[0] + outcome[1] / 2}
            scores.setdefault(judge, []).append(value)
    agreement = between_judges(scores)
    for entry in agreement.values():
        del entry["within_one"]  # which all preferences are
    return {"between_judges": agreement} if agreement else {}


def _warnings(known: int, failed: int, entries: dict[str, dict[str, Any]]) -> list[str]:
    warnings = []
    every = known + failed
    if failed >= MUCH * every:
        warnings.append(f"{failed / every:.0%} of the comparisons have no outcome ({failed} of {every})")
    if any(one["elo"] is None for one in entries.values()):
        warnings.append("no chain of comparisons connects all models: there is no scale that they share")
        return warnings
    for name, one in entries.items():
        if one["win_rate"] in (0, 1):
            always = "never lost nor tied" if one["win_rate"] else "never won nor tied"
            warnings.append(f"{name} {always}: nothing says how far its points are from the others'")
    return warnings


def _rate(outcomes: list[tuple[str, tuple[float, float, float]]], name: str, seed: int) -> dict[str, Any]:
    """Of outcomes by cluster, from one model's side; a cluster counts with the mean of its comparisons."""
    clusters: dict[str, list[float]] = {}
    for cluster, (win, tie, _) in outcomes:
        clusters.setdefault(cluster, []).append(win + tie / 2)
    values = np.array([[float(np.mean(scores))] for scores in clusters.values()])
    sample = intervals.BootstrapSample(values, [seed, zlib.crc32(name.encode("utf-8", "replace"))])
    limits = intervals.bounded_limits([sample], [1], [(0, 1)], seed)[0]
    sums = [sum(outcome[k] for _, outcome in outcomes) for k in range(3)]
    return {
        "comparisons": len(outcomes),
        "cases": len(values),
        **dict(zip(("wins", "ties", "losses"), sums)),
        "win_rate": float(values.mean()),
        "interval": intervals.interval(limits, len(values)),
    }


def _counts(known: Iterable[Comparison], models: list[str]) -> np.ndarray:
    """(clusters, pairs of models, 3): wins of the first of the pair, ties, losses."""
    index = {name: k for k, name in enumerate(models)}
    pairs = {pair: k for k, pair in enumerate(itertools.combinations(range(len(models)), 2))}
    clusters: dict[str, int] = {}
    rows = []
    for one in known:
        a, b = index[one.first], index[one.second]
        assert one.outcome is not None
        if a != b:  # a model against itself says nothing
            outcome = one.outcome if a < b else one.outcome[::-1]
            rows.append((clusters.setdefault(one.cluster, len(clusters)), pairs[min(a, b), max(a, b)], outcome))
    counts = np.zeros((len(clusters), len(pairs), 3))
    for cluster, pair, outcome in rows:
        counts[cluster, pair] += outcome
    return counts


def _elo(
    counts: np.ndarray, models: int, seed: int
) -> tuple[list[float | None], list[list[float] | None], float | None]:
    """Points of every model, their 95% intervals over clusters, and the tie parameter.

    As of rates (statistics.bounded_limits): the lower limit is the 2.5% quantile of the points under weights of the
    clusters that are uniform on the simplex, with one cluster more in which the model loses all that it usually plays,
    the upper one with a cluster in which it wins that. Without it nothing would say that a defeat can still come.
    There are no intervals of too few clusters, and where the comparisons do not bound the strengths.
    """
    if models < 2 or not _connected(counts.sum(axis=(0, 2)), models):
        return [None] * models, [None] * models, None
    strengths, tie = davidson(counts.sum(axis=0)[None], models)
    elo: list[float | None] = [float(1000 + ELO * one) for one in strengths[0]]
    if len(counts) < intervals.MIN_CASES or not _bounded(counts.sum(axis=0), models):
        return elo, [None] * models, float(tie[0])
    weights = np.random.default_rng(seed % 2**64).dirichlet(np.ones(len(counts) + 1), RESAMPLES) * (len(counts) + 1)
    drawn = np.einsum("rc,cpk->rpk", weights[:, :-1], counts, optimize=True)
    bounds: list[list[float] | None] = []
    for model in range(models):
        ends = []
        for won, quantile in ((False, 0.025), (True, 0.975)):
            further = weights[:, -1, None, None] * _all_alike(counts, model, models, won)
            resampled, _ = davidson(drawn + further, models)
            ends.append(float(np.quantile(1000 + ELO * resampled[:, model], quantile)))
        bounds.append(ends)
    return elo, bounds, float(tie[0])


def _all_alike(counts: np.ndarray, model: int, models: int, won: bool) -> np.ndarray:
    """(pairs, 3): what a model plays on average in a cluster that it is in, all won or all lost."""
    pairs = list(itertools.combinations(range(models), 2))
    mine = [model in pair for pair in pairs]
    played = counts.sum(axis=2)[:, mine]
    usual = played.sum(axis=0) / max(1, np.count_nonzero(played.sum(axis=1)))
    result = np.zeros((len(pairs), 3))
    places = [0 if (pair[0] == model) == won else 2 for pair in pairs if model in pair]
    result[np.flatnonzero(mine), places] = usual
    return result


def _connected(compared: np.ndarray, models: int) -> bool:
    pairs = list(itertools.combinations(range(models), 2))
    reached = {0}
    for _ in range(models):
        for (a, b), count in zip(pairs, compared):
            if count and reached & {a, b}:
                reached |= {a, b}
    return len(reached) == models


def _bounded(counts: np.ndarray, models: int) -> bool:
    """Whether the comparisons bound every strength (Ford, 1957): from each model a chain of ones that were beaten or
    tied leads to every other. Without that some may be any distance above the rest."""
    beaten: dict[int, set[int]] = {k: set() for k in range(models)}
    for (a, b), (win, tie, loss) in zip(itertools.combinations(range(models), 2), counts):
        if win or tie:
            beaten[a].add(b)
        if loss or tie:
            beaten[b].add(a)

    def reached(start: int) -> set[int]:
        visited, new = {start}, {start}
        while new:
            new = set().union(*(beaten[k] for k in new)) - visited
            visited |= new
        return visited

    return all(len(reached(start)) == models for start in range(models))


def davidson(counts: np.ndarray, models: int, steps: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Log strengths (sets, models), of mean 0, and the tie parameter nu (sets) of each set of counts (sets, pairs, 3).

    Of models with strengths s and t, the first wins with s / z, they tie with nu sqrt(s t) / z, z being the sum of
    all three. The likelihood is concave in the logarithms: Newton's method. Davidson, "On extending the
    Bradley-Terry model to accommodate ties in paired comparison experiments" (1970).
    """
    sets, pairs = len(counts), list(itertools.combinations(range(models), 2))
    # How each outcome's logit depends on the strengths, and on log nu in the last place.
    design = np.zeros((len(pairs), 3, models + 1))
    for k, (a, b) in enumerate(pairs):
        design[k, 0, a] = design[k, 2, b] = 1
        design[k, 1, [a, b]] = 0.5
        design[k, 1, models] = 1
    totals = counts.sum(axis=2)
    parameters = np.zeros((sets, models + 1))
    for _ in range(steps):
        logits = np.einsum("pkm,sm->spk", design, parameters)
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        gradient = np.einsum("spk,pkm->sm", counts - totals[:, :, None] * shares, design) - WEAK * parameters
        mean = np.einsum("spk,pkm->spm", shares, design)
        second = np.einsum("sp,spk,pkm,pkn->smn", totals, shares, design, design, optimize=True)
        second -= np.einsum("sp,spm,spn->smn", totals, mean, mean, optimize=True)
        step = np.linalg.solve(second + WEAK * np.eye(models + 1), gradient[:, :, None])[:, :, 0]
        # A step of more than a few logarithms leaves the range in which the second order holds.
        step /= np.maximum(1, np.abs(step).max(axis=1, keepdims=True) / 2)
        parameters += step
        if np.abs(step).max() < 1e-9:
            break
    strengths = parameters[:, :models]
    return strengths - strengths.mean(axis=1, keepdims=True), np.exp(parameters[:, models])
