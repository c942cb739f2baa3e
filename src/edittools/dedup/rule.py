"""What counts as a copy: the settings of `edit dedup`, in one place for all of its steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from edittools.errors import UsageError

# Models that have a short name, and the cosine from which two pictures count as copies: SSCD's authors give 0.75 for
# 90% precision on DISC21; 0.604 and 0.94 are in use for ISC21 (DataComp's decontamination) and CLIP (clip-retrieval).
MODELS = {
    "clip": ("openai/clip-vit-large-patch14", 0.94),
    "dinov2": ("facebook/dinov2-base", 0.94),
    "sscd": ("sscd_disc_mixup", 0.75),
    "isc21": ("isc_ft_v107", 0.604),
}
COSINE = 0.94  # of a model without a short name
BITS = 8
DIGESTS = ("exact", "pixels")
LEVELS = ("rows", "pairs", "fine")


@dataclass(frozen=True)
class Rule:
    """What counts as a copy.

    `limit` is a number of bits (phash), a cosine (a model), or None (exact, pixels). `level` is rows, pairs or fine;
    what follows it is for pairs and fine, `eps` and what follows it for SemDeDup; `centroids` is for the groups too.
    """

    method: str = "phash"
    limit: float | None = BITS
    rotations: bool = True
    level: str = "rows"
    spaces: tuple[str, ...] = ()
    identity: float = 0.99
    template: float = 0.9
    max_per_template: int | None = None
    psnr: float = 34.0
    ssim: float = 0.95
    eps: float | None = None
    centroids: int | None = None  # of k-means, for SemDeDup and the groups; 0: no groups
    keep: str = "hard"
    of: str = "image"
    square: bool = False  # SSCD's other preprocessing
    background: str | None = None  # stands for the fingerprints that the next two learn from
    whiten: str | int | None = None  # all, a number of dimensions, or centre
    normalize: bool = False  # scores, by SSCD's equation 8

    def __post_init__(self) -> None:
        if self.eps is not None and (not self.by_vectors or self.level != "rows"):
            raise UsageError("--semantic needs --method MODEL, and --level rows")
        if self.of != "image" and self.eps is None:
            raise UsageError(f"--of {self.of} is for --semantic")
        if self.centroids is not None and self.method in DIGESTS:
            raise UsageError(f"--clusters needs pictures that can be alike, which --method {self.method} does not know")
        if self.centroids == 0 and self.eps is not None:
            raise UsageError("--semantic needs --clusters of 1 at least")
        if self.square and not self.by_vectors:
            raise UsageError("--square is for --method sscd")
        learns = self.whiten is not None or self.normalize
        if learns and not self.by_vectors:
            raise UsageError("--whiten and --normalize-scores are for --method MODEL")
        if learns and self.background is None:
            raise UsageError("--whiten and --normalize-scores need a --background to learn from")
        if self.background is not None and not learns:
            raise UsageError("--background is for --whiten and --normalize-scores")
        if self.normalize and self.eps is not None:
            raise UsageError("--normalize-scores is for near copies, not for --semantic")

    @property
    def by_vectors(self) -> bool:
        return self.method not in ("phash", *DIGESTS)

    @property
    def groups(self) -> bool:
        """Whether rows get a group by likeness: signatures of digests are equal or not, never alike."""
        return self.method not in DIGESTS and self.centroids != 0

    @property
    def models(self) -> tuple[str, ...]:
        """The embedders that the fingerprints need, each once."""
        return tuple(dict.fromkeys((*((self.method,) if self.by_vectors else ()), *self.spaces)))

    def stated(self) -> dict[str, Any]:
        """As JSON, for the files that hold fingerprints of this rule."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Where a rule that a file states is not the wanted one: `method "phash", not "exact"`."""
    for key, value in wanted.items():
        other = found.get(key, getattr(Rule, key, None))  # the rule of an older file lacks what was added since
        if other != value:
            return f"{key} {json.dumps(other, ensure_ascii=False)}, not {json.dumps(value, ensure_ascii=False)}"
    return None


def default_limit(method: str) -> float | None:
    if method in DIGESTS:
        return None
    return BITS if method == "phash" else MODELS.get(method, ("", COSINE))[1]


def short_name(model: str) -> str:
    """What a rule calls a model: the last part of a folder, or of a name on the hub."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def load_models(rule: Rule, given: dict[str, str], *, device: str, dtype: str, revision: str | None) -> dict[str, Any]:
    """The embedders of a rule by the name the rule has for them; `given` is what the user calls each."""
    if not rule.models:
        return {}
    from edittools.models.embedders import load_embedder

    def load(name: str) -> Any:
        more = {"square": True} if rule.square and name == rule.method else {}
        found = MODELS.get(given[name], (given[name],))[0]
        return load_embedder(found, device=device, dtype=dtype, revision=revision, **more)

    return {name: load(name) for name in rule.models}
