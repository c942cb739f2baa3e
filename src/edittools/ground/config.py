"""What `edit ground` can be told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from edittools.errors import UsageError
from edittools.ground import DETECTORS, MAPS, SEGMENTERS
from edittools.registry import Registry
from edittools.settings import PlacedInBatches, flag_of, max_pixels_setting, names_of, setting

_OF_TAGS = ("vocabulary", "vocabulary_from", "prompt", "most_tags", "tag_threshold")


def _list(registry: Registry) -> str:
    return ", ".join(registry.names)


def _names(value: object) -> tuple[str, ...]:
    return names_of(value or ())


@dataclass(frozen=True)
class GroundConfig(PlacedInBatches):
    """Settings of what is looked for in images, and by which models."""

    max_pixels: int = max_pixels_setting()
    image: str = setting(
        "target",
        "Which image: the target (of a one-image row, the image), the first source, or the result.",
        choices=("target", "source", "result"),
    )
    names: tuple[str, ...] = setting(
        None, "What to look for, by detectors that find any name.", metavar="A,B,...", parse=_names
    )
    names_from: str | None = setting(
        None, "A column of names: a list of texts, or a text with commas.", metavar="COLUMN"
    )
    detector: tuple[str, ...] = setting(
        None,
        f"What finds objects, with its weights where they are not the usual ones: {_list(DETECTORS)}. Without any, the "
        "boxes of the rows' own `objects` are used.",
        group="Model",
        metavar="NAME[=WEIGHTS],...",
        parse=_names,
    )
    segmenter: str | None = setting(
        None,
        f"What finds the masks of objects that have none: {_list(SEGMENTERS)}.",
        group="Model",
        metavar="NAME[=WEIGHTS]",
    )
    maps: tuple[str, ...] = setting(
        None,
        f"Structure maps to draw, each a column `map_NAME`: {_list(MAPS)}.",
        group="Model",
        metavar="NAME[=WEIGHTS],...",
        parse=_names,
    )
    rle: bool = setting(
        False,
        "Also write the masks as COCO's packed run lengths (`rle`). Objects that have these and no mask get one.",
    )
    threshold: float | None = setting(
        None, "Keep objects of at least this score. Default: the detector's.", metavar="SCORE", low=0, high=1
    )
    overlap: float = setting(
        0.5,
        "Of two objects of one name whose boxes' intersection over union exceeds this, keep the surer one.",
        metavar="IOU",
        low=0,
        high=1,
    )
    most: int = setting(100, "Keep so many objects of an image, the surest.", metavar="N", low=1)
    tags: str | None = setting(
        None,
        "Also say what each image shows, by a CLIP or SigLIP, into the column `tags`: the likeliest names of "
        "--vocabulary. `--names-from tags` looks for them in the same run.",
        group="Model",
        metavar="FOLDER|NAME",
    )
    vocabulary: tuple[str, ...] = setting(
        None,
        "With --tags: the names to choose from, or a file of them: TOML with lists by category, or text with a name a "
        "line. Default: the shipped inventory of things, and people.",
        metavar="A,B,...|FILE",
        parse=_names,
    )
    vocabulary_from: str | None = setting(
        None, "With --tags: a column of the names to choose from, of each row its own.", metavar="COLUMN"
    )
    prompt: tuple[str, ...] = setting(
        (),
        "With --tags: what the model is told of a name, which stands for {}; of several, the mean of their vectors "
        "counts. Default: This is a photo of {}.",
        metavar="TEXT",
        parse=lambda value: (value,) if isinstance(value, str) else tuple(value),
    )
    most_tags: int = setting(5, "With --tags: keep so many names of an image, the likeliest.", metavar="N", low=1)
    tag_threshold: float = setting(
        0.0,
        "With --tags: keep names of at least this probability: with CLIP among all of the vocabulary, with SigLIP of "
        "each name by itself. `edit synth` and `edit caption` take names of at least 0.2 for what an image shows, "
        "whatever is kept.",
        metavar="SCORE",
        low=0,
        high=1,
    )
    batch_size: int | None = setting(
        None, "Images that a model is asked about together. Default: 8.", group="Model", metavar="N", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, registry, specs in self._asked():
            for spec in specs:
                if spec.partition("=")[0] not in registry.names:
                    raise UsageError(f"--{flag} {spec}: there is no such {flag}", hint=f"there are: {_list(registry)}")
        open_ones = [spec for spec in self.detector if DETECTORS.declared("OPEN", False)[spec.partition("=")[0]]]
        named = bool(self.names) or self.names_from is not None
        if open_ones and not named:
            raise UsageError(f"--detector {open_ones[0]}: --names or --names-from says what to look for")
        if named and not open_ones:
            raise UsageError("--names: no detector looks for names", hint="--detector groundingdino, for one")
        if not (self.detector or self.segmenter or self.maps or self.rle or self.tags):
            raise UsageError("nothing is looked for", hint="--detector, --segmenter, --maps or --tags; see --list")
        self._check_tags()

    def _check_tags(self) -> None:
        if self.tags is None:
            changed = (field for field in fields(self) if getattr(self, field.name) != field.default)
            for field in changed:
                if field.name in _OF_TAGS and getattr(self, field.name):
                    raise UsageError(f"{flag_of(field)}: --tags names the model that it is for")
        if self.vocabulary and self.vocabulary_from is not None:
            raise UsageError("--vocabulary-from: every row has names of its own; leave --vocabulary out")
        for prompt in self.prompt:
            if "{}" not in prompt:
                raise UsageError(f"--prompt {prompt!r}: has no {{}} where the name goes")

    def _asked(self) -> tuple[tuple[str, Registry, tuple[str, ...]], ...]:
        segmenter = (self.segmenter,) if self.segmenter else ()
        return ("detector", DETECTORS, self.detector), ("segmenter", SEGMENTERS, segmenter), ("maps", MAPS, self.maps)


def weights_of(registry: Registry, spec: str) -> tuple[str, str]:
    """The name of a module, and the weights that NAME[=WEIGHTS] says or that are its usual ones; "" of none."""
    name, _, weights = spec.partition("=")
    return name, weights or registry.declared("WEIGHTS", "")[name]


def described(registry: Registry, spec: str) -> str:
    """What the history says of a model: its module, and its weights by their content."""
    name, weights = weights_of(registry, spec)
    return f"{name}={known(weights)}" if weights else name


def known(weights: str) -> str:
    """What the history says of weights: their name and their content."""
    from edittools.weights.digest import folder_digest
    from edittools.weights.lookup import find_weights

    return f"{Path(weights).name}@{folder_digest(find_weights(weights))}"
