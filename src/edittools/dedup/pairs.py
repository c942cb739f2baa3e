"""Level 2 and 3: what is superfluous among edit pairs (FireRed 2.2.1).

In this order, each among the rows that the one before has left:

1. No visible edit: source and target have the same bytes (or pixels), or are alike in every embedding space; at level
   `fine` PSNR and SSIM of the two have to agree.
2. The same pair: source and target near those of another row, whatever the instruction says.
3. The same source and instruction again, whatever was made of it.
4. Template-like edits: the same change under much the same words. The change is target minus source in the first
   space, at length 1; the words a hashed vector (fingerprint.word_vector); their cosines count half each.

At level `fine` 2 and 3 hold only if PSNR and SSIM of the images agree, on 64×64 colour rasters.
"""

from __future__ import annotations

import numpy as np

from edittools.dedup.clusters import Components
from edittools.dedup.decisions import Decisions, Measure
from edittools.dedup.fingerprint import LOOK_SIDE
from edittools.dedup.fingerprint_table import FingerprintTable
from edittools.dedup.near import Blocks, Cosine, Near, near_rows
from edittools.dedup.rule import Rule
from edittools.metrics import pixels

NO_EDIT = "no visible edit"
SAME_PAIR = "same pair"
SAME_REQUEST = "same source and instruction"
TEMPLATE = "template"
_LOOKS_AT_ONCE = 256


def decide_pairs(decisions: Decisions, rule: Rule, edits: np.ndarray, image: Near, source: Near, jobs: int) -> None:
    """Decide about the edit rows, by the four rules above."""
    fingerprints = decisions.fingerprints
    _identities(decisions, rule, decisions.kept(edits))

    others, _ = fingerprints.fixed("others", np.uint64)
    text, said = fingerprints.fixed("text", np.uint64)
    rows = decisions.kept(edits)
    same = _joined(rows, others[:, 0], image, source, decisions, _Looks(fingerprints, rule, ("look", "source_look")))
    decisions.keep_best(same, SAME_PAIR, _farthest(rule.method, image, source))

    rows = decisions.kept(edits)
    rows = rows[said[rows]]
    request = others[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ text[:, 0]
    same = _joined(rows, request, source, None, decisions, _Looks(fingerprints, rule, ("source_look",)))
    decisions.keep_best(same, SAME_REQUEST, _farthest(rule.method, source, source))

    if rule.max_per_template is not None and rule.pair_models:
        vectors, valid = fingerprints.fixed("template", np.float16)
        change = Cosine(vectors, valid, rule.template_cosine, jobs)
        rows = decisions.kept(edits)
        components = Components(fingerprints.rows)
        for a, b in change.pairs(rows[valid[rows]]):
            components.union(a, b)
        labels = components.labels()
        decisions.keep_best(
            labels, TEMPLATE, _farthest(rule.pair_models[0], change, change), rule.max_per_template, by_chance=True
        )


def _identities(decisions: Decisions, rule: Rule, rows: np.ndarray) -> None:
    """Drop pairs without a visible edit."""
    fingerprints = decisions.fingerprints
    same = np.zeros(fingerprints.rows, bool)
    same[rows] = fingerprints.numbers("same")[rows].astype(bool)
    exact = rows[same[rows]]
    decisions.drop(exact, exact, NO_EDIT, rule.equal, np.zeros(len(exact)))
    measures = [(f"cosine_{name}", rule.no_edit_cosine) for name in rule.pair_models]
    if rule.level == "fine":
        measures += [("psnr", rule.psnr), ("ssim", rule.ssim)]
    if not measures:
        return
    rows = rows[~same[rows]]
    alike = np.ones(len(rows), bool)
    for name, least in measures:
        alike &= np.nan_to_num(fingerprints.numbers(name)[rows].astype(np.float64), nan=-2.0) >= least
    rows = rows[alike]
    closest = [fingerprints.numbers(name)[rows].astype(np.float64) for name, _ in measures if name != "psnr"]
    metric = "+".join(name.removeprefix("cosine_") for name, _ in measures)
    decisions.drop(rows, rows, NO_EDIT, metric, np.round(1 - np.min(closest, axis=0), 6) if len(rows) else np.zeros(0))


def _joined(
    rows: np.ndarray, groups: np.ndarray, first: Near, second: Near | None, decisions: Decisions, looks: _Looks
) -> np.ndarray:
    """Labels of the components of rows that are near in one group, and look alike."""
    components = Components(decisions.fingerprints.rows)
    for a, b in looks.agree(near_rows(rows, groups, first, second, decisions.fresh)):
        components.union(a, b)
    return components.labels()


def _farthest(metric: str, first: Near, second: Near) -> Measure:
    """The larger of two images' distances."""

    def measure(gone: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(gone), metric, object), np.fmax(first.distance(gone, kept), second.distance(gone, kept))

    return measure


class _Looks:
    """PSNR and SSIM between the images of two rows; every pair agrees at a level other than `fine`."""

    def __init__(self, fingerprints: FingerprintTable, rule: Rule, names: tuple[str, ...]) -> None:
        self.rule = rule
        self.columns = [fingerprints.fixed(name, np.uint8) for name in names] if rule.level == "fine" else []

    def agree(self, blocks: Blocks) -> Blocks:
        for a, b in blocks:
            for start in range(0, len(a), _LOOKS_AT_ONCE):
                left, right = a[start : start + _LOOKS_AT_ONCE], b[start : start + _LOOKS_AT_ONCE]
                alike = np.ones(len(left), bool)
                for values, valid in self.columns:
                    alike &= valid[left] & valid[right]
                    x, y = (values[side].reshape(-1, LOOK_SIDE, LOOK_SIDE, 3) for side in (left, right))
                    psnr, ssim = pixels.compare_many(x, y)
                    alike &= (psnr >= self.rule.psnr) & (ssim >= self.rule.ssim)
                yield left[alike], right[alike]
