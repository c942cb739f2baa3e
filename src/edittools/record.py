"""The record: the columns of a row, the canonical tasks, and what others call them (SPEC R1-R4).

One row is a text-to-image sample (a target and captions), an edit sample (sources, instruction, target)
or a dialogue (turns). A picture of a crawl that nobody has edited yet is the `target` of a row of task
`t2i`; `edit synth` turns it into the source of an edit.
"""

from __future__ import annotations

import pyarrow as pa

# A picture in the stream: either its `bytes`, or a reference. A reference names `length` bytes at `offset`
# of `file` (a loose file has offset 0), or, inside a foreign Parquet file, one `row` of one `column`.
# `etag` is `SIZE-MTIME_NS` of a local file and the store's own tag of an object.
IMAGE = pa.struct(
    [
        ("bytes", pa.binary()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("etag", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
    ]
)
# The same picture in a shard's Parquet file; the tar beside it is the file that is meant.
STORED_IMAGE = pa.struct(
    [
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
    ]
)
# The Hugging Face convention for a picture inside a Parquet file.
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

TEXT = pa.struct([("en", pa.string()), ("zh", pa.string())])

TURN = pa.struct(
    [
        ("parent", pa.int32()),  # the turn it edits; -1 is the source picture
        ("kind", pa.string()),  # one of DIALOGUE_KINDS
        ("task", pa.string()),
        ("template", pa.string()),
        ("instruction", TEXT),
        ("slots", pa.string()),
        ("target", IMAGE),
        ("mask", IMAGE),
    ]
)

PROVENANCE = pa.struct(
    [
        ("origin", pa.string()),  # the data set or crawl, as the user names it
        ("path", pa.string()),  # the file's path inside the crawl
        ("sha256", pa.string()),  # of the original bytes
        ("license", pa.string()),
        ("native_task", pa.string()),  # what the source of the row calls its task
        ("model", pa.string()),
        ("template", pa.string()),
        ("slots", pa.string()),  # JSON: the values a template drew
        ("seed", pa.int64()),
        ("parents", pa.list_(pa.string())),
    ]
)

OBJECT = pa.struct(
    [
        ("name", pa.string()),
        ("box", pa.list_(pa.float64())),  # x0, y0, x1, y1 as shares of width and height
        ("score", pa.float64()),
        ("mask", IMAGE),
    ]
)

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "task": pa.string(),
    "source": pa.list_(IMAGE),
    "target": IMAGE,
    "mask": IMAGE,
    "instruction": TEXT,
    "caption": TEXT,
    "turns": pa.list_(TURN),
    "objects": pa.list_(OBJECT),
    "provenance": PROVENANCE,
}

TASKS = (
    "add remove replace background color material adjust style tone text motion portrait "
    "beauty extract visual hybrid viewpoint lowlevel tryon creative t2i"
).split()

DIALOGUE_KINDS = ("content_memory", "content_understanding", "version_backtracking")
MAX_TURNS = 3

# What benchmarks and published data sets call a task. Several native names may mean one canonical task, so
# the native name stays in `provenance.native_task`. FireRed's data report groups edits as semantic, stylistic
# and structural (FR 2): that grouping is a setting of a mix, not a name.
NATIVE_TASKS: dict[str, dict[str, str]] = {
    "gedit": {  # GEdit-Bench, 11 tasks, in the benchmark's own order
        "background_change": "background",
        "color_alter": "color",
        "material_alter": "material",
        "motion_change": "motion",
        "ps_human": "portrait",
        "style_change": "style",
        "subject-add": "add",
        "subject-remove": "remove",
        "subject-replace": "replace",
        "text_change": "text",
        "tone_transfer": "tone",
    },
    "imgedit": {  # ImgEdit: ten single-turn types, nine of them scored in the basic suite; three dialogue kinds
        "add": "add",
        "remove": "remove",
        "replace": "replace",
        "adjust": "adjust",
        "alter": "adjust",  # the data set and a fork of the benchmark use this name
        "background": "background",
        "style": "style",
        "extract": "extract",
        "action": "motion",
        "compose": "hybrid",
        "hybrid": "hybrid",
        "visual": "visual",
        "content_memory": "hybrid",
        "content_understanding": "hybrid",
        "version_backtracking": "hybrid",
    },
    "rededit": {  # REDEdit-Bench, 15 tasks
        "add": "add",
        "adjust": "adjust",
        "background": "background",
        "beauty": "beauty",
        "color": "color",
        "compose": "hybrid",
        "extract": "extract",
        "lowlevel": "lowlevel",
        "motion": "motion",
        "portrait": "portrait",
        "remove": "remove",
        "replace": "replace",
        "stylize": "style",
        "text": "text",
        "viewpoint": "viewpoint",
    },
}


def canonical_task(name: str, benchmark: str | None = None) -> str:
    """The canonical task for `name`, which a benchmark may spell its own way.

    Raises ValueError for a name that neither the canonical list nor the benchmark knows.
    """
    if benchmark is not None:
        if benchmark not in NATIVE_TASKS:
            raise ValueError(f"no task names for `{benchmark}`; known: {', '.join(NATIVE_TASKS)}")
        if name in NATIVE_TASKS[benchmark]:
            return NATIVE_TASKS[benchmark][name]
    if name in TASKS:
        return name
    raise ValueError(f"unknown task `{name}`" + (f" of {benchmark}" if benchmark else ""))


def native_tasks(task: str, benchmark: str) -> list[str]:
    """Every name that a benchmark uses for a canonical task, in the benchmark's order; may be empty."""
    return [name for name, canonical in NATIVE_TASKS[benchmark].items() if canonical == task]


def is_image(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one picture as the stream writes it."""
    return kind == IMAGE


def is_stored_image(kind: pa.DataType) -> bool:
    return kind == STORED_IMAGE


def is_hf_image(kind: pa.DataType) -> bool:
    """Hugging Face's `struct<bytes, path>`, in either order and with either binary type."""
    if not pa.types.is_struct(kind) or kind.num_fields != 2:
        return False
    fields = {field.name: field.type for field in kind}
    return fields.keys() == {"bytes", "path"} and (
        pa.types.is_binary(fields["bytes"]) or pa.types.is_large_binary(fields["bytes"])
    )
