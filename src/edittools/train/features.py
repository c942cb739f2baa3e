"""What the frozen encoders say about the images and texts of rows: computed on the way, or stored beforehand.

A store is a folder of safetensors files, each whole as soon as it has its name; they are read by mapping them into
memory. A key says all that its value depends on: the images by the hash of their bytes, the shape, the text, the
encoders' weights and libraries. Several processes may add to one store, and one that covers a part is completed.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from edittools.errors import EditError, RowError, UsageError
from edittools.nets.base import Conditioning, EditModel
from edittools.nets.batched import PIXELS_AT_ONCE
from edittools.nets.images import Box, crop_box, fit, to_tensor
from edittools.nets.shapes import Shape
from edittools.stream import codec, files
from edittools.train.bucket_sampler import TrainSample, crops
from edittools.train.mapped import Contents, MappedTable, digest
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import REJECTED, TARGET, Rows, TrainRow

_TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
_STORED = re.compile(r"[0-9a-f]{32}\.(safetensors|parquet|jsonl)")  # names of a store's files, see _key()
_FILE_BYTES = 512 << 20  # a writer starts another file above this
_KEPT_BYTES = 1 << 30  # of features that are computed on the way


@dataclass(frozen=True)
class Features:
    """One sample, ready for a batch."""

    target: Tensor  # latents (C, h, w)
    references: list[Tensor]
    conditioning: Conditioning
    rejected: Tensor | None = None  # of a preference pair, like target


@dataclass(frozen=True)
class ShownImage:
    """An image of a row as a sample has it."""

    which: int
    shape: Shape
    box: Box


def shows(row: TrainRow, sample: TrainSample) -> list[ShownImage]:
    """The target and the references of a sample."""
    which = (TARGET, *sample.references)
    return [ShownImage(*each) for each in zip(which, sample.shapes, crops(row, sample))]


def worse(row: TrainRow, sample: TrainSample) -> list[ShownImage]:
    """The rejected image of a preference pair, cut as its target is; none of another row."""
    return [ShownImage(REJECTED, sample.shapes[0], crops(row, sample)[0])] if row.rejected else []


def placed(images: list[ShownImage]) -> Conditioning:
    """{"crops": (1 + R, 4)}: which parts of their images the target and the references are."""
    return {"crops": torch.tensor([shown.box for shown in images])}


def image_size(row: TrainRow, which: int) -> tuple[int, int]:
    if which == REJECTED:
        assert row.rejected is not None
        return row.rejected
    return row.target if which == TARGET else row.sources[which]


ENCODING = threading.Lock()  # encoders hold what they are at while they work
TEXTS_AT_ONCE = 8  # rows whose text, and images for it, an encoder sees together
SAMPLES_AT_ONCE = 8  # and the rest of a row's, that a thread reads and has encoded where features are stored
PIXELS_SEEN_AT_ONCE = 8 << 20  # of the images of such texts
Encoded = dict[Any, Conditioning | Unusable]  # by what was to be encoded
Cuts = dict[tuple[int, ShownImage], np.ndarray]  # references as they are cut, uint8 (h, w, 3), by their row


class Encoder:
    """Computes features from rows' images and texts; keeps them while they fit into 1 GiB.

    Several threads may ask: they read and cut images at once, and encode one after the other. On a GPU that is in a
    stream of its own, beside the network's steps.
    """

    def __init__(
        self, edit_model: EditModel, rows: Rows, references: bool = True, device: torch.device | None = None,
        keep: int = _KEPT_BYTES,
    ) -> None:  # fmt: skip
        """references: make their latents. keep: so many bytes of features at most."""
        self.edit_model, self.rows, self.references, self.keep = edit_model, rows, references, keep
        self.stream: torch.cuda.Stream | None = None
        if device is not None and device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            # The weights have been brought by the stream of now; later nothing is shared, for what is encoded leaves
            # by way of the main memory.
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self._kept: dict[object, Conditioning] = {}
        self._size = 0

    def __call__(self, sample: TrainSample) -> Features:
        """Raises Unusable."""
        found = self.several([sample])[sample]
        if isinstance(found, Unusable):
            raise found
        return found

    def several(self, samples: Iterable[TrainSample]) -> dict[TrainSample, Features | Unusable]:
        """The features of samples, images of one shape and texts encoded together; or why there are none."""
        crops = {sample: shows(self.rows[sample.row], sample) for sample in dict.fromkeys(samples)}
        shown = {sample: parts if self.references else parts[:1] for sample, parts in crops.items()}
        pairs = {sample: worse(self.rows[sample.row], sample) for sample in crops}
        every = ((sample.row, each) for sample in crops for each in (*shown[sample], *pairs[sample]))
        cuts: Cuts = {}
        latents = self.latents(every, cuts)
        result: dict[TrainSample, Features | Unusable] = {}
        good = []
        for sample, images in shown.items():
            failed = [v for each in (*images, *pairs[sample]) if isinstance(v := latents[sample.row, each], Unusable)]
            if failed:
                result[sample] = failed[0]
            else:
                good.append(sample)
        for sample, said in self.conditioning(good, cuts).items():
            if isinstance(said, Unusable):
                result[sample] = said
                continue
            target, *references = (latents[sample.row, each]["latents"] for each in shown[sample])  # type: ignore[index]
            rejected = next((latents[sample.row, each]["latents"] for each in pairs[sample]), None)  # type: ignore[index]
            result[sample] = Features(target, references, said | placed(crops[sample]), rejected)
        return result

    def latents(self, images: Iterable[tuple[int, ShownImage]], cuts: Cuts | None = None) -> Encoded:
        """{"latents": (C, h, w)} of every image, by row and what of it is shown. References are added to `cuts`."""
        result, missing = self._known(images)
        shapes: dict[Shape, list[tuple[int, ShownImage]]] = defaultdict(list)
        for key in missing:
            shapes[key[1].shape].append(key)
        for (height, width), keys in shapes.items():
            for few in _pieces(keys, PIXELS_AT_ONCE // (height * width)):
                cut: dict[Any, Tensor] = {}
                for key in few:
                    try:
                        cut[key] = to_tensor(self._cut(key[0], key[1], cuts))
                    except Unusable as error:
                        result[key] = error
                if cut:
                    with self._encoding():
                        made = self.edit_model.latents(torch.stack(list(cut.values())))
                        found = [{"latents": of_one.to("cpu", copy=True)} for of_one in made]
                    result |= {key: self._keep(key, each) for key, each in zip(cut, found)}
        return result

    def conditioning(self, samples: Iterable[TrainSample], cuts: Cuts | None = None) -> Encoded:
        """What the encoders say of every sample's text, and of its references as they are cut for the network, if they
        look at these. `cuts` are those that are decoded already."""
        result, missing = self._known(samples)
        for few in self._texts_at_once(missing):
            asked: dict[Any, tuple[list[np.ndarray], str]] = {}
            for sample in few:
                try:
                    seen = shows(self.rows[sample.row], sample)[1:] if self.edit_model.conditions_see_references else []
                    asked[sample] = [self._cut(sample.row, shown, cuts) for shown in seen], sample.text
                except Unusable as error:
                    result[sample] = error
            for sample, said in self._said(asked).items():
                result[sample] = said if isinstance(said, Unusable) else self._keep(sample, said)
        return result

    def _texts_at_once(self, samples: list[TrainSample]) -> Iterator[list[TrainSample]]:
        few: list[TrainSample] = []
        pixels = 0
        for sample in samples:
            own = sum(h * w for h, w in sample.shapes[1:]) if self.edit_model.conditions_see_references else 0
            if few and (len(few) == TEXTS_AT_ONCE or pixels + own > PIXELS_SEEN_AT_ONCE):
                yield few
                few, pixels = [], 0
            few.append(sample)
            pixels += own
        if few:
            yield few

    def _said(self, asked: dict[Any, tuple[list[np.ndarray], str]]) -> Encoded:
        if not asked:
            return {}
        try:
            with self._encoding():
                every = self.edit_model.conditioning_of(list(asked.values()))
                # copies: none holds on to a batch
                return {k: {n: v.to("cpu", copy=True) for n, v in said.items()} for k, said in zip(asked, every)}
        except RowError as error:
            if len(asked) == 1:
                (sample,) = asked
                unusable = Unusable(self.rows[sample.row].id, error)
                unusable.__cause__ = error
                return {sample: unusable}
        # one of them cannot be encoded: which?
        return {k: v for key, row in asked.items() for k, v in self._said({key: row}).items()}

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        with ENCODING, torch.cuda.stream(self.stream):  # type: ignore[arg-type]  # None: no other
            yield

    def _cut(self, row: int, shown: ShownImage, cuts: Cuts | None = None) -> np.ndarray:
        known = cuts.get((row, shown)) if cuts is not None else None
        if known is None:
            image = self.rows.image(row, shown.which, shown.shape)
            known = fit(image, *shown.shape, shown.box, image_size(self.rows[row], shown.which))
            if cuts is not None and shown.which >= 0 and self.edit_model.conditions_see_references:
                cuts[row, shown] = known
        return known

    def _known(self, keys: Iterable[Any]) -> tuple[Encoded, list[Any]]:
        """Values that are known already, and the keys that are not."""
        every = dict.fromkeys(keys)
        found: Encoded = {key: self._kept[key] for key in every if key in self._kept}
        return found, [key for key in every if key not in found]

    def _keep(self, key: object, found: Conditioning) -> Conditioning:
        size = sum(value.nbytes for value in found.values())
        if self._size + size <= self.keep:
            self._kept[key] = found
            self._size += size
        return found


def _pieces(items: list[Any], most: int) -> Iterator[list[Any]]:
    step = max(1, most)
    for start in range(0, len(items), step):
        yield items[start : start + step]


def _whole_rows(samples: Iterable[TrainSample], least: int) -> Iterator[list[TrainSample]]:
    """Some samples at a time, those of a row together: they have its images in common, which are encoded once."""
    few: list[TrainSample] = []
    for sample in samples:
        if len(few) >= least and sample.row != few[-1].row:
            yield few
            few = []
        few.append(sample)
    if few:
        yield few


# What is made of the same file changes with the way it is decoded.
_LATENTS, _CONDITIONING = (f"{kind} {codec.VERSION}" for kind in ("latents", "conditions"))


class Keys:
    """The keys of a sample's features."""

    def __init__(
        self, encoding: dict[str, str], rows: Rows, contents: dict[str, str], dtype: str = "", references: bool = True
    ) -> None:
        """encoding: see EditModel.encoding(). contents: the content hash of images by their place, as a store remembers
        them. dtype: of the encoders, and of what they make as it is stored. references: their latents are wanted."""
        self.references = references
        self.encoding = {name: f"{value}, {dtype}" for name, value in encoding.items()}
        self.rows, self.contents = rows, contents

    def content(self, row: int, which: int) -> str:
        place = self.rows.place(row, which)
        try:
            return self.contents[place]
        except KeyError:
            found = self.contents[place] = self.rows.content(row, which)
            return found

    def latents(self, row: int, shown: ShownImage) -> str:
        return _key(_LATENTS, self.encoding["latents"], *self._image(row, shown))

    def conditioning(self, sample: TrainSample) -> str:
        images = [" ".join(self._image(sample.row, shown)) for shown in shows(self.rows[sample.row], sample)[1:]]
        return _key(_CONDITIONING, self.encoding["conditions"], *images, sample.text)

    def _image(self, row: int, shown: ShownImage) -> list[str]:
        named = [self.content(row, shown.which), *map(str, shown.shape)]
        size = image_size(self.rows[row], shown.which)
        # the middle of it needs no name: its size and the shape say it
        return named if shown.box == crop_box(*size, *shown.shape) else [*named, *map(repr, shown.box)]

    def all(self, sample: TrainSample) -> list[str]:
        return [self.conditioning(sample), *self.images(sample)]

    def images(self, sample: TrainSample) -> list[str]:
        """Keys of a sample's latents: the target's, then those of its references."""
        return [self.latents(sample.row, shown) for shown in self.shown(sample)]

    def shown(self, sample: TrainSample) -> list[ShownImage]:
        """The images whose latents are wanted: the target, the references, the rejected one of a pair."""
        row = self.rows[sample.row]
        images = shows(row, sample)
        return [*(images if self.references else images[:1]), *worse(row, sample)]


def _key(*parts: str) -> str:
    # the lengths keep parts apart whatever they hold
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


_ENTRY = np.dtype([("file", np.uint32), ("form", np.uint32), ("start", np.uint64)])


class FeatureStore:
    """A folder of features, by key; of each entry it keeps 32 bytes in mapped files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.entries = MappedTable(_ENTRY)
        self.forms: dict[tuple[str, str, tuple[int, ...]], int] = {}  # (part, dtype, shape) -> their number
        self.contents = Contents()
        self.rejected: dict[str, str] = {}  # rows that have no features, by id: why
        self._paths: list[Path] = []  # of the files of tensors, by number
        self._maps: list[np.ndarray] = []
        self._parts: list[tuple[str, str, tuple[int, ...]]] = []  # the forms, by number
        self._files: set[str] = set()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maps=[_map(path) for path in state["_paths"]])

    def refresh(self) -> None:
        """Take in what other processes have added."""
        entries: list[tuple[np.ndarray, np.ndarray]] = []
        places: list[str] = []
        contents: list[str] = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            # what another process is writing has a name that begins with a dot
            if path.name.startswith(".") or path.name in self._files:
                continue
            try:
                if path.suffix == ".safetensors":
                    entries.append(self._open(path))
                elif path.suffix == ".parquet":
                    table = pq.read_table(path, columns=["place", "content"])
                    places += table["place"].to_pylist()
                    contents += table["content"].to_pylist()
                elif path.suffix == ".jsonl":
                    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
                    self.rejected.update((row["id"], row["reason"]) for row in rows)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
                check_store(self.folder)  # else it is somebody's file, and not to be removed
                raise EditError(
                    f"{path}: damaged features: {error}", hint="remove the file and precompute again"
                ) from error
            self._files.add(path.name)
        if entries:
            self.entries.add(*(np.concatenate(parts) for parts in zip(*entries)))
        if places:
            self.contents.learn(places, contents)

    def _open(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Map a file; returns its entries' digests and themselves."""
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("the header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        digests, found = np.empty(len(header), "S16"), np.empty(len(header), _ENTRY)
        for number, (name, entry) in enumerate(header.items()):
            (start, end), kind, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
            if end > size - 8 - length:
                raise ValueError("the data is cut off")
            if kind not in _TYPES or end - start != math.prod(shape) * _TYPES[kind].itemsize:
                raise ValueError(f"{name} is no tensor that is stored here")
            key, _, part = name.partition("/")
            form = self.forms.setdefault((part, kind, shape), len(self.forms))
            digests[number], found[number] = digest(key), (len(self._maps), form, 8 + length + start)
        self._paths.append(path)
        self._maps.append(_map(path))
        self._parts = list(self.forms)
        return digests, found

    def __contains__(self, key: str) -> bool:
        return len(self.entries.find(digest(key))) > 0

    def length(self, key: str) -> int:
        """Tokens of the states of a key, as the files' headers say; 0 if it has none."""
        found = (self._parts[entry["form"]] for entry in self.entries.find(digest(key)))
        return next((shape[0] for part, _, shape in found if part == "states"), 0)

    def get(self, key: str) -> Conditioning:
        """The tensors of a key by name, as views of the mapped file: do not write to them."""
        found = {}
        for number, form, start in self.entries.find(digest(key)).tolist():
            part, kind, shape = self._parts[form]
            dtype, count = _TYPES[kind], math.prod(shape)
            if not count:
                found[part] = torch.empty(shape, dtype=dtype)
                continue
            found[part] = torch.frombuffer(self._maps[number], dtype=dtype, count=count, offset=start).view(shape)
        if not found:
            raise KeyError(key)
        return found


def _map(path: Path) -> np.ndarray:
    return np.asarray(np.memmap(path, np.uint8, "r"))


def check_store(folder: str | Path) -> None:
    """Raises UsageError for a place where features cannot be stored: a file, or a folder of something else."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name another one")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.startswith(".") and not _STORED.fullmatch(path.name):
            raise UsageError(
                f"{folder} is not empty and no folder of features: {path.name}", hint="name another folder"
            )


class FeatureWriter:
    """Adds features to a store's folder; a file gets its name when it is whole."""

    def __init__(self, folder: str | Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = Path(folder), dtype
        self.folder.mkdir(parents=True, exist_ok=True)
        self.held: dict[str, Tensor] = {}
        self.size = 0

    def add(self, key: str, values: Conditioning) -> None:
        for name, value in values.items():
            kept = value.detach().cpu()
            kept = kept.to(self.dtype) if kept.is_floating_point() and name != "ids" else kept
            self.held[f"{key}/{name}"] = kept.contiguous()
            self.size += kept.nbytes
        if self.size >= _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if not self.held:
            return
        # named by what it holds: a process that does the same work again writes the same file
        path = self.folder / (_key(*sorted(self.held)) + ".safetensors")
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        try:
            with files.writing(str(path)):
                save_file(self.held, temporary)
                _rename(temporary, path)
        except SafetensorError as error:
            raise EditError(
                f"{path}: cannot be written: {error}", hint="the same command goes on from there"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        self.held, self.size = {}, 0

    def remember(self, contents: dict[str, str]) -> None:
        """Store the content hashes of images by their place."""
        if not contents:
            return
        places = sorted(contents)
        with files.atomic(str(self.folder / (_key(*places) + ".parquet"))) as file:
            pq.write_table(pa.table({"place": places, "content": [contents[p] for p in places]}), file)

    def reject(self, reasons: dict[str, str]) -> None:
        """Store which rows have no features, and why."""
        if not reasons:
            return
        lines = [json.dumps({"id": identity, "reason": reasons[identity]}) for identity in sorted(reasons)]
        files.write_bytes(str(self.folder / (_key(*sorted(reasons)) + ".jsonl")), ("\n".join(lines) + "\n").encode())


def _rename(temporary: Path, path: Path) -> None:
    temporary.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes files for their owner alone
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)


class Stored:
    """Reads features from a store."""

    def __init__(self, store: FeatureStore, keys: Keys) -> None:
        self.store, self.keys = store, keys

    def check(self, samples: Iterable[TrainSample]) -> None:
        """Raises EditError if any feature of these samples is missing, but of rows that could not be encoded."""
        total, missing = 0, 0
        for sample in samples:
            if self._rejected(sample):
                continue
            keys = self.keys.all(sample)
            total += len(keys)
            missing += sum(key not in self.store for key in keys)
        if missing:
            raise EditError(
                f"{self.store.folder} lacks {missing} of {total} features of these rows",
                hint="`edit train --precompute` with the same recipe, data and --encoder-dtype completes it",
            )

    def lengths(self, samples: Iterable[TrainSample]) -> np.ndarray:
        """Tokens of every sample's text, (N,); zeros where the conditioning are no sequence."""
        return np.array([0 if self._rejected(s) else self.store.length(self.keys.conditioning(s)) for s in samples])

    def _rejected(self, sample: TrainSample) -> bool:
        """Could the row not be encoded? Not where its features are there: it has been mended since, or another set's
        row of this id is what could not be."""
        if self.keys.rows[sample.row].id not in self.store.rejected:
            return False
        try:
            return any(key not in self.store for key in self.keys.all(sample))
        except Unusable:  # its images cannot be read
            return True

    def __call__(self, sample: TrainSample) -> Features:
        row = self.keys.rows[sample.row]
        if self._rejected(sample):
            raise Unusable(row.id, RowError(self.store.rejected[row.id]))
        target, *references = (self.store.get(key)["latents"] for key in self.keys.images(sample))
        rejected = references.pop() if row.rejected else None
        said = self.store.get(self.keys.conditioning(sample)) | placed(shows(row, sample))
        return Features(target, references, said, rejected)


_PLACES, _NEW_KEYS = 1 << 15, 1 << 16  # that are held as Python's objects


class SeenKeys:
    """A set of keys, of which it keeps the first 8 bytes each: two of 10⁸ keys are alike by a chance of 1 : 4000, and
    what is left out for that the same command adds. One thread adds; others may look, and may miss the newest."""

    def __init__(self) -> None:
        self.old, self.new = np.empty(0, np.uint64), set[int]()

    def add(self, key: str) -> None:
        self.new.add(int(key[:16], 16))
        if len(self.new) >= _NEW_KEYS:
            every = np.concatenate([self.old, np.fromiter(self.new, np.uint64, len(self.new))])
            every.sort(kind="stable")
            self.old, self.new = every, set()

    def __contains__(self, key: str) -> bool:
        number = int(key[:16], 16)
        place = self.old.searchsorted(np.uint64(number))
        return number in self.new or bool(place < len(self.old) and self.old[place] == number)


_New = dict[str, Conditioning]  # features, by their keys


def precompute(
    encoder: Encoder,
    keys: Keys,
    samples: Iterable[TrainSample],
    store: FeatureStore,
    writer: FeatureWriter,
    rejects: Rejects | None = None,
    threads: int = 1,
) -> Iterator[int]:
    """Compute what the store lacks for these samples; yields how many features each sample added.

    `threads` threads read and cut some samples each, ahead of the encoders, which see their texts, and images of one
    shape, together. Of each feature that is added 8 bytes are kept. The contents of images are stored now and then,
    and forgotten: the samples of a row are to come one after another. Raises TooManyFailed where `rejects` says so;
    what is done is stored.
    """
    before = set(keys.contents)
    rejects = Rejects() if rejects is None else rejects
    rejects.rows = rejects.rows or len(keys.rows)
    done = SeenKeys()

    def known(key: str) -> bool:
        return key in store or key in done

    def remember() -> None:
        new = {place: content for place, content in keys.contents.copy().items() if place not in before}
        writer.remember(new)
        for place in new:
            del keys.contents[place]

    def add(found: _New | Unusable) -> int:
        if isinstance(found, Unusable):
            rejects.add(found.identity, found.reason)
            rejects.check()
            return 0
        new = {key: made for key, made in found.items() if not known(key)}  # two threads may have made the same
        for key, made in new.items():
            writer.add(key, made)
            done.add(key)
        if len(keys.contents) > len(before) + _PLACES:
            remember()
        return len(new)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="precompute")
    with contextlib.ExitStack() as end:  # what is done stays done, whatever stops the rest: the last is first
        end.callback(pool.shutdown, cancel_futures=True)
        end.callback(lambda: writer.reject(rejects.reasons))
        end.callback(remember)
        end.callback(writer.flush)
        asked = (pool.submit(new_features, encoder, keys, few, known) for few in _whole_rows(samples, SAMPLES_AT_ONCE))
        ahead = collections.deque(itertools.islice(asked, threads + 1))
        while ahead:
            for found in ahead.popleft().result():
                yield add(found)
            ahead.extend(itertools.islice(asked, 1))


def new_features(
    encoder: Encoder, keys: Keys, samples: list[TrainSample], known: Callable[[str], bool]
) -> list[_New | Unusable]:
    """Of every sample the features that are not known, each with the first that has it; or why it has none."""
    images: dict[str, tuple[int, ShownImage]] = {}
    texts: dict[str, TrainSample] = {}
    named: list[list[str] | Unusable] = []
    for sample in samples:
        try:
            shown = {keys.latents(sample.row, each): (sample.row, each) for each in keys.shown(sample)}
            said = {keys.conditioning(sample): sample}
        except Unusable as error:
            named.append(error)
            continue
        named.append([*shown, *said])
        images, texts = shown | images, said | texts
    images = {key: image for key, image in images.items() if not known(key)}
    texts = {key: text for key, text in texts.items() if not known(key)}
    cuts: Cuts = {}
    latents, conditions = encoder.latents(images.values(), cuts), encoder.conditioning(texts.values(), cuts)
    made = {key: latents[image] for key, image in images.items()}
    made |= {key: conditions[text] for key, text in texts.items()}
    return [_of_one(keys.rows[sample.row].id, each, made) for sample, each in zip(samples, named)]


def _of_one(identity: str, named: list[str] | Unusable, made: Encoded) -> _New | Unusable:
    if isinstance(named, Unusable):
        return named
    found: _New = {}
    for key in named:
        one = made.get(key)
        if isinstance(one, Unusable):  # said of another row, maybe, that has the same image
            return Unusable(identity, RowError(one.reason))
        if one is not None:
            found[key] = one
    return found
