"""How `edit shard` is told to read its input: as a published data set, or as --map and --root say."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from edittools.errors import EditError
from edittools.ingest import dataset_names, load_dataset
from edittools.ingest.config import ShardConfig
from edittools.ingest.dialogues import Dialogues
from edittools.ingest.fetching import Manners, Store, told
from edittools.ingest.frames import Frames
from edittools.ingest.halves import Split
from edittools.ingest.http_get import Limits
from edittools.ingest.inverse import Inverse
from edittools.ingest.masks import Masks
from edittools.stream import files, records, text
from edittools.stream.arranged import roots_of
from edittools.stream.batch import Stage
from edittools.stream.input_reader import IMAGE_ENDINGS
from edittools.stream.layouts import asked_for
from edittools.stream.mapping import Mapping
from edittools.stream.packed import name_key
from edittools.stream.progress import Progress
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.rows import referenced_files
from edittools.stream.run import signals
from edittools.stream.source import Source

_LOOKED_AT = 20  # tables of a folder by which a data set is known
_ENTRIES = 2000  # of a folder that are looked through for them: it may be a crawl of millions
_TABLES = (".parquet", ".arrow", ".jsonl", ".json", ".tar", ".csv")


def mapping_of(config: ShardConfig, images: Iterable[str] = ()) -> Mapping:
    """What the readers are told. Raises UsageError."""
    roots = roots_of(config.roots, Store(config.fetch).find if config.fetch is not None else None)
    if config.published is not None:
        return Mapping(arrangement=config.published.arrangement(roots, halves=config.halves is not None))
    pairs, named = config.pairs, [*images]
    inside = any("." in new or set(old) & set(".[|") for new, old in pairs)
    several = sum(new == "source" for new, _ in pairs) > 1
    before = config.inverse or config.dialogues  # stages that need the columns under our names
    if inside or several or before or config.roots or config.fetch is not None:
        return Mapping(arrangement=asked_for(pairs, named, roots))
    return Mapping(pairs, named)


def fetch_images(config: ShardConfig, source: Source, task: tuple[int, int] | None, quiet: bool) -> int:
    """Fetch what the rows name and the folder of --fetch has not; returns for how many addresses that was tried.

    A task of an array fetches what the rows of its own shards name, and keeps a log of its own.
    """
    if config.fetch is None:
        return 0
    limits = Limits(int(config.fetch_bytes), config.fetch_seconds, config.fetch_private)
    manners = Manners(config.fetch_rate, config.fetch_retries, config.fetch_threads, limits)
    done = Counter[str]()
    progress = Progress("fetch", source.rows, shown=not quiet, note=lambda: told(done))

    def named() -> Iterator[str]:
        for batch in source.batches(lambda shard: task is None or shard.index % task[1] == task[0]):
            for address in sorted(referenced_files(batch.rows), key=name_key):  # not one host after the other
                if address.startswith(("http://", "https://")):
                    yield address
                    progress.refresh()
            progress.step(batch.seen)

    with signals(), contextlib.closing(progress):
        log = None if task is None else "{}-of-{}".format(*task)
        Store(config.fetch, log).fetch(named(), manners, quiet, done)
    return done.total()


def before_ingest(config: ShardConfig, jobs: int) -> list[Stage]:
    """The stages that make the rows of others into rows as ours are. Raises UsageError."""
    published = config.published
    edited = config.mask or (published.mask if published else "white")
    inverse = config.inverse or (published.inverse if published else None)
    stages: list[Stage] = [Frames(config.gap, config.per_clip, config.max_pixels, jobs)] if config.frames else []
    stages += [Split(config.halves, config.max_pixels, jobs)] if config.halves is not None else []
    stages += [Masks(edited, config.max_pixels, jobs)] if edited != "white" else []
    if inverse is not None:
        stages.append(Inverse(inverse, jobs))
    if config.dialogue is not None:
        stages.append(Dialogues(*config.dialogue))
    return stages


@contextlib.contextmanager
def recognising(paths: Iterable[str], config: ShardConfig, quiet: bool) -> Iterator[None]:
    """Where the input is a published data set and nobody said so, say it: as the hint of an error, or afterwards."""
    told = config.published is not None or bool(config.renames)
    try:
        yield
    except EditError as error:
        error.hint = (None if told else hint_for(paths)) or error.hint
        raise
    said = None if told or quiet else hint_for(paths)
    if said is not None:
        print(f"shard: {said}", file=sys.stderr, flush=True)


def hint_for(paths: Iterable[str]) -> str | None:
    """Which published data set the inputs look like, and how to read it; None for none."""
    for path in map(files.local, paths):
        if path == "-" or files.is_url(path) or not files.exists(path):
            continue
        for table in itertools.islice(_some_tables(path), _LOOKED_AT) if files.is_dir(path) else [path]:
            name = recognised(_columns_of(table))
            if name is not None:
                return f"laid out as {load_dataset(name).title}: --from {name} reads it"
    return None


def recognised(names: set[str]) -> str | None:
    """The data set that columns are of: the one whose layout names most of them; None where they say too little.

    A layout that is known by less than two columns is anybody's.
    """
    best, most = None, 1
    for name in dataset_names():
        for layout in load_dataset(name).layouts:
            if len(layout.has) > most and layout.fits(names):
                best, most = name, len(layout.has)
    return best


def _some_tables(root: str) -> Iterator[str]:
    """Tables of a folder and the folders in it, as they come; what cannot be read has none, and what has the stem of an
    image is its sidecar."""
    pending, seen = [root], 0
    while pending and seen < _ENTRIES:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            some = list(itertools.islice(entries, _ENTRIES - seen))
            seen += len(some)
            stems = {name for name, ending in (os.path.splitext(e.name) for e in some) if ending[1:] in IMAGE_ENDINGS}
            for entry in some:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.lower().endswith(_TABLES) and os.path.splitext(entry.name)[0] not in stems:
                    yield entry.path


def _columns_of(path: str) -> set[str]:
    """The columns of a table, by its first row; none where it cannot be read."""
    try:
        with files.open_read(path) as file:
            head = file.read(1024)
            file.seek(0)
            if head[:4] == b"PAR1":
                import pyarrow.parquet as pq

                return set(pq.read_schema(file).names)
            if head[:4] == b"\xff\xff\xff\xff":
                return set(pa.ipc.open_stream(file).schema.names)
            if head[257:262] == b"ustar":
                reader = TarFileReader(path)
                reader.shorten(1)
                return set(reader.schema.names)
            read = records.reader_for(path, head)
            first = next(iter(read(file, text.Guesses())), None) if read is not None else None
            return set(first[1]) if first is not None and isinstance(first[1], dict) else set()
    except (EditError, OSError, pa.ArrowException, ValueError):
        return set()
