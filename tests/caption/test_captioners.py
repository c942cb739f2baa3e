"""What the tests of captions catch: captioners that know the slots, good ones and ones that err in one known way.

Every error is planted in every row that has room for it; the table is kind of error x test: the share that is caught,
and in the first line the false alarms on captioners without an error. Run with -s to read it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from tellers import TOOLS, atoms, other_side, tell

from edittools.caption.checks import load_check
from edittools.caption.checks.mirror import mirrored
from edittools.caption.config import CaptionConfig
from edittools.caption.kind import KINDS, NotAsked, Question, Row
from edittools.seeded import draw, stream
from edittools.stream import codec
from edittools.synth.synthesis import SynthSample, synthesize

TEMPLATES = ["add", "remove", "replace", "shape_color", "resize", "region", "text_add", "text_change", "hybrid"]
CONFIG = CaptionConfig(model=("one", "two"), kinds="detailed", rounds=2)
PLACES = {"top": "top center", "bottom": "bottom center", "left": "middle left", "right": "middle right"}
TESTS = ("inside", "agreement", "order", "mirror", "verified", "ocr", "language")
BOUND = 0.999  # of a score: below it a test has raised its voice


# ------------------------------------------------------------------ what a captioner says


def where(place: str) -> str:
    return PLACES.get(place, place.replace("_", " "))


def claim(template: str, slots: dict, rng: np.random.Generator) -> dict[str, str]:
    """One true atomic change, in words that vary from look to look."""
    size, color, shape = (str(slots.get(name, "")) for name in ("size", "color", "shape"))
    thing = draw(rng, [f"the {color} {shape}", f"a {size} {shape}", f"{size} {color} {shape}"])
    full, new = f"a {size} {color} {shape}", f"a {slots.get('new_color')} {slots.get('new_shape')}"
    old, said = slots.get("old_text"), slots.get("text") or slots.get("new_text")
    made = {
        "add": ("add", thing, "", full),
        "remove": ("remove", thing, full, ""),
        "replace": ("replace", thing, full, new),
        "shape_color": ("change", f"the {shape}", color, str(slots.get("new_color"))),
        "resize": ("change", f"the {color} {shape}", size, str(slots.get("new_size"))),
        "region": ("change", draw(rng, ["this part of the picture", "part of the image"]), "as it was",
                   f"{slots.get('operation')} picture"),
        "text_add": ("add", f'the word "{said}"', "", f'"{said}" in {color}'),
        "text_change": ("write", draw(rng, ["text of the sign", "the sign"]), f'"{old}"', f'"{said}"'),
    }[template]  # fmt: skip
    return dict(zip(("action", "object", "before", "after"), made), where=where(slots["place"]))


INVERSE = {"add": "remove", "remove": "add"}


def inverse(one: dict[str, str]) -> dict[str, str]:
    """The change as somebody tells it who sees the pair the other way round; what was replaced has its other name."""
    thing = one["after"] if one["action"] == "replace" else one["object"]
    action = INVERSE.get(one["action"], one["action"])
    return {**one, "action": action, "object": thing, "before": one["after"], "after": one["before"]}


class Captioner:
    """Answers questions about one row by what it shows. `err` makes changes of a first look wrong; `stubborn` ones tell
    these whatever they are shown."""

    def __init__(self, identity: str, sample: SynthSample, err: Callable, *, stubborn: bool = False) -> None:
        self.rng, self.stubborn = stream("captioner", identity), stubborn
        self.atoms = atoms(sample.template, json.loads(json.dumps(sample.slots)))
        told = tell(identity, sample.template, sample.slots, "detailed")
        self.first = err({"changes": self.look(), "instruction": told}, self.atoms, self.rng)
        self.looks = 0

    def look(self) -> list[dict[str, str]]:
        return [claim(template, slots, self.rng) for template, slots in self.atoms]

    def __call__(self, question: Question) -> dict:
        self.looks += 1
        names = [look.column for look in question.looks]
        if "claims about this image" in question.text:
            true = [any(same(one, right) for right in self.look()) for one in self.first["changes"]]
            return {f"claim_{k}": names == ["target"] and value for k, value in enumerate(true, start=1)}
        if self.looks == 1 or self.stubborn:
            changes = self.first["changes"]
        else:
            changes = self.look()
            if names[0] == "target":
                changes = [inverse(one) for one in changes]
            if question.looks[0].mirrored:
                changes = [mirrored(one) for one in changes]
        return {"changes": changes, "task": "add", "instruction": self.first["instruction"]}


def same(one: dict[str, str], right: dict[str, str]) -> bool:
    """Whether a change is true, as one sees who looks for it: what it says of after and before, and the place."""
    words = [set(f"{c['before']} {c['after']}".split()) - {"a", "the"} for c in (one, right)]
    return (one["action"], one["where"]) == (right["action"], right["where"]) and words[0] == words[1]


# ------------------------------------------------------------------ errors: None where a row has no room for one


def changed(answer: dict, k: int, **new: str) -> dict:
    changes = list(answer["changes"])
    changes[k] = {**changes[k], **new}
    return {**answer, "changes": changes}


def nothing(answer: dict, found: list, rng: np.random.Generator) -> dict:
    return answer


def side(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    place = found[0][1]["place"]
    if not {"left", "right"} & set(place.split("_")):
        return None
    return changed(answer, 0, where=where(other_side(place)))


def place_far_off(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    corners = {"top_left": "bottom right", "bottom_right": "top left", "top_right": "bottom left"}
    return changed(answer, 0, where=corners[found[0][1]["place"]]) if found[0][1]["place"] in corners else None


def colour(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    after, right = answer["changes"][0]["after"], found[0][1].get("new_color") or found[0][1].get("color", "?")
    wrong = "green" if right != "green" else "pink"
    return changed(answer, 0, after=after.replace(right, wrong)) if right in after else None


def invented(answer: dict, found: list, rng: np.random.Generator) -> dict:
    free = next(p for p in ("center", "top left", "bottom right") if p not in [c["where"] for c in answer["changes"]])
    hat = {"action": "add", "object": "a straw hat", "before": "", "after": "a straw hat", "where": free}
    return {**answer, "changes": [*answer["changes"], hat]}


def missed(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    return {**answer, "changes": answer["changes"][1:]} if len(found) > 1 else None


def reversed_edit(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    one = answer["changes"][0]
    return {**answer, "changes": [inverse(one), *answer["changes"][1:]]} if one["action"] in INVERSE else None


def misread(answer: dict, found: list, rng: np.random.Generator) -> dict | None:
    said = found[0][1].get("text") or found[0][1].get("new_text")
    if said is None:
        return None
    texts = {language: text.replace(said, "QJXWV") for language, text in answer["instruction"].items()}
    one = answer["changes"][0]
    return changed({**answer, "instruction": texts}, 0, after=one["after"].replace(said, "QJXWV"))


def other_language(answer: dict, found: list, rng: np.random.Generator) -> dict:
    return {**answer, "instruction": {"en": answer["instruction"]["zh"], "zh": answer["instruction"]["zh"]}}


ERRORS: dict[str, tuple[Callable, bool, tuple[str, ...]]] = {
    # what is done wrong, whether it is told again however one looks, the tests that have to catch it
    "side swapped": (side, False, ("agreement", "order", "mirror", "verified")),
    "side swapped, stubbornly": (side, True, ("order", "mirror", "verified", "inside")),
    "place far off, stubbornly": (place_far_off, True, ("verified", "inside")),
    "colour changed": (colour, False, ("verified",)),
    "one invented": (invented, False, ("agreement", "order", "mirror", "verified")),
    "one invented, stubbornly": (invented, True, ("order", "verified", "inside")),
    "one missed": (missed, False, ("agreement", "order", "mirror")),
    "the other way round": (reversed_edit, False, ("agreement", "order", "mirror", "verified")),
    "told without looking": (nothing, True, ("order",)),
    "text misread": (misread, False, ("verified", "ocr")),
    "wrong language": (other_language, False, ("language",)),
}


# ------------------------------------------------------------------ rows and runs


def row_of(sample: SynthSample, identity: str, config: CaptionConfig) -> Row:
    images = {name: codec.encode_png(getattr(sample, name)) for name in ("source", "target", "mask")}
    shown = {name: [{"bytes": data}] for name, data in images.items()}
    return Row({"id": identity, "task": None}, shown, config, lambda row, look: images[look.column])


def drive(converse: Callable, row: Row, answer: Callable, check: bool = True) -> dict:
    talk = converse(row)
    try:
        question = next(talk)
        while True:
            value = answer(question)
            if question.check is not None and check:
                question.check(value)
            question = talk.send(value)
    except StopIteration as end:
        return dict(end.value)


def scores(sample: SynthSample, identity: str, err: Callable, stubborn: bool) -> dict[str, float] | None:
    """All scores of a captioner on one row; None where it has no room for the error."""
    captioner = Captioner(identity, sample, err, stubborn=stubborn)
    if captioner.first is None:
        return None
    row = row_of(sample, identity, CONFIG)
    # Of two rounds the second looks again; what the tests are told is what the first one said.
    found = drive(KINDS.load("detailed").KIND.converse, row, captioner, False)["scores"]
    row.values |= {"changes": captioner.first["changes"], "instruction_detailed": captioner.first["instruction"]}
    for name in ("order", "mirror", "verify", "language", "ocr"):
        try:
            found |= drive(load_check(name).converse, row, captioner, False)["scores"]
        except NotAsked:
            pass
    return {name.removeprefix("caption_"): value for name, value in found.items()}


@pytest.fixture
def seen_texts(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, str]:
    """OCR that reads what stands on an image; the noise that lies behind would confuse a real one."""
    texts: dict[bytes, str] = {}
    monkeypatch.setattr("edittools.metrics.ocr.read_text", lambda pixels: texts.get(pixels.tobytes(), ""))
    return texts


def written(sample: SynthSample) -> tuple[str, str]:
    """What stands on source and target."""
    slots = sample.slots
    if "old_text" in slots:
        return slots["old_text"], slots["new_text"]
    return "", slots.get("text", "")


def test_tests_of_captions_catch_captioners_that_err(seen_texts: dict[bytes, str]) -> None:
    samples = []
    for number in range(10):
        image = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        for name in TEMPLATES:
            identity = f"{name}-{number}"
            made, _ = synthesize(image, identity, templates=[name], tools=TOOLS)
            for sample in made:
                samples.append((identity, sample))
                texts = written(sample)
                seen_texts[sample.source.tobytes()], seen_texts[sample.target.tobytes()] = texts
    asked: Counter[tuple[str, str]] = Counter()
    caught: Counter[tuple[str, str]] = Counter()
    for error, (err, stubborn, _) in {"none": (nothing, False, ()), **ERRORS}.items():
        for identity, sample in samples:
            for name, value in (scores(sample, identity, err, stubborn) or {}).items():
                asked[error, name] += 1
                caught[error, name] += value < BOUND
    print("\n" + f"{'error':28}{'rows':>5}" + "".join(f"{name:>10}" for name in TESTS))
    for error in ("none", *ERRORS):
        rates = "".join(
            f"{caught[error, n] / asked[error, n]:>10.3f}" if asked[error, n] else f"{'':>10}" for n in TESTS
        )
        print(f"{error:28}{asked[error, 'verified']:>5}{rates}")
    for name in TESTS:
        assert caught["none", name] / asked["none", name] <= 0.02, name
    for error, (_, _, tests) in ERRORS.items():
        for name in tests:
            assert asked[error, name] >= 8
            assert caught[error, name] / asked[error, name] >= 0.95, (error, name)
