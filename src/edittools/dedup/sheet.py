"""`--report`: a contact sheet of clusters, by which a person checks a threshold. One HTML file without neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edittools import __version__
from edittools.dedup.decisions import without_groups
from edittools.dedup.rule import Rule
from edittools.dedup.signature import all_signatures, of_bits
from edittools.errors import RowError
from edittools.report import thumbnails
from edittools.report.markup import text
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.row_images import source_references, target_references
from edittools.stream.rows import column_values, row_paths

LARGEST, NEAREST, ALONE = 40, 40, 40  # clusters, and rows that were dropped for themselves
SHOWN = 12  # members of a cluster: the one that stays, the farthest, and some between
_RASTER = codec.Raster(short_side=160)

Place = tuple[int, int]


@dataclass
class SheetRow:
    """A row on the sheet."""

    images: list[tuple[str, str]]  # what it is, and a data: URI
    words: str
    path: str


class Sheet:
    """The clusters that are worth looking at."""

    def __init__(self, decisions: pa.Table, rule: Rule) -> None:
        self.rule = rule
        rows = without_groups(decisions)
        self.rows = rows.filter(pc.is_null(rows.column("error")))
        cluster = self.rows.column("cluster").to_numpy(zero_copy_only=False).astype(np.float64)
        far = np.nan_to_num(self.rows.column("distance").to_numpy(zero_copy_only=False).astype(np.float64), nan=0.0)
        member = np.flatnonzero(~np.isnan(cluster))
        numbers = cluster[member].astype(np.int64)
        count = int(numbers.max()) + 1 if len(numbers) else 0
        self.sizes = np.bincount(numbers, minlength=count)
        farthest = np.zeros(count)
        np.maximum.at(farthest, numbers, far[member])
        self.members = np.split(member[np.argsort(numbers, kind="stable")], np.cumsum(self.sizes)[:-1])
        self.far = far
        self.known = np.asarray(self.rows.column("metric").is_valid())
        self.largest = np.argsort(-self.sizes, kind="stable")[:LARGEST]
        # Nearest to the threshold are those whose farthest copy is nearly too far, or beyond it by way of others.
        order = np.argsort(-farthest, kind="stable")
        self.nearest = order[farthest[order] > 0][:NEAREST]
        alone = np.isnan(cluster)
        self.alone = np.flatnonzero(alone)[:ALONE]
        self.alone_count = int(alone.sum())
        self.places = list(zip(self.rows.column("shard").to_pylist(), self.rows.column("row").to_pylist()))
        self.looks: dict[Place, SheetRow] = {}

    def chosen(self, cluster: int) -> np.ndarray:
        """The members to show: the one that stays, then the rest by distance, evenly if there are many."""
        members = self.members[cluster]
        kept = np.asarray(self.rows.column("duplicate_of").take(pa.array(members)).is_null())
        first, rest = members[kept], members[~kept]
        rest = rest[np.argsort(self.far[rest], kind="stable")]
        room = SHOWN - len(first[:1])
        if len(rest) > room:
            rest = rest[np.unique(np.linspace(0, len(rest) - 1, room).round().astype(int))]
        return np.r_[first[:1], rest]

    def wanted(self) -> dict[int, set[int]]:
        """The rows whose images are needed, by shard."""
        rows = [self.chosen(cluster) for cluster in {*self.largest.tolist(), *self.nearest.tolist()}]
        places: dict[int, set[int]] = {}
        for row in np.concatenate([*rows, self.alone]).astype(int) if rows or len(self.alone) else []:
            shard, number = self.places[row]
            places.setdefault(shard, set()).add(number)
        return places

    def look(self, batches: Iterable[Batch], max_pixels: int) -> None:
        """Take the images from the input, which is read once more."""
        wanted, fetcher = self.wanted(), Fetcher()
        shard, position = -1, 0
        for batch in batches:
            if batch.shard.index != shard:
                shard, position = batch.shard.index, 0
            here = wanted.get(shard, set())
            places = [k for k in range(batch.rows.num_rows) if position + k in here]
            if places:
                shown = _looks(batch.rows.take(pa.array(places)), fetcher, max_pixels)
                self.looks.update({(shard, position + k): look for k, look in zip(places, shown)})
            position += batch.rows.num_rows

    def html(self, title: str) -> str:
        page = resources.files("edittools.dedup").joinpath("sheet.html").read_text(encoding="utf-8")
        dropped = int(pc.sum(pc.is_valid(self.rows.column("reason"))).as_py() or 0)
        figures = [
            (f"{len(self.sizes):,}", "clusters"),
            (f"{dropped:,}", "rows dropped"),
            (f"{int(self.sizes.max()) if len(self.sizes) else 0:,}", "rows in the largest"),
            (_threshold(self.rule), "counts as a copy"),
        ]
        return Template(page).substitute(
            title=text(title),
            figures="".join(f'<div class="figure"><b>{text(a)}</b><span>{text(b)}</span></div>' for a, b in figures),
            reasons=self._reasons(),
            nearest=self._clusters(self.nearest) or '<p class="note">Every copy is an exact one.</p>',
            largest=self._clusters(self.largest) or '<p class="note">No row is a copy of another.</p>',
            alone=self._alone(),
            version=text(__version__),
        )

    def _reasons(self) -> str:
        pairs = zip(self.rows.column("reason").to_pylist(), self.rows.column("metric").to_pylist())
        counted = Counter((reason, metric or "") for reason, metric in pairs if reason is not None)
        body = "".join(
            f"<tr><td>{text(reason)}</td><td>{text(metric)}</td><td>{count:,}</td></tr>"
            for (reason, metric), count in counted.most_common()
        )
        head = "<thead><tr><th>reason</th><th>metric</th><th>rows</th></tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>"

    def _clusters(self, numbers: np.ndarray) -> str:
        return "".join(self._cluster(int(number)) for number in numbers)

    def _cluster(self, number: int) -> str:
        members, chosen = self.members[number], self.chosen(number)
        far = self.far[members]
        item = self.rows.slice(int(members[np.where(self.known[members], far, -1).argmax()]), 1).to_pylist()[0]
        shown = "" if len(chosen) == len(members) else f", {len(chosen)} of them shown"
        kept_before = f" · stays in set <b>{text(item['set'])}</b>: {text(item['duplicate_of'])}" if item["set"] else ""
        head = f"{len(members):,} rows{shown} · farthest: {text(_far(self.rule, item['metric'], float(far.max())))}"
        return (
            f'<section class="cluster"><h3>{head}{kept_before}</h3>'
            f'<div class="row">{"".join(self._row(int(row)) for row in chosen)}</div></section>'
        )

    def _alone(self) -> str:
        if not self.alone_count:
            return ""
        rows = "".join(self._row(int(row)) for row in self.alone)
        return (
            f'<h2>Dropped for themselves</h2><p class="note">{self.alone_count:,} rows, {len(self.alone)} of them '
            f'shown.</p><div class="row">{rows}</div>'
        )

    def _row(self, row: int) -> str:
        item = self.rows.slice(row, 1).to_pylist()[0]
        look = self.looks.get(self.places[row], SheetRow([], "", ""))
        kept = item["reason"] is None
        said = "stays" if kept else f"{item['reason']}: {_far(self.rule, item['metric'], item['distance'])}"
        images = "".join(f'<img alt="{text(name)}" title="{text(name)}" src="{uri}">' for name, uri in look.images)
        words = f'<p dir="auto">{text(look.words)}</p>' if look.words else ""
        return (
            f'<figure class="{"kept" if kept else "copy"}"><div class="images">{images or "no picture"}</div>'
            f"<figcaption><b>{text(said)}</b>{words}"
            f'<span class="mono" title="{text(look.path)}">{text(item["id"])}</span></figcaption></figure>'
        )


def _threshold(rule: Rule) -> str:
    if rule.eps is not None:
        return f"cosine > {1 - rule.eps:g}"
    if rule.limit is None:
        return all_signatures()[rule.equal].help
    if not rule.by_vectors:
        return f"≤ {int(rule.limit)} of 64 bits"
    return f"{'normalised score' if rule.normalize else 'cosine'} ≥ {rule.limit:g}"


def _far(rule: Rule, metric: str | None, far: float | None) -> str:
    """A distance as a person knows it."""
    if far is None or metric is None:
        return metric or "unknown"
    if metric == rule.equal:
        return metric
    if metric in of_bits():
        return f"{int(far)} bits"
    return f"{metric} {1 - far:.3f}"


def _looks(rows: pa.RecordBatch, fetcher: Fetcher, max_pixels: int) -> list[SheetRow]:
    texts = column_values(rows, "instruction")
    looks = []
    for sources, target, words, path in zip(source_references(rows), target_references(rows), texts, row_paths(rows)):
        images = []
        for name, image in [("source", source) for source in sources[:1]] + [("target", target)]:
            if image is None:
                continue
            try:
                pixels = codec.decode(fetcher.get(image), _RASTER, max_pixels)
                images.append((name, thumbnails.data_uri(pixels)))
            except RowError:
                continue
        said = [item for item in words.values() if item] if isinstance(words, dict) else [words or ""]
        looks.append(SheetRow(images, " · ".join(map(str, said)), path or ""))
    return looks


def write_sheet(
    path: str, decisions: pa.Table, rule: Rule, read: Callable[[Callable[[Any], bool]], Iterable[Batch]], *,
    title: str, max_pixels: int
) -> None:  # fmt: skip
    """Write the sheet; `read` gives the batches of the shards that a function chooses."""
    from edittools.stream import files

    sheet = Sheet(decisions, rule)
    needed = sheet.wanted()
    if needed:
        sheet.look(read(lambda shard: shard.index in needed), max_pixels)
    files.write_bytes(path, sheet.html(title).encode())
