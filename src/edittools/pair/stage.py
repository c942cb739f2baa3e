"""The stage that pairs candidates: the better of two images of one row becomes the target, the other is `rejected`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.filter.direction import reward_values, sign
from edittools.metrics import pixels
from edittools.metrics.rewards import below_floor, combined
from edittools.pair.config import TRUTH, PairConfig
from edittools.record import IMAGE, PROVENANCE
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject, Shard, empty_batch
from edittools.stream.fetch import Fetcher
from edittools.stream.groups import GROUP, group_slices, whole_groups
from edittools.stream.history import History, digest
from edittools.stream.opening import open_source
from edittools.stream.row_images import check_columns, column_references
from edittools.stream.rows import column_values, row_paths
from edittools.stream.scores import check_score
from edittools.stream.source import FileSource

SCORES = ("winner", "loser", "margin", "preference", "rejected_psnr")
REJECTED = "rejected"
# What says something of one candidate, and not of the pair.
_GONE = ("seed", "judgements", "edit_box", "scores")


_Set = tuple[pa.RecordBatch, dict[str, tuple[int, int]]]  # rows of a set of winners, and where each group stands


@dataclass(frozen=True)
class _Side:
    """Candidates of a group: where their rows are, and what each is worth."""

    rows: pa.RecordBatch
    start: int
    values: list[float | None]  # the higher the better
    floored: list[bool]  # which are below a floor

    @property
    def ranked(self) -> list[int]:
        """Members with a value, the best first; equal ones in their order."""
        scored = [(value, k) for k, value in enumerate(self.values) if value is not None]
        return [k for _, k in sorted(scored, key=lambda item: (-item[0], item[1]))]


@dataclass(frozen=True)
class _Pair:
    """A winner (None: the loser's own truth) and a loser, by their places in the rows of their sides."""

    group: str
    number: int
    winner: _Side | None
    best: int
    loser: _Side
    worst: int

    @property
    def margin(self) -> float | None:
        if self.winner is None:
            return None
        return significant(self.winner.values[self.best] - self.loser.values[self.worst])  # type: ignore[operator]


class PairStage:
    """Stage: the candidates of a group become pairs, rows whose `target` is the winner and `rejected` the loser.

    With `winners` the winners are of other sets (mixed policy: experts win, the model itself loses), which are joined
    by shard and group, or the truth. Every candidate that is in no pair is rejected with the reason.
    """

    name = "pair"
    VERSION = 1

    def __init__(self, config: PairConfig, *, jobs: int = 1) -> None:
        self.config, self.jobs, self.rewards = config, jobs, config.rewards
        self.truth = config.winners == (TRUTH,)
        self.fetcher = Fetcher()
        self.others = [] if self.truth else [_opened(path) for path in config.winners]

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: what is in the winners' sets, not where they lie."""
        found = [digest(source.history.hash, *source.digests) for source in self.others]
        return self.config.recorded(winners=[TRUTH] if self.truth else found or None)

    # ------------------------------------------------------------ columns

    def schema(self, schema: pa.Schema) -> pa.Schema:
        column = self.config.column
        if REJECTED in schema.names:
            raise UsageError("the input has a column `rejected` already")
        if not self.config.winners and GROUP not in schema.names:
            raise UsageError(
                "the input has no column `group`: which rows are candidates of one?",
                hint="`edit sample --candidates K` makes them; --winners names where the winners are from",
            )
        for one in (schema, *(source.schema for source in self.others)):
            if column not in one.names:
                raise UsageError(f"the input has no `{column}` image", hint="`edit sample` makes one")
            check_columns(one, column, "target", "provenance")
            if one.field(column).type not in (IMAGE, pa.null()):
                raise UsageError(f"--column {column}: holds no single image")
            for reward in self.rewards:
                check_score(one, reward.name)
        if self.truth and "target" not in schema.names:
            raise UsageError("--winners target: the input has no `target` image")
        gone = {*_GONE, column, f"{column}_turns", "target", "provenance", GROUP}
        carried = [(field.name, field.type) for field in schema if field.name not in gone and field.name != "id"]
        made = [("target", IMAGE), (REJECTED, IMAGE), (GROUP, pa.string())]
        origins = [("provenance", PROVENANCE), (f"{REJECTED}_provenance", PROVENANCE)]
        scores = [("scores", pa.struct([(name, pa.float64()) for name in SCORES]))]
        return pa.schema([("id", pa.string()), *carried, *made, *origins, *scores])

    # ------------------------------------------------------------ rows

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.jobs, "pair")
        others: tuple[Shard, list[_Set]] | None = None
        try:
            for batch in whole_groups(batches):
                if others is None or others[0] != batch.shard:
                    others = batch.shard, [self._of_shard(source, batch.shard) for source in self.others]
                yield self._paired(batch, others[1], pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _of_shard(self, source: FileSource, shard: Shard) -> _Set:
        """The rows of a winners' set in a shard, and where each group stands."""
        if shard.count is not None and shard.count != source.count:
            raise UsageError(
                f"--winners: a set of {source.count} shards, and the input has {shard.count}",
                hint="sample the same set with both models, so that a row's candidates are in shards of one number",
            )
        found = [batch.rows for batch in whole_groups(source.batches(lambda one: one.index == shard.index))]
        rows = pa.concat_batches(found) if found else empty_batch(source.schema)
        return rows, {name: (start, stop) for name, start, stop in group_slices(rows)}

    def _paired(self, batch: Batch, others: list[_Set], pool: ThreadPoolExecutor) -> Batch:
        rows = batch.rows
        why: dict[int, tuple[str, Any, bool]] = {}  # of rows that are in no pair: reason, value, failed
        pairs: list[_Pair] = []
        for name, start, stop in group_slices(rows):
            pairs += self._of_group(name, start, stop, rows, others, why)
        kept: list[tuple[_Pair, float]] = []
        for pair, near in zip(pairs, pool.map(self._nearness, pairs)):
            places = [pair.loser.start + pair.worst]
            if pair.winner is pair.loser:
                places.append(pair.winner.start + pair.best)
            if isinstance(near, RowError):
                why |= {place: (near.reason, near.value, True) for place in places}
            elif near >= min(self.config.near_equal, pixels.PSNR_LIMIT):
                why |= {place: ("near-equal", near, False) for place in places}
            else:
                kept.append((pair, near))
        ids, paths = column_values(rows, "id"), row_paths(rows)
        rejects = [
            Reject(str(ids[row]), self.name, reason, value, failed, paths[row])
            for row, (reason, value, failed) in sorted(why.items())
        ]
        return batch.replace(self._rows(kept, rows), rejects)

    def _of_group(
        self,
        name: str,
        start: int,
        stop: int,
        rows: pa.RecordBatch,
        others: list[_Set],
        why: dict[int, tuple[str, Any, bool]],
    ) -> list[_Pair]:
        """The pairs of a group, best with worst; `why` is told of the rows that are in none."""
        if any(column_values(rows.slice(start, stop - start), "turns")):
            why |= {row: ("dialogue", None, False) for row in range(start, stop)}
            return []
        loser, winners = self._sides(name, start, stop, rows, others)
        why |= {start + k: ("no score", None, False) for k, value in enumerate(loser.values) if value is None}
        worst = loser.ranked[::-1]
        candidates: list[tuple[_Side | None, int]]
        if self.truth:
            candidates = [(None, 0)] * len(worst)
        elif self.others:
            best = [(value, n, k) for n, side in enumerate(winners) for k, value in enumerate(side.values)]
            scored = sorted((-value, n, k) for value, n, k in best if value is not None)
            candidates = [(winners[n], k) for _, n, k in scored]
        else:
            candidates = [(loser, k) for k in loser.ranked[: len(worst) // 2]]
        if not candidates:
            reason = "no winner" if self.others else "no second score"
            why |= {start + k: (reason, None, False) for k in worst}
            return []
        found = [
            _Pair(name, number, side, k, loser, bad)
            for number, ((side, k), bad) in enumerate(zip(candidates[: self.config.per_group], worst))
        ]
        good = []
        within = {k for pair in found for k in (pair.worst, *([pair.best] if pair.winner is loser else []))}
        why |= {start + k: ("between", loser.values[k], False) for k in worst if k not in within}
        for pair in found:
            margin = pair.margin
            if margin is None or self._decides(margin) or (self.config.ties and self._is_tie(pair, margin)):
                good.append(pair)
                continue
            told = ("tie" if margin == 0 else "margin", margin, False)
            why[start + pair.worst] = told
            if pair.winner is loser:
                why[start + pair.best] = told
        return good

    def _decides(self, margin: float) -> bool:
        return margin > 0 and margin >= self.config.margin

    def _is_tie(self, pair: _Pair, margin: float) -> bool:
        """Whether the scores alone leave it undecided: the worth of what is below a floor is not its score's."""
        floored = pair.loser.floored[pair.worst] or (pair.winner is not None and pair.winner.floored[pair.best])
        return not floored and not self._decides(margin) and not self._decides(-margin)

    def _sides(
        self,
        name: str,
        start: int,
        stop: int,
        rows: pa.RecordBatch,
        others: list[_Set],
    ) -> tuple[_Side, list[_Side]]:
        """The losers' candidates and the winners'. What is normalised is so over all of them together."""
        places = [(rows, start, stop)]
        places += [(other, *where[name]) for other, where in others if name in where]
        values: dict[str, list[float | None]] = {reward.name: [] for reward in self.rewards}
        for held, first, end in places:
            piece = held.slice(first, end - first)
            for reward, found in reward_values(piece, self.rewards, self.config.column).items():
                values[reward] += found
        totals = [None if value is None else significant(value) for value in combined(values, self.rewards)]
        below = below_floor(values, self.rewards)
        sides = []
        for held, first, end in places:
            sides.append(_Side(held, first, totals[: end - first], below[: end - first]))
            totals, below = totals[end - first :], below[end - first :]
        return sides[0], sides[1:]

    def _nearness(self, pair: _Pair) -> float | RowError:
        """PSNR of the two images, in dB; of two sizes at the winner's."""
        try:
            loser = self._decode(pair.loser.rows, self.config.column, pair.loser.start + pair.worst)
            if pair.winner is None:
                winner = self._decode(pair.loser.rows, "target", pair.loser.start + pair.worst)
            else:
                winner = self._decode(pair.winner.rows, self.config.column, pair.winner.start + pair.best)
        except RowError as error:
            return error
        if loser.shape != winner.shape:
            loser = pixels.resize(loser, *winner.shape[:2])
        return significant(pixels.psnr(winner, loser) or 0.0)

    def _decode(self, rows: pa.RecordBatch, column: str, row: int) -> np.ndarray:
        (reference,) = column_references(rows.slice(row, 1), column)
        if reference is None:
            raise RowError(f"no {column} image")
        return codec.decode(self.fetcher.get(reference), codec.FULL, self.config.max_pixels)

    def _rows(self, pairs: list[tuple[_Pair, float]], rows: pa.RecordBatch) -> pa.RecordBatch:
        """The pairs as rows: the loser's, with the two images, what is known of both, and the scores."""
        schema = self.schema(rows.schema)
        column = self.config.column
        back = sign(self.rewards[0].name) if len(self.config.by) == 1 else 1.0  # to the score as it is written
        places = [pair.loser.start + pair.worst for pair, _ in pairs]
        base = rows.take(pa.array(places, pa.int64()))
        made: dict[str, list[Any]] = {name: [] for name in ("provenance", f"{REJECTED}_provenance", "scores")}
        for (pair, near), place in zip(pairs, places):
            value = pair.loser.values[pair.worst]
            assert value is not None
            better = None if pair.winner is None else back * pair.winner.values[pair.best]  # type: ignore[operator]
            preference = 1.0 if pair.margin is None or self._decides(pair.margin) else 0.5
            made["scores"].append(dict(zip(SCORES, (better, back * value, pair.margin, preference, near))))
            lost_id, lost = _origin(rows, place)
            if pair.winner is None:
                won = {**lost, "model": None, "seed": None, "parents": [lost_id]}
            else:
                won_id, won = _origin(pair.winner.rows, pair.winner.start + pair.best)
                won = {**won, "parents": [won_id, lost_id]}
            made["provenance"].append(won)
            made[f"{REJECTED}_provenance"].append(lost)
        found: dict[str, pa.Array] = {name: pa.array(v, schema.field(name).type) for name, v in made.items()}
        found["id"] = pa.array([f"{pair.group}-p{pair.number}" for pair, _ in pairs], pa.string())
        found[GROUP] = pa.array([pair.group for pair, _ in pairs], pa.string())
        found[REJECTED] = base.column(column)
        winners = [
            base.column("target").slice(k, 1)
            if pair.winner is None
            else pair.winner.rows.column(column).slice(pair.winner.start + pair.best, 1)
            for k, (pair, _) in enumerate(pairs)
        ]
        found["target"] = pa.concat_arrays(winners) if winners else pa.array([], IMAGE)
        return pa.record_batch(
            [found[f.name] if f.name in found else base.column(f.name) for f in schema], schema=schema
        )


def _opened(path: str) -> FileSource:
    """A set of winners. Raises UsageError where it is no set of files."""
    source = open_source([path])
    if not isinstance(source, FileSource):
        raise UsageError(f"--winners {path}: a stream can be read once, and a set is needed")
    return source


def _origin(rows: pa.RecordBatch, row: int) -> tuple[str, dict[str, Any]]:
    """A row's id, and what its provenance says."""
    one = rows.slice(row, 1)
    (identity,), (origin,) = column_values(one, "id"), column_values(one, "provenance")
    return str(identity), {field.name: (origin or {}).get(field.name) for field in PROVENANCE}
