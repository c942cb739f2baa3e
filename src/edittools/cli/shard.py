"""`edit shard`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edittools.cli import options
from edittools.errors import UsageError

if TYPE_CHECKING:
    from edittools.stream.mapping import Mapping


@options.command(
    "shard",
    cost="Reads every input byte once and streams; memory does not grow with the data.",
    examples=(
        ("edit shard crawl/ -o raw/", "every file of a crawl is a row, or a reject with its reason"),
        ("edit shard pairs.parquet --map source=src_img --map target=edited_img -o pairs/", "name the columns"),
    ),
)
@options.input_options
@options.pixel_option
@options.option(
    "--map",
    "renames",
    multiple=True,
    metavar="NEW=OLD",
    group="Input",
    help="Read the input's column OLD as NEW. May be given several times.",
)
@options.option(
    "--image",
    "images",
    multiple=True,
    metavar="COLUMN",
    group="Input",
    help="COLUMN holds pictures: paths, or their bytes. May be given several times; `--map source=...` says so too.",
)
@options.option(
    "--names",
    type=click.Choice(["gedit", "imgedit", "rededit"]),
    group="Input",
    help="Task names of this benchmark become canonical ones; the native name stays in provenance.",
)
@options.option("--origin", metavar="NAME", group="Input", help="What the data set is called, for provenance.")
@options.option("--license", metavar="NAME", group="Input", help="The licence, for provenance.")
@options.option("--verify", is_flag=True, group="Input", help="Decode every picture, and reject damaged ones now.")
@options.option(
    "--rows", type=click.IntRange(min=1), metavar="N", group="Output", help="Rows in a shard. Default: 1000."
)
@options.option(
    "--bytes",
    "size",
    metavar="SIZE",
    group="Output",
    help="Bytes of pictures in a shard instead, such as 500M or 1G; a larger picture has a shard to itself.",
)
@options.output_options
@options.run_options
@click.pass_context
def command(
    ctx: click.Context, input: tuple[str, ...], renames: tuple[str, ...], images: tuple[str, ...], **given: object
) -> None:
    """Make a shard set.

    INPUT is a folder of pictures (with .txt captions and .json fields beside them, or ID.source.jpg and
    ID.target.jpg for pairs), tars of webdataset, Parquet files with pictures inside or paths of them, JSON lines, a
    JSON array or CSV with paths, a shard set, or a stream. Original bytes are kept as they are.

    Paths are beside the file that names them: in `image` and `file_name`, in `source`, `target`, `mask` and `result`
    where they look like one (a word there, as `flickr`, stays a word, in `user_NAME`), and as {"file": PATH} in
    `result_NAME`. Of any other column --image says that it holds pictures, as --map does that makes it `source`,
    `target` or `mask`; --map site=source says that it does not. A --map that cannot be carried out is an error.

    An id is made from the content and the place of a file, so it is the same on every machine, and two identical
    files are two rows with one `provenance.sha256`: finding them is `edit dedup`'s work. Ids that a file brings are
    kept as `user_id`; `--map id=COLUMN` takes a column's values as the ids instead. What does not fit a column of the
    record, whole values or keys of `objects` and `turns`, is kept under `user_NAME`. Texts are read in their encoding:
    UTF-8, by a byte order mark, else GBK or Windows-1252 by a guess, which is told.

    Of a folder every file is a row or a reject; only hidden files (`.NAME`) are passed over. Links to files are
    followed, links to folders are rejects. A folder with tars, Parquet files or JSON lines anywhere in it, as a
    repository of the hub or what img2dataset writes, is read as these, and what else is there is counted. Tables whose
    rows name pictures of the folder (`metadata.jsonl`, `metadata.csv`) are read with it, and the pictures that they do
    not name are rows too; other tables beside pictures are an error, for there are two readings. Of a tar every entry
    is a row, part of one or a reject: links are the files they lead to, a name that comes twice is two rows.

    The same command over a folder that has grown adds shards for what is new; those that are there stay.
    """
    import pyarrow as pa

    from edittools.stream.batch import image_leaves
    from edittools.stream.ingest import Ingest
    from edittools.stream.run import Cut, open_input, open_sink, run
    from edittools.stream.shards import rows_made_of
    from edittools.stream.sink import ShardSetSink
    from edittools.stream.source import FileSource

    run_options = options.run_settings(ctx)
    size = parse_size(str(given["size"])) if given["size"] else None
    if size is not None and given["rows"]:
        raise UsageError("--rows and --bytes cannot be used together")
    rows = given["rows"] if given["rows"] else (None if size is not None else 1000)
    mapping = parse_mapping(renames, images)
    assert rows is None or isinstance(rows, int)
    sink = open_sink(run_options)
    before = rows_made_of(sink.folder) if isinstance(sink, ShardSetSink) and not run_options.overwrite else None
    source = open_input(list(input), run_options, mapping, Cut(rows, size, before))
    names = source.schema.names  # by whose making `mapping` has met what it names
    typed = source.unrenamed if isinstance(source, FileSource) else names
    mapping.check(typed)
    for name in images:
        if name in typed and not image_leaves(pa.schema([source.schema.field(name)])):
            raise UsageError(f"--image {name}: `{name}` is {source.schema.field(name).type}, which holds no pictures")
    if isinstance(source, FileSource) and isinstance(sink, ShardSetSink):
        sink.made_of = source.row_keys
    stage = Ingest(
        rename={old: new for old, new in mapping.said.items() if old in typed},
        given_ids=mapping.gives_ids,
        origin=ctx.params["origin"],
        license=ctx.params["license"],
        names=ctx.params["names"],
        verify=ctx.params["verify"],
        max_pixels=ctx.params["max_pixels"],
        jobs=options.jobs(ctx),
        foreign_ids=isinstance(source, FileSource) and source.foreign_ids,
    )
    settings = options.settings(ctx, rows=rows, size=size)
    if run_options.dry_run:
        options.show_plan(ctx, source, settings)
        return
    run("shard", source, [stage], settings, run_options, sink=sink)


def parse_size(text: str) -> int:
    """`500M` in bytes; K, M, G, T are powers of 1024. Raises UsageError."""
    units = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    number, unit = text.rstrip("KMGTkmgtiB"), text.lstrip("0123456789.").upper().replace("IB", "").replace("B", "")
    try:
        size = int(float(number) * 1024 ** units[unit])
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise UsageError(f"--bytes {text}: expected a size such as 500M or 1G")
    return size


def parse_mapping(renames: tuple[str, ...], images: tuple[str, ...]) -> Mapping:
    """What NEW=OLD pairs and names of columns say. Raises UsageError."""
    from edittools.stream.mapping import Mapping

    pairs = []
    for pair in renames:
        new, equals, old = pair.partition("=")
        if not equals or not new or not old:
            raise UsageError(f"--map {pair}: expected NEW=OLD")
        pairs.append((new, old))
    return Mapping(pairs, images)
