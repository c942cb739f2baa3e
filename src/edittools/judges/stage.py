"""The stage that scores pairs, and results against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.judges import judge_pair, judge_result
from edittools.judges.semantic import semantic_names, semantic_scores
from edittools.models.embedders import Embedder
from edittools.record import IMAGE
from edittools.stream import images
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher, leaf_references
from edittools.stream.pictures import check_columns, picture_references, row_pictures
from edittools.stream.rows import drop_failed, map_chunks
from edittools.stream.scores import add_scores, scores_schema

PAIR_SCORES = ("visible", "edit_ratio", "copy_psnr", "copy_ssim", "copy_l1", "mask_share", "mask_iou")
_OF_RESULT = ("psnr", "ssim", "l1", "psnr_inside", "psnr_outside", "l1_inside", "l1_outside")
RESULT_SCORES = _OF_RESULT + tuple(f"copy_{name}" for name in _OF_RESULT)
BOX = "edit_box"


class JudgeStage:
    """Stage: scores from pixels into the column `scores`.

    Every pair is judged: is the edit visible, how much of the picture does it change, does it stay inside the mask
    (SPEC F6). Where `sample` left a `result`, it is compared with the target, which is the truth, and so is copying
    the source (E8). Further columns `result_NAME` get `NAME_psnr`.
    """

    name = "judge"
    version = images.VERSION

    def __init__(self, *, max_pixels: int, jobs: int, embedders: dict[str, Embedder] | None = None) -> None:
        """`embedders` by short name: a result is also compared with the target in their spaces (judges.semantic)."""
        self.max_pixels, self.jobs = max_pixels, jobs
        self.embedders = embedders or {}
        self.fetcher = Fetcher()

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in ("source", "target"):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to judge")
        check_columns(schema, "source", "target", "mask", "result")
        return scores_schema(schema, self._scores(schema), {BOX: pa.list_(pa.float64())})

    def _scores(self, schema: pa.Schema) -> list[str]:
        extra = [f"{name}_psnr" for name in _other_results(schema)]
        if "result" not in schema.names:
            return [*PAIR_SCORES, *extra]
        return [*PAIR_SCORES, *RESULT_SCORES, *semantic_names(self.embedders), *extra]

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _decode(self, reference: dict[str, Any] | None, what: str) -> np.ndarray:
        if reference is None:
            raise RowError(f"no {what} picture")
        return images.decode(self.fetcher.get(reference), images.FULL, self.max_pixels)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        names = ["target"] + [n for n in ("mask", "result") if n in rows.schema.names]
        others = _other_results(rows.schema)
        names += [f"result_{name}" for name in others]
        found = {name: picture_references(rows, name) for name in names}
        found["source"] = list(leaf_references(row_pictures(rows, "source")))
        scores: list[dict[str, Any]] = []
        boxes: list[list[float] | None] = []
        failed: dict[int, RowError] = {}
        for row in range(rows.num_rows):
            values: dict[str, Any] = {}
            try:
                values = self._judge(row, found, others)
            except RowError as error:
                failed[row] = error
            boxes.append(values.pop(BOX, None))
            scores.append(values)
        beside = {BOX: pa.array(boxes, pa.list_(pa.float64()))}
        made = add_scores(rows, schema, self._scores(rows.schema), scores, beside)
        return drop_failed(batch, made, failed, self.name)

    def _judge(self, row: int, found: dict[str, list], others: list[str]) -> dict[str, Any]:
        source, target = self._decode(found["source"][row], "source"), self._decode(found["target"][row], "target")
        mask_reference = found["mask"][row] if "mask" in found else None
        mask = None
        if mask_reference is not None:
            mask = images.decode(self.fetcher.get(mask_reference), images.Raster(gray=True), self.max_pixels)
        pair = judge_pair(source, target, mask)
        values: dict[str, Any] = {
            "visible": float(pair["visible"]),
            "edit_ratio": pair["edit_ratio"],
            "copy_psnr": pair["psnr"],
            "copy_ssim": pair["ssim"],
            "copy_l1": pair["l1"],
            "mask_share": pair["mask_share"],
            "mask_iou": pair["mask_iou"],
            BOX: pair["edit_box"],
        }
        if "result" in found:
            result = self._decode(found["result"][row], "result")
            judged = judge_result(result, target, source, mask)
            values.update({name: judged[name] for name in RESULT_SCORES})
            if self.embedders:
                values.update(semantic_scores(self.embedders, result, target, source, mask))
        for name in others:
            shown = self._decode(found[f"result_{name}"][row], f"result_{name}")
            values[f"{name}_psnr"] = judge_result(shown, target, source)["psnr"]
        return values


def _other_results(schema: pa.Schema) -> list[str]:
    return [c.name[len("result_") :] for c in schema if c.name.startswith("result_") and c.type == IMAGE]
