"""The first step: what a row looks like to dedup, as a row of a table."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.rule import Rule
from edittools.dedup.signature import DETAIL, ORIENTATIONS, detail, of_bytes
from edittools.errors import RowError, UsageError
from edittools.metrics import pixels
from edittools.rounding import significant
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import check_any_images, check_columns, source_references, target_references
from edittools.stream.rows import RowPool, column_values

# What every rule has. `exact` is a digest of all of a row's images and its instruction; `pairing` of everything
# that has to be equal before two rows can be near copies (its instruction, and the bytes of further sources).
# `signatures` are of the target in eight orientations, `source_signature` of the first source: words of 64 bits, or
# a model's vector as float16.
FINGERPRINT = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("exact", pa.binary(16)),
        ("pairing", pa.binary(8)),
        ("signatures", pa.binary(64)),
        ("source_signature", pa.binary(8)),
        ("one_image", pa.bool_()),
        ("pixels", pa.int64()),
        ("detail", pa.float64()),
        ("error", pa.string()),  # why there are no signatures: the row will be rejected
        ("error_value", pa.string()),
    ]
)
READ = ("source", "target", "turns")  # the columns that have to be the record's
MODEL_RASTER = codec.Raster(short_side=512)  # what a model is given; it scales further by itself
LOOK_SIDE = 64
LOOK_RASTER = codec.Raster(square=LOOK_SIDE)  # on which pairs are compared with pairs, by PSNR and SSIM
LOOK_BYTES = LOOK_SIDE * LOOK_SIDE * 3
WORDS = 128  # dimensions of an instruction's vector


def fingerprint_schema(rule: Rule, dims: dict[str, int]) -> pa.Schema:
    """The columns of a rule's fingerprints; `dims` are the models' dimensions."""
    schema = FINGERPRINT
    if rule.by_vectors:
        vector = pa.binary(2 * dims[rule.method])
        for name in ("signatures", "source_signature"):
            schema = schema.set(schema.get_field_index(name), pa.field(name, vector))
    if rule.level == "rows":
        return schema
    # `others` is as `pairing` without the instruction, which `text` is a digest of; `cosine` of source and target.
    more = [("others", pa.binary(8)), ("text", pa.binary(8)), ("same", pa.bool_())]
    more += [(f"cosine_{name}", pa.float64()) for name in rule.pair_models]
    if rule.pair_models:
        more.append(("template", pa.binary(2 * (dims[rule.pair_models[0]] + WORDS))))
    if rule.level == "fine":
        more += [("psnr", pa.float64()), ("ssim", pa.float64())]
        more += [("look", pa.binary(LOOK_BYTES)), ("source_look", pa.binary(LOOK_BYTES))]
    return pa.schema([*schema, *(pa.field(*item) for item in more)])


def are_fingerprints(schema: pa.Schema) -> bool:
    """Whether these are the columns of fingerprints, of whatever rule."""
    return schema.names[: len(FINGERPRINT)] == FINGERPRINT.names


class Fingerprint:
    """Stage: rows in, fingerprints out."""

    name = "dedup"
    VERSION = 1

    def __init__(
        self,
        rule: Rule,
        *,
        max_pixels: int,
        jobs: int,
        models: dict[str, Any] | None = None,
        batch_size: int = 32,
        recorded: dict[str, Any] | None = None,
    ) -> None:
        """`recorded` is what the history says of it."""
        self.recorded = recorded or {}
        self.rule, self.max_pixels, self.jobs, self.batch_size = rule, max_pixels, jobs, batch_size
        self.models = models or {}
        if rule.embed == "caption" and not hasattr(self.models[rule.method], "texts"):
            raise UsageError(f"--embed caption: {rule.method} has no vectors of texts", hint="clip has")
        self.fields = fingerprint_schema(rule, {name: model.dim for name, model in self.models.items()})
        self.fetcher = Fetcher()
        self.shard, self.position = -1, 0

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.recorded

    def schema(self, schema: pa.Schema) -> pa.Schema:
        check_columns(schema, *READ)
        check_any_images(schema)
        return self.fields

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for _, piece in self.beside(batches):
            yield piece

    def beside(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Batch]]:
        """Every batch with its fingerprints, which may come in several pieces."""
        pool = RowPool(self.jobs)
        threads = ThreadPoolExecutor(self.jobs)
        try:
            for batch in batches:
                numbered = self._number(batch)
                if not self.models:
                    for piece in pool.run(numbered, self._work, self.fields):
                        yield batch, piece
                    continue
                total = batch.rows.num_rows
                for start in range(0, max(total, 1), self.batch_size):
                    part = numbered.slice(start, min(start + self.batch_size, total))
                    yield batch, self._work(part, threads)
        finally:
            pool.close()
            threads.shutdown(wait=False, cancel_futures=True)

    def _number(self, batch: Batch) -> Batch:
        """Give every row its number inside its shard: ids need not be unique over a whole set."""
        if batch.shard.index != self.shard:
            self.shard, self.position = batch.shard.index, 0
        count = batch.rows.num_rows
        numbers = pa.array(range(self.position, self.position + count), pa.int32())
        self.position += count
        return batch.replace(batch.rows.append_column("edit.row", numbers))

    def _work(self, batch: Batch, threads: ThreadPoolExecutor | None = None) -> Batch:
        """Fingerprints of a few rows. A row whose images cannot be read has the reason instead."""
        rows = batch.rows
        images = list(zip(source_references(rows), target_references(rows), _instructions(rows), _known_hashes(rows)))
        captions = [_caption(item) for item in column_values(rows, "caption")]
        ids, numbers = column_values(rows, "id"), rows.column("edit.row").to_pylist()
        looks = list((threads.map if threads else map)(self._row, images))
        self._sign([facts for facts, _ in looks])
        if self.rule.embed == "caption":
            self._embed_captions(looks, captions)
        elif self.models:
            self._embed(looks)
        records = [
            {"id": ids[row], "shard": batch.shard.index, "row": number, **facts}
            for row, (number, (facts, _)) in enumerate(zip(numbers, looks))
        ]
        return batch.replace(pa.RecordBatch.from_pylist(records, schema=self.fields))

    def _row(self, arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A row's facts, and the images of it that the models are to see."""
        try:
            return self._facts(*arguments)
        except RowError as error:
            return {"error": error.reason, "error_value": None if error.value is None else str(error.value)}, {}

    def _facts(
        self, sources: list[dict[str, Any]], target: dict[str, Any] | None, instruction: str, known: str | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        image = target or (sources[0] if sources else None)
        if image is None:
            raise RowError("no picture")
        # An image with an instruction and no target yet (a benchmark's row) is an edit row: the same image with
        # another instruction, or with other references, is another row.
        one_image = not sources or (target is None and len(sources) == 1 and not instruction)
        whole = hashlib.sha256(instruction.encode())
        pairing, others = whole.copy(), hashlib.sha256()
        facts: dict[str, Any] = {"one_image": one_image}
        decoded: dict[str, np.ndarray] = {}
        target_content = first = b""
        main: codec.Buffer = b""
        before: codec.Buffer = b""
        # The hash that `edit shard` recorded saves hashing the bytes again.
        if self.rule.signature.digest is not of_bytes or known is None or not (one_image and _is_sha256(known)):
            known = None
        if known is not None and self.rule.limit is None:
            whole.update(bytes.fromhex(known))
            facts.update(pixels=(image["width"] or 0) * (image["height"] or 0), detail=0.0)
        else:
            main = self.fetcher.get(image)
            target_content = bytes.fromhex(known) if known else self._content(main)
            whole.update(target_content)
            facts["pixels"] = self._size(main, image)
            facts.update(self._look(main, decoded))
        for k, source in enumerate([] if one_image else sources):
            data = main if source is image else self.fetcher.get(source)
            content = self._content(data)
            whole.update(content)
            if k == 0:
                before, first = data, content
                facts.update(self._source_look(data, decoded))
            if k or self.rule.limit is None:
                pairing.update(content)
            if k:
                others.update(content)
        facts.update(exact=whole.digest()[:16], pairing=pairing.digest()[:8])
        if self.rule.level != "rows" and not one_image:
            # Without a target two instructions for one image are two rows.
            facts["others"] = (pairing if target is None else others).digest()[:8]
            facts["text"] = hashlib.sha256(_plain(instruction)).digest()[:8] if instruction.strip("\0 ") else None
            facts["same"] = target is not None and target_content == first
            if self.rule.limit is None:  # digests take the place of signatures
                facts.update(signatures=target_content[:8].ljust(64, b"\0"), source_signature=first[:8])
            if target is None:
                decoded.pop("source", None)  # there is no pair to look at
            elif self.rule.level == "fine":
                facts.update(self._pair(main, before))
            if self.rule.pair_models:
                facts["words"] = word_vector(instruction)
        if one_image and not self.rule.by_vectors:
            decoded = {}
        return facts, decoded

    def _content(self, data: codec.Buffer) -> bytes:
        return self.rule.signature.digest(data, self.max_pixels)

    def _size(self, data: codec.Buffer, image: dict[str, Any]) -> int:
        if image["width"] and image["height"]:
            return image["width"] * image["height"]
        return codec.probe(data, self.max_pixels).pixels

    def _look(self, data: codec.Buffer, decoded: dict[str, np.ndarray]) -> dict[str, Any]:
        """Decode a row's main image for its signature; when a model embeds it, keep the image in `decoded` too."""
        if self.models and self.rule.embed == "image":
            decoded["target"] = codec.decode(data, MODEL_RASTER, self.max_pixels)
        if self.rule.limit is None:
            return {"detail": 0.0}
        rasters = {"detail_raster": codec.decode(data, DETAIL, self.max_pixels)}
        if (wanted := self.rule.signature.raster) is not None:
            known = wanted == DETAIL
            rasters["raster"] = rasters["detail_raster"] if known else codec.decode(data, wanted, self.max_pixels)
        return rasters

    def _source_look(self, data: codec.Buffer, decoded: dict[str, np.ndarray]) -> dict[str, Any]:
        if self.models and self.rule.embed == "image":
            decoded["source"] = codec.decode(data, MODEL_RASTER, self.max_pixels)
        if self.rule.signature.raster is None:
            return {}
        return {"source_raster": codec.decode(data, self.rule.signature.raster, self.max_pixels)}

    def _sign(self, rows: list[dict[str, Any]]) -> None:
        """Replace the rasters by what is to be known of them, for all rows at once."""
        main = [facts for facts in rows if "detail_raster" in facts]
        if main:
            sharp = detail(np.stack([facts.pop("detail_raster") for facts in main]))
            for facts, value in zip(main, sharp.tolist()):
                facts["detail"] = significant(value)
        for raster, name, size in (("raster", "signatures", ORIENTATIONS), ("source_raster", "source_signature", 1)):
            looked = [facts for facts in rows if raster in facts]
            if looked:
                assert self.rule.signature.words is not None
                words = self.rule.signature.words(np.stack([facts.pop(raster) for facts in looked]))
                for facts, signature in zip(looked, words):
                    # Of one orientation: as if the image looked the same in all of them.
                    facts[name] = None if signature is None else np.resize(signature, ORIENTATIONS)[:size].tobytes()

    def _pair(self, target: codec.Buffer, source: codec.Buffer) -> dict[str, Any]:
        """PSNR and SSIM inside the pair, and the rasters for comparing it with other pairs."""
        after, before = (codec.decode(data, codec.FULL, self.max_pixels) for data in (target, source))
        if after.shape != before.shape:
            after = pixels.resize(after, *before.shape[:2])
        noise, alike = pixels.psnr(before, after), pixels.ssim(before, after)
        look, source_look = (codec.decode(data, LOOK_RASTER, self.max_pixels) for data in (target, source))
        return {
            "psnr": None if noise is None else significant(noise),
            "ssim": None if alike is None else significant(alike),
            "look": look.tobytes(),
            "source_look": source_look.tobytes(),
        }

    def _embed_captions(self, looks: list[tuple[dict[str, Any], dict[str, np.ndarray]]], captions: list[str]) -> None:
        """Add the vectors of captions; a row without one has none."""
        there = [row for row, (facts, _) in enumerate(looks) if captions[row] and "error" not in facts]
        if there:
            for row, vector in zip(there, self.models[self.rule.method].texts([captions[row] for row in there])):
                looks[row][0]["signatures"] = _half(vector)

    def _embed(self, looks: list[tuple[dict[str, Any], dict[str, np.ndarray]]]) -> None:
        """Add what the models say about the images of all rows."""
        order = [(row, kind) for row, (_, decoded) in enumerate(looks) for kind in decoded]
        vectors: dict[str, dict[tuple[int, str], np.ndarray]] = {name: {} for name in self.models}
        if order:
            for name, model in self.models.items():
                vectors[name] = dict(zip(order, model.images([looks[row][1][kind] for row, kind in order])))
        for row, (facts, decoded) in enumerate(looks):
            words = facts.pop("words", None)
            if self.rule.by_vectors and decoded:
                own = vectors[self.rule.method]
                facts["signatures"] = _half(own[row, "target"])
                if not facts["one_image"]:  # without a target the main image is the source
                    facts["source_signature"] = _half(own[row, "source" if "source" in decoded else "target"])
            if words is None or "source" not in decoded:
                continue
            for name in self.rule.pair_models:
                source, target = (vectors[name][row, kind].astype(np.float64) for kind in ("source", "target"))
                facts[f"cosine_{name}"] = significant(float(source @ target))
            delta = vectors[self.rule.pair_models[0]][row, "target"] - vectors[self.rule.pair_models[0]][row, "source"]
            length = float(np.linalg.norm(delta))
            if length > 0:
                facts["template"] = _half(np.r_[delta / length, words] / np.sqrt(2))


def _half(vector: np.ndarray) -> bytes:
    return np.asarray(vector, np.float16).tobytes()


def word_vector(text: str) -> np.ndarray:
    """An instruction as a unit vector: its words and pairs of words, hashed into 128 signed counts.

    Words of Chinese are not separated: there its characters and pairs of characters count. Numbers are all alike.
    """
    words = _words(text)
    vector = np.zeros(WORDS)
    for gram in [*words, *(" ".join(pair) for pair in pairwise(words))]:
        code = zlib.crc32(gram.encode())
        vector[code % WORDS] += 1 if code >> 31 else -1
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def _words(text: str) -> list[str]:
    spaced = "".join(
        f" {sign} " if sign >= "\u2e80" else "0" if sign.isdigit() else sign if sign.isalnum() else " "
        for sign in text.casefold()
    )
    return spaced.split()


def _plain(text: str) -> bytes:
    """An instruction without what does not change its meaning: case, spaces, and the full stop."""
    return " ".join(text.casefold().split()).rstrip(".。!！ ").encode()


def _instructions(rows: pa.RecordBatch) -> list[str]:
    """Every row's instruction in all languages, and those of its turns, as one text."""
    texts = [_text(item) for item in column_values(rows, "instruction")]
    index = rows.schema.get_field_index("turns")
    if index >= 0 and rows.column(index).null_count < rows.num_rows:
        column = rows.column(index)
        said = column.values.field("instruction").to_pylist()  # not the whole turns: they hold images
        bounds = np.asarray(column.offsets).tolist()
        for row in range(rows.num_rows):
            texts[row] += "".join(f"\0turn {_text(item)}" for item in said[bounds[row] : bounds[row + 1]])
    return texts


def _text(item: Any) -> str:
    if isinstance(item, dict):
        return "\0".join(f"{language}={text}" for language, text in sorted(item.items()) if text)
    return str(item or "")


def _caption(item: Any) -> str:
    return str((item.get("en") or item.get("zh") or "") if isinstance(item, dict) else item or "").strip()


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def _known_hashes(rows: pa.RecordBatch) -> list[str | None]:
    """The sha256 of a one-image row's bytes, where `edit shard` recorded it."""
    provenance = column_values(rows, "provenance")
    tasks = column_values(rows, "task")
    return [
        item.get("sha256") if isinstance(item, dict) and task == "t2i" else None
        for item, task in zip(provenance, tasks)
    ]
