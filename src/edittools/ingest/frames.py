"""Pairs of frames of videos: what a crawl of clips becomes (Step1X-Edit 3.1.1, motion)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.ingest.video import Video, av, opened
from edittools.metrics.cuts import SIDE, FrameLook, clips
from edittools.record import COLUMNS, PROVENANCE
from edittools.seeded import stream
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import kept_reference
from edittools.stream.history import History
from edittools.stream.row_images import column_references, image_value
from edittools.stream.rows import RowPool, row_paths
from edittools.stream.schemas import align_array

MOST = 36_000  # frames of a video that are looked at: 20 minutes
_MOST_BYTES = 1 << 29  # of the images of one video: a column of a batch holds 2 GiB
_TRIES = 8  # places that are drawn for a pair


class Frames:
    """Stage: every row whose `target` is a video becomes pairs of its frames, `per_clip` of every clip between two
    cuts, so many seconds apart. Where a clip is too short for the gap, it has none; a video without any pair is a
    reject. What is drawn depends on the row's id only.
    """

    name = "frames"
    VERSION = 1

    def __init__(self, gap: tuple[float, float], per_clip: int, max_pixels: int, jobs: int = 1) -> None:
        self.gap, self.per_clip, self.max_pixels, self.jobs = gap, per_clip, max_pixels, jobs

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        av()
        return {}  # the settings are Ingest's

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "target" not in schema.names:
            raise UsageError("--frames: the input has no videos", hint="--map target=COLUMN says which column has")
        made = {name: COLUMNS[name] for name in ("source", "target", "task")} | {"provenance": PROVENANCE}
        return pa.schema([*({field.name: field.type for field in schema} | made).items()])

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = RowPool(self.jobs)
        try:
            for batch in batches:
                yield from pool.run(batch, self._work, self.schema(batch.rows.schema), 1, ahead=self.jobs - 1)
        finally:
            pool.close()

    def _work(self, batch: Batch) -> Batch:
        schema, rows = self.schema(batch.rows.schema), batch.rows
        videos, paths = column_references(rows, "target"), row_paths(rows)
        made: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        for row, reference, path in zip(_without(rows, "target"), videos, paths):
            try:
                if reference is None:
                    raise RowError("no video")
                pairs, left = self._pairs(row, kept_reference(reference) or {})
                made += pairs
                if left:
                    rejects.append(
                        Reject(str(row.get("id")), self.name, "too many pairs of a video", left, False, path)
                    )
            except RowError as error:
                failed = error.reason not in ("no video", "no clip that is long enough")
                rejects.append(Reject(str(row.get("id")), self.name, error.reason, error.value, failed, path))
        columns = [align_array(pa.array([row.get(f.name) for row in made], f.type), f.type) for f in schema]
        return batch.replace(pa.record_batch(columns, schema=schema), rejects)

    def _pairs(self, row: dict[str, Any], reference: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """The pairs of a video, and how many more there were than there is room for. Raises RowError."""
        known = row.get("provenance") or {}
        with opened(reference, self.max_pixels) as video:
            stamps, scores = _looked_through(video)
            if not stamps:
                raise RowError("damaged video", "no frame can be decoded")
            drawn = [
                (clip, pair)
                for clip, (first, last) in enumerate(clips(scores))
                for pair in self._drawn(stamps[first:last], stream("frames", row.get("id"), clip))
            ]
            if not drawn:
                raise RowError("no clip that is long enough", stamps[-1][1] - stamps[0][1])
            made: list[dict[str, Any]] = []
            size = 0
            for clip, pair in drawn:
                if size > _MOST_BYTES:
                    return made, len(drawn) - len(made)
                made.append(self._row(row, known, clip, pair, video.at(pair)))
                size += sum(len(image["bytes"]) for image in (made[-1]["target"], *made[-1]["source"]))
            return made, 0

    def _row(
        self,
        row: dict[str, Any],
        known: dict[str, Any],
        clip: int,
        pair: list[tuple[int, float]],
        shown: list[np.ndarray],
    ) -> dict[str, Any]:
        (_, start), (_, end) = pair
        provenance = {field.name: known.get(field.name) for field in PROVENANCE}
        # A media fragment, https://www.w3.org/TR/media-frags: the seconds of both frames.
        provenance["path"] = f"{known.get('path') or ''}#t={start:.3f},{end:.3f}"
        provenance["slots"] = json.dumps({"clip": clip, "end": end, "start": start})
        before, after = map(image_value, shown)
        return {**row, "source": [before], "target": after, "task": "motion", "provenance": provenance}

    def _drawn(self, stamps: list[tuple[int, float]], rng: np.random.Generator) -> list[list[tuple[int, float]]]:
        """Pairs of frames of one clip, in the order of their first frames."""
        times = np.array([time for _, time in stamps])
        # 29.97 frames a second have no two that are a second apart: the nearest ones will do
        half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0
        least, most = self.gap[0] - half, self.gap[1] + half
        found: set[tuple[int, int]] = set()
        for _ in range(self.per_clip * _TRIES):
            if len(stamps) < 2 or len(found) == self.per_clip or times[-1] - times[0] < least:
                break
            gap = rng.uniform(*np.minimum(self.gap, times[-1] - times[0]))
            first = int(rng.integers(int(np.searchsorted(times, times[-1] - gap, side="right"))))
            last = int(np.argmin(np.abs(times - (times[first] + gap))))
            if least <= times[last] - times[first] <= most:
                found.add((first, last))
        return [[stamps[first], stamps[last]] for first, last in sorted(found)]


def _looked_through(video: Video) -> tuple[list[tuple[int, float]], list[float]]:
    """Time stamps and seconds of the frames, and how alike neighbours are."""
    stamps: list[tuple[int, float]] = []
    scores: list[float] = []
    before: FrameLook | None = None
    for frame in video.frames():
        if stamps and frame.time <= stamps[-1][1]:
            continue  # a time that comes again says nothing
        look = FrameLook(frame.reformat(SIDE, SIDE, format="rgb24").to_ndarray())
        if before is not None:
            scores.append(look.alike(before))
        stamps.append((frame.pts, frame.time))
        before = look
        if len(stamps) == MOST:
            break
    return stamps, scores


def _without(rows: pa.RecordBatch, name: str) -> list[dict[str, Any]]:
    """The rows as dictionaries, less what pairs replace; `source` of a video's row says nothing either."""
    return rows.select([one for one in rows.schema.names if one not in (name, "source")]).to_pylist()
