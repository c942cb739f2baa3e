"""The second step: which rows are copies of which."""

from __future__ import annotations

import numpy as np

from edittools.dedup.background import Learnt
from edittools.dedup.clusters import Components
from edittools.dedup.groups import likeness_groups
from edittools.dedup.near import Cosine, Equal, Hamming, Near, near_rows
from edittools.dedup.pairs import decide_pairs
from edittools.dedup.prints import Prints
from edittools.dedup.rule import Rule
from edittools.dedup.semantic import semantic_copies
from edittools.dedup.verdict import Measure, Verdict

DUPLICATE, SEMANTIC = "duplicate", "semantic duplicate"


def decide(prints: Prints, rule: Rule, jobs: int, learnt: Learnt | None = None) -> Verdict:
    """The verdict over all fingerprints; `learnt` is what the background taught, where the rule has one.

    Rows of one image are copies if their pictures are equal or near, rotated and mirrored ones too by a perceptual
    signature. Edit rows are copies only if the target, the first source and everything in `pairing` agree; what else
    is superfluous among them, the levels pairs and fine say (dedup/pairs.py).
    """
    if (rule.background is None) != (learnt is None):
        raise ValueError("what the background taught goes with a rule that has one")
    verdict = Verdict(prints)
    if not prints.rows:
        return verdict
    picture, source = _signatures(prints, rule, jobs, verdict.fresh, learnt)
    _decide(verdict, rule, jobs, picture, source)
    if rule.groups:
        assert isinstance(picture, (Cosine, Hamming))
        rows = np.flatnonzero(verdict.fresh & verdict.readable)
        verdict.groups = likeness_groups(picture, verdict.kept(rows), rows, rule.centroids, jobs)
    return verdict


def _decide(verdict: Verdict, rule: Rule, jobs: int, picture: Near, source: Near) -> None:
    prints = verdict.prints
    one_image = prints.numbers("one_image").astype(bool)
    single = np.flatnonzero(verdict.readable & one_image)
    edits = np.flatnonzero(verdict.readable & ~one_image)
    # What is equal is no candidate any more: one row stands for all.
    equal = _numbers(prints.fixed("exact", np.uint64)[0])
    whole = Components(prints.rows)
    readable = np.flatnonzero(verdict.readable)
    _link_equal(whole, readable, equal)
    if rule.eps is not None:
        verdict.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, picture, one_image))
        assert isinstance(picture, Cosine)
        rows = verdict.kept(single)
        rows = rows[picture.valid[rows]]
        gone, of, alike = semantic_copies(
            picture.vectors, rows, rule.eps, clusters=rule.centroids, hard=rule.keep == "hard", jobs=jobs
        )
        verdict.drop(gone, of, SEMANTIC, rule.method, np.round(1 - alike, 6))
        return
    stand = readable[whole.labels()[readable] == readable]
    if rule.limit is not None:
        rows = np.intersect1d(stand, single, assume_unique=True)
        rows = rows[picture.valid[rows]]
        if isinstance(picture, Hamming):
            blocks = picture.links(rows, rule.rotations, verdict.fresh)
        else:
            blocks = picture.pairs(rows)
        for a, b in blocks:
            whole.union(a, b)
    if rule.level != "rows":
        verdict.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, picture, one_image))
        decide_pairs(verdict, rule, edits, picture, source, jobs)
        return
    if rule.limit is not None:
        pairing = _numbers(prints.fixed("pairing", np.uint64)[0])
        rows = np.intersect1d(stand, edits, assume_unique=True)
        for a, b in near_rows(rows, pairing, picture, source, verdict.fresh):
            whole.union(a, b)
    verdict.keep_best(whole.labels(), DUPLICATE, _measure(rule, equal, picture, one_image))


def _signatures(prints: Prints, rule: Rule, jobs: int, fresh: np.ndarray, learnt: Learnt | None) -> tuple[Near, Near]:
    """The signatures of every row's picture, and of its first source."""
    made: list[Near] = []
    for name in ("signatures", "source_signature"):
        if rule.by_vectors:
            assert rule.limit is not None
            values, valid = prints.fixed(name, np.float16)
            offsets = None
            if learnt is not None:
                values = learnt.whitened(values, valid)
                offsets = learnt.offsets(values, valid, jobs)
            made.append(Cosine(values, valid, rule.limit, jobs, None if fresh.all() else fresh, offsets))
        else:
            words, valid = prints.fixed(name, np.uint64)
            made.append(Equal(words, valid) if rule.limit is None else Hamming(words, valid, int(rule.limit), jobs))
    return made[0], made[1]


def _measure(rule: Rule, equal: np.ndarray, picture: Near, one_image: np.ndarray) -> Measure:
    """What a copy has in common with the one that stays."""

    def measure(gone: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        same = equal[gone] == equal[kept]
        far = picture.distance(gone, kept)
        if isinstance(picture, Hamming) and rule.rotations:
            single = one_image[gone]
            far[single] = picture.turned_distance(gone[single], kept[single])
        far[~(picture.valid[gone] & picture.valid[kept])] = np.nan
        far[same] = 0
        exact = "pixels" if rule.method == "pixels" else "exact"
        return np.where(same, exact, rule.method), far

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
