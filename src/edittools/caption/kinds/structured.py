"""A structured caption of one image, with FireRed's fields (FireRed-Image-Edit 2.5.1)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.prompting import QUOTES, VIEWER, bilingual, both_languages, check_languages
from edittools.caption.schemas import listing, record, text
from edittools.record import TEXT

_SUBJECT = ("name", "appearance", "clothing", "action", "emotion")
_MAIN = pa.struct([(name, pa.string()) for name in _SUBJECT])
_STRUCT = pa.struct(
    [
        ("image_type", pa.string()),  # photograph, illustration, screenshot, poster ...
        ("style", pa.string()),
        ("anomalies", pa.list_(pa.string())),  # what is wrong with it: artefacts, extra fingers, seams
        (
            "subjects",
            pa.struct([("main", pa.list_(_MAIN)), ("other", pa.list_(pa.string()))]),
        ),
        ("environment", pa.struct([(n, pa.string()) for n in ("setting", "lighting", "palette", "shot")])),
        ("quality", pa.struct([("resolution", pa.string()), ("watermarks", pa.list_(pa.string()))])),
        ("visible_text", pa.list_(pa.string())),  # letter for letter
    ]
)  # fmt: skip

_PROMPT = f"""Describe this image for a catalogue that others will search. Say what can be seen, nothing that it may
mean. Leave a text empty where there is nothing to say, such as the clothing of a tree.
The caption is one paragraph of two to five sentences: subjects, what they do, surroundings, light, way of showing.
{VIEWER} {QUOTES} Every text in the image also stands in `visible_text`, without quotation marks."""


def _converse(row: Row) -> Conversation:
    schema = record(
        caption=bilingual(row, "the paragraph", 1500),
        image_type=text("photograph, illustration, screenshot, poster, rendering or the like", 60),
        style=text("the style in a few words", 120),
        anomalies=listing(text("a visible defect", 160), 8),
        subjects=record(
            main=listing(
                record(
                    name=text("who or what", 100),
                    appearance=text("looks", 300, empty=True),
                    clothing=text("clothes", 200, empty=True),
                    action=text("what it does", 200, empty=True),
                    emotion=text("the expression of a face", 100, empty=True),
                ),
                5,
            ),
            other=listing(text("something else that can be seen", 100), 20),
        ),
        environment=record(
            setting=text("where it is", 200, empty=True),
            lighting=text("where the light comes from, how hard, what colour", 200, empty=True),
            palette=text("the main colours", 160, empty=True),
            shot=text("distance, angle, lens as it looks", 160, empty=True),
        ),
        quality=record(
            resolution=text("sharp, soft, blurred, noisy, compressed ...", 80, empty=True),
            watermarks=listing(text("a watermark or logo laid over the image, as it reads", 100), 5),
        ),
        visible_text=listing(text("one piece of text", 200), 20),
    )

    def check(answer: Any) -> None:
        check_languages(answer["caption"])
        for content in answer["caption"].values():
            if len(content.split()) < 4 and len(content) < 8:
                raise ValueError(f"the caption says too little: {content!r}")

    answer = yield Question((row.look(),), _PROMPT + both_languages(row), schema, check, max_tokens=1500, examples=True)
    return {"caption": answer.pop("caption"), "caption_structured": answer}


KIND = Kind(
    summary="what the image shows, in fields and as a paragraph",
    reads="image",
    columns={"caption": TEXT, "caption_structured": _STRUCT},
    converse=_converse,
)
