"""What counts as a copy: the settings of `edit dedup`, in one place for all of its steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from edittools.dedup.signature import Signature, all_signatures, of_bits, of_bytes
from edittools.errors import UsageError

COSINE = 0.94  # of a model without a short name
BITS = 8
LEVELS = ("rows", "pairs", "fine")

# names in files of before
_OLD = {"embed": "of", "no_edit_cosine": "identity", "template_cosine": "template", "pair_models": "spaces"} | {
    "reference_set": "background"
}


@dataclass(frozen=True)
class Rule:
    """The rule for copies.

    `limit` is a number of bits, a cosine (of a model), or None where images are equal or not. `level` is rows, pairs
    or fine; what follows it is for pairs and fine, `eps` and what follows it for SemDeDup; `centroids` is for the
    groups too.
    """

    method: str = "phash"
    limit: float | None = BITS
    rotations: bool = True
    level: str = "rows"
    pair_models: tuple[str, ...] = ()
    no_edit_cosine: float = 0.99
    template_cosine: float = 0.9
    max_per_template: int | None = None
    psnr: float = 34.0
    ssim: float = 0.95
    eps: float | None = None
    centroids: int | None = None  # of k-means, for SemDeDup and the groups; 0: no groups
    keep: str = "hard"
    embed: str = "image"
    square: bool = False  # SSCD's other preprocessing
    reference_set: str | None = None  # stands for the fingerprints that the next two learn from
    whiten: str | int | None = None  # all, a number of dimensions, or centre
    normalize: bool = False  # scores, by SSCD's equation 8

    def __post_init__(self) -> None:
        if self.eps is not None and (not self.by_vectors or self.level != "rows"):
            raise UsageError("--semantic needs --method MODEL, and --level rows")
        if self.embed != "image" and self.eps is None:
            raise UsageError(f"--embed {self.embed} is for --semantic")
        if self.centroids is not None and not self.alike:
            raise UsageError(f"--clusters needs images that can be alike, which --method {self.method} does not know")
        if self.centroids == 0 and self.eps is not None:
            raise UsageError("--semantic needs --clusters of 1 at least")
        if self.square and not self.by_vectors:
            raise UsageError("--square is for --method sscd")
        learns = self.whiten is not None or self.normalize
        if learns and not self.by_vectors:
            raise UsageError("--whiten and --normalize-scores are for --method MODEL")
        if learns and self.reference_set is None:
            raise UsageError("--whiten and --normalize-scores need a --reference-set to learn from")
        if self.reference_set is not None and not learns:
            raise UsageError("--reference-set is for --whiten and --normalize-scores")
        if self.normalize and self.eps is not None:
            raise UsageError("--normalize-scores is for near copies, not for --semantic")

    @property
    def by_vectors(self) -> bool:
        return self.method not in all_signatures()

    @property
    def signature(self) -> Signature:
        """The signature that is compared beside the vectors of models, or in their place."""
        return all_signatures().get(self.method, all_signatures()["exact"])

    @property
    def alike(self) -> bool:
        """Whether images can be near each other without being equal."""
        return self.by_vectors or self.signature.words is not None

    @property
    def equal(self) -> str:
        """Name of the reason for rows of equal digests."""
        return "exact" if self.signature.digest is of_bytes else self.method

    @property
    def groups(self) -> bool:
        """Whether rows get a group by likeness: signatures of digests are equal or not, never alike."""
        return self.alike and self.centroids != 0

    @property
    def models(self) -> tuple[str, ...]:
        """The embedders that the fingerprints need, each once."""
        return tuple(dict.fromkeys((*((self.method,) if self.by_vectors else ()), *self.pair_models)))

    def stated(self) -> dict[str, Any]:
        """As JSON, for the files that hold fingerprints of this rule."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Where a rule that a file states is not the wanted one: `method "phash", not "exact"`."""
    for key, value in wanted.items():
        other = found.get(
            _OLD.get(key, key), found.get(key, getattr(Rule, key, None))
        )  # the rule of an older file lacks what was added since
        if other != value:
            return f"{key} {json.dumps(other, ensure_ascii=False)}, not {json.dumps(value, ensure_ascii=False)}"
    return None


def default_limit(method: str) -> float | None:
    """Bits, a cosine, or None for what is equal or not."""
    if method in all_signatures():
        return BITS if method in of_bits() else None
    from edittools.encoders.embedders import copy_detectors

    return copy_detectors().get(method, ("", COSINE))[1]


def short_name(model: str) -> str:
    """Short name of a model: the last part of its folder, or of its name on the hub."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def load_models(rule: Rule, given: dict[str, str], *, device: str, dtype: str, revision: str | None) -> dict[str, Any]:
    """The embedders of a rule by the name the rule has for them; `given` is what the user calls each."""
    if not rule.models:
        return {}
    from edittools.encoders.embedders import copy_detectors, load_embedder

    def load(name: str) -> Any:
        more = {"square": True} if rule.square and name == rule.method else {}
        found = copy_detectors().get(given[name], (given[name],))[0]
        return load_embedder(found, device=device, dtype=dtype, revision=revision, **more)

    return {name: load(name) for name in rule.models}
