"""What `edit synth` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from edittools.errors import UsageError
from edittools.ground import MAPS
from edittools.painters import PAINTERS
from edittools.settings import Config, Placed, max_pixels_setting, names_of, seed_setting, setting
from edittools.synth.registry import CHECKS, PAINTED


def _names(value: object) -> tuple[str, ...]:
    return names_of(value or ())


@dataclass(frozen=True)
class SynthConfig(Config):
    """Settings of the synthesis without models."""

    max_pixels: int = max_pixels_setting()
    templates: tuple[str, ...] = setting(
        "all",
        "Templates to make, or `all`; `-NAME` leaves one out. Those of a renderer (--list) are not among `all`.",
        metavar="A,B,...",
        parse=names_of,
    )
    per_row: int = setting(1, "Edits of every image, of different templates as far as there are.", metavar="N", low=1)
    inverse: bool = setting(False, "Add the inverse of every edit that has one.")
    crop: int | None = setting(
        None,
        "Cut a centred square and resize it to this first. Default: work at the image's own size.",
        metavar="PIXELS",
        low=16,
        high=8192,
    )
    fonts: str | None = setting(
        None,
        "A font file, or a folder of them. Default: what fontconfig finds.",
        metavar="PATH",
        recorded=False,  # the names of the fonts are
    )
    meshes: str | None = setting(
        None,
        "A folder of OBJ meshes, with their textures, or PLY meshes, for the templates mesh_turn, mesh_camera and "
        "mesh_light; y is up. What names a material or texture that is not there is grey, and the row's "
        "`provenance.slots` says which (`missing`).",
        metavar="DIR",
        recorded=False,  # a digest of its files is
    )
    seed: int = seed_setting()


@dataclass(frozen=True)
class PaintConfig(Placed):
    """Settings of the synthesis with a painter, in images whose `objects` are known."""

    max_pixels: int = max_pixels_setting()
    painter: str | None = setting(
        None,
        f"What paints: {', '.join(PAINTERS.names)}, with its weights where they are not the usual ones. Without it the "
        "templates are drawn.",
        group="Model",
        metavar="NAME[=WEIGHTS]",
        recorded=False,  # what it is, is
    )
    painted: tuple[str, ...] = setting(
        "remove", f"With --painter: tasks to paint, of {', '.join(PAINTED.names)}.", metavar="A,B,...", parse=names_of
    )
    things: tuple[str, ...] = setting(
        None,
        "With --painter: what `replace` paints, such as 'a red vase,a teapot'. Default: the lexicon.",
        metavar="A,B,...",
        parse=_names,
    )
    scenes: tuple[str, ...] = setting(
        None,
        "With --painter: what `background` paints, such as 'a sandy beach,a city at night'. Default: the lexicon.",
        metavar="A,B,...",
        parse=_names,
    )
    experts: tuple[str, ...] = setting(
        None,
        "With --painted expert: the tasks of the library to ask for. Default: all of them.",
        metavar="A,B,...",
        parse=_names,
    )
    library: str | None = setting(
        None,
        "With --painted expert or request: a folder of experts in place of the shipped ones, TOML, a file per task.",
        metavar="DIR",
        recorded=False,  # what is in it, is
    )
    targets: str | None = setting(
        None,
        "With --painter: a lexicon in place of the shipped one: TOML, a table per task, and in it lists of words.",
        metavar="FILE",
        recorded=False,  # its words are
    )
    control: str = setting(
        "canny",
        f"With a painter that follows a structure map: which one its ControlNet was trained on, of "
        f"{', '.join(MAPS.names)}.",
        group="Model",
        metavar="NAME[=WEIGHTS]",
        recorded=False,  # where it is drawn, it is
    )
    controlnet: str | None = setting(
        None, "With --painter pipeline: a ControlNet that it has not itself.", group="Model", metavar="FOLDER|NAME",
        recorded=False,
    )  # fmt: skip
    redux: str | None = setting(
        None, "With --painter in_context: FLUX.1 Redux, by which the image that it is shown is in the prompt too.",
        group="Model", metavar="FOLDER|NAME", recorded=False,
    )  # fmt: skip
    lora: tuple[str, ...] = setting(
        None, "With --painter pipeline, in_context: adapters to put on it.", group="Model", metavar="PATH[:SCALE],...",
        parse=_names, recorded=False,
    )  # fmt: skip
    tune: tuple[str, ...] = setting(
        None,
        "With --painter: numbers of a task: grow, feather (pixels at a shorter side of 1024), context (sides of the "
        "crop over those of the region), steps, guidance, strength, control_scale, control_end, canny_low, canny_high.",
        metavar="TASK.NAME=NUMBER,...",
        parse=_names,
    )
    per_row: int = setting(1, "Edits of every image, of different templates as far as there are.", metavar="N", low=1)
    inverse: bool = setting(False, "Add the inverse of every edit that has one.")
    steps: bool = setting(False, "With --painter: also a row of every step of an edit that is several (hybrid, split).")
    check: tuple[str, ...] = setting(
        "outside",
        f"With --painter: what a finished edit has to pass, in this order, of {', '.join(CHECKS.names)}; some name a "
        "model, and the bound may be another than the usual one. See --list.",
        metavar="NAME[=MODEL][:BOUND],...",
        parse=names_of,
        recorded=False,  # what they are, is
    )
    attempts: int = setting(
        1, "With --painter: paint an edit that failed a check again, with other noise, N times in all.", metavar="N",
        low=1,
    )  # fmt: skip
    best: str | None = setting(
        None, "With --attempts: make all of them, and keep the one that is best by this check.", metavar="CHECK"
    )
    keep_failed: bool = setting(
        False,
        "With --painter: keep edits that failed a check, as negatives: the column `failed` says which check, and its "
        "value, of others null.",
    )
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.painter is None:
            raise UsageError("--painter NAME says what paints", hint=f"there are: {', '.join(PAINTERS.names)}")
        for name in self.painted:
            if name not in PAINTED.names:
                raise UsageError(
                    f"--painted {name}: there is no such task", hint=f"there are: {', '.join(PAINTED.names)}"
                )
        if self.best is not None and self.best not in [spec.partition("=")[0].partition(":")[0] for spec in self.check]:
            raise UsageError(f"--best {self.best}: --check does not name it")
        if self.best is not None and self.attempts == 1:
            raise UsageError(f"--best {self.best}: of one attempt it is the best", hint="--attempts N")
        if self.control.partition("=")[0] not in MAPS.names:
            raise UsageError(
                f"--control {self.control}: there is no such map", hint=f"there are: {', '.join(MAPS.names)}"
            )
