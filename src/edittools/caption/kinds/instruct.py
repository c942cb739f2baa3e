"""An instruction for an edit that nobody has made yet, out of an image and what is known of it (ImgEdit 3.2 and C.1):
place and size of the object stand inside the noun phrase, and the noun phrase of the result is what a painter is told.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from edittools.caption.kind import Conversation, Kind, NotAsked, Question, Row
from edittools.caption.prompting import (
    QUOTES,
    VIEWER,
    bilingual,
    both_languages,
    box_in_words,
    check_languages,
    objects_in_words,
    words_of,
)
from edittools.caption.schemas import record, text
from edittools.caption.targets import proposals
from edittools.record import TEXT

_EDIT = pa.struct(
    [
        ("object", pa.string()),  # what is edited, as the image has it; of `add`, what comes
        ("result", pa.string()),  # what is there afterwards: the painter's prompt
        ("box", pa.list_(pa.float64())),  # x0, y0, x1, y1 in shares, where the object's is known
    ]
)

# What each task asks of the model: the rule, and an example of an answer's content.
RULES: dict[str, tuple[str, str]] = {
    "add": (
        "Add the thing named below, or one that suits the scene better, at a place where there is room for it. "
        "`object` and `result` are both the new thing.",
        'Add a wooden bench under the tree on the left. | result: "a weathered wooden bench"',
    ),
    "remove": (
        "Remove the object named below. `result` is what will be seen in its place.",
        'Remove the small red car parked at the bottom right. | result: "empty asphalt"',
    ),
    "replace": (
        "Replace the object named below by the thing proposed, or one that suits its place better, of about its size.",
        'Swap the bicycle leaning at the wall for a rocking chair. | result: "a wooden rocking chair"',
    ),
    "background": (
        "Put the main subject in front of another background: the one proposed, or one that suits better.",
        'Set the woman against a pine forest in fog. | result: "a pine forest in fog"',
    ),
    "color": (
        "Give the object named below the colour proposed, if it does not have it already.",
        'Make the big umbrella in the middle yellow. | result: "a yellow umbrella"',
    ),
    "material": (
        "Make the object named below out of the material proposed, of unchanged shape.",
        'Turn the round table on the right into marble. | result: "a round marble table"',
    ),
    "adjust": (
        "Change one property of the object named below: size, pattern, age, wear, openness, fill.",
        'Make the flower pot by the door twice as tall. | result: "a tall flower pot"',
    ),
    "style": (
        "Turn the whole image into the style proposed; what it shows stays. `object` is the whole image.",
        'Render the image as a woodcut. | result: "a woodcut of a harbour with boats"',
    ),
    "tone": (
        "Give the whole image the light, weather or season proposed; what it shows stays. `object` is the whole image.",
        'Make it a foggy morning. | result: "the same street on a foggy morning"',
    ),
    "text": (
        "Change a piece of text that can be read in the image into another one of about its length, in its script. "
        "`object` is the text as it is, `result` the new one, both in double quotation marks.",
        'Change "OPEN" on the blue sign to "SALE". | object: "\\"OPEN\\"" | result: "\\"SALE\\""',
    ),
    "motion": (
        "Have the person or animal named below take the pose or do the action proposed; it stays who it is.",
        'Have the man on the left wave. | result: "a man waving"',
    ),
    "portrait": (
        "Change the looks of the person named below as proposed; it stays the same person.",
        'Give the woman in the middle curly hair. | result: "a woman with curly hair"',
    ),
    "beauty": (
        "Ask for one gentle retouch of the face of the person named below.",
        'Even out the skin of the girl on the right. | result: "even skin"',
    ),
    "extract": (
        "Cut the object named below out, onto a plain white background.",
        'Cut the teapot out and put it on white. | result: "a teapot on white"',
    ),
    "viewpoint": (
        "Show the scene or the object named below from another side, height or distance.",
        'Show the house from above. | result: "the house seen from above"',
    ),
    "creative": (
        "Ask for one surprising, unreal idea that plays with the object named below.",
        'Let the clouds be made of cotton sheep. | result: "clouds that are woolly sheep"',
    ),
}  # fmt: skip
_WHOLE = ("style", "tone", "background")


def _converse(row: Row) -> Conversation:
    rng = row.rng("instruct")
    names, shares = zip(*row.config.tasks)
    task = names[int(rng.choice(len(names), p=list(shares)))]
    if task not in RULES:
        raise NotAsked(f"instruct has no rule for `{task}`")
    objects = row.seen
    chosen: dict[str, Any] | None = None
    if task not in (*_WHOLE, "add", "text") and objects:
        chosen = objects[int(rng.integers(len(objects)))]
    proposed = proposals(task, chosen["name"] if chosen else None)
    rule, example = RULES[task]
    lines = [
        f"Think of an edit of this image, of the kind `{task}`. {rule}",
        f"Caption: {row.text('caption')}" if row.text("caption") else "",
        f"Objects known to be there:\n{objects_in_words(objects)}" if objects else "",
        f"The object: {chosen['name']} ({box_in_words(tuple(chosen['box']))})" if chosen and chosen.get("box") else "",
        f"The object: {chosen['name']}" if chosen and not chosen.get("box") else "",
        f"Proposed: {proposed[int(rng.integers(len(proposed)))]}" if proposed else "",
        f"For instance: {example}",
        "The instruction is an order of at most thirty words. Where an object is and how big belongs into the words "
        f'name it ("the small dog on the left"), not into a sentence of its own. {VIEWER} {QUOTES}',
        both_languages(row).strip(),
    ]
    schema = record(
        object=text("what is edited, in English", 120),
        instruction=bilingual(row, "the instruction", 300),
        result=text("a noun phrase, in English: what is there afterwards", 160),
    )

    def check(answer: Any) -> None:
        check_languages(answer["instruction"])
        english = answer["instruction"].get("en")
        if english is not None and len(english.split()) > 40:
            raise ValueError("the instruction has more than thirty words")
        if chosen is not None and not words_of(chosen["name"]) & words_of(answer["object"]):
            raise ValueError(f"the object is {chosen['name']!r}, not {answer['object']!r}")

    answer = yield Question((row.look(),), "\n".join(filter(None, lines)), schema, check, max_tokens=500, examples=True)
    box = [float(value) for value in chosen["box"]] if chosen and chosen.get("box") else None
    return {
        "instruction": {**dict(row.values.get("instruction") or {}), **answer["instruction"]},
        "task": task,
        "edit": {"object": answer["object"], "result": answer["result"], "box": box},
    }


KIND = Kind(
    summary="an instruction for an edit that is still to be made, with object and result for the painter",
    reads="image",
    columns={"instruction": TEXT, "task": pa.string(), "edit": _EDIT},
    converse=_converse,
    after=("structured", "names"),
)
