"""Training rows by number: what is known of a row without its images, and the images when they are wanted."""

from __future__ import annotations

import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.shapes import Shape, same_scene
from edittools.record import IMAGE
from edittools.stream import codec
from edittools.stream.fetch import Fetcher
from edittools.stream.groups import whole_groups
from edittools.stream.history import digest
from edittools.stream.row_images import check_columns, row_images, whole_list
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.train.mapped import Columns
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rewards import GroupRewards

TARGET = -1  # the number of a row's target among its images; sources count from 0
REJECTED = -2  # of a preference pair, that of the image that was judged worse than the target

CAPTIONS = {"original": "caption", "structured": "caption_structured", "instructive": "instruction"}
"""Kinds of text of a text-to-image row, and their columns (FireRed, table 1)."""

EDIT_CAPTIONS = {"original": ["instruction"], "structured": ["detailed"], "instructive": ["concise", "user_like"]}
"""What the same kinds are of an edit: styles of its instruction (FireRed 2.5.2), as `edit caption` calls them."""


def check_kinds(captions: dict[str, float], columns: list[str]) -> None:
    """Raises UsageError for a share of a kind of caption that there is no such thing as."""
    for kind, share in captions.items():
        if share and kind not in CAPTIONS and kind not in columns:
            hint = f"kinds: {', '.join(CAPTIONS)}, or a column"
            raise UsageError(f"`captions`: {kind}: neither a kind of caption nor a column of the input", hint=hint)


def wording_column(kind: str) -> str:
    """The column of a style of instruction: `instruction` itself, or what `edit caption` made (FireRed 2.5.2)."""
    return "instruction" if kind == "instruction" else f"instruction_{kind}"


Landmarks = tuple[tuple[float, float], ...]
"""Of a face: left eye, right eye, nose, left and right corner of the mouth, x and y as shares of width and height."""


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One row without its pixels."""

    id: str
    task: str
    template: str
    texts: dict[tuple[str, str], str]  # (kind, language) -> text
    sources: list[tuple[int, int]]  # height and width of every source
    target: tuple[int, int]
    cluster: str | None = None
    origin: str = ""  # the data set or crawl that it is from
    synthetic: bool = False  # a template or a model made it
    boxes: Sequence[tuple[float, float, float, float]] = ()  # of objects: x0, y0, x1, y1, shares
    faces: Sequence[Landmarks] = ()  # of the target
    rejected: tuple[int, int] | None = None  # height and width of a preference pair's worse image
    reward: float | None = None  # of a candidate, in [0, 1] (metrics.rewards.optimality)


class Rows(Protocol):
    """Training rows, by number. `image` and `content` may be called from several threads."""

    data_id: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TrainRow: ...

    def image(self, index: int, which: int, shape: Shape) -> np.ndarray:
        """An image of a row, uint8 (h, w, 3), that covers `shape`: a source by its number, TARGET or REJECTED."""
        ...

    def reference(self, index: int, which: int) -> dict[str, Any]:
        """An image of a row as a value of a column: where it lies, or its bytes."""
        ...

    def mask(self, index: int) -> np.ndarray | None:
        """A row's mask of the edited region, uint8 (h, w, 3), 128 and above inside; None where it has none."""
        ...

    def place(self, index: int, which: int) -> str:
        """Where an image lies, in words that change when its content does; costs nothing."""
        ...

    def content(self, index: int, which: int) -> str:
        """A hash of an image's bytes, the same wherever it lies; reads them."""
        ...


def facts(rows: Rows, *names: str) -> Iterator[tuple[Any, ...]]:
    """Fields of every row, in their order. What lies in columns gives them without making rows."""
    if isinstance(rows, ShardRows):
        return rows.facts(*names)
    return (tuple(getattr(rows[k], name) for name in names) for k in range(len(rows)))


def image_sizes(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths of all images (M, 2) int32, of every row its target and then its sources; and where each
    row begins, (N + 1,) int64."""
    if isinstance(rows, ShardRows):
        return rows.sizes()
    sizes, starts = array.array("i"), array.array("q", [0])
    for k in range(len(rows)):
        row = rows[k]
        for size in (row.target, *row.sources):
            sizes.extend(size)
        starts.append(len(sizes) // 2)
    return np.frombuffer(sizes, np.int32).reshape(-1, 2), np.frombuffer(starts, np.int64)


class ShardRows:
    """The rows of a source that have a target and a text: edits, and text-to-image rows without sources.

    What is known of them lies in a temporary file (mapped.Columns); pickled they are for processes of this machine.
    """

    def __init__(
        self, source: Source, columns: dict[str, str], languages: tuple[str, ...], cluster: str, max_pixels: int,
        masks: bool = False, faces: bool = False, pairs: bool = False, rewards: GroupRewards | None = None,
        prompts: bool = False, rejects: Rejects | None = None,
    ) -> None:  # fmt: skip
        """columns: kinds of text and the columns they are in. cluster: a column's name, or "". masks, faces: keep
        them. pairs: rows have `rejected`. rewards: rows are candidates, whose `result` is the target. prompts: a row
        without a target has its first source in its place. Raises TooManyFailed where `rejects` says so."""
        self.target = "target" if rewards is None else "result"
        self.known_target = self.target in source.schema.names  # the target is one
        if prompts and not self.known_target:
            self.target = "source"
        if self.target not in source.schema.names:
            raise UsageError(f"the input has no `{self.target}` column: nothing to learn")
        if rewards is not None:
            rewards.check(source.schema)
        if cluster not in ("", "task", *source.schema.names):  # a row without a task is of task ""
            hint = "`edit dedup` makes `cluster`" if cluster == "cluster" else "`balance`"
            raise UsageError(f"the input has no `{cluster}` column to balance by", hint=hint)
        if pairs and "rejected" not in source.schema.names:
            raise UsageError("the input has no `rejected` column", hint="`edit pair` makes preference pairs")
        check_columns(source.schema, *{"source", self.target}, *["mask"] * masks, *["rejected"] * pairs)
        self.columns = {kind: name for kind, name in columns.items() if name in source.schema.names}
        if not self.columns:
            names = ", ".join(dict.fromkeys(columns.values()))
            raise UsageError(f"the input has none of the columns {names}: nothing to learn")
        self.languages, self.cluster, self.max_pixels = languages, cluster, max_pixels
        self.faces, self.masks, self.pairs, self.rewards = faces, masks, pairs, rewards
        self.kinds = [(kind, language) for kind in self.columns for language in languages]  # of text
        self.fetcher = Fetcher()
        self.rejects = Rejects() if rejects is None else rejects
        self.left_out: Counter[str] = Counter()  # rows that are none for this, by reason
        self.captioned = 0  # edits without an instruction, whose caption is the text
        self._last: tuple[int, TrainRow] | None = None  # many ask for the same row several times
        digests: list[str] = []
        self.table = Columns(self._read(source, digests), self._schema())
        self.rejects.rows = len(self.table) + len(self.rejects) + sum(self.left_out.values())
        if not self.table:
            why = ", ".join(filter(None, [self.rejects.summary(), *(f"{n} {why}" for why, n in self.left_out.items())]))
            raise EditError(
                f"no row has a target and a text in {' or '.join(languages)}" + (f": {why}" if why else ""),
                hint=f"texts: {', '.join(dict.fromkeys(self.columns.values()))}",
            )
        self.rejects.check()
        if masks and all(piece["mask"].null_count == len(piece["mask"]) for piece in self.table.pieces):
            raise UsageError("`mask_weight`: no row has a `mask`")
        self.data_id = digest(source.history.hash, *digests)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "fetcher": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, fetcher=Fetcher())

    # ------------------------------------------------------------------------------------------------ columns

    def _schema(self) -> pa.Schema:
        strings = ["id", "task", "template", "cluster", "origin", "shard", *self._names()]
        return pa.schema(
            [(name, pa.string()) for name in strings]
            + [("synthetic", pa.bool_()), ("sizes", pa.list_(pa.int32())), ("images", pa.list_(IMAGE)),
               ("mask", IMAGE), ("rejected", IMAGE), ("reward", pa.float64()),
               ("boxes", pa.list_(pa.list_(pa.float64()))),
               ("faces", pa.list_(pa.list_(pa.list_(pa.float64()))))]
        )  # fmt: skip

    def _names(self) -> list[str]:
        """Names of the columns of texts, in the order of `kinds`."""
        return [f"text {k}" for k in range(len(self.kinds))]

    def _read(self, source: Source, digests: list[str]) -> Iterator[pa.RecordBatch]:
        """Batches of _schema(); the digests of the shards are added to `digests`."""
        batches = source.batches(lambda shard: True)
        for batch in batches if self.rewards is None else whole_groups(batches):
            if batch.last:
                digests.append(batch.shard.digest)
            if batch.rows.num_rows:
                yield self._converted(batch.rows, batch.shard.digest)

    def _converted(self, rows: pa.RecordBatch, shard: str) -> pa.RecordBatch:
        texts = [_text(rows, self.columns[kind], language) for kind, language in self.kinds]
        tasks, images = _strings(rows, "task").fill_null(""), _Images.of(rows, self.target)
        said, there = np.logical_or.reduce([_valid(text) for text in texts]), _valid(images.target)
        for why, number in ((f"a {self.target}", (~there).sum()), ("a text", (there & ~said).sum())):
            if number:
                self.left_out[f"without {why}"] += int(number)
        good = there & said
        # rows with an instruction and nothing to follow it on
        lonely = (images.counts == 0) & ~self._told(texts, len(good), lambda name: name != "instruction")
        faces = self._look(rows, good, images, lonely & np.asarray(pc.not_equal(tasks, "t2i")))
        rejected, rewards = self._rejected(rows, good, images), self._rewards(rows, good)
        usable = np.flatnonzero(good)
        captions = ~self._told(texts, len(good), lambda name: name.startswith("instruction"))
        self.captioned += int((captions & (images.counts > 0))[usable].sum())
        template, model = (_child(_column(rows, "provenance"), name) for name in ("template", "model"))
        own, synthetic = _filled(template), _filled(template) | _filled(model)
        cluster = tasks if self.cluster == "task" else _strings(rows, self.cluster)
        references, sizes = images.taken(usable)
        columns = {
            "id": _strings(rows, "id"),
            "task": tasks,
            "template": pc.if_else(pa.array(own), template, tasks),
            "cluster": cluster,
            "origin": _child(_column(rows, "provenance"), "origin").fill_null(""),
            "shard": pa.array([shard]).take(pa.array(np.zeros(len(good), int))),
            **dict(zip(self._names(), texts)),
            "synthetic": pa.array(synthetic),
            "mask": _column(rows, "mask", IMAGE) if self.masks else pa.nulls(len(good), IMAGE),
            "rejected": rejected,
            "reward": rewards,
            "boxes": _boxes(rows),
        }
        taken = {name: column.take(pa.array(usable)) for name, column in columns.items()}
        taken |= {"sizes": sizes, "images": references}
        schema = self._schema()
        taken["faces"] = pa.array([faces.get(k) for k in usable.tolist()], schema.field("faces").type)
        return pa.record_batch([taken[name] for name in schema.names], schema)

    def _told(self, texts: list[pa.Array], count: int, which: Callable[[str], bool]) -> np.ndarray:
        """Mask of the `count` rows that have a text in these columns."""
        some = [text for (kind, _), text in zip(self.kinds, texts) if which(self.columns[kind])]
        return np.logical_or.reduce([np.zeros(count, bool), *map(_valid, some)])

    def _look(
        self, rows: pa.RecordBatch, good: np.ndarray, images: _Images, lonely: np.ndarray
    ) -> dict[int, list[Landmarks]]:
        """What whole columns do not tell: sizes that are not said, faces, and in `good` which rows are none."""
        faces = column_values(rows, "faces") if self.faces else [None] * len(good)
        told = np.array([bool(each) for each in faces])
        faces_of: dict[int, list[Landmarks]] = {}
        for k in np.flatnonzero(good & (lonely | told | images.unsized())).tolist():
            try:
                whole_list(images.values[images.starts[k] :][: images.counts[k]].to_pylist(), "source")
                if lonely[k]:
                    raise RowError("an instruction without a source", "the task of a caption is t2i")
                for index in images.places(k):
                    if not images.sizes[index].all():
                        header = codec.probe(self.fetcher.get(images.all[index].as_py()), self.max_pixels)
                        images.sizes[index] = header.height, header.width
                faces_of[k] = landmarks(faces[k])
            except RowError as error:
                good[k] = False
                self.rejects.add(str(rows.column("id")[k].as_py()), str(error))
        return faces_of

    def _rejected(self, rows: pa.RecordBatch, good: np.ndarray, images: _Images) -> pa.Array:
        """The worse images, with their sizes; a row without one of its target's shape is not `good`."""
        column = _column(rows, "rejected", IMAGE)
        if not self.pairs:
            return pa.nulls(len(good), IMAGE)
        if without := int((good & ~_valid(column)).sum()):
            self.left_out["without a rejected image"] += without
        good &= _valid(column)
        said = _child(_column(rows, "scores"), "preference").to_pylist()
        ties = np.array([each == 0.5 for each in said], bool)
        if tied := int((good & ties).sum()):
            self.left_out["that are ties"] += tied
        good &= ~ties
        found = column.to_pylist()
        for k in np.flatnonzero(good).tolist():
            try:
                if not (found[k]["height"] and found[k]["width"]):
                    header = codec.probe(self.fetcher.get(found[k]), self.max_pixels)
                    found[k] |= {"height": header.height, "width": header.width}
                height, width = images.sizes[len(images.values) + k].tolist()
                size = found[k]["height"], found[k]["width"]
                if not same_scene(np.array(size), np.array([height, width])):
                    shapes = f"{size[1]}x{size[0]} beside {width}x{height}"
                    raise RowError("`rejected` has another shape than `target`", shapes)
            except RowError as error:
                good[k] = False
                self.rejects.add(str(rows.column("id")[k].as_py()), str(error))
        return pa.array(found, IMAGE)

    def _rewards(self, rows: pa.RecordBatch, good: np.ndarray) -> pa.Array:
        """Of candidates; one without a reward, or in a group where all are worth the same, is not `good`."""
        if self.rewards is None:
            return pa.nulls(len(good), pa.float64())
        made = pa.array(self.rewards.of(rows), pa.float64())
        if without := int((good & ~_valid(made)).sum()):
            self.left_out["without a reward that differs in its group"] += without
        good &= _valid(made)
        return made

    def facts(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """See facts() above; no fields that are lists or tables."""
        for piece in self.table.pieces:
            yield from zip(*(piece[name].to_pylist() for name in names))

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """See image_sizes()."""
        columns = [piece["sizes"] for piece in self.table.pieces]
        counts = np.concatenate([np.diff(np.asarray(each.offsets)) // 2 for each in columns])
        return (
            np.concatenate([np.asarray(each.flatten()) for each in columns]).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        )

    def content_marks(self) -> Iterator[np.ndarray]:
        """Of the rows of every piece, int64 (n, 5): height and width of the target, how many images there are, and how
        many bytes the target and all images have. They tell rows apart by what they hold, whatever their ids and
        wherever they lie; nothing is read for it."""
        for piece in self.table.pieces:
            images = piece["images"]
            every, ends = images.flatten(), np.cumsum(np.asarray(pc.list_value_length(images)))
            stored = pc.binary_length(every.field("bytes"))
            lengths = np.asarray(pc.coalesce(every.field("length"), stored, pa.scalar(0)))
            before = np.concatenate([[0], np.cumsum(lengths)])
            sizes = np.asarray(piece["sizes"].flatten()).reshape(-1, 2)
            starts = np.concatenate([[0], ends[:-1]])
            yield np.column_stack([sizes[starts], ends - starts, lengths[ends - 1], before[ends] - before[starts]])

    def texts(self) -> Iterator[str]:
        """All texts; those that come often, more than once."""
        for piece in self.table.pieces:
            for name in self._names():
                yield from (text for text in pc.unique(piece[name]).to_pylist() if text is not None)

    def files(self) -> set[str]:
        """That images lie in."""
        names: set[str | None] = set()
        for piece in self.table.pieces:
            for images in (piece["images"].values, piece["rejected"]):
                names.update(pc.unique(images.field("file")).to_pylist())
        return {name for name in names if name}

    # --------------------------------------------------------------------------------------------------- rows

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> TrainRow:
        last = self._last
        if last is None or last[0] != index:
            last = self._last = index, self._row(index)
        return last[1]

    def _row(self, index: int) -> TrainRow:
        piece, k = self.table.find(index)

        def value(name: str) -> Any:
            return piece[name][k].as_py()

        said = {kind: text for kind, name in zip(self.kinds, self._names()) if (text := value(name)) is not None}
        flat = value("sizes")
        target, *sources = zip(flat[::2], flat[1::2])
        boxes = [tuple(box) for box in value("boxes") or () if box and len(box) == 4]
        faces = [tuple((x, y) for x, y in face) for face in value("faces") or ()]
        cluster, origin, synthetic = (value(name) for name in ("cluster", "origin", "synthetic"))
        named = value("id"), value("task"), value("template")
        worse = (value("rejected")["height"], value("rejected")["width"]) if self.pairs else None
        reward = value("reward")
        return TrainRow(*named, said, sources, target, cluster, origin, synthetic, boxes, faces, worse, reward)

    def reference(self, index: int, which: int) -> dict[str, Any]:
        piece, k = self.table.find(index)
        item = piece["rejected"][k] if which == REJECTED else piece["images"][k].values[which]
        reference: dict[str, Any] = item.as_py()
        return reference

    def image(self, index: int, which: int, shape: Shape) -> np.ndarray:
        """At the least of libjpeg's scales that covers the shape.

        Raises Unusable for an image that cannot be decoded.
        """
        try:
            data = self.fetcher.get(self.reference(index, which))
            return codec.decode(data, codec.Raster(cover=shape), self.max_pixels)
        except RowError as error:
            raise Unusable(self[index].id, error) from error

    def mask(self, index: int) -> np.ndarray | None:
        piece, k = self.table.find(index)
        item = piece["mask"][k].as_py()
        if item is None:
            return None
        try:
            return codec.decode(self.fetcher.get(item), max_pixels=self.max_pixels)
        except RowError as error:
            raise Unusable(self[index].id, error) from error

    def place(self, index: int, which: int) -> str:
        item = self.reference(index, which)
        if item["bytes"] is not None:
            return xxhash.xxh3_128_hexdigest(item["bytes"])
        piece, k = self.table.find(index)
        # within a tar the shard's digest and the offset say it all, wherever the set lies; a loose file has offset 0
        file = "" if item["offset"] else item["file"]
        return "/".join(map(str, (piece["shard"][k].as_py(), file, item["column"], item["row"], item["offset"])))

    def content(self, index: int, which: int) -> str:
        try:
            return xxhash.xxh3_128_hexdigest(self.fetcher.get(self.reference(index, which)))
        except RowError as error:
            raise Unusable(self[index].id, error) from error


@dataclass
class _Images:
    """The sources and targets of a batch's rows."""

    values: pa.Array  # the sources of all rows; those of row k are counts[k] from starts[k] on
    starts: np.ndarray
    counts: np.ndarray
    target: pa.Array
    all: pa.Array  # the sources of all rows, and then their targets
    sizes: np.ndarray  # (M, 2) int32, height and width of all; 0 where they are not said

    @classmethod
    def of(cls, rows: pa.RecordBatch, target_column: str = "target") -> _Images:
        column = _column(rows, "source")
        target = row_images(rows, "source") if target_column == "source" else _column(rows, target_column, IMAGE)
        if column.type == IMAGE:  # of somebody else's Parquet: one source per row
            values, starts, counts = column, np.arange(len(column)), _valid(column).astype(int)
        elif pa.types.is_null(column.type):
            values, counts = pa.array([], IMAGE), np.zeros(len(column), int)
            starts = counts
        else:
            offsets = np.asarray(column.offsets).astype(int)
            values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
            starts, counts = offsets[:-1] - offsets[0], np.diff(offsets)
        every = pa.concat_arrays([values, target])
        sizes = np.stack([np.asarray(_child(every, name).fill_null(0)) for name in ("height", "width")], 1)
        return cls(values, starts, counts, target, every, sizes)

    def places(self, row: int) -> list[int]:
        """Positions in `all` of a row's images: its sources, then its target."""
        return [*range(self.starts[row], self.starts[row] + self.counts[row]), len(self.values) + row]

    def unsized(self) -> np.ndarray:
        """Mask of the rows with an image of unknown size, or with a gap in a list of images."""
        lacks = (self.sizes == 0).any(1)
        before = np.concatenate([[0], np.cumsum(lacks)])
        return lacks[len(self.values) :] | (before[self.starts + self.counts] > before[self.starts])

    def taken(self, rows: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """The lists of these rows' images, sources and then the target, and of their sizes, the target's first."""
        counts = self.counts[rows] + 1
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        places = np.repeat(self.starts[rows], counts) + within
        places[ends - 1] = len(self.values) + rows
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), self.all.take(pa.array(places)))
        first = np.repeat(ends - counts, counts) + (within - 1) % np.repeat(counts, counts)
        sizes = pa.array(self.sizes[places[first]].astype(np.int32).reshape(-1))
        return lists, pa.ListArray.from_arrays(pa.array(2 * offsets), sizes)


def _column(rows: pa.RecordBatch, name: str, kind: pa.DataType | None = None) -> pa.Array:
    """A column; nulls, of a type, where there is none."""
    index = rows.schema.get_field_index(name)
    if index < 0 or pa.types.is_null(rows.column(index).type):
        return pa.nulls(rows.num_rows, kind or pa.null())
    return rows.column(index)


def _child(column: pa.Array, name: str) -> pa.Array:
    """A field of a column of tables, null where they are; nulls where there is none."""
    if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
        return pa.nulls(len(column), pa.string())
    return pc.struct_field(column, name)


def _strings(rows: pa.RecordBatch, name: str) -> pa.Array:
    """A column as strings; nulls where there is none."""
    column = _column(rows, name, pa.string())
    if pa.types.is_string(column.type):
        return column
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _text(rows: pa.RecordBatch, name: str, language: str) -> pa.Array:
    """The texts of a column in a language, null where there is none; a column of plain strings is English."""
    column = _column(rows, name)
    if pa.types.is_struct(column.type):
        column = _child(column, language)
    elif language != "en":
        column = pa.nulls(len(column), pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return pa.nulls(len(column), pa.string())
    text = column.cast(pa.string())
    return pc.if_else(pc.greater(pc.binary_length(pc.utf8_trim_whitespace(text)), 0), text, None)


def _boxes(rows: pa.RecordBatch) -> pa.Array:
    """The boxes of every row's objects."""
    kind = pa.list_(pa.list_(pa.float64()))
    column = _column(rows, "objects")
    if not pa.types.is_list(column.type) or column.null_count == len(column):
        return pa.nulls(len(column), kind)
    boxes = _child(column.values, "box")
    if not pa.types.is_list(boxes.type):
        return pa.nulls(len(column), kind)
    return pa.ListArray.from_arrays(column.offsets, boxes).cast(kind)


def _valid(column: pa.Array) -> np.ndarray:
    return np.asarray(column.is_valid())


def _filled(column: pa.Array) -> np.ndarray:
    """Where strings are neither null nor empty."""
    return np.asarray(pc.greater(pc.binary_length(column), 0).fill_null(False))


def landmarks(faces: Any) -> list[Landmarks]:
    """The `faces` of a row: each five points, or a table with such `landmarks`. Raises RowError."""
    result = []
    for face in faces or []:
        try:
            points = np.array((face.get("landmarks") if isinstance(face, dict) else face) or (), np.float64)
        except (TypeError, ValueError):  # words, or lists of several lengths
            points = np.zeros(0)
        if points.size != 10 or not np.isfinite(points).all() or np.abs(points - 0.5).max() > 1.5:
            raise RowError("a face has five landmarks, x and y as shares of width and height")
        result.append(tuple((x, y) for x, y in points.reshape(5, 2).tolist()))
    return result
