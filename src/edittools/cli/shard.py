"""`edit shard`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edittools.cli import options
from edittools.errors import UsageError
from edittools.ingest.config import ShardConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from edittools.stream.mapping import Mapping
    from edittools.stream.run import RunOptions
    from edittools.stream.sink import Sink
    from edittools.stream.source import Source


@options.command(
    "shard",
    cost="Reads every input byte once and streams; memory does not grow with the data.",
    examples=(
        ("edit shard crawl/ -o raw/", "every file of a crawl is a row, or a reject with its reason"),
        ("edit shard OmniEdit-Filtered-1.2M/ --from omniedit -o omniedit/", "a data set by its name"),
        (
            "edit shard x.json --map source=image[:-1] --map target=image[-1] --root images.tar -o pairs/",
            "parts of a column, and images in an archive",
        ),
        ("edit shard posts/ --halves either -o pairs/", "before and after in one picture, cut in two"),
        ("edit shard clips/ --frames --gap 0.2..1 -o frames/", "pairs of frames of videos"),
        ("edit shard pairs.parquet --map source=src_img --map target=edited_img -o pairs/", "name the columns"),
    ),
)
@options.input_options
@options.config_options(ShardConfig)
@options.output_options
@options.run_options
@click.pass_context
def command(ctx: click.Context, /, input: tuple[str, ...], images: tuple[str, ...], **given: object) -> None:
    """Make a shard set.

    INPUT is a folder of images (with .txt captions and .json fields beside them, or ID.source.jpg and
    ID.target.jpg for pairs), tars of webdataset, Parquet files with images inside or paths of them, JSON lines, a
    JSON array or CSV with paths, a text with an address in every line, a shard set, or a stream; a compressed tar or a
    zip archive is read as a tar, unpacked in TMPDIR; one in parts (x.tar.split.000, x.tar.gz.part-aa) as the whole,
    named by any part. Original bytes are kept as they are.

    In place of a path an image may stand in base64, as a data: URI or bare. Paths are beside the file that names
    them: in `image` and `file_name`, in `source`, `target`, `rejected`, `mask` and `result`
    where they look like one (a word there, as `flickr`, stays a word, in `user_NAME`), and as {"file": PATH} in
    `result_NAME`. Of any other column --image says that it holds images, as --map does that makes it `source`,
    `target`, `rejected` or `mask`; --map site=source says that it does not. A --map that cannot be carried out is an
    error. A path that names nothing as it stands is tried without the spaces round it, without `?x=1` and `#top`, with
    the slashes of Windows, with %20 as a space, and with its accents as macOS writes them.

    An id is made from the content and the place of a file, so it is the same on every machine, and two identical
    files are two rows with one `provenance.sha256`: finding them is `edit dedup`'s work. Ids that a file brings are
    kept as `user_id`; `--map id=COLUMN` takes a column's values as the ids instead. A second row of a shard with the
    same id is called ID#2. What does not fit a column of the record, whole values or keys of `objects` and `turns`, is
    kept under `user_NAME`. Texts are read in their encoding: UTF-8, by a byte order mark, else GBK or Windows-1252 by a
    guess, which is told.

    Of a folder every file is a row or a reject; only hidden files (`.NAME`) are passed over. Links to files are
    followed, links to folders are rejects. A folder with tars, Parquet files or JSON lines anywhere in it, as a
    repository of the hub or what img2dataset writes, is read as these, and what else is there is counted. Tables whose
    rows name images of the folder (`metadata.jsonl`, `metadata.csv`) are read with it, and the images that they do
    not name are rows too; other tables beside images are an error, for there are two readings. Of a tar every entry
    is a row, part of one or a reject: links are the files they lead to, a name that comes twice is two rows.

    --from names a published data set: its columns, tasks and masks become ours, and its images are found in its
    archives, cut into parts or not. `edit man datasets` lists them, and says what OLD in `--map NEW=OLD` may be: a
    place inside a column, such as `images[0]`. An input that is laid out as one of them is told so.

    With --frames a file, tar entry or column `target` is a video (MP4, Matroska, WebM, AVI, MPEG, Ogg, FLV): it is cut
    where the picture changes suddenly (the rule of Koala-36M), and every clip becomes pairs of frames that are --gap
    seconds apart by their own times, upright and with square pixels; `provenance.path` says which seconds
    (`a.mp4#t=1.200,1.920`). 20 minutes of a video are looked at. What moves in them is for `edit filter --motion` and
    `edit caption --kinds motion`.

    With --halves an image without a source is before and after in one, which is cut in two at the seam in its middle,
    where both halves show the same within 2% of their shorter side; a gutter or a frame of one plain colour is left
    out, other images are rejects. Pixels are cut as they are decoded, to RGB of 8 bits, without alpha; a row with a
    `mask`, which is not cut, is a reject.

    The same command over a folder, a list, a set or a tar that has grown adds shards for what is new; those that are
    there stay.
    """
    from edittools.ingest.reading import recognising

    run_options = options.run_settings(ctx)
    config = options.config(ctx, ShardConfig)
    with recognising(input, config, run_options.quiet):
        _shard(ctx, input, images, run_options, config)


def _shard(
    ctx: click.Context, input: tuple[str, ...], images: tuple[str, ...], run_options: RunOptions, config: ShardConfig
) -> None:
    from edittools.ingest.reading import before_ingest, fetch_images, mapping_of
    from edittools.ingest.stage import Ingest
    from edittools.stream.run import open_sink, run, settings_of
    from edittools.stream.source import FileSource
    from edittools.stream.writers.shards import ShardSetSink

    mapping = mapping_of(config, images)
    sink = open_sink(run_options)
    source = _open(list(input), config, run_options, mapping, sink)
    if not run_options.dry_run and fetch_images(config, source, run_options.task, run_options.quiet):
        mapping = mapping_of(config, images)
        source = _open(list(input), config, run_options, mapping, sink)  # the rows name what is there now
    names = source.schema.names  # by whose making `mapping` has met what it names
    typed = source.unrenamed if isinstance(source, FileSource) else names
    mapping.check(typed)
    if mapping.arrangement is None:
        _check_images(images, typed, source.schema)
        if not run_options.quiet:
            _tell_near_names(names)
    if isinstance(source, FileSource) and isinstance(sink, ShardSetSink):
        sink.made_of, sink.changed = source.row_keys, source.changed
    stage = Ingest(
        config,
        rename={old: new for old, new in mapping.said.items() if old in typed},
        given_ids=mapping.gives_ids,
        jobs=options.jobs(ctx),
        foreign_ids=isinstance(source, FileSource) and source.foreign_ids,
    )
    stages = [*before_ingest(config, options.jobs(ctx)), stage]
    settings = settings_of(stages, source, run_options.limit)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    run("shard", source, stages, settings, run_options, sink=sink)


def _open(inputs: list[str], config: ShardConfig, run_options: RunOptions, mapping: Mapping, sink: Sink) -> Source:
    """The input, cut into the shards that the output is to have; rows of an earlier run stay in theirs."""
    from edittools.stream.counted import RowCounts
    from edittools.stream.run import Cut, open_input
    from edittools.stream.shards import rows_made_of
    from edittools.stream.writers.shards import ShardSetSink

    before = counts = None
    if isinstance(sink, ShardSetSink):
        before = None if run_options.overwrite else rows_made_of(sink.folder)
        new = before is None and not run_options.dry_run
        if run_options.task is not None and new:
            sink.refuse_others()
            counts = RowCounts(sink.folder, run_options.task, by_size=config.size is not None)
    return open_input(inputs, run_options, mapping, Cut(config.rows_per_shard, config.size, before, counts))


def _tell_near_names(names: Sequence[str]) -> None:
    """Columns that are called nearly as those of the record are, and mean nothing to any command, are said."""
    import difflib

    from edittools.record import COLUMNS

    others = [name for name in names if name not in COLUMNS]
    for wanted in COLUMNS.keys() - {*names}:
        for near in difflib.get_close_matches(wanted, others, 1, cutoff=0.8):
            click.echo(
                f"shard: `{near}` is a column of your own; did you mean `{wanted}`? --map {wanted}={near}", err=True
            )


def _check_images(names: tuple[str, ...], typed: Sequence[str], schema: pa.Schema) -> None:
    """Raises UsageError for an --image that can be none."""
    import pyarrow as pa

    from edittools.stream.batch import image_columns

    for name in names:
        if name in typed and not image_columns(pa.schema([schema.field(name)])):
            raise UsageError(f"--image {name}: `{name}` is {schema.field(name).type}, which holds no images")
