"""`--background`: what pictures that are no copies teach about a model's vectors (SSCD, section 5.1)."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edittools.dedup.prints import WideColumn
from edittools.dedup.rule import Rule
from edittools.errors import UsageError
from edittools.stream.history import digest
from edittools.stream.source import open_source

_BLOCK = 2048
_NEAREST = 3  # of the background, by which a score is normalised


class Background:
    """Fingerprints of pictures of the same kind, none a copy of the searched ones, as `--step fingerprint` wrote them.

    `content` stands for them in a rule. Vectors are read by `learn` only, onto disk. Raises UsageError for a folder
    without such fingerprints, and for too few of them.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.source = open_source([path])
        self.made = made_with(self.source.history.nodes)
        if self.source.shards is None or not self.made:
            raise UsageError(f"--background {path}: not a folder that --step fingerprint wrote")
        self.content = digest(*(shard.digest for shard in self.source.shards))

    def learn(self, rule: Rule, models: dict[str, str]) -> None:
        """Read the vectors, and learn what the rule wants of them; `models` are the identities of this run's."""
        for name, wanted in (("method", rule.method), ("of", rule.of), ("square", rule.square)):
            found = self.made.get(name, getattr(Rule, name))
            if found != wanted:
                raise UsageError(f"--background {self.path}: made with --{name} {found}, not {wanted}")
        theirs, ours = self.made.get("models", {}).get(rule.method), models.get(rule.method)
        if theirs != ours:
            raise UsageError(f"--background {self.path}: made with the model {theirs}, not {ours}")
        column = WideColumn(self.source.schema.field("signatures").type.byte_width)
        for batch in self.source.batches(lambda shard: True):
            column.add(batch.rows.column("signatures").drop_null())
        self.fit(column.values(np.float16), rule)

    def fit(self, vectors: np.ndarray, rule: Rule) -> None:
        """Learn from vectors (n, dim) what the rule wants."""
        from edittools.models.embedders.postprocess import Whitening

        count, dim = vectors.shape
        self.whitening: Whitening | None = None
        self.vectors: np.ndarray | None = None
        needed = 1
        if rule.whiten not in (None, "centre"):
            dims = dim if rule.whiten == "all" else int(rule.whiten or 0)
            if dims > dim:
                raise UsageError(f"--whiten {dims}: the vectors of {rule.method} have {dim} dimensions")
            needed = dims + 1
        if rule.normalize:
            needed = max(needed, _NEAREST)
        if count < needed:
            raise UsageError(
                f"--background {self.path}: {count} vectors are too few, {needed} are the least",
                hint="take more pictures" + (", or --whiten to fewer dimensions" if needed > _NEAREST else ""),
            )
        if rule.whiten == "centre":
            self.whitening = Whitening.centring(vectors)
        elif rule.whiten is not None:
            self.whitening = Whitening.fit(vectors, dims)
            if not self.whitening.matrix.shape[1]:
                raise UsageError(f"--background {self.path}: its vectors are all the same")
        if rule.normalize:
            self.vectors = self.whitened(vectors, np.ones(count, bool))

    def whitened(self, vectors: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Vectors as the rule compares them: float16 on disk, zeros where not valid."""
        if self.whitening is None:
            return vectors
        shape = (len(vectors), self.whitening.matrix.shape[1])
        made = np.memmap(tempfile.TemporaryFile(prefix="edittools-"), np.float16, "w+", shape=shape)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            made[part] = np.where(valid[part, None], self.whitening(vectors[part]), 0)
        return made

    def offsets(self, vectors: np.ndarray, jobs: int) -> np.ndarray | None:
        """What every whitened vector's score loses, float64 (n,); None without score normalisation.

        Rounded to 5 digits: the last bits of a product are the processor's.
        """
        if self.vectors is None:
            return None
        from edittools.models.embedders.postprocess import score_offsets

        background = self.vectors

        def work(start: int) -> np.ndarray:
            found = score_offsets(vectors[start : start + _BLOCK], background, last=_NEAREST - 1)
            return np.round(found.astype(np.float64), 5)

        with ThreadPoolExecutor(jobs) as pool:
            return np.concatenate([np.zeros(0), *pool.map(work, range(0, len(vectors), _BLOCK))])


def made_with(nodes: tuple[dict, ...]) -> dict[str, Any]:
    """The settings of the last `--step fingerprint` in a history; empty where there is none."""
    made = [node["settings"] for node in nodes if node["settings"].get("step") == "fingerprint"]
    return made[-1] if made else {}
