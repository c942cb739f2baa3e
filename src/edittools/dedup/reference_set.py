"""`--reference-set`: what images that are no copies teach about a model's vectors (SSCD, section 5.1)."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edittools.dedup.fingerprint import are_fingerprints
from edittools.dedup.fingerprint_table import WideColumn
from edittools.dedup.rule import Rule
from edittools.errors import UsageError
from edittools.stream import files
from edittools.stream.history import digest
from edittools.stream.opening import open_source
from edittools.stream.shards import is_shard_set
from edittools.stream.source import Source

_BLOCK = 2048
_LOOKED_AT = 256  # searched images that are looked for in the reference set
_ITSELF = 0.9995  # cosine of an image with itself in float16, or more
_NEAREST = 3  # of the reference set, by which a score is normalised


class ReferenceSet:
    """Fingerprints of images of the same kind, none a copy of the searched ones, as `--phase fingerprint` wrote them.

    `content` stands for them in a rule. Vectors are read by `learn` only. Raises UsageError for a folder without such
    fingerprints, for those of another method, and for too few of them.
    """

    def __init__(self, path: str, rule: Rule) -> None:
        self.path, self.rule = path, rule
        written = files.is_dir(path) and is_shard_set(path)
        self.settings: dict[str, Any] = {}
        if written:
            self.source = open_source([path])
            self.settings = made_with(self.source.history.nodes)
        if not self.settings or not are_fingerprints(self.source.schema):
            raise UsageError(
                f"--reference-set {path}: not a folder that --phase fingerprint wrote",
                hint=f"edit dedup IMAGES --method {rule.method} --phase fingerprint -o FOLDER/",
            )
        for name, wanted in (("method", rule.method), ("embed", rule.embed), ("square", rule.square)):
            value = self.settings.get(name, getattr(Rule, name))
            if value != wanted:
                raise self._refusal(f"made with {name} {str(value).lower()}, not {str(wanted).lower()}")
        self.dim = self.source.schema.field("signatures").type.byte_width // 2
        if isinstance(rule.whiten, int) and rule.whiten > self.dim:
            raise UsageError(f"--whiten {rule.whiten}: the vectors of {rule.method} have {self.dim} dimensions")
        self._check_count(self.source.rows or 0)
        self.content = _content(self.source)

    def check_models(self, models: dict[str, str]) -> None:
        """Raises UsageError where the model of this run, among the identities of all, is another."""
        theirs, ours = self.settings.get("models", {}).get(self.rule.method), models.get(self.rule.method)
        if theirs != ours:
            raise self._refusal(f"made with the model {theirs}, not {ours}")

    def check_apart(self, source: Source) -> None:
        """Raises UsageError where the searched fingerprints are these: every image would be nearest to itself."""
        if self.rule.normalize and _content(source) == self.content:
            raise self._refusal("the same as the searched images, of which --normalize-scores learns nothing")

    def learn(self) -> ReferenceStatistics:
        """Read the vectors, onto disk, and learn what the rule wants of them."""
        column = WideColumn(2 * self.dim)
        for batch in self.source.batches(lambda shard: True):
            column.add(batch.rows.column("signatures").drop_null())
        self._check_count(column.rows)
        vectors = column.values(np.float16)
        if self.rule.whiten is not None and _all_the_same(vectors):
            raise self._refusal("its vectors are all the same")
        return ReferenceStatistics(vectors, self.rule)

    def _check_count(self, count: int) -> None:
        whiten = self.rule.whiten
        dims = whiten if isinstance(whiten, int) else self.dim if whiten == "all" else 1
        needed = max(dims + 1, _NEAREST if self.rule.normalize else 0)
        if count < needed:
            fewer = ", or --whiten to fewer dimensions" if needed > _NEAREST else ""
            raise self._refusal(f"{count} vectors are too few, {needed} are the least", hint=f"take more images{fewer}")

    def _refusal(self, why: str, hint: str | None = None) -> UsageError:
        return UsageError(f"--reference-set {self.path}: {why}", hint=hint)


class ReferenceStatistics:
    """Statistics of the reference vectors (n, dim): a whitening, and the offsets of scores."""

    def __init__(self, reference_set: np.ndarray, rule: Rule) -> None:
        from edittools.encoders.postprocess import Whitening

        self.whitening: Whitening | None = None
        if rule.whiten == "centre":
            self.whitening = Whitening.centring(reference_set)
        elif rule.whiten is not None:
            self.whitening = Whitening.fit(reference_set, None if rule.whiten == "all" else int(rule.whiten))
        self.reference_set: np.ndarray | None = None
        if rule.normalize:
            self.reference_set = self.whitened(reference_set, np.ones(len(reference_set), bool))

    def whitened(self, vectors: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Vectors as the rule compares them: float16 on disk, zeros where not valid."""
        if self.whitening is None or not len(vectors):
            return vectors
        shape = (len(vectors), self.whitening.matrix.shape[1])
        result = np.memmap(tempfile.TemporaryFile(prefix="edittools-"), np.float16, "w+", shape=shape)
        for start in range(0, len(vectors), _BLOCK):
            part = np.arange(start, min(start + _BLOCK, len(vectors)))[valid[start : start + _BLOCK]]
            result[part] = self.whitening(vectors[part])
        return result

    def offsets(self, vectors: np.ndarray, valid: np.ndarray, jobs: int) -> np.ndarray | None:
        """Offset of every whitened vector's scores, float64 (n,), 0 where not valid; None without normalisation.

        Rounded to 5 digits: the last bits of a product are the processor's.
        """
        if self.reference_set is None:
            return None
        from edittools.encoders.postprocess import score_offsets

        reference_set, rows = self.reference_set, np.flatnonzero(valid)

        def work(start: int) -> np.ndarray:
            return score_offsets(vectors[rows[start : start + _BLOCK]], reference_set, last=_NEAREST - 1)

        some = score_offsets(vectors[rows[:_LOOKED_AT]], reference_set, first=0, last=0, weight=1.0)
        if len(some) and np.mean(some > _ITSELF) > 0.5:
            raise UsageError(
                "--reference-set: most of the searched images are in it themselves, and each is nearest to itself",
                hint="take images that are no copies of these",
            )
        result = np.zeros(len(vectors))
        with ThreadPoolExecutor(jobs) as pool:
            for start, values in zip(range(0, len(rows), _BLOCK), pool.map(work, range(0, len(rows), _BLOCK))):
                result[rows[start : start + _BLOCK]] = np.round(values.astype(np.float64), 5)
        return result


def made_with(nodes: tuple[dict, ...]) -> dict[str, Any]:
    """The settings of the last `--phase fingerprint` in a history; empty where there is none."""
    settings = [node["settings"] for node in nodes if node["settings"].get("step") == "fingerprint"]
    return settings[-1] if settings else {}


def _content(source: Source) -> str:
    return digest(*(shard.digest for shard in source.shards or ()))


def _all_the_same(vectors: np.ndarray) -> bool:
    starts = range(0, len(vectors), _BLOCK)
    return all(bool((vectors[start : start + _BLOCK] == vectors[0]).all()) for start in starts)
