"""A differential caption of a pair: the instruction that leads from source to target, in full, and its atomic changes
(FireRed-Image-Edit 2.5.2; several rounds: Step1X-Edit 3.1.2).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.caption.config import CaptionConfig
from edittools.caption.kind import Box, Conversation, Kind, Look, NotAsked, Question, Row
from edittools.caption.prompting import (
    CELLS,
    EVERYWHERE,
    QUOTES,
    VIEWER,
    bilingual,
    both_languages,
    box_in_words,
    cells_of,
    change_schema,
    check_languages,
    words_of,
)
from edittools.caption.schemas import Schema, choice, listing, record
from edittools.caption.text_facts import quoted
from edittools.metrics.boxes import mask_box
from edittools.record import TASKS, TEXT

Claim = Mapping[str, Any]
"""One atomic change as it was claimed: action, object, before, after, where."""

CHANGE = pa.struct([(name, pa.string()) for name in ("action", "object", "before", "after", "where")])

_PROMPT = f"""The image "after" was made out of the image "before" by somebody who followed an instruction. Write that
instruction, so exactly that it could be followed again without seeing "after".
First list the changes, each for itself: only what truly differs between the two. Noise, compression and tiny shifts are
no changes. Then write the instruction: its first sentence orders the whole edit; up to three more say what the result
looks like and what stays as it is. Name every changed thing so that it cannot be mistaken for another, by its look and
its place. {VIEWER} {QUOTES}"""

_PLAINLY = f"""The image "after" was made out of the image "before" by an instruction. List the changes, each for
itself, then write the instruction. {VIEWER} {QUOTES}"""

_AGAIN = """Somebody has looked at these images before you and claims the changes below. Do not believe it: look for
each one in both images, correct what is wrong, drop what is not there, add what is missing.
"""


def edit_mask(row: Row) -> np.ndarray | None:
    """bool (H, W): the pixels that the row's mask says were edited; None without one, or with an empty one."""
    from edittools.stream import codec

    if not row.has("mask"):
        return None
    pixels = codec.decode(row.data(Look("mask")), codec.FULL, row.config.max_pixels)
    mask: np.ndarray = pixels.reshape(*pixels.shape[:2], -1).max(-1) > 127
    return mask if mask.any() else None


def edit_box(mask: np.ndarray | None) -> Box | None:
    """The box around the edited pixels."""
    box = None if mask is None else mask_box(mask)
    if mask is None or box is None:
        return None
    height, width = mask.shape
    x0, y0, x1, y1 = (float(value) for value in box)
    return (x0 / width, y0 / height, x1 / width, y1 / height)


def known_facts(row: Row, box: Box | None) -> str:
    """What is known of the edit without looking: its task, where it is, how much of the image."""
    facts = []
    if (task := row.values.get("task")) and task != "t2i":
        facts.append(f"The edit is of the kind `{task}`.")
    if box is not None:
        facts.append(f"All of it is inside this part of the image: {box_in_words(box)}; nothing else was touched.")
    ratio = (row.values.get("scores") or {}).get("edit_ratio")
    if ratio is not None:
        facts.append(f"{ratio:.1%} of the pixels differ.")
    return ("\n" + " ".join(facts)) if facts else ""


def _closer(looks: tuple[Look, ...], box: Box | None) -> tuple[Look, ...]:
    """Also both sides of a small edit by themselves, with some of what is around it."""
    if box is None or (box[2] - box[0]) * (box[3] - box[1]) > 0.25:
        return looks
    margin = 0.5 * max(box[2] - box[0], box[3] - box[1])
    wide = (max(0.0, box[0] - margin), max(0.0, box[1] - margin), min(1.0, box[2] + margin), min(1.0, box[3] + margin))
    return (*looks, Look("source", "before, closer", box=wide), Look("target", "after, closer", box=wide))


def detailed_schema(row: Row) -> Schema:
    return record(
        changes=listing(change_schema(), 8, least=1),
        task=choice([task for task in TASKS if task != "t2i"], "the kind of edit"),
        instruction=bilingual(row, "the instruction", 900),
    )


def check_detailed(answer: Any) -> None:
    """Raises ValueError."""
    check_languages(answer["instruction"])
    texts = {tuple(sorted(set(quoted(content)))) for content in answer["instruction"].values()}
    if len(texts) > 1:
        raise ValueError("the text in quotation marks differs between the languages")
    for change in answer["changes"]:
        if change["action"] not in ("add", "remove") and change["before"].casefold() == change["after"].casefold():
            raise ValueError(f"the change of {change['object']!r} changes nothing")


def same_place(one: Claim, other: Claim) -> bool:
    places = {one["where"], other["where"]}
    return len(places) == 1 or EVERYWHERE in places


def same_change(one: Claim, other: Claim) -> bool:
    """Whether two claims are the same: same action, at the same place, about a thing that has a word in common."""
    named = words_of(one["object"]) & words_of(other["object"])
    return one["action"] == other["action"] and same_place(one, other) and bool(named)


def jaccard(before: Sequence[Claim], after: Sequence[Claim], same: Callable[[Claim, Claim], bool]) -> float:
    """The share of claims, of both together, that are in both."""
    kept = sum(any(same(one, other) for other in after) for one in before)
    return kept / (len(before) + len(after) - kept) if before or after else 1.0


FIELDS = ("action", "object", "before", "after", "where")


def field_agreement(before: Sequence[Claim], after: Sequence[Claim]) -> dict[str, float]:
    """Of every field the share of changes, of the round that has more, that say the same as the change of the other
    round which they have most in common with. Texts say the same that have a word in common.
    """
    same = [[_same_fields(one, other) for other in after] for one in before]
    pairs = sorted((-len(same[i][j]), i, j) for i in range(len(before)) for j in range(len(after)))
    count = dict.fromkeys(FIELDS, 0)
    firsts: set[int] = set()
    seconds: set[int] = set()
    for _, i, j in pairs:
        if i not in firsts and j not in seconds:
            firsts.add(i)
            seconds.add(j)
            for name in same[i][j]:
                count[name] += 1
    return {name: number / max(len(before), len(after)) for name, number in count.items()}


def _same_fields(one: Claim, other: Claim) -> list[str]:
    texts = [(name, words_of(one[name]), words_of(other[name])) for name in ("object", "before", "after")]
    return [
        *(["action"] if one["action"] == other["action"] else []),
        *(["where"] if same_place(one, other) else []),
        *(name for name, mine, its in texts if mine & its or mine == its),
    ]


def agreement(before: Sequence[Claim], after: Sequence[Claim]) -> float:
    """The share of atomic changes, of both rounds together, that both rounds claim."""
    return jaccard(before, after, same_change)


def claims_of(row: Row) -> list[dict[str, Any]]:
    """The atomic changes that a captioner has claimed. Raises NotAsked."""
    changes = row.values.get("changes")
    if not changes:
        raise NotAsked("no changes: kind `detailed` writes them")
    return changes


def looked_again(row: Row, looks: tuple[Look, ...]) -> Generator[Question, Any, list[dict[str, Any]]]:
    """Ask for the changes of a pair that is shown in another way, telling nothing of what was claimed before."""
    words = _PLAINLY + both_languages(row)
    answer = yield Question(looks, words, detailed_schema(row), check_detailed, max_tokens=1200)
    return answer["changes"]


def _converse(row: Row) -> Conversation:
    mask = edit_mask(row)
    box = edit_box(mask)
    looks = _closer(row.pair(), box)
    words = _PROMPT + both_languages(row) + known_facts(row, box)
    schema = detailed_schema(row)
    answer = yield Question(looks, words, schema, check_detailed, max_tokens=1200, examples=True)
    scores: dict[str, Any] = {}
    for _ in range(1, row.config.rounds):
        claims = "\n".join(
            f"- {c['action']} {c['object']} ({c['where']}): {c['before'] or 'nothing'} -> {c['after'] or 'nothing'}"
            for c in answer["changes"]
        )
        again = yield Question(looks, f"{words}\n\n{_AGAIN}{claims}", schema, check_detailed, max_tokens=1200)
        fields = field_agreement(answer["changes"], again["changes"])
        fields["task"] = float(answer["task"] == again["task"])
        scores = {f"caption_agreement_{name}": value for name, value in fields.items()}
        scores["caption_agreement"] = agreement(answer["changes"], again["changes"])
        answer = again
    if mask is not None:
        cells = cells_of(mask)
        if len(cells) == len(CELLS):
            cells.add(EVERYWHERE)
        inside = [c["where"] in cells for c in answer["changes"]]
        scores["caption_inside"] = sum(inside) / len(inside)
    return {
        "instruction_detailed": answer["instruction"],
        "changes": answer["changes"],
        "task": row.values.get("task") or answer["task"],
        "scores": scores,
    }


def _answer(row: Row) -> dict[str, Any] | None:
    written, changes, task = (row.values.get(name) for name in ("instruction_detailed", "changes", "task"))
    texts = {language: (written or {}).get(language) for language in row.languages}
    if not (changes and task and all(texts.values())):
        return None
    return {"changes": changes, "task": task, "instruction": texts}


def _scores(config: CaptionConfig) -> tuple[str, ...]:
    agreed = ("caption_agreement", *(f"caption_agreement_{name}" for name in (*FIELDS, "task")))
    return ("caption_inside", *(agreed if config.rounds > 1 else ()))


KIND = Kind(
    summary="the instruction from source to target, exactly, and its atomic changes",
    reads="pair",
    columns={"instruction_detailed": TEXT, "changes": pa.list_(CHANGE), "task": pa.string()},
    converse=_converse,
    after=("classify",),
    needs=("source", "target"),
    scores=_scores,
    answer=_answer,
)
