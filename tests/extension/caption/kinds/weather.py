"""What the weather is like, where there is a sky."""

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.schemas import choice, record, yes_no

PROMPT = "Can the sky be seen in this image? And what is the weather like, as far as one can tell?"


def converse(row: Row) -> Conversation:
    schema = record(sky=yes_no(), weather=choice(("sunny", "cloudy", "rain", "snow", "fog")))
    answer = yield Question((row.look(),), PROMPT, schema, examples=True)
    return {"weather": answer["weather"] if answer["sky"] else None}


KIND = Kind(summary="the weather", reads="image", columns={"weather": pa.string()}, converse=converse)
