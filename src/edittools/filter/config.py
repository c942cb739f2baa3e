"""What `edit filter` can be told: one bound per filter, what is measured, and which models are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edittools.errors import EditError
from edittools.filter import HEADINGS, Bounds, Filter, all_filters, all_models
from edittools.metrics.rewards import floor_setting
from edittools.settings import PlacedInBatches, mark_setting, max_pixels_setting, names_of, setting

TEXT, SOURCE_TEXT, LANGUAGE = "caption", "source_caption", "en"
GROUP_BOUNDS = ("group_mean", "group_spread", "group_worst")


@dataclass(frozen=True)
class FilterSettings(PlacedInBatches):
    """All settings but the bounds of the filters and what their models are told: these their files declare."""

    max_pixels: int = max_pixels_setting()
    region: str | None = setting(
        None,
        "SQL expression over each of `objects` that must be true: name, score (the detector's), area and box_area "
        "(shares of the image), and of its crop clip (cosine to the name), match (its share against `not NAME`), "
        "aesthetic. Others are taken out of the list; a row without any left is dropped.",
        metavar="EXPR",
    )
    fix_rotation: bool = setting(
        False,
        "First turn upright, as new pixels, images whose lines are surely 2 to 10 degrees off, in rows of one "
        "image; the rest keep their bytes. The scores `rotation` and `orientation` say what was done.",
    )
    where: str | None = setting(
        None, "SQL expression over the row's columns that must be true (DuckDB).", metavar="EXPR"
    )
    image: str = setting(
        "target",
        "Which image is measured: the target (of a one-image row, the image), the first source, or the result.",
        choices=("target", "source", "result"),
    )
    text: str | None = setting(
        None,
        "The image's text: `caption`, `instruction`, any column. Default: caption.",
        group="Model",
        metavar="COLUMN",
    )
    source_text: str | None = setting(
        None, "The text of a pair's source. Default: source_caption.", group="Model", metavar="COLUMN"
    )
    language: str | None = setting(None, "Of the texts. Default: en.", group="Model", choices=("en", "zh"))
    by: tuple[str, ...] = setting(
        "",
        "Score that groups of candidates (`edit sample --candidates`) are chosen by; for --best also several, with "
        "weights, each normalised within its group. Distances (l1) and filters that bound from above (niqe) are the "
        "better the lower they are.",
        metavar="SCORE[:WEIGHT],...",
        group="Groups",
        parse=names_of,
    )
    floor: tuple[str, ...] = floor_setting("Groups")
    best: int | None = setting(None, "Keep the N best candidates of every group.", low=1, metavar="N", group="Groups")
    group_mean: str | None = setting(
        None,
        "Mean of a group's scores. Without --best a group that meets the bounds becomes one row, named by the group.",
        metavar="BOUND",
        group="Groups",
    )
    group_spread: str | None = setting(None, "Standard deviation of a group's scores.", metavar="BOUND", group="Groups")
    group_worst: str | None = setting(None, "The worst of a group's scores.", metavar="BOUND", group="Groups")
    nearest: str | None = setting(
        None,
        "Choose base images for what a data set lacks (`edit eval coverage --gaps`, or rows with an image): of the "
        "input, a pool of single images, those nearest to every gap by the cosine of --clip, to its caption or "
        "instruction and to its image. A row per image and gap, with the gap's instruction, for `edit synth`.",
        metavar="FILE",
        group="Retrieval",
        recorded=False,
    )
    neighbours: int | None = setting(
        None, "--nearest: so many by text, and so many by image. Default: 20.", low=1, metavar="N", group="Retrieval"
    )
    review: str | None = setting(
        None,
        "What people decided (`edit eval study score --export`): pairs that they rejected, left open or have not seen "
        "are dropped; the column `instruction_reviewed` has the instruction as it was accepted or corrected.",
        metavar="FILE",
        recorded=False,
    )
    mark: str | None = mark_setting()

    @property
    def group_bounds(self) -> dict[str, Bounds]:
        """What passes of a group's mean, spread and worst score. Raises UsageError."""
        told = {name: getattr(self, name) for name in GROUP_BOUNDS}
        flags = {name: "--" + name.replace("_", "-") for name in GROUP_BOUNDS}
        return {name: Bounds.parse(str(bound), "min", flags[name]) for name, bound in told.items() if bound is not None}

    @property
    def of_groups(self) -> bool:
        """Whether anything is said of groups."""
        return bool(self.by or self.floor or self.best is not None or self.group_bounds)

    @property
    def bounds(self) -> list[tuple[Filter, Bounds]]:
        """The filters that are asked for, and what passes. Raises UsageError."""
        return [
            (item, Bounds.parse(str(getattr(self, name)), item.bare, item.flag))
            for name, item in all_filters().items()
            if getattr(self, name, None) is not None
        ]


def _fields() -> Iterator[tuple[str, Any, Any]]:
    """Raises EditError for a filter that is called as another setting is: one of the two would not be heard."""
    taken = {one.name: "setting" for one in dataclasses.fields(FilterSettings)}
    for model in all_models().values():
        taken |= dict.fromkeys((model.setting, *model.told), f"setting of the model `{model.name}`")
    for item in all_filters().values():
        if item.name in taken:
            raise EditError(f"filter `{item.name}`: `edit filter` has a {taken[item.name]} of this name")
    for one in all_models().values():
        # Of models the history holds what they are, not where they lie.
        said = setting(None, one.help, group="Model", metavar="FOLDER|NAME", flag=one.option, recorded=False)
        yield one.setting, str | None, said
        yield from ((name, str | None, told) for name, told in one.told.items())
    order = {heading: k for k, heading in enumerate(HEADINGS)}
    for item in sorted(all_filters().values(), key=lambda one: (order.get(one.group, len(order)), one.flag)):
        said = f"{item.help} [{item.unit}; {item.cost_class}]"
        yield item.name, str | None, setting(None, said, flag=item.flag, metavar="BOUND", group=item.group)


FilterConfig: type[FilterSettings] = dataclasses.make_dataclass(  # type: ignore[assignment]
    "FilterConfig",
    list(_fields()),
    bases=(FilterSettings,),
    frozen=True,
    namespace={"__doc__": "Settings of `edit filter`: those of FilterSettings, a bound (`q05..`) per filter, models."},
)
