"""The run loop: source → stages → sink, for one machine, one array task or one pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, Interrupted, TooManyFailed, UsageError
from edittools.stream import codec, files, threads
from edittools.stream.batch import Batch, Shard, Stage, joined
from edittools.stream.counted import RowCounts
from edittools.stream.fetch import Fetcher, Handed
from edittools.stream.history import canonical_json, digest
from edittools.stream.ipc import Counts, IpcWriter, grow_pipe
from edittools.stream.mapping import Mapping
from edittools.stream.opening import open_source
from edittools.stream.pipes import IpcFileSource, Limited, Regrouped
from edittools.stream.progress import Progress
from edittools.stream.ray_cluster import RayCluster, run_tasks
from edittools.stream.readers.folder import FolderReader
from edittools.stream.readers.shard import ShardReader
from edittools.stream.rejects_file import RejectsFile
from edittools.stream.shards import DECISIONS, shard_numbers
from edittools.stream.sink import FileSink, Sink
from edittools.stream.source import FileSource, Source
from edittools.stream.writers import make_sink
from edittools.stream.writers.arrows import ArrowSink
from edittools.stream.writers.shards import ShardSetSink
from edittools.stream.writers.table import TableSink

_SPOOL_RESERVE = 256 << 20  # bytes to leave free on the disk that is spooled to
_SPOOL_ROW = 400  # bytes a spooled row of references takes, with a margin


@dataclass
class RunOptions:
    """Options common to all commands. None of them changes a row."""

    output: str | None = None
    format: str | None = None
    overwrite: bool = False
    inline: bool = False
    partial: bool = False
    task: tuple[int, int] | None = None
    limit: int | None = None
    rejects: str | None = None
    max_errors: str = "1%"
    quiet: bool = False
    dry_run: bool = False
    ray: RayCluster | None = None


@runtime_checkable
class TwoPassStage(Protocol):
    """A stage that must see every row before it lets one through (dedup, quantile bounds).

    `observe` passes batches on unchanged and gathers facts, `decide` makes decisions of them, and calling the
    stage applies it. `decisions_digest` names the decisions; None until there are any. Where array tasks can gather the
    facts, `first_step` are the arguments that make them do so, and `gather` reads the set that they write; elsewhere
    it is None.
    """

    name: str
    decisions_digest: str | None
    first_step: tuple[str, ...] | None

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]: ...
    def gather(self, batches: Iterator[Batch]) -> None: ...
    def decide(self) -> None: ...
    def save_decisions(self, path: str) -> None: ...
    def load_decisions(self, path: str) -> None: ...


@runtime_checkable
class Remarking(Protocol):
    """A source or stage that has something to say when a run has ended well, or nothing (an empty string)."""

    def remark(self) -> str: ...


def stdout_kind() -> str:
    """Kind of the standard output: `terminal`, `file` or `pipe` (sockets and devices count as pipes)."""
    if os.isatty(1):
        return "terminal"
    return "file" if stat.S_ISREG(os.fstat(1).st_mode) else "pipe"


def parse_max_errors(text: str) -> tuple[float, bool]:
    """`N` rows or `P%` of them: (value, whether it is a share)."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return share, True
        elif int(text) >= 0:
            return float(int(text)), False
    except ValueError:
        pass
    raise UsageError(f"--max-errors {text}: expected a number of rows, or a percentage such as 1%")


def check_errors(
    counts: Counts, max_errors: str, hint: str = "the output is written; the rejects say which rows and why"
) -> None:
    """Raises TooManyFailed where more rows failed than are tolerated."""
    value, share = parse_max_errors(max_errors)
    allowed = value * counts.rows if share else value
    if counts.failed > allowed:
        raise TooManyFailed(
            f"{counts.failed} of {counts.rows} rows failed, more than --max-errors {max_errors}",
            hint=hint,
        )


@dataclass(frozen=True)
class Cut:
    """How rows are cut into shards anew: by rows or bytes of images, beside what stays of shards cut before."""

    rows: int | None = None
    size: int | None = None
    kept: list[np.ndarray] | None = None
    counts: RowCounts | None = None  # of files' rows, where array tasks share the counting


def open_input(
    paths: list[str],
    options: RunOptions,
    mapping: Mapping | None = None,
    cut: Cut | None = None,
) -> Source:
    """The source the options describe, in its own shards or cut anew."""
    if options.limit is not None and options.task is not None:
        raise UsageError("--limit and --task cannot be used together")
    if options.limit is not None and options.ray is not None:
        raise UsageError("--limit and --ray cannot be used together")
    source = open_source(
        paths, partial=options.partial, mapping=mapping, counts=cut.counts if cut is not None else None
    )
    if options.limit is not None:
        source = source.limited(options.limit) if isinstance(source, FileSource) else Limited(source, options.limit)
    if cut is not None:
        if isinstance(source, FileSource):
            source = source.resharded(cut.rows, cut.size, cut.kept)
        else:
            source = Regrouped(source, cut.rows, cut.size)
    if options.task is not None and isinstance(source, FileSource):
        source = source.of_task(options.task)
    return source


def open_sink(options: RunOptions) -> Sink:
    """The sink the options describe."""
    return make_sink(
        options.output, options.format, overwrite=options.overwrite, inline=options.inline, stdout_kind=stdout_kind
    )


def refuse_own_input(sink: Sink, source: Source) -> None:
    """Raises UsageError where the output would be written over, or into, the sets and folders that are read for it."""
    if not isinstance(source, FileSource):
        return
    if isinstance(sink, FileSink) and sink.path is not None:
        stem, ending = os.path.splitext(files.real(sink.path))
        if ending in (".tar", ".parquet") and any(
            isinstance(reader, ShardReader) and files.real(reader.name) == stem for reader in source.readers
        ):
            raise UsageError(f"-o {sink.path}: a shard of the input", hint="choose another -o")
    if isinstance(sink, ShardSetSink):
        sink.refuse_inputs(
            (reader.folder for reader in source.readers if isinstance(reader, ShardReader)),
            {
                reader.name
                for reader in source.readers
                if isinstance(reader, FolderReader) and files.is_dir(reader.name)
            },
        )


def open_progress(
    command: str, source: Source, options: RunOptions, sink: Sink, note: Callable[[], str] | None = None
) -> Progress:
    """The progress of a run: shown by the last command of a pipeline. `note` is what is said beside the rows."""
    shown = not (_to_pipe(options) or options.quiet or isinstance(sink, TableSink))
    return Progress(command, source.rows, shown=shown, note=note)


def _to_pipe(options: RunOptions) -> bool:
    return options.output in (None, "-") and stdout_kind() == "pipe"


class _Handler:
    """The first SIGINT or SIGTERM unwinds the run at once, wherever it waits; temporaries go on the way out."""

    def __init__(self) -> None:
        self.armed = True

    def __call__(self, signum: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            raise Interrupted(signum)


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted while the block runs (in the main thread)."""
    handler = _Handler()
    try:
        old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever is has to care
        yield
        return
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def run(
    command: str,
    source: Source,
    stages: list[Stage],
    settings: dict[str, Any],
    options: RunOptions,
    *,
    sink: Sink | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Run a pipeline to its end. Returns the counts of all rows, of shards finished earlier too.

    Raises what the command line reports: EditError and its kinds, BrokenPipeError, Interrupted.
    """
    sink = sink or open_sink(options)
    _check_options(options, source, sink)
    to_pipe = _to_pipe(options)
    if to_pipe:
        with contextlib.suppress(OSError, ValueError):
            grow_pipe(cast(Any, open(1, "wb", closefd=False)))
    schema = source.schema
    for stage in stages:  # a column that is missing, or of another kind, is found before anything is started
        schema = stage.schema(schema)
    progress = progress or open_progress(command, source, options, sink)
    rejects = RejectsFile(options.rejects, options.overwrite)
    try:
        with contextlib.ExitStack() as spools, signals(), threads.one_of_blas():
            try:
                source = _first_passes(command, source, stages, settings, options, sink, progress, spools)
                if options.ray is not None:
                    _spread(options.ray, command, source, options, cast(ShardSetSink, sink))
                counts = _second_pass(command, source, stages, schema, settings, options, sink, progress, rejects)
                rejects.commit()
            except BaseException:
                sink.abort()
                rejects.abort()
                raise
    finally:
        progress.close()
    progress.summary()
    if not options.quiet:
        if not counts.kept and not to_pipe and not isinstance(sink, TableSink):
            none = f"none of {counts.rows} rows came through" if counts.rows else "no row came in"
            print(f"{command}: nothing written: {none}", file=sys.stderr, flush=True)
        for part in (source, *stages):
            said = part.remark() if isinstance(part, Remarking) else ""
            if said:
                print(f"{command}: {said}", file=sys.stderr, flush=True)
    if not (to_pipe and isinstance(sink, ArrowSink)):  # where the rejects travel on, the last command judges the sum
        check_errors(counts, options.max_errors)
    return counts


def _check_options(options: RunOptions, source: Source, sink: Sink) -> None:
    """Raises UsageError where the options exclude each other, or do not go with what is read and written."""
    parse_max_errors(options.max_errors)
    to_folder = isinstance(sink, ShardSetSink)
    refuse_own_input(sink, source)
    if options.rejects and options.output and files.real(options.rejects) == files.real(options.output):
        raise UsageError(f"--rejects {options.rejects}: is the -o too: one would replace the other")
    if options.task is not None:
        if not to_folder and options.output not in (None, "-"):
            raise UsageError("--task needs a shard set for its output (-o DIR/): several tasks would write one file")
        if options.rejects:
            raise UsageError("--rejects with --task: the tasks would write one file; a shard set keeps its own")
        if source.shards is None:
            raise UsageError("--task needs shards to choose from; a pipe is read whole")
    if options.ray is not None:
        if not to_folder or source.shards is None:
            raise UsageError("--ray needs shards to spread: an input that is not a pipe, and -o DIR/ for its output")
        if options.task is not None or options.rejects:
            raise UsageError("--ray cuts the tasks itself: leave out --task and --rejects")


def _first_passes(
    command: str,
    source: Source,
    stages: list[Stage],
    settings: dict[str, Any],
    options: RunOptions,
    sink: Sink,
    progress: Progress,
    spools: contextlib.ExitStack,
) -> Source:
    """Let every stage that decides over all rows decide. Returns a source that can be read again."""
    for stage in stages:
        if not isinstance(stage, TwoPassStage) or stage.decisions_digest is not None:
            continue
        kept = _kept_decisions(command, source, stages, settings, sink)
        if kept is not None and files.exists(kept):
            stage.load_decisions(kept)  # of the run that is being continued
            continue
        if options.ray is not None and stage.first_step is not None and kept is not None:
            _gather_on_ray(options.ray, command, source, stage, options, kept)
        else:
            source, spool = _first_pass(stage, source, options, progress)
            if spool is not None:
                spools.callback(_unlink, spool)
        if kept is not None:
            stage.save_decisions(kept)
            files.remove_tree(f"{kept}-facts")
    return source


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _shard_count(source: Source) -> int:
    """How many shards the whole has; with --partial some of them are missing."""
    if isinstance(source, FileSource):
        return source.count
    return (source.shards[0].count or 0) if source.shards else 0


def _second_pass(
    command: str,
    source: Source,
    stages: list[Stage],
    schema: pa.Schema,
    settings: dict[str, Any],
    options: RunOptions,
    sink: Sink,
    progress: Progress,
    rejects: RejectsFile,
) -> Counts:
    kept_decisions = [s.decisions_digest for s in stages if isinstance(s, TwoPassStage)]
    if kept_decisions:
        settings = {**settings, "verdict": kept_decisions[0] if len(kept_decisions) == 1 else kept_decisions}
    history = source.history.add(command, _version(stages), settings)
    place = files.STDOUT if options.output in (None, "-") else options.output
    with files.writing(place):
        sink.open(schema, history, source.rows)
    finished = Counts()

    def select(shard: Shard) -> bool:
        if options.task is not None and shard.index % options.task[1] != options.task[0]:
            return False
        done = sink.done(shard)
        if done is not None:
            finished.rows += done.rows
            finished.kept += done.kept
            finished.failed += done.failed
            progress.step(done.rows)
        return done is None

    _hand_over(stages, sink)
    batches = source.batches(select)
    if stages:
        batches = joined(batches)
    for stage in stages:
        batches = stage(batches)
    if isinstance(sink, ShardSetSink) and source.shards is not None:
        sink.stated = _shard_count(source)
    try:
        for batch in batches:
            with files.writing(place):
                found = sink.write(batch)
            if found:
                batch = batch.replace(batch.rows.slice(0, batch.rows.num_rows - len(found)), found)
            rejects.write(batch.rejects)
            progress.add(batch)
    finally:
        if isinstance(batches, Generator):
            batches.close()  # now, not at some later time: a stage may have calls in flight whose replies it must store
    total = progress.counts
    progress.finished_before = finished.rows
    counts = Counts(total.rows + finished.rows, total.kept + finished.kept, total.failed + finished.failed)
    with files.writing(place):
        sink.finish(counts)
    return counts


def _hand_over(stages: list[Stage], sink: Sink) -> None:
    """Let what the last stage that opens images has read go to a sink that would read it again."""
    readers = [found for stage in stages if isinstance(found := getattr(stage, "fetcher", None), Fetcher)]
    writer = getattr(sink, "fetcher", None) if getattr(sink, "packs", False) else None
    if readers and isinstance(writer, Fetcher):
        readers[-1].gives = writer.takes = Handed()


def settings_of(stages: Sequence[Stage], source: Source, limit: int | None = None) -> dict[str, Any]:
    """What the history records of a command: what its stages were told, and how many rows were read at most."""
    found: dict[str, Any] = {} if limit is None else {"limit": limit}
    for stage in stages:
        found |= stage.settings(source.schema, source.history)
    return dict(sorted(found.items()))


def _version(stages: list[Stage]) -> int:
    """The version of what is run: any stage's, or that of all pixels, changes it, and finished shards are made anew."""
    return codec.VERSION + sum(stage.VERSION - 1 for stage in stages)


def _kept_decisions(
    command: str, source: Source, stages: list[Stage], settings: dict[str, Any], sink: Sink
) -> str | None:
    """Where a shard set keeps the decisions it was made with: the name says which input and settings it is for."""
    if not isinstance(sink, ShardSetSink) or source.shards is None:
        return None
    version = str(_version(stages))
    shards = source.digests if isinstance(source, FileSource) else [shard.digest for shard in source.shards]
    made = digest(source.history.hash, version, canonical_json(settings), *shards)
    folder = files.join(sink.folder, DECISIONS)
    files.make_dirs(folder)
    return files.join(folder, f"{command}-{made[:16]}")


def _spread(cluster: RayCluster, command: str, source: Source, options: RunOptions, sink: ShardSetSink) -> None:
    """Let a Ray cluster make the shards. The caller then finds them finished, as a rerun does."""
    shards = _shard_count(source)
    there = shard_numbers(sink.folder) if files.exists(sink.folder) else []
    if len(there) < shards or options.overwrite:
        run_tasks(cluster, command, sink.folder, shards, shown=not options.quiet, more=[])


def _gather_on_ray(
    cluster: RayCluster, command: str, source: Source, stage: TwoPassStage, options: RunOptions, kept: str
) -> None:
    """The first pass as tasks of a Ray cluster; their facts stand beside the decisions until these are made."""
    facts = f"{kept}-facts"
    more = [*(stage.first_step or ()), "-o", facts + "/"]
    shards = _shard_count(source)
    run_tasks(cluster, f"{command}, first pass", facts, shards, shown=not options.quiet, more=more)
    stage.gather(open_source([facts], partial=options.partial).batches(lambda shard: True))
    stage.decide()


def _first_pass(stage: Any, source: Source, options: RunOptions, progress: Progress) -> tuple[Source, str | None]:
    """Let a two-pass stage see every row, and return a source that can be read again."""
    if options.task is not None:
        hint = "decide first (--phase decide), then give it to every task with --decisions"
        raise UsageError("a task of an array cannot decide from its own part", hint=getattr(stage, "whole_hint", hint))
    reading = Progress(f"{progress.command}, first pass", source.rows, shown=progress.shown)
    if source.replayable:
        for batch in stage.observe(joined(source.batches(lambda shard: True))):
            reading.step(batch.seen)
        stage.decide()
        reading.close()
        return source, None
    folder = tempfile.gettempdir()
    needed = (source.rows or 0) * _SPOOL_ROW + _SPOOL_RESERVE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EditError(
            f"{folder}: {free >> 20} MiB free, about {needed >> 20} MiB needed to keep the stream's references",
            hint="set TMPDIR to a larger disk, or give the shard set as INPUT instead of a pipe",
        )
    descriptor, path = tempfile.mkstemp(prefix="edittools-", suffix=".arrows")
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            writer = IpcWriter(file, source.schema, source.history, source.rows)
            for batch in stage.observe(joined(source.batches(lambda shard: True))):
                writer.write(batch)
                reading.step(batch.seen)
            writer.end()
        stage.decide()
    except BaseException:
        os.unlink(path)
        raise
    reading.close()
    return IpcFileSource([path]), path
