"""The record: the columns of a row, and the canonical tasks.

One row is a text-to-image sample (a target and captions), an edit sample (sources, instruction, target)
or a dialogue (turns). An image of a crawl that nobody has edited yet is the `target` of a row of task
`t2i`; `edit synth` turns it into the source of an edit.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# The comments behind the fields are their descriptions in docs/DATA-MODEL.md.

# An image in the stream: either its bytes, or a reference to them.
IMAGE = pa.struct(
    [
        ("bytes", pa.binary()),  # the encoded image, of new images; null where the rest is a reference
        ("file", pa.string()),  # path or URL of the file that holds the image
        ("offset", pa.int64()),  # first byte in the file; 0 of a loose file
        ("length", pa.int64()),  # number of bytes
        ("row", pa.int64()),  # inside a foreign Parquet file: the row, in place of offset and length
        ("column", pa.string()),  # inside a foreign Parquet file: the column
        ("etag", pa.string()),  # state of the file: SIZE-MTIME_NS, or the store's own tag; a changed file is an error
        ("width", pa.int32()),  # pixels, as the image is shown (EXIF orientation applied)
        ("height", pa.int32()),  # pixels, likewise
        ("format", pa.string()),  # jpeg, png, webp ...
    ]
)
# The same image in a shard's Parquet file; the tar beside it is the file that is meant.
STORED_IMAGE = pa.struct(
    [
        ("offset", pa.int64()),  # first byte in the tar
        ("length", pa.int64()),  # number of bytes
        ("width", pa.int32()),  # pixels, as the image is shown
        ("height", pa.int32()),  # pixels, likewise
        ("format", pa.string()),  # jpeg, png, webp ...
    ]
)
# The Hugging Face convention for an image inside a Parquet file.
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

TEXT = pa.struct(
    [
        ("en", pa.string()),  # the English text
        ("zh", pa.string()),  # the Chinese text
    ]
)

TURN = pa.struct(
    [
        ("parent", pa.int32()),  # number of the turn that this one edits, from 0; -1 is the source image
        ("kind", pa.string()),  # content_memory, content_understanding or version_backtracking (ImgEdit 3.1)
        ("task", pa.string()),  # as the column `task`
        ("template", pa.string()),  # template of `edit synth` that made it
        ("instruction", TEXT),  # what is asked for in this turn
        ("slots", pa.string()),  # JSON: the values that the template drew
        ("target", IMAGE),  # the image after this turn
        ("mask", IMAGE),  # white where this turn changed the image
    ]
)

PROVENANCE = pa.struct(
    [
        ("origin", pa.string()),  # the data set or crawl, as the user names it
        ("path", pa.string()),  # the file's path inside the crawl
        ("sha256", pa.string()),  # of the original bytes
        ("license", pa.string()),  # as the data set states it
        ("native_task", pa.string()),  # what the data set itself calls the task
        ("model", pa.string()),  # the model that made the row
        ("template", pa.string()),  # the template of `edit synth` that made the row
        ("slots", pa.string()),  # JSON: the values that the template drew
        ("seed", pa.int64()),  # the seed that the row was made with
        ("parents", pa.list_(pa.string())),  # ids of the rows that this one was made from
    ]
)

OBJECT = pa.struct(
    [
        ("name", pa.string()),  # what it is
        ("box", pa.list_(pa.float64())),  # x0, y0, x1, y1 as shares of width and height
        ("score", pa.float64()),  # the detector's confidence
        ("mask", IMAGE),  # white on the object
    ]
)

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),  # unique name of the row, without a dot
    "task": pa.string(),  # one of the canonical tasks; `t2i`: one image and a caption
    "source": pa.list_(IMAGE),  # the images before the edit, "Figure 1" first; empty in a `t2i` row
    "target": IMAGE,  # the image after the edit: the ground truth; of a `t2i` row its only image
    "rejected": IMAGE,  # of a preference pair: the image that was judged worse than `target`
    "mask": IMAGE,  # white where the edit changed the image
    "instruction": TEXT,  # what is to be done
    "caption": TEXT,  # what the target shows
    "turns": pa.list_(TURN),  # a dialogue: several edits, one after the other
    "objects": pa.list_(OBJECT),  # what can be seen in the image, and where
    "provenance": PROVENANCE,  # where the row comes from
}

TASKS = (
    "add remove replace background color material adjust style tone text motion portrait "
    "beauty extract visual hybrid viewpoint lowlevel tryon creative t2i"
).split()

DIALOGUE_KINDS = ("content_memory", "content_understanding", "version_backtracking")
MAX_TURNS = 3

# What benchmarks call a task stands in `suites/`. Several native names may mean one canonical task, so the native name
# stays in `provenance.native_task`. FireRed's data report groups edits as semantic, stylistic and structural (2.1):
# that grouping is a setting of a mix, not a name.


def is_image(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one image as the stream writes it."""
    return kind == IMAGE


def is_hf_image(kind: pa.DataType) -> bool:
    """Hugging Face's `struct<bytes, path>`, in either order and with either binary type."""
    if not pa.types.is_struct(kind) or kind.num_fields != 2:
        return False
    fields = {field.name: field.type for field in kind}
    return fields.keys() == {"bytes", "path"} and (
        pa.types.is_binary(fields["bytes"]) or pa.types.is_large_binary(fields["bytes"])
    )


# Of a softmax over hundreds of names, some are always the likeliest: at this score at most five of them count.
LEAST_TAG = 0.2


def likely_tags(tags: Any) -> list[dict[str, Any]]:
    """The items of a row's `tags` that are taken for what its image shows: named ones of at least the score LEAST_TAG,
    or of none."""
    named = [one for one in tags or () if isinstance(one, dict) and one.get("name")]
    scored = ((one, one.get("score")) for one in named)
    return [one for one, score in scored if not isinstance(score, float | int) or score >= LEAST_TAG]
