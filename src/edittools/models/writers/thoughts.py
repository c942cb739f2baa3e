"""What a thinking model says to itself before it answers, and what it answers.

A server that knows the model keeps the two apart; others hand on the text as it was written, with its marks.
"""

from __future__ import annotations

import re

_NAMES = r"(?:thinking|think|thought|reasoning|seed:think)"
# One half of a pair may be missing (chat templates write the opening one into the prompt), and one mark may be cut.
_MARK = re.compile(
    rf"(?P<close><\s*/\s*{_NAMES}\b\s*>?|/{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>\s*final[^<]*<\|message\|>|^analysis.*?assistantfinal)"
    rf"|(?P<open><\s*{_NAMES}\b[^<>\n]{{0,40}}>?|^\s*{_NAMES}\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary))"
    # What GLM-V and others put around their answer, and no part of it.
    r"|(?P<around></?answer>|<\|(?:begin|end)_of_box\|>|<\|(?:return|end)\|>)",
    re.IGNORECASE | re.DOTALL,
)


def answer_of(text: str) -> str | None:
    """The answer in a reply: its thoughts are blank, and everything else stands where it stood. None where a thought
    is not finished: whatever there is then is a draft.

    A closing mark without an opening one ends a thought that began with the text.
    """
    thought: int | None = None  # where it began
    blank: list[tuple[int, int]] = []
    for mark in _MARK.finditer(text):
        if mark["open"]:
            thought = mark.start() if thought is None else thought
        elif mark["close"]:
            blank = [*blank, (thought, mark.end())] if thought is not None else [(0, mark.end())]
            thought = None
        else:
            blank.append(mark.span())
    if thought is not None:
        return None
    for start, end in blank:
        text = text[:start] + re.sub(r"\S", " ", text[start:end]) + text[end:]
    return text
