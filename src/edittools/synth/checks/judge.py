"""Yes/no questions to a model that reads images: is it done, does it look real, and is anything left of what was there?

Shadows, reflections and things that were held are outside the masks of segmenters, and no detector looks for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from edittools.synth.checking import Painted
from edittools.vlm import Request
from edittools.vlm.asker import Asker, encoded, load_asker

HELP = "share of yes/no questions that a VLM answers as wished (judge=MODEL): done, real, nothing left over"
WEIGHTS = ""
LEAST = 1.0
_LONGEST = 1024  # pixels of a side
_ASKED = """The first image is a photograph, the second the same one after this edit: "{instruction}"
Answer each question by yes or no, one per line, nothing else.
1. Was the edit carried out?
2. Does the edited place look like a real image, without smears, seams or repeated patterns?
3. Is there anything left that no longer belongs there{left}?"""
_LEFT = ", such as a shadow, a reflection or a held part of the {gone}"
_WISHED = (True, True, False)


def load(told: str, device: str = "cpu", dtype: str = "float32") -> JudgeCheck:
    """Its address is that of EDITTOOLS_API_BASE; a folder is a model in this process. Raises UsageError."""
    return JudgeCheck(load_asker(told, "--check judge", device, dtype))


class JudgeCheck:
    def __init__(self, ask: Asker) -> None:
        self.ask = ask

    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        return [_share(read_answers(said)) for said in self.ask([self._request(one) for one in edits])]

    def _request(self, edit: Painted) -> Request:
        left = _LEFT.format(gone=edit.plan.gone) if edit.plan.gone else ""
        words = _ASKED.format(instruction=edit.plan.instruction, left=left)
        shown = (encoded(edit.source, _LONGEST), encoded(edit.target, _LONGEST), words)
        return Request(self.ask.model, shown, {"max_tokens": 64, "temperature": 0})


def _share(answers: list[bool | None]) -> float:
    return sum(said == wished for said, wished in zip(answers, _WISHED)) / len(_WISHED)


def read_answers(text: str) -> list[bool | None]:
    """The answers in their order, None where there is neither yes nor no."""
    found: list[bool | None] = []
    for line in text.lower().splitlines():
        words = line.replace(".", " ").replace(":", " ").replace(",", " ").split()
        said = [word for word in words if word in ("yes", "no")]
        if said:
            found.append(said[0] == "yes")
    return [*found, None, None, None][: len(_WISHED)]
