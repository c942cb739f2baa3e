"""Making a benchmark: cases out of rows with a source and an instruction.

Step1X-Edit 4.1: instructions of users, split into categories, those of like purpose left out. ImgEdit 4.1: concepts of
six groups, as many of each for each task. FireRed 4: instructions in two languages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.fingerprint import word_vector
from edittools.errors import RowError, UsageError
from edittools.seeded import digest as seeded_digest
from edittools.settings import Placed, setting
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.row_images import source_references
from edittools.stream.rows import column_values, row_paths
from edittools.stream.source import Source
from edittools.suites.shared.types import Benchmark, NewCase

REVIEWED = "instruction_reviewed"


@dataclass(frozen=True)
class BuildConfig(Placed):
    """What becomes a case."""

    per_task: int | None = setting(
        None, "Draw N cases of each task, as many of each concept as there can be. Default: all.", metavar="N", low=1
    )
    concept: str = setting(
        "concept",
        "Column of what a case is about (`edit caption --kinds intent`); without it the first of `objects`.",
        metavar="COLUMN",
    )
    languages: tuple[str, ...] = setting(
        "en,zh",
        "Languages that an instruction must be there in (`edit caption --kinds translate`).",
        metavar="LIST",
        parse=lambda value: _languages(value),
    )
    intent_cosine: float = setting(
        0.9,
        "Of two instructions of a task with at least this likeness one is dropped; 1: only the same words.",
        metavar="X",
        low=0,
        high=1,
    )
    intent_model: str | None = setting(
        None,
        "Likeness by this embedding model's vectors of texts (clip). Default: by words and pairs of words.",
        metavar="NAME",
        group="Model",
    )
    seed: int = setting(0, "Of the draw.", metavar="N")


def _languages(value: Any) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(value.split(",") if isinstance(value, str) else value))
    if not named or set(named) - {"en", "zh"}:
        raise ValueError("en, zh or en,zh")
    return named


@dataclass(frozen=True)
class Candidate:
    id: str
    task: str
    concept: str
    words: str  # the instruction in the first language

    def rank(self, seed: int) -> int:
        """Place in a random order that depends on nothing else."""
        return seeded_digest(seed, self.id, self.words)


class BuildStage:
    """Two-pass stage: the rows that become cases; every other is a reject with its reason.

    `allowed` narrows down the tasks, to those of a layout. The first pass keeps ids and words of all rows.
    """

    name = "eval"
    VERSION = 1
    first_step: tuple[str, ...] | None = None
    whole_hint = "run it without --task: it decodes no image"

    def __init__(self, config: BuildConfig, allowed: Sequence[str] | None = None, layout: str | None = None) -> None:
        self.config, self.allowed, self.layout = config, allowed, layout
        self.candidates: dict[str, Candidate] = {}
        self.dropped: dict[str, tuple[str, Any]] = {}  # id -> reason, value
        self.decisions_digest: str | None = None
        self.similar: Callable[[list[str]], np.ndarray] | None = None

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        told = self.config.recorded(languages=list(self.config.languages))
        return told | ({} if self.layout is None else {"layout": self.layout})

    def schema(self, schema: pa.Schema) -> pa.Schema:
        for name in ("id", "task", "source", "instruction"):
            if name not in schema.names:
                raise UsageError(f"the input has no column `{name}`", hint="`edit shard --map` makes it of another")
        return schema

    # ------------------------------------------------------------ the two passes

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._gather(batch.rows)
            yield batch

    def gather(self, batches: Iterator[Batch]) -> None:
        for _ in self.observe(batches):
            pass

    def _gather(self, rows: pa.RecordBatch) -> None:
        concepts, objects = column_values(rows, self.config.concept), column_values(rows, "objects")
        facts = zip(
            column_values(rows, "id"), column_values(rows, "task"), instructions_of(rows), source_references(rows)
        )
        for (identity, task, said, sources), concept, seen in zip(facts, concepts, objects):
            lacking = [name for name in self.config.languages if not (said.get(name) or "").strip()]
            if identity in self.candidates or identity in self.dropped:
                self.dropped[identity] = ("the id comes twice", None)
            elif len(sources) != 1:
                self.dropped[identity] = ("not one source", len(sources))
            elif lacking:
                self.dropped[identity] = (f"no instruction in {', '.join(lacking)}", None)
            elif self.allowed is not None and task not in self.allowed:
                self.dropped[identity] = (f"no task of {self.layout}", task)
            else:
                first = next((one["name"] for one in seen or () if one and one.get("name")), None)
                words = str(said[self.config.languages[0]])
                self.candidates[identity] = Candidate(identity, str(task), str(concept or first or "-"), words)

    def decide(self) -> None:
        """Drop near-equal intents of each task, then draw evenly over its concepts."""
        by_task: dict[str, list[Candidate]] = defaultdict(list)
        for one in self.candidates.values():
            by_task[one.task].append(one)
        for task in sorted(by_task):
            ranked = sorted(by_task[task], key=lambda one: one.rank(self.config.seed))
            kept = self._apart(ranked)
            if self.config.per_task is not None:
                drawn = set(spread(kept, self.config.per_task))
                self.dropped |= {one.id: ("more than enough of the task", task) for one in kept if one.id not in drawn}
        self.decisions_digest = digest(canonical_json({name: list(why) for name, why in self.dropped.items()}))

    def _apart(self, ranked: list[Candidate]) -> list[Candidate]:
        """Candidates of one task none of which asks for nearly what one before it asks for."""
        vectors = self._vectors([one.words for one in ranked])
        kept: list[int] = []
        for number, one in enumerate(ranked):
            alike = np.round(vectors[kept] @ vectors[number], 6) if kept else np.zeros(0)
            if len(alike) and alike.max() >= self.config.intent_cosine - 1e-6:
                near = ranked[kept[int(alike.argmax())]].id
                self.dropped[one.id] = ("near-equal intent", {"of": near, "cosine": float(alike.max())})
            else:
                kept.append(number)
        return [ranked[number] for number in kept]

    def _vectors(self, texts: list[str]) -> np.ndarray:
        if self.config.intent_model is None:
            return np.stack([word_vector(one) for one in texts])
        from edittools.encoders.embedders import load_embedder

        model = load_embedder(self.config.intent_model, **self.config.placed)
        if not hasattr(model, "texts"):
            raise UsageError(f"--intent-model: {self.config.intent_model} has no vectors of texts", hint="clip has")
        return np.asarray(model.texts(texts), np.float64)

    def save_decisions(self, path: str) -> None:
        from edittools.stream import files

        files.write_bytes(path, canonical_json({name: list(why) for name, why in self.dropped.items()}).encode())

    def load_decisions(self, path: str) -> None:
        import json

        from edittools.stream import files

        found = json.loads(files.read_bytes(path))
        self.dropped = {name: (why[0], why[1]) for name, why in found.items()}
        self.decisions_digest = digest(canonical_json(found))

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            ids, paths = column_values(batch.rows, "id"), row_paths(batch.rows)
            rejects = [
                Reject(identity, self.name, *self.dropped[identity], False, path)
                for identity, path in zip(ids, paths)
                if identity in self.dropped
            ]
            kept = pa.array([identity not in self.dropped for identity in ids], pa.bool_())
            yield batch.replace(batch.rows.filter(kept), rejects)


def instructions_of(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Every row's instruction by language: as people corrected it, where they did."""
    pairs = zip(column_values(rows, REVIEWED), column_values(rows, "instruction"))
    said = [own if corrected is None else corrected for corrected, own in pairs]
    return [words if isinstance(words, dict) else {"en": words} for words in said]


def cases_of(stage: BuildStage, source: Source, benchmark: Benchmark) -> tuple[list[NewCase], Counter[str]]:
    """The rows that a stage keeps, as cases with the benchmark's own names of tasks; and why the others are none."""
    cases: list[NewCase] = []
    reasons: Counter[str] = Counter()
    fetcher = Fetcher()
    for batch in stage(source.batches(lambda shard: True)):
        reasons.update(reject.reason for reject in batch.rejects)
        for identity, task, said, (image,), origin in zip(
            column_values(batch.rows, "id"),
            column_values(batch.rows, "task"),
            instructions_of(batch.rows),
            source_references(batch.rows),
            column_values(batch.rows, "provenance"),
        ):
            try:
                data = bytes(fetcher.get(image))
            except RowError as error:
                reasons[error.reason] += 1
                continue
            native = benchmark.native_task(task, (origin or {}).get("native_task"))
            words = {name: said[name] for name in stage.config.languages}
            cases.append(NewCase(identity, native, words, data))
    return cases, reasons


def spread(ranked: Sequence[Candidate], count: int) -> list[str]:
    """Ids of at most so many, in turns over the concepts: none has two more than another that has some left."""
    by_concept: dict[str, list[str]] = defaultdict(list)
    for one in ranked:
        by_concept[one.concept].append(one.id)
    turns = [[members[turn] for members in by_concept.values() if turn < len(members)] for turn in range(len(ranked))]
    return [identity for turn in turns for identity in turn][:count]
