"""The stage that finds base images for what a data set lacks (FireRed-Image-Edit 2.4, "check and fill"): of a large
pool the nearest ones to every gap, by its text and by its image.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.encoders.nearest_rows import NearestRows
from edittools.errors import EditError, RowError, UsageError
from edittools.filter.config import FilterSettings
from edittools.filter.models import Models
from edittools.filter.shared import CLIP
from edittools.record import IMAGE, PROVENANCE, TEXT
from edittools.rounding import significant
from edittools.stream import codec, files
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.opening import open_source
from edittools.stream.packed import name_key
from edittools.stream.row_images import source_references, target_references
from edittools.stream.rows import column_values, row_paths
from edittools.stream.text import valid

COLUMN = "gap"
GAP = pa.struct([("id", pa.string()), ("text", pa.float64()), ("image", pa.float64())])
NEIGHBOURS = 20
_TEXTS = ("caption", "instruction")  # that an image is looked for by: what it shows, else what is to be done with it


@dataclass(frozen=True)
class Gap:
    """A request that few instructions are near, or an image that many more are wanted of."""

    id: str
    text: str | None
    instruction: dict[str, str | None] | None  # by language
    image: dict[str, Any] | None  # reference: the first source, else the target


@dataclass(frozen=True)
class NearGap:
    """That a row is among the nearest of a gap: its number, and the cosines to its text and image, where that made it
    one of them."""

    gap: int
    text: float | None
    image: float | None


def read_gaps(path: str, language: str) -> list[Gap]:
    """The rows of a file or set, such as `edit eval coverage --gaps` writes. Raises UsageError for one that has neither
    text nor image, and where there is none."""
    gaps = []
    for batch in open_source([path]).batches(lambda shard: True):
        for lost in batch.rejects:
            raise UsageError(f"--nearest {path}: row {lost.id}: {lost.reason}")
        rows = batch.rows
        texts = [column_values(rows, name) for name in _TEXTS]
        images = [[*sources, target] for sources, target in zip(source_references(rows), target_references(rows))]
        for k, identity in enumerate(column_values(rows, "id")):
            said = [values[k].get(language) if isinstance(values[k], dict) else values[k] for values in texts]
            text = next((one for one in said if isinstance(one, str) and one.strip()), None)
            told = texts[1][k]
            words = {language: told} if isinstance(told, str) else told
            image = images[k][0]
            if text is None and image is None:
                raise UsageError(f"--nearest {path}: row {identity} has neither a text in `{language}` nor an image")
            gaps.append(Gap(str(identity), text, words, image))
    if not gaps:
        raise UsageError(f"--nearest {path}: there is none")
    if len({gap.id for gap in gaps}) < len(gaps):
        raise UsageError(f"--nearest {path}: an id comes twice")
    return gaps


class BaseImagesStage:
    """Keep the images that are among the N nearest of a gap, by its text or by its image, as one row per gap.

    It has the gap's instruction, so that `edit synth --painted request` can carry it out, the cosines in `gap`, and
    ID-GAP as its id; `provenance.parents` names the image. Vectors are those of the filters' model with texts, and are
    not kept: `observe` holds 24 bytes of every image, and the nearest ones of every gap.
    """

    name = "filter"
    VERSION = 1
    first_step: tuple[str, ...] | None = None  # the nearest of a whole set are found by one process

    def __init__(self, config: FilterSettings, *, jobs: int = 1, models: Models | None = None) -> None:
        assert config.nearest is not None
        self.models = models or Models(config)
        self.most, self.jobs, self.max_pixels = config.neighbours or NEIGHBOURS, jobs, config.max_pixels
        self.fetcher = Fetcher()
        self.gaps = read_gaps(config.nearest, self.models.language)
        self.asked = digest(canonical_json([self._said(gap) for gap in self.gaps]))
        self.decisions_digest: str | None = None
        self.chosen: dict[int, dict[int, list[NearGap]]] = {}  # shard -> row -> what it is near
        self.keys: dict[int, dict[int, int]] = {}  # likewise, of its id
        self.counts: dict[int, int] = {}  # shard -> how many rows it had
        self.failed: dict[int, dict[int, RowError]] = {}

    def _said(self, gap: Gap) -> list[Any]:
        seen = None if gap.image is None else digest(bytes(self._bytes(gap)))
        return [gap.id, gap.text, gap.instruction, seen]

    def _bytes(self, gap: Gap) -> codec.Buffer:
        try:
            return self.fetcher.get(gap.image or {})
        except RowError as error:
            raise UsageError(f"--nearest: the image of {gap.id}: {error.reason}") from error

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: the gaps, not where they lie."""
        told = {"gaps": self.asked, "neighbours": self.most}
        return self.models.settings(schema, history, self.VERSION) | told

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "target" not in schema.names or schema.field("target").type != IMAGE or "id" not in schema.names:
            raise UsageError("--nearest: the input has no `target` image, of which one could be chosen")
        if COLUMN in schema.names:
            raise UsageError(f"--nearest: the input has a column `{COLUMN}` already")
        fields = {field.name: field.type for field in schema} | {"instruction": TEXT}
        known = fields.get("provenance", PROVENANCE)
        inner = {field.name: field.type for field in (known if pa.types.is_struct(known) else PROVENANCE)}
        fields["provenance"] = pa.struct([*(inner | {"parents": pa.list_(pa.string())}).items()])
        return pa.schema([*(fields | {COLUMN: GAP}).items()])

    # ------------------------------------------------------------ the two passes

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on as they are; compare their images with the gaps."""
        searches = self._searches()
        places = array("q"), array("q"), array("Q")  # of every image that was compared, by its number: shard, row, id
        seen = self.counts = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for batch in batches:
                shard = batch.shard.index
                first = seen.get(shard, 0)
                seen[shard] = first + batch.rows.num_rows
                ids = column_values(batch.rows, "id")
                for rows, vectors in self._vectors(batch, first, pool):
                    places[0].extend([shard] * len(rows))
                    places[1].extend(rows)
                    places[2].extend(name_key(str(ids[row - first])) for row in rows)
                    for search, _ in searches.values():
                        search.add(vectors)
                yield batch
        self._choose(searches, places)

    def gather(self, batches: Iterator[Batch]) -> None:
        """Compare without passing anything on."""
        for _ in self.observe(batches):
            pass

    def _searches(self) -> dict[str, tuple[NearestRows, list[int]]]:
        """By text and by image: the search, and the numbers of the gaps that it is for."""
        model, found = self.models[CLIP.name], {}
        texts = [k for k, gap in enumerate(self.gaps) if gap.text is not None]
        if texts:
            found["text"] = NearestRows(model.texts([self.gaps[k].text for k in texts]), self.most), texts
        images = [k for k, gap in enumerate(self.gaps) if gap.image is not None]
        if images:
            found["image"] = NearestRows(model.images([*map(self._seen, images)]), self.most), images
        return found

    def _seen(self, k: int) -> np.ndarray:
        try:
            return codec.decode(self._bytes(self.gaps[k]), codec.FULL, self.max_pixels)
        except RowError as error:
            raise UsageError(f"--nearest: the image of {self.gaps[k].id}: {error.reason}") from error

    def _vectors(self, batch: Batch, first: int, pool: ThreadPoolExecutor) -> Iterator[tuple[list[int], np.ndarray]]:
        """Rows, by their numbers in the shard from `first` on, and their vectors, a few at a time; the next few are
        decoded meanwhile."""
        model, size = self.models[CLIP.name], self.models.batch_size
        facts = list(zip(target_references(batch.rows), source_references(batch.rows)))
        ahead: list[Future[Any]] = [pool.submit(self._prepared, *one) for one in facts[:size]]
        for start in range(0, len(facts), size):
            done, ahead = ahead, [pool.submit(self._prepared, *one) for one in facts[start + size : start + 2 * size]]
            rows, prepared = [], []
            for row, future in enumerate(done, first + start):
                made = future.result()
                if isinstance(made, RowError):
                    self.failed.setdefault(batch.shard.index, {})[row] = made
                else:
                    rows.append(row)
                    prepared.append(made)
            if rows:
                yield rows, model.infer(prepared)

    def _prepared(self, target: dict[str, Any] | None, sources: list[dict[str, Any]]) -> Any:
        try:
            if target is None or sources:
                raise RowError("not a row of one image")
            pixels = codec.decode(self.fetcher.get(target), codec.FULL, self.max_pixels)
            return self.models[CLIP.name].prepare(pixels)
        except RowError as error:
            return error

    def _choose(self, searches: dict[str, tuple[NearestRows, list[int]]], places: tuple[array, array, array]) -> None:
        near: dict[tuple[int, int, int], dict[str, float]] = {}
        keys: dict[int, dict[int, int]] = {}
        for by, (search, numbers) in searches.items():
            for gap, rows, cosines in zip(numbers, search.rows.tolist(), search.cosines.tolist()):
                for row, cosine in zip(rows, cosines):
                    if row >= 0:
                        shard, place, key = (values[row] for values in places)
                        near.setdefault((shard, place, gap), {})[by] = significant(cosine)
                        keys.setdefault(shard, {})[place] = key
        self.chosen, self.keys = {}, keys
        for (shard, row, gap), found in sorted(near.items()):
            of_row = self.chosen.setdefault(shard, {}).setdefault(row, [])
            of_row.append(NearGap(gap, found.get("text"), found.get("image")))

    def decide(self) -> None:
        self.decisions_digest = digest(canonical_json(self._decisions()))

    def _decisions(self) -> dict[str, Any]:
        chosen = [
            [shard, row, one.gap, one.text, one.image, self.keys[shard][row]]
            for shard, rows in self.chosen.items()
            for row, found in rows.items()
            for one in found
        ]
        failed = [
            [shard, row, error.reason, None if error.value is None else valid(str(error.value))]
            for shard, rows in self.failed.items()
            for row, error in rows.items()
        ]
        told = {"gaps": self.asked, "neighbours": self.most, "model": self.models.described(CLIP.name)}
        return told | {"rows": [*self.counts.items()], "chosen": chosen, "failed": failed}

    def save_decisions(self, path: str) -> None:
        files.write_bytes(path, json.dumps(self._decisions(), ensure_ascii=False).encode() + b"\n")

    def load_decisions(self, path: str) -> None:
        """Use what an earlier run found. Raises EditError where it is not for these gaps."""
        try:
            known = json.loads(files.read_bytes(path))
            for shard, row, gap, text, image, key in known["chosen"]:
                self.chosen.setdefault(shard, {}).setdefault(row, []).append(NearGap(gap, text, image))
                self.keys.setdefault(shard, {})[row] = key
            for shard, row, reason, value in known["failed"]:
                self.failed.setdefault(shard, {})[row] = RowError(reason, value)
            self.counts = dict(known["rows"])
            said = known["gaps"], known["neighbours"], known["model"]
        except (ValueError, KeyError, TypeError) as error:
            raise EditError(f"{path}: no decisions for --nearest: {error!r}") from error
        if said != (self.asked, self.most, self.models.described(CLIP.name)):
            hint = "give the options that --phase decide had"
            raise EditError(f"{path}: decisions made for other gaps, or by another model", hint=hint)
        self.decide()

    # ------------------------------------------------------------ rows

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        seen: dict[int, int] = {}
        for batch in batches:
            first = seen.get(batch.shard.index, 0)
            seen[batch.shard.index] = first + batch.rows.num_rows
            yield self._chosen(batch, first)

    def _chosen(self, batch: Batch, first: int) -> Batch:
        rows, made = batch.rows, self.schema(batch.rows.schema)
        chosen, failed = self.chosen.get(batch.shard.index, {}), self.failed.get(batch.shard.index, {})
        ids, paths = column_values(rows, "id"), row_paths(rows)
        keys = self.keys.get(batch.shard.index, {})
        if first + rows.num_rows > self.counts.get(batch.shard.index, 0) or any(
            keys[first + k] != name_key(str(ids[k])) for k in range(rows.num_rows) if first + k in keys
        ):
            raise EditError("--nearest: the decisions were made of other rows", hint="find the nearest ones again")
        taken = [(k, found) for k in range(rows.num_rows) for found in chosen.get(first + k, ())]
        rejects = []
        for k in range(rows.num_rows):
            error = failed.get(first + k)
            if error is not None:
                rejects.append(Reject(str(ids[k]), self.name, error.reason, error.value, True, paths[k]))
            elif first + k not in chosen:
                rejects.append(Reject(str(ids[k]), self.name, "not among the nearest", None, False, paths[k]))
        result = rows.take(pa.array([k for k, _ in taken], pa.int64()))
        gaps = [self.gaps[found.gap] for _, found in taken]
        origins = column_values(rows, "provenance")
        values: dict[str, list[Any]] = {
            "id": [f"{ids[k]}-{gap.id}" for (k, _), gap in zip(taken, gaps)],
            "instruction": [gap.instruction for gap in gaps],
            "provenance": [{**(origins[k] or {}), "parents": [str(ids[k])]} for k, _ in taken],
            COLUMN: [{"id": gap.id, "text": f.text, "image": f.image} for (_, f), gap in zip(taken, gaps)],
        }
        columns = [
            pa.array(values[field.name], field.type) if field.name in values else result.column(field.name)
            for field in made
        ]
        return batch.replace(pa.record_batch(columns, schema=made), rejects)
