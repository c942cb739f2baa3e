"""What a thinking model says to itself before it answers, and what it answers.

A server that knows the model keeps the two apart; others hand on the text as it was written, with its marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edittools.vlm.objects import Pairs, objects

_NAME = r"(?:thinking|think|thought|reasoning|seed:think)"
_END = r"[ \t]*(?:>|(?=\n)|\Z)"  # of a mark: the rest of one that was cut is gone with its line
# One half of a pair may be missing: chat templates write the opening one into the prompt, and servers strip special
# tokens. What has more words in it than a mark has (`<thinking cap>`), or stands in quotation marks, is text.
_MARK = re.compile(
    rf"(?P<close><[ \t]*/[ \t]*{_NAME}{_END}|(?<![\w<])/{_NAME}[ \t]*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|END_THINKING\|>|<\|inner_suffix\|>|<channel\|>|<\|channel\|>\s*final.{0,40}?<\|message\|>"
    r"|\Aanalysis.*?assistantfinal)"
    rf"|(?P<open><[ \t]*{_NAME}(?:\s+\w+\s*=[^<>\n]{{0,40}})?{_END}|\A\s*{_NAME}>|\[THINK\]|◁think▷"
    r"|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|inner_prefix\|>|<\|channel\|?>\s*(?:analysis|commentary|thought)"
    r"|\A\s*thought\n)"
    # What stands around an answer, and is no part of it.
    r"|(?P<around></?(?:answer|response)>|<\|(?!start\|)\w{1,30}\|>|</s>\s*\Z)",
    re.IGNORECASE | re.DOTALL,
)
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’"}


def answer_of(text: str) -> str | None:
    """The answer in a reply: its thoughts are blank, and everything else stands where it stood. None where a thought
    is not finished: whatever there is then is a draft.

    A closing mark without an opening one ends a thought that began with the text. Marks inside of a JSON object are
    what its strings say.
    """
    thought: int | None = None  # where it began
    blank: list[tuple[int, int]] = []
    for mark in _marks(text):
        if mark["open"]:
            thought = mark.start() if thought is None else thought
        elif mark["close"]:
            if thought is None:
                thought, blank = 0, []
            blank.append((thought, mark.end()))
            thought = None
        elif thought is None:
            blank.append(mark.span())
    if thought is not None:
        return None
    pieces, at = [], 0
    for start, end in blank:
        pieces += [text[at:start], re.sub(r"\S", " ", text[start:end])]
        at = end
    return "".join([*pieces, text[at:]])


def _marks(text: str) -> Iterator[re.Match[str]]:
    """The marks that are meant as such."""
    places: Iterator[tuple[int, int, Pairs]] | None = None
    start = end = 0
    for mark in _MARK.finditer(text):
        before, behind = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
        if before in _QUOTES and _QUOTES[before] == behind:
            continue
        places = places or objects(text)  # few replies have any mark
        while end <= mark.start():
            start, end, _ = next(places, (len(text), len(text) + 1, Pairs()))
        if mark.start() < start:
            yield mark
