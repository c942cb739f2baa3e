"""`--background`: what pictures that are no copies teach about a model's vectors (SSCD, section 5.1)."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edittools.dedup.fingerprint import are_prints
from edittools.dedup.prints import WideColumn
from edittools.dedup.rule import Rule
from edittools.errors import UsageError
from edittools.stream import files
from edittools.stream.history import digest
from edittools.stream.shards import is_shard_set
from edittools.stream.source import Source, open_source

_BLOCK = 2048
_LOOKED_AT = 256  # searched pictures that are looked for in the background
_ITSELF = 0.9995  # cosine of a picture with itself in float16, or more
_NEAREST = 3  # of the background, by which a score is normalised


class Background:
    """Fingerprints of pictures of the same kind, none a copy of the searched ones, as `--step fingerprint` wrote them.

    `content` stands for them in a rule. Vectors are read by `learn` only. Raises UsageError for a folder without such
    fingerprints, for those of another method, and for too few of them.
    """

    def __init__(self, path: str, rule: Rule) -> None:
        self.path, self.rule = path, rule
        written = files.is_dir(path) and is_shard_set(path)
        self.made: dict[str, Any] = {}
        if written:
            self.source = open_source([path])
            self.made = made_with(self.source.history.nodes)
        if not self.made or not are_prints(self.source.schema):
            raise UsageError(
                f"--background {path}: not a folder that --step fingerprint wrote",
                hint=f"edit dedup PICTURES --method {rule.method} --step fingerprint -o FOLDER/",
            )
        for name, wanted in (("method", rule.method), ("of", rule.of), ("square", rule.square)):
            found = self.made.get(name, getattr(Rule, name))
            if found != wanted:
                raise self._refusal(f"made with {name} {str(found).lower()}, not {str(wanted).lower()}")
        self.dim = self.source.schema.field("signatures").type.byte_width // 2
        if isinstance(rule.whiten, int) and rule.whiten > self.dim:
            raise UsageError(f"--whiten {rule.whiten}: the vectors of {rule.method} have {self.dim} dimensions")
        self._check_count(self.source.rows or 0)
        self.content = _content(self.source)

    def check_models(self, models: dict[str, str]) -> None:
        """Raises UsageError where the model of this run, among the identities of all, is another."""
        theirs, ours = self.made.get("models", {}).get(self.rule.method), models.get(self.rule.method)
        if theirs != ours:
            raise self._refusal(f"made with the model {theirs}, not {ours}")

    def check_apart(self, source: Source) -> None:
        """Raises UsageError where the searched fingerprints are these: every picture would be nearest to itself."""
        if self.rule.normalize and _content(source) == self.content:
            raise self._refusal("the same as the searched pictures, of which --normalize-scores learns nothing")

    def learn(self) -> Learnt:
        """Read the vectors, onto disk, and learn what the rule wants of them."""
        column = WideColumn(2 * self.dim)
        for batch in self.source.batches(lambda shard: True):
            column.add(batch.rows.column("signatures").drop_null())
        self._check_count(column.rows)
        vectors = column.values(np.float16)
        if self.rule.whiten is not None and _all_the_same(vectors):
            raise self._refusal("its vectors are all the same")
        return Learnt(vectors, self.rule)

    def _check_count(self, count: int) -> None:
        whiten = self.rule.whiten
        dims = whiten if isinstance(whiten, int) else self.dim if whiten == "all" else 1
        needed = max(dims + 1, _NEAREST if self.rule.normalize else 0)
        if count < needed:
            fewer = ", or --whiten to fewer dimensions" if needed > _NEAREST else ""
            raise self._refusal(
                f"{count} vectors are too few, {needed} are the least", hint=f"take more pictures{fewer}"
            )

    def _refusal(self, why: str, hint: str | None = None) -> UsageError:
        return UsageError(f"--background {self.path}: {why}", hint=hint)


class Learnt:
    """What background vectors (n, dim) teach: a whitening, and what to take from every score."""

    def __init__(self, background: np.ndarray, rule: Rule) -> None:
        from edittools.models.embedders.postprocess import Whitening

        self.whitening: Whitening | None = None
        if rule.whiten == "centre":
            self.whitening = Whitening.centring(background)
        elif rule.whiten is not None:
            self.whitening = Whitening.fit(background, None if rule.whiten == "all" else int(rule.whiten))
        self.background: np.ndarray | None = None
        if rule.normalize:
            self.background = self.whitened(background, np.ones(len(background), bool))

    def whitened(self, vectors: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Vectors as the rule compares them: float16 on disk, zeros where not valid."""
        if self.whitening is None or not len(vectors):
            return vectors
        shape = (len(vectors), self.whitening.matrix.shape[1])
        made = np.memmap(tempfile.TemporaryFile(prefix="edittools-"), np.float16, "w+", shape=shape)
        for start in range(0, len(vectors), _BLOCK):
            part = np.arange(start, min(start + _BLOCK, len(vectors)))[valid[start : start + _BLOCK]]
            made[part] = self.whitening(vectors[part])
        return made

    def offsets(self, vectors: np.ndarray, valid: np.ndarray, jobs: int) -> np.ndarray | None:
        """What every whitened vector's score loses, float64 (n,), 0 where not valid; None without normalisation.

        Rounded to 5 digits: the last bits of a product are the processor's.
        """
        if self.background is None:
            return None
        from edittools.models.embedders.postprocess import score_offsets

        background, rows = self.background, np.flatnonzero(valid)

        def work(start: int) -> np.ndarray:
            return score_offsets(vectors[rows[start : start + _BLOCK]], background, last=_NEAREST - 1)

        some = score_offsets(vectors[rows[:_LOOKED_AT]], background, first=0, last=0, weight=1.0)
        if len(some) and np.mean(some > _ITSELF) > 0.5:
            raise UsageError(
                "--background: most of the searched pictures are in it themselves, and each is nearest to itself",
                hint="take pictures that are no copies of these",
            )
        made = np.zeros(len(vectors))
        with ThreadPoolExecutor(jobs) as pool:
            for start, found in zip(range(0, len(rows), _BLOCK), pool.map(work, range(0, len(rows), _BLOCK))):
                made[rows[start : start + _BLOCK]] = np.round(found.astype(np.float64), 5)
        return made


def made_with(nodes: tuple[dict, ...]) -> dict[str, Any]:
    """The settings of the last `--step fingerprint` in a history; empty where there is none."""
    made = [node["settings"] for node in nodes if node["settings"].get("step") == "fingerprint"]
    return made[-1] if made else {}


def _content(source: Source) -> str:
    return digest(*(shard.digest for shard in source.shards or ()))


def _all_the_same(vectors: np.ndarray) -> bool:
    starts = range(0, len(vectors), _BLOCK)
    return all(bool((vectors[start : start + _BLOCK] == vectors[0]).all()) for start in starts)
