"""De-identification of a benchmark (Step1X-Edit 4.1): for each private image the most similar public ones.

The authors asked several search engines for images of like look and meaning. Here the public images are a set of the
user's, likeness is the mean cosine in one or more embedding models (of meaning: CLIP; of look: a copy descriptor or
DINOv2), or without a model the share of equal bits of the perceptual signature.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from edittools.dedup.config import DedupConfig
from edittools.dedup.hamming import distance
from edittools.dedup.rule import short_name
from edittools.dedup.signature import DETAIL, ORIENTATIONS, all_signatures, of_bits
from edittools.errors import RowError, UsageError
from edittools.record import IMAGE
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher, kept_reference
from edittools.stream.history import History
from edittools.stream.row_images import check_any_images, source_references, target_references
from edittools.stream.rows import column_values, row_paths
from edittools.stream.source import Source

if TYPE_CHECKING:
    from edittools.encoders.vector_store import VectorStore

COLUMN = "nearest"
NEAREST = pa.list_(
    pa.struct(
        [
            ("id", pa.string()),  # of the public row
            ("task", pa.string()),
            ("score", pa.float64()),  # likeness: a mean cosine, or a share of equal bits
            ("path", pa.string()),
            ("license", pa.string()),
            ("origin", pa.string()),
            ("image", IMAGE),
        ]
    )
)
_MODEL_RASTER = codec.Raster(short_side=512)
_SIGNATURE = "phash"
_BITS = 64


class Seen(NamedTuple):
    """One image."""

    facts: dict[str, Any]
    digest: bytes
    words: np.ndarray  # (8,)
    pixels: np.ndarray | None  # where models have to see it


@dataclass(frozen=True)
class LookedAt:
    """Images of n rows, as far as they can be read: what they are, and how they look."""

    rows: list[dict[str, Any]]  # id, task, image, path, license, origin
    digests: list[bytes]  # sha256 of the file
    words: np.ndarray  # signatures (n, 8), zeros of a flat image
    vectors: dict[str, np.ndarray]  # model -> unit vectors (n, d)


class NearestStage:
    """Adds to every row the public images that are most like its source (of a row without one, like its target).

    A public image that is a copy of the private one, to the byte or by the signature, is none of them: nothing private
    would be replaced. A row with several sources is rejected.
    """

    name = "dedup"
    VERSION = 1
    first_step: tuple[str, ...] | None = None

    def __init__(
        self,
        config: DedupConfig,
        public: Source,
        name: str,
        *,
        neighbours: int,
        same_task: bool,
        jobs: int,
        cache_dir: str | None = None,
    ) -> None:
        """`name` is what the history calls the public images; what is made of these is kept in `cache_dir`."""
        self.config, self.public, self.public_name = config, public, name
        self.neighbours, self.same_task, self.jobs, self.cache_dir = neighbours, same_task, jobs, cache_dir
        self.index: LookedAt | None = None

    @property
    def named(self) -> list[str]:
        """The models, by what the user calls them."""
        asked = (self.config.method, *self.config.pair_model)
        if wrong := [one for one in asked if one in all_signatures() and one not in of_bits()]:
            raise UsageError(f"--nearest: by --method {wrong[0]} images are equal or not", hint="phash, or a model")
        return [one for one in dict.fromkeys(asked) if one not in all_signatures()]

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        told = {"nearest": self.public_name, "method": short_name(self.config.method), "neighbours": self.neighbours}
        told |= {"pair_model": [short_name(one) for one in self.config.pair_model], "same_task": self.same_task}
        if self.named:
            told |= self.config.placed
        told["distance"] = self.config.distance
        return {name: value for name, value in told.items() if value not in (None, False, [])}

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_any_images(schema)
        if COLUMN in schema.names:
            raise UsageError(f"the input has a column `{COLUMN}` already")
        assert self.named is not None  # refuses what cannot be compared
        return schema.append(pa.field(COLUMN, NEAREST))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield self._with_nearest(batch)

    def _with_nearest(self, batch: Batch) -> Batch:
        if self.index is None:
            self.index = self._public()
        mine, failed = self._look([batch.rows], {})
        found = iter(self._nearest(mine))
        kept = [row not in failed for row in range(batch.rows.num_rows)]
        ids, paths = column_values(batch.rows, "id"), row_paths(batch.rows)
        rejects = [
            Reject(ids[row], self.name, error.reason, error.value, True, paths[row]) for row, error in failed.items()
        ]
        rows = batch.rows.filter(pa.array(kept, pa.bool_()))
        return batch.replace(rows.append_column(COLUMN, pa.array(list(found), NEAREST)), rejects)

    def _public(self) -> LookedAt:
        """The public images. What is made of them is kept where --cache-dir says so: nothing of the private ones is."""
        stores = self._stores(self.cache_dir) if self.cache_dir is not None else {}
        try:
            index = self._look((one.rows for one in self.public.batches(lambda shard: True)), stores)[0]
        finally:
            for store in stores.values():
                store.flush()
        if not index.rows:
            raise UsageError(f"--nearest {self.public_name}: no image that can be read")
        return index

    def _stores(self, folder: str) -> dict[str, VectorStore]:
        """By a model's name its vectors; the signatures by theirs."""
        from edittools.encoders.vector_store import VectorStore, of_embedder, of_pixels

        made = of_pixels(DETAIL, signature=_SIGNATURE, version=self.VERSION)
        stores = {_SIGNATURE: VectorStore(folder, made, ORIENTATIONS, np.uint64)}
        for name, model in self.models.items():
            facts = of_embedder(model, raster=_MODEL_RASTER, **self.config.placed)
            stores[name] = VectorStore(folder, facts, model.dim)
        return stores

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """The models by what the user calls them."""
        from edittools.encoders.embedders import copy_detectors, load_embedder

        placed: dict[str, Any] = {**self.config.placed, "revision": self.config.revision}
        return {name: load_embedder(copy_detectors().get(name, (name,))[0], **placed) for name in self.named}

    # ------------------------------------------------------------ likeness

    def _nearest(self, mine: LookedAt) -> list[list[dict[str, Any]]]:
        """Of every image the public ones, the most alike first."""
        index = self.index
        assert index is not None
        if not mine.rows:
            return []
        if self.named:
            likeness = np.mean([mine.vectors[name] @ index.vectors[name].T for name in self.named], axis=0)
        else:
            likeness = 1 - np.stack([distance(words[0], index.words[:, 0]) for words in mine.words]) / _BITS
        tasks = np.array([row["task"] or "" for row in index.rows])
        found = []
        for number, row in enumerate(mine.rows):
            scores = np.round(likeness[number].astype(np.float64), 6)
            scores[self._copies(mine, number)] = -np.inf
            if self.same_task:
                scores[tasks != (row["task"] or "")] = -np.inf
            order = np.lexsort((np.arange(len(scores)), -scores))[: self.neighbours]
            found.append(
                [{**index.rows[k], "score": significant(float(scores[k]))} for k in order if np.isfinite(scores[k])]
            )
        return found

    def _copies(self, mine: LookedAt, number: int) -> np.ndarray:
        """Which public images are copies of a private one."""
        assert self.index is not None
        return copies(mine.digests[number], mine.words[number], self.index, self.config.distance)

    def _look(
        self, pieces: Iterable[pa.RecordBatch], stores: dict[str, VectorStore]
    ) -> tuple[LookedAt, dict[int, RowError]]:
        """The images of rows, and by its number the error of every row without a usable one.

        What is in all of the stores is not made again, and what is made is added to them.
        """
        good: list[Seen] = []
        vectors: dict[str, list[np.ndarray]] = {name: [] for name in self.named}
        failed: dict[int, RowError] = {}
        number = 0
        with ThreadPoolExecutor(self.jobs) as pool:
            for rows in pieces:
                for start in range(0, rows.num_rows, size := self.config.batch_size or 32):
                    facts = row_facts(rows.slice(start, size))
                    looked = list(pool.map(lambda one: look_at(one, self.config.max_pixels, stores), facts))
                    failed |= {number + k: one for k, one in enumerate(looked) if isinstance(one, RowError)}
                    number += len(looked)
                    seen = [one for one in looked if isinstance(one, Seen)]
                    good += [Seen(one.facts, one.digest, one.words, None) for one in seen]
                    for name, model in self.models.items() if seen else ():
                        vectors[name].append(_vectors(model, seen, stores.get(name)))
                    new = [one for one in seen if one.pixels is not None]
                    if new and stores:
                        stores[_SIGNATURE].add([one.digest for one in new], np.stack([one.words for one in new]))
        words = np.stack([one.words for one in good]) if good else np.zeros((0, ORIENTATIONS), np.uint64)
        joined = {name: np.concatenate(parts) for name, parts in vectors.items() if parts}
        return LookedAt([one.facts for one in good], [one.digest for one in good], words, joined), failed


def _vectors(model: Any, seen: list[Seen], store: VectorStore | None) -> np.ndarray:
    """Unit vectors (n, dim): the stored ones, and those of the other images."""
    new = [one for one in seen if store is None or one.digest not in store]
    made = np.asarray(model.images([one.pixels for one in new]), np.float32) if new else np.zeros((0, model.dim))
    if store is None:
        return made
    known = {one.digest: value for one, value in zip(new, made)}
    found = np.stack([known[one.digest] if one.digest in known else store[one.digest] for one in seen])
    store.add([one.digest for one in new], made)
    return found


def copies(digest: bytes, words: np.ndarray, others: LookedAt, bits: int) -> np.ndarray:
    """Which of the others are the same file as an image, or differ from it in few bits, turned
    and mirrored too; a flat one only to the byte."""
    same = np.array([one == digest for one in others.digests], bool)
    if words.any() and len(same):
        apart = np.min([distance(word, others.words[:, 0]) for word in words], axis=0)
        same |= (apart <= bits) & others.words.any(axis=1)
    return same


def row_facts(rows: pa.RecordBatch) -> list[dict[str, Any] | RowError]:
    """Of every row its image, and what is to be known of it."""
    found: list[dict[str, Any] | RowError] = []
    origins = column_values(rows, "provenance")
    for identity, task, sources, target, origin, path in zip(
        column_values(rows, "id"),
        column_values(rows, "task"),
        source_references(rows),
        target_references(rows),
        origins,
        row_paths(rows),
    ):
        told = origin if isinstance(origin, dict) else {}
        if len(sources) > 1:
            found.append(RowError("several sources", len(sources)))
        elif not sources and target is None:
            found.append(RowError("no picture"))
        else:
            image = sources[0] if sources else target
            facts = {"id": str(identity), "task": task, "image": kept_reference(image), "path": path}
            found.append(facts | {name: told.get(name) for name in ("license", "origin")})
    return found


_FETCHER = Fetcher()


def look_at(facts: dict[str, Any] | RowError, max_pixels: int, stores: dict[str, VectorStore]) -> Seen | RowError:
    """What an image is and how it looks, or the RowError that it cannot be read for; without pixels where all that is
    made of them is in the stores."""
    if isinstance(facts, RowError):
        return facts
    signature = all_signatures()[_SIGNATURE].words
    assert signature is not None
    try:
        data = _FETCHER.get(facts["image"])
        content = hashlib.sha256(data).digest()
        if stores and all(content in store for store in stores.values()):
            codec.probe(data, max_pixels)
            return Seen(facts, content, stores[_SIGNATURE][content], None)
        words = signature(codec.decode(data, DETAIL, max_pixels)[None])[0]
        pixels = codec.decode(data, _MODEL_RASTER, max_pixels)
    except RowError as error:
        return error
    return Seen(facts, content, np.zeros(ORIENTATIONS, np.uint64) if words is None else words, pixels)
