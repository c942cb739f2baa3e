"""The second step: which rows are copies of which."""

from __future__ import annotations

import numpy as np

from edittools.dedup.clusters import Components
from edittools.dedup.decisions import Decisions, Measure
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.groups import likeness_groups
from edittools.dedup.near import Cosine, Equal, Hamming, Near, near_rows
from edittools.dedup.pairs import decide_pairs
from edittools.dedup.reference_set import ReferenceStatistics
from edittools.dedup.rule import Rule
from edittools.dedup.semantic import semantic_copies

DUPLICATE, SEMANTIC = "duplicate", "semantic duplicate"


def decide(
    fingerprints: FingerprintTable, rule: Rule, jobs: int, statistics: ReferenceStatistics | None = None
) -> Decisions:
    """Decide over all fingerprints; `statistics` is what the reference set taught, where the rule has one.

    Rows of one image are copies if their images are equal or near, rotated and mirrored ones too by a perceptual
    signature. Edit rows are copies only if the target, the first source and everything in `pairing` agree; what else
    is superfluous among them, the levels pairs and fine say (dedup/pairs.py).
    """
    if (rule.reference_set is None) != (statistics is None):
        raise ValueError("what the reference set taught goes with a rule that has one")
    decisions = Decisions(fingerprints)
    if not fingerprints.rows:
        return decisions
    image, source = _signatures(fingerprints, rule, jobs, decisions.fresh, statistics)
    _decide(decisions, rule, jobs, image, source)
    if rule.groups:
        assert isinstance(image, (Cosine, Hamming))
        rows = np.flatnonzero(decisions.fresh & decisions.readable)
        decisions.groups = likeness_groups(image, decisions.kept(rows), rows, rule.centroids, jobs)
    return decisions


def _decide(decisions: Decisions, rule: Rule, jobs: int, image: Near, source: Near) -> None:
    fingerprints = decisions.fingerprints
    one_image = fingerprints.numbers("one_image").astype(bool)
    single = np.flatnonzero(decisions.readable & one_image)
    edits = np.flatnonzero(decisions.readable & ~one_image)
    # What is equal is no candidate any more: one row stands for all.
    equal = _numbers(fingerprints.fixed("exact", np.uint64)[0])
    whole = Components(fingerprints.rows)
    readable = np.flatnonzero(decisions.readable)
    _link_equal(whole, readable, equal)
    if rule.eps is not None:
        decisions.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, image, one_image))
        assert isinstance(image, Cosine)
        rows = decisions.kept(single)
        rows = rows[image.valid[rows]]
        gone, of, alike = semantic_copies(
            image.vectors, rows, rule.eps, clusters=rule.centroids, hard=rule.keep == "hard", jobs=jobs
        )
        decisions.drop(gone, of, SEMANTIC, rule.method, np.round(1 - alike, 6))
        return
    stand = readable[whole.labels()[readable] == readable]
    if rule.limit is not None:
        rows = np.intersect1d(stand, single, assume_unique=True)
        rows = rows[image.valid[rows]]
        if isinstance(image, Hamming):
            blocks = image.links(rows, rule.rotations, decisions.fresh)
        else:
            blocks = image.pairs(rows)
        for a, b in blocks:
            whole.union(a, b)
    if rule.level != "rows":
        decisions.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, image, one_image))
        decide_pairs(decisions, rule, edits, image, source, jobs)
        return
    if rule.limit is not None:
        pairing = _numbers(fingerprints.fixed("pairing", np.uint64)[0])
        rows = np.intersect1d(stand, edits, assume_unique=True)
        for a, b in near_rows(rows, pairing, image, source, decisions.fresh):
            whole.union(a, b)
    decisions.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, image, one_image))


def _signatures(
    fingerprints: FingerprintTable, rule: Rule, jobs: int, fresh: np.ndarray, statistics: ReferenceStatistics | None
) -> tuple[Near, Near]:
    """The signatures of every row's image, and of its first source."""
    made: list[Near] = []
    for name in ("signatures", "source_signature"):
        if rule.by_vectors:
            assert rule.limit is not None
            values, valid = fingerprints.fixed(name, np.float16)
            offsets = None
            if statistics is not None:
                values = statistics.whitened(values, valid)
                offsets = statistics.offsets(values, valid, jobs)
            made.append(Cosine(values, valid, rule.limit, jobs, None if fresh.all() else fresh, offsets))
        else:
            words, valid = fingerprints.fixed(name, np.uint64)
            made.append(Equal(words, valid) if rule.limit is None else Hamming(words, valid, int(rule.limit), jobs))
    return made[0], made[1]


def _measure(rule: Rule, equal: np.ndarray, image: Near, one_image: np.ndarray) -> Measure:
    """A function of (removed rows, kept rows) -> names of the metrics, distances."""

    def measure(gone: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        same = equal[gone] == equal[kept]
        far = image.distance(gone, kept)
        if isinstance(image, Hamming) and rule.rotations:
            single = one_image[gone]
            far[single] = image.turned_distance(gone[single], kept[single])
        far[~(image.valid[gone] & image.valid[kept])] = np.nan
        far[same] = 0
        return np.where(same, rule.equal, rule.method), far

    return measure


def _numbers(words: np.ndarray) -> np.ndarray:
    """A number per row, equal where the words are."""
    if words.shape[1] == 1:
        return np.unique(words[:, 0], return_inverse=True)[1]
    order = np.lexsort(words.T)
    ordered = words[order]
    numbers = np.empty(len(words), np.int64)
    numbers[order] = np.cumsum(np.r_[0, np.any(ordered[1:] != ordered[:-1], axis=1)]) if len(words) else 0
    return numbers


def _link_equal(components: Components, rows: np.ndarray, numbers: np.ndarray) -> None:
    order = rows[np.argsort(numbers[rows], kind="stable")]
    same = np.flatnonzero(numbers[order][1:] == numbers[order][:-1])
    components.union(order[same], order[same + 1])
