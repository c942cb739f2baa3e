"""The stage that scores pairs, and results against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.encoders.embedders import load_embedder
from edittools.errors import RowError, UsageError
from edittools.metrics import alignment
from edittools.metrics.reference import judge_change, judge_pair, judge_result
from edittools.record import IMAGE
from edittools.score.config import ScoreConfig
from edittools.score.identity import IDENTITY, identity_scores
from edittools.score.semantic import semantic_names, semantic_scores
from edittools.stream import codec
from edittools.stream.batch import Batch, Stage
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History
from edittools.stream.row_images import check_columns, column_references, row_images
from edittools.stream.rows import column_values, drop_failed, map_chunks
from edittools.stream.scores import add_scores, scores_schema

PAIR_SCORES = ("visible", "edit_ratio", "copy_psnr", "copy_ssim", "copy_l1", "mask_share", "mask_iou")
_OF_RESULT = ("psnr", "ssim", "l1", "psnr_inside", "psnr_outside", "l1_inside", "l1_outside")
_OF_CHANGE = ("edit_ratio", "mask_share", "mask_iou")
RESULT_SCORES = (
    *_OF_RESULT,
    *(f"copy_{name}" for name in _OF_RESULT),
    *(f"result_{name}" for name in _OF_CHANGE),
)
BOX = "edit_box"


def score_stage(config: ScoreConfig, jobs: int = 1) -> Stage:
    """The stage that the settings ask for. Raises EditError where a file of wanted texts cannot be read."""
    if config.ocr:
        from edittools.score.ocr_stage import OcrStage

        return OcrStage(config, jobs=jobs)
    if config.reward_model:
        from edittools.score.reward_stage import RewardStage

        return RewardStage(config)
    return ScoreStage(config, jobs=jobs)


class ScoreStage:
    """Stage: scores from pixels into the column `scores`.

    Every pair is measured: is the edit visible, how much of the image does it change, does it stay inside the mask.
    Where `sample` left a `result`, it is compared with the target, which is the truth, and so is copying the source.
    Further columns `result_NAME` get `NAME_psnr`. With embedders a result is also compared with the target in their
    spaces (score.semantic).
    """

    name = "score"
    VERSION = 1

    def __init__(self, config: ScoreConfig, *, jobs: int = 1) -> None:
        self.config, self.max_pixels, self.jobs = config, config.max_pixels, jobs
        named = {name: getattr(config, name) for name in ("clip", "dino")}
        self.embedders = {name: load_embedder(model, **config.placed) for name, model in named.items() if model}
        self.identity = _face_network(config) if config.identity else None
        self.fetcher = Fetcher()

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        asked = self.embedders | ({"identity": self.identity} if self.identity is not None else {})
        models = {name: f"{model.name} {model.revision}" for name, model in asked.items()}
        return self.config.recorded(**models, **(self.config.placed if models else self.config.without_models()))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in ("source", "target"):
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to score")
        check_columns(schema, "source", "target", "mask", "result")
        if self.identity is not None and "faces" not in schema.names:
            raise UsageError("--identity: the input has no `faces`", hint="`edit ground --detector face` finds them")
        return scores_schema(schema, self._scores(schema), {BOX: pa.list_(pa.float64())})

    def _scores(self, schema: pa.Schema) -> list[str]:
        extra = [f"{name}_psnr" for name in _other_results(schema)]
        aligned = alignment.NAMES if self.config.alignment else ()
        pair = [*PAIR_SCORES, *aligned]
        own = IDENTITY if self.identity is not None else ()
        if "result" not in schema.names:
            return [*pair, *own[1:], *extra]
        of_result = [f"result_{name}" for name in aligned]
        return [*pair, *RESULT_SCORES, *of_result, *semantic_names(self.embedders), *own, *extra]

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from map_chunks(batches, self._work, self.schema, self.jobs)

    def _decode(self, reference: dict[str, Any] | None, what: str) -> np.ndarray:
        if reference is None:
            raise RowError(f"no {what} picture")
        return codec.decode(self.fetcher.get(reference), codec.FULL, self.max_pixels)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        names = ["target"] + [n for n in ("mask", "result") if n in rows.schema.names]
        others = _other_results(rows.schema)
        names += [f"result_{name}" for name in others]
        found = {name: column_references(rows, name) for name in names}
        found["source"] = list(image_references(row_images(rows, "source")))
        found["faces"] = column_values(rows, "faces")
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
            mask = codec.decode(self.fetcher.get(mask_reference), codec.Raster(gray=True), self.max_pixels)
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
        if self.config.alignment:
            values.update(_aligned(source, target, ""))
        if "result" in found:
            result = self._decode(found["result"][row], "result")
            values.update(_aligned(source, result, "result_") if self.config.alignment else {})
            judged = judge_result(result, target, source, mask)
            judged |= {f"result_{name}": value for name, value in judge_change(result, source, mask).items()}
            values.update({name: judged[name] for name in RESULT_SCORES})
            if self.embedders:
                values.update(semantic_scores(self.embedders, result, target, source, mask))
        if self.identity is not None:
            faces = found["faces"][row] or []
            values.update(identity_scores(self.identity, result if "result" in found else None, target, source, faces))
        for name in others:
            shown = self._decode(found[f"result_{name}"][row], f"result_{name}")
            values[f"{name}_psnr"] = judge_result(shown, target, source)["psnr"]
        return values


def _aligned(source: np.ndarray, edited: np.ndarray, prefix: str) -> dict[str, float]:
    """How far an edited image lies off its source; nothing where they do not show the same."""
    found = alignment.alignment(source, edited)
    return {} if found is None else {prefix + name: value for name, value in found.scores().items()}


def _face_network(config: ScoreConfig) -> Any:
    """Raises UsageError for a network that knows no faces."""
    from edittools.encoders.embedders.arcface import ArcFaceEmbedder

    found: Any = load_embedder(str(config.identity), **config.placed)
    if not isinstance(found, ArcFaceEmbedder):
        raise UsageError(f"--identity {config.identity}: no network of face recognition (ArcFace)")
    return found


def _other_results(schema: pa.Schema) -> list[str]:
    return [c.name[len("result_") :] for c in schema if c.name.startswith("result_") and c.type == IMAGE]
