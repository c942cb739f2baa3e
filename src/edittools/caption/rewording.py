"""Rewordings of a detailed instruction by a model: who is asked, how the text has to sound, what it may not lose."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from edittools.caption.kind import Conversation, Question, Row
from edittools.caption.prompting import bilingual, both_languages, check_languages
from edittools.caption.schemas import record
from edittools.caption.text_facts import differences, first_sentence
from edittools.seeded import draw

ORIGINALS = ("instruction_detailed", "instruction")


def original(row: Row) -> dict[str, str]:
    """The instruction that is reworded, by language. Raises NotAsked."""
    for column in ORIGINALS:
        texts = row.values.get(column)
        if isinstance(texts, Mapping) and any(texts.values()):
            return {language: content for language, content in texts.items() if content}
    return {"en": row.needed_text("instruction")}


def drawn_model(row: Row, style: str) -> str | None:
    """One of --model, by the row's seed: rewordings of one model alone sound alike (FireRed-Image-Edit 2.5.2)."""
    models = row.config.model
    return draw(row.rng("model", style), models) if len(models) > 1 else None


def check_kept(texts: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Raises ValueError for what a rewording lost or invented: quoted text, numbers, sides, colours, negation.

    What has to be kept is what the first sentence orders; nothing may be put in that the whole text does not say.
    """
    check_languages(texts)
    for language, content in texts.items():
        whole = before.get(language) or next(iter(before.values()))
        problems = differences(whole, content, required=first_sentence(whole))
        if problems:
            raise ValueError(f"{'; '.join(problems[:4])} ({language})")


def reword(row: Row, style: str, manner: str, longest: int) -> Conversation:
    """Ask for the row's instruction in another manner. Returns the column `instruction_STYLE`."""
    return {f"instruction_{style}": (yield from ask_anew(row, original(row), style, manner, longest))}


def ask_anew(
    row: Row, before: Mapping[str, str], style: str, manner: str, longest: int
) -> Generator[Question, Any, dict[str, str]]:
    """Ask for an instruction, by language, in another manner; the model is drawn by the row and the style."""
    lines = "\n".join(f"{language}: {content}" for language, content in before.items())
    words = (
        f"Here is an instruction for an edit of an image:\n{lines}\n\nWrite it anew. {manner}\nIt has to lead to the "
        "very same edit: keep every text in quotation marks letter for letter, every number, side, colour and "
        f"negation, and add nothing.{both_languages(row)}"
    )
    answer = yield Question(
        (),
        words,
        record(instruction=bilingual(row, "the instruction", longest)),
        lambda value: check_kept(value["instruction"], before),
        model=drawn_model(row, style),
        max_tokens=500,
        examples=True,
    )
    said: dict[str, str] = answer["instruction"]
    return said
