"""Published data sets that `edit shard --from NAME` reads, and what --map may say of others.

PLACES

The OLD of `--map NEW=OLD` is a place in a row: the name of a column, `text.said` for what is inside it, `images[0]` and
`images[-1]` for an item of a list, `images[:-1]` for all but the last, `a|b` for the first one that is there. A column
that holds one value here and a list there is read either way. NEW is a column, or a part of one: `instruction.zh`,
`caption.en`, `scores.NAME`, `provenance.model`. Several `--map source=` make a list of sources, in their order.

IMAGES

A column that becomes `source`, `target` or `mask`, or that --image names, holds images, or paths of them. Paths are
beside the file that names them, or below a --root: a folder, or an archive, which need not be unpacked. An archive that
was cut into parts (`x.tar.split.000`, `x.tar.gz.part-aa`) is read as the whole that it was; of a plain tar the bytes
stay where they are, a compressed one or a zip archive needs room in TMPDIR. What two archives have under one name is
nobody's image. With --from the archives of the folder are roots by themselves.

ADDRESSES

With `--fetch DIR/` an address of the web that stands where a path may is fetched into that folder before rows are made,
once for all rows and runs. `status.jsonl` there says of every attempt how it went; a row whose image did not come is a
reject with the reason (`HTTP 404`, `timed out`, `not an image`, `opted out`), and the next run tries these again, no
others. Servers are asked by the manners of img2dataset: so often a second, with limits on size and time, never at an
address of this machine or its network (unless with --fetch-private), and `X-Robots-Tag: noai` and the like are heeded.

FOUND PAIRS

`--from before_after` makes pairs of images by the names that they have in a folder or an archive: x_before.jpg and
x_after.jpg, before/x.jpg and after/x.jpg, x.jpg and x_edited.jpg, 1a.jpg and 1b.jpg, x_1.jpg and x_2.jpg. What has no
partner, or several, is a reject; the column `pairing` says what a pair was known by: words, letters or numbers.

An image of both, such as x_before_after.jpg, is a reject too, unless `--halves beside` (or `stacked`, `either`) cuts it
in two at the seam in its middle; so it does with all images of a folder before_after/. Without --from, --halves takes
every image without a source for one. The halves have to show the same, within 2% of their shorter side, and must not be
equal; a gutter or a frame of one plain colour is left out. Writing in them stays. `provenance.slots` has both places.

EDITS

`--inverse COLUMN` makes a second row of every pair whose COLUMN says how the edit is undone. `--edited black` and
`--edited transparent` are for masks in which this is what was edited; ours are white there.

DIALOGUES

`--dialogues GROUP,TURN` makes one row, with `turns`, of rows that follow each other with the same GROUP, in the order
of TURN; with --from of a set that says so itself (magicbrush) `--dialogues set`. A turn's parent is the turn whose very
image it edits.

DATA SETS

Every one is a file that declares how its tables are laid out. Tasks become ours, and the name that the set has for one
stays in `provenance.native_task`; one that nobody knows is left empty. What is not mapped is kept under its own name.
The title is the origin of a row and the license the set's, unless --origin and --license say otherwise. A row that
lacks what a pair consists of is a reject. Where the columns of a table are others, the error says which were expected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edittools.stream.layouts import Arrangement, Layout
from edittools.stream.roots import Roots

GEDIT_TASKS = {
    "subject_add": "add",
    "subject_remove": "remove",
    "subject_replace": "replace",
    "background_change": "background",
    "color_alter": "color",
    "material_alter": "material",
    "tone_transfer": "tone",
    "motion_change": "motion",
    "ps_human": "portrait",
}
"""What the sets of judges that came after GEdit-Bench call its tasks, as far as they agree."""


@dataclass(frozen=True)
class PublishedDataset:
    """A published data set: how its tables are laid out, and what is to be known of it."""

    title: str  # what it is called, for provenance
    home: str  # where it is published
    license: str  # as it states it
    size: str  # rows and bytes, as it states them
    layouts: tuple[Layout, ...]  # the first one whose columns a row has is its own
    tables: tuple[str, ...]  # patterns for the files of a folder that hold its rows
    mask: str = "white"  # what is edited in its masks: white, black or transparent
    dialogue: tuple[str, str] | None = None  # columns that say which dialogue a row is a turn of, and which turn
    unverified: str = ""  # what could not be looked up
    listed: Callable[[str], list[tuple[str, str]]] | None = None  # of a folder: (table, folder of its images)
    gather: Callable[[str], Iterator[dict[str, Any]]] | None = None  # the records of a folder without tables
    pair: Callable[..., Iterator[dict[str, Any]]] | None = None  # those of a folder's or an archive's files; `halves`
    # says that images of both are cut in two

    def arrangement(self, roots: Roots, *, halves: bool = False) -> Arrangement:
        pair = functools.partial(self.pair, halves=True) if self.pair is not None and halves else self.pair
        return Arrangement(self.title, self.layouts, self.tables, roots, self.listed, self.gather, pair)

    @property
    def inverse(self) -> str | None:
        """The column with the instruction that undoes the edit."""
        return INVERSE if any(INVERSE in layout.columns for layout in self.layouts) else None

    def mapped(self) -> list[str]:
        """The columns of ours that it fills."""
        made: dict[str, None] = {}
        for layout in self.layouts:
            made |= dict.fromkeys(name.partition(".")[0] for name in layout.columns)
            made |= dict.fromkeys(["task"] if layout.task else [])
        return [name for name in made if name != INVERSE] + (["the inverse edit"] if self.inverse else [])


INVERSE = "inverse_instruction"
