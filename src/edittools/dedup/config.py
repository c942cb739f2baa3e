"""What `edit dedup` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edittools.dedup.rule import COSINE, Rule, default_limit, short_name
from edittools.dedup.signature import all_signatures, of_bits
from edittools.encoders.embedders import copy_detectors
from edittools.errors import UsageError
from edittools.settings import PlacedInBatches, mark_setting, max_pixels_setting, setting

OF_REFERENCE_SET = ("reference_set", "whiten", "normalize_scores")  # what the decisions alone ask for
_OF_PAIRS = ("pair_model", "no_edit_cosine", "psnr", "ssim", "max_per_template", "template_cosine")


@dataclass(frozen=True)
class DedupConfig(PlacedInBatches):
    """Settings of the stage that finds duplicates."""

    max_pixels: int = max_pixels_setting()
    method: str = setting(
        "phash",
        f"{'; '.join(f'{name}: {one.help}' for name, one in all_signatures().items())}; {', '.join(copy_detectors())}, "
        "or any embedding model: near copies by its vectors.",
        metavar="NAME",
    )
    distance: int = setting(
        8, f"{', '.join(of_bits())}: near copies differ in at most so many of 64 bits.", metavar="BITS", low=0, high=31
    )
    cosine: float | None = setting(
        None,
        "Models: near copies have at least this cosine. Default: "
        f"{''.join(f'{x} for {name}, ' for name, (_, x) in copy_detectors().items() if x != COSINE)}else {COSINE}; "
        "none with --whiten or --normalize-scores, which need their own.",
        metavar="X",
        low=-1,
        high=1,
    )
    reference_set: str | None = setting(
        None,
        "Models: what --phase fingerprint wrote of images of the same kind that are no copies of the searched ones. "
        "--whiten and --normalize-scores learn from it, of rows with a target from the targets.",
        metavar="DIR",
    )
    whiten: str | int | None = setting(
        None,
        "Models: compare vectors whitened by the --reference-set's principal directions, all or the strongest N; "
        "centre: only take its mean away. Needs more images than directions. Vectors of a --pair-model stay as they "
        "are.",
        metavar="all|N|centre",
        parse=lambda text: _whiten(text),
    )
    normalize_scores: bool = setting(
        False,
        "Models: the score of two images is their cosine, less the mean cosine of each with the three of the "
        "--reference-set nearest to it (SSCD, equation 8, averaged over the two). --cosine is then the least score.",
    )
    rotations: bool = setting(
        True,
        f"{', '.join(of_bits())}: count rotated and mirrored copies, in rows of one image (never between a source and "
        "its target).",
        flag="--rotations/--no-rotations",
    )
    level: str | None = setting(
        None,
        "rows (the default): an edit row is a copy if all of it repeats. pairs: also drop pairs without a visible "
        "edit, repeated pairs, repeated source and instruction, and templates. fine: PSNR and SSIM have to agree.",
        choices=("rows", "pairs", "fine"),
    )
    pair_model: tuple[str, ...] = setting(
        (),
        "Models in all of which source and target of a pair without a visible edit are alike, such as clip and "
        "dinov2. May be given several times; templates are looked for in the first.",
        metavar="NAME",
    )
    no_edit_cosine: float | None = setting(
        None,
        "Cosine similarity in a --pair-model at or above which source and target count as unedited. Default: 0.99.",
        metavar="X",
        low=-1,
        high=1,
    )
    psnr: float | None = setting(None, "fine: from which images are the same. Default: 34.", metavar="DB")
    ssim: float | None = setting(
        None, "fine: from which images are the same. Default: 0.95.", metavar="X", low=-1, high=1
    )
    max_per_template: int | None = setting(
        None,
        "pairs, fine: keep at most so many edits that change an image alike in much the same words.",
        metavar="N",
        low=1,
    )
    template_cosine: float | None = setting(
        None,
        "Likeness from which edits are of one template: the mean cosine of change and words. Default: 0.9.",
        metavar="X",
        low=-1,
        high=1,
    )
    semantic: float | None = setting(
        None,
        "SemDeDup: of rows of one image also drop those with a cosine above 1 - EPS to another of their cluster.",
        metavar="EPS",
        low=0,
        high=1,
    )
    clusters: int | None = setting(
        None,
        "Groups of the rows that stay, by k-means: the column `cluster`, by which `edit train` can balance. By a "
        "model they are of one meaning, by phash of one layout. Default: the square root of the rows, 1,024 at most, "
        "and a `cluster` that the input has stays; 0: none. Numbers of two runs have nothing in common. Also the "
        "clusters of SemDeDup: by default one per 1,000 rows.",
        metavar="K",
        low=0,
    )
    keep: str | None = setting(
        None,
        "SemDeDup: of alike images keep the one far from (hard, the default) or near to its cluster's centre.",
        choices=("hard", "easy"),
    )
    embed: str | None = setting(
        None, "SemDeDup: whose vectors are compared. Default: image.", choices=("image", "caption")
    )
    revision: str | None = setting(None, "Revision of the model on the hub.", group="Model", metavar="NAME")
    square: bool = setting(
        False,
        "sscd: images skewed to 320x320, which batches well, not scaled to a short edge of 288.",
        group="Model",
    )
    mark: str | None = mark_setting()

    @property
    def named(self) -> dict[str, str]:
        """The models by what a rule calls them. Raises UsageError for two of one name."""
        names = {short_name(model): model for model in (self.method, *self.pair_model)}
        if len(names) < len({self.method, *self.pair_model}):
            raise UsageError("--method and --pair-model: two models of one name", hint="rename one of the folders")
        return names

    def rule(self) -> Rule:
        """The rule for copies by these settings. Raises UsageError for settings that have nothing to act on."""
        self._check()
        method = short_name(self.method)
        limit = self.distance if method in of_bits() else default_limit(method)
        of_pairs = {name: getattr(self, name) for name in _OF_PAIRS if name != "pair_model"}
        rule = Rule(
            method=method,
            limit=limit if self.cosine is None else self.cosine,
            rotations=self.rotations,
            level=self.level or "rows",
            pair_models=tuple(dict.fromkeys(map(short_name, self.pair_model))),
            eps=self.semantic,
            centroids=self.clusters,
            keep=self.keep or "hard",
            embed=self.embed or "image",
            square=self.square,
            reference_set=self.reference_set,
            whiten=self.whiten,
            normalize=self.normalize_scores,
            **{name: value for name, value in of_pairs.items() if value is not None},
        )
        if rule.reference_set is not None and self.cosine is None and rule.eps is None:
            raise UsageError(
                "--whiten and --normalize-scores need a --cosine: the models' defaults are for vectors as they come",
                hint="--report shows the images near a threshold",
            )
        return rule

    def _check(self) -> None:
        given = {name: getattr(self, name) for name in _OF_PAIRS if getattr(self, name) not in (None, ())}
        for name in given:
            if self.level in (None, "rows"):
                raise UsageError(f"--{name.replace('_', '-')} is for --level pairs or fine")
        for name in ("psnr", "ssim"):
            if name in given and self.level != "fine":
                raise UsageError(f"--{name} is for --level fine")
        for name in ("keep", "embed"):
            if getattr(self, name) is not None and self.semantic is None:
                raise UsageError(f"--{name} is for --semantic")
        for name in ("no_edit_cosine", "max_per_template", "template_cosine"):
            if name in given and not self.pair_model:
                raise UsageError(f"--{name.replace('_', '-')} needs a --pair-model")
        if self.cosine is not None and short_name(self.method) in all_signatures():
            raise UsageError(f"--cosine is for the vectors of a model, not for --method {short_name(self.method)}")

    def recorded_for(self, rule: Rule, against: str | None) -> dict[str, Any]:
        """Settings for the history. `against` is a name for what was compared with, not where that lies."""
        run = {**self.placed, "batch_size": self.batch_size or 32} if rule.models else self.without_models()
        return self.recorded(
            method=rule.method,
            pair_model=rule.pair_models,
            against=against,
            reference_set=rule.reference_set,
            whiten=rule.whiten,
            **run,
        )


def _whiten(text: Any) -> str | int | None:
    if text in (None, "all", "centre"):
        return text
    if not str(text).isdecimal() or int(text) < 1:
        raise UsageError(f"--whiten {text}: expected all, centre, or a number of dimensions")
    return int(text)
