"""The instruction in the language that it lacks, as somebody there would ask, not word for word (Step1X-Edit 3.1.2)."""

from __future__ import annotations

from typing import Any

from edittools.caption.kind import Conversation, Kind, NotAsked, Question, Row
from edittools.caption.schemas import in_languages, record
from edittools.caption.text_facts import check_language, differences
from edittools.record import TEXT

_NAMES = {"en": "English", "zh": "Chinese"}


def _converse(row: Row) -> Conversation:
    texts = dict(row.values.get("instruction") or {})
    have = {language: content for language, content in texts.items() if content}
    lacking = [language for language in row.languages if language not in have]
    if not have:
        raise NotAsked("no instruction")
    if not lacking:
        raise NotAsked("the instruction is there in every language")
    language, content = next(iter(have.items()))
    words = (
        f"Here is an instruction for an edit of an image, in {_NAMES.get(language, language)}:\n{content}\n\nAsk for "
        f"the same edit in {' and '.join(_NAMES[name] for name in lacking)}, as a native speaker would. Text in "
        "quotation marks stays as it is, letter for letter; keep every number, side, colour and negation."
    )

    def check(answer: Any) -> None:
        for name, translated in answer["instruction"].items():
            check_language(translated, name)
            if problems := differences(content, translated):
                raise ValueError(f"{'; '.join(problems[:4])} ({name})")

    schema = record(instruction=in_languages(lacking, "the instruction"))
    answer = yield Question((), words, schema, check, max_tokens=400, examples=True)
    return {"instruction": {**texts, **answer["instruction"]}}


KIND = Kind(
    summary="the instruction in the language that it lacks",
    reads="text",
    columns={"instruction": TEXT},
    converse=_converse,
    after=("instruct",),
    needs=("instruction",),
)
