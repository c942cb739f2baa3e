"""Model-free synthesis: exact edits of a picture, with their instructions and masks.

    samples, skipped = synthesize(picture, "row-7", seed=1, kinds=["add", "gray"], per_row=2, tools=Tools())

Every sample is a pure function of (seed, row id, kind, repetition): neither the order of calls nor
the choice of other kinds changes it.
"""

from collections.abc import Sequence

import numpy as np

from edittools.synth.compose import hybrid_pair, hybrid_slots
from edittools.synth.core import MIN_SIDE, Pair, Sample, Tools, Turn, Unfit, digest, mask_of, stream
from edittools.synth.dialogue import draw_state, plan
from edittools.synth.fonts import Fonts, find_fonts
from edittools.synth.lexicon import LANGUAGES
from edittools.synth.registry import atomic_names, load
from edittools.synth.wording import instruct

__all__ = [
    "Fonts", "Pair", "Sample", "Tools", "Turn", "choose_kinds", "find_fonts", "invert", "synthesize",
    "task_of", "template_names",
]  # fmt: skip

COMPOSITES = ("dialogue", "hybrid")


def template_names() -> list[str]:
    """All kinds, in alphabetical order: the templates, and the two that are composed of them."""
    return sorted((*atomic_names(), *COMPOSITES))


def task_of(name: str) -> str:
    """The canonical task of a kind. A dialogue's sources and targets combine edits, as a hybrid's do."""
    return "hybrid" if name in COMPOSITES else load(name).task


def choose_kinds(kinds: Sequence[str], row_id: str, seed: int, count: int) -> list[tuple[str, int]]:
    """`count` (kind, repetition) for a row. No kind comes twice before every kind has come once.

    Each row has its own order, by hash, so over many rows all kinds are about equally frequent.
    """
    order = sorted(set(kinds), key=lambda kind: digest(seed, row_id, "order", kind))
    return [(order[i % len(order)], i // len(order)) for i in range(count)]


def synthesize(
    picture: np.ndarray,
    row_id: str,
    *,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    per_row: int = 1,
    tools: Tools,
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Make `per_row` edits of one picture (uint8 HxWx3).

    kinds: names out of template_names(); None is all of them.
    Returns the samples and what was skipped, as (kind, reason).
    """
    names = template_names() if kinds is None else list(kinds)
    if unknown := set(names) - set(template_names()):
        raise ValueError(f"unknown kinds: {', '.join(sorted(unknown))}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture must be uint8 HxWx3, not {picture.dtype} {picture.shape}")
    samples: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    for name, repetition in choose_kinds(names, row_id, seed, per_row) if names else []:
        try:
            samples.append(_make(name, picture, (seed, row_id, name, repetition), tools))
        except Unfit as reason:
            skipped.append((name, str(reason)))
    return samples, skipped


def invert(sample: Sample, row_id: str, *, seed: int = 0) -> Sample | None:
    """The inverse edit (Y4): source and target swapped, with the wording of the inverse template.

    None if the template has no inverse. slots["inverse_of"] names the template it came from.
    """
    if sample.template in COMPOSITES:
        return None
    template = load(sample.template)
    if template.inverse is None:
        return None
    slots = template.invert_slots(sample.slots)
    return Sample(
        template=template.inverse,
        task=task_of(template.inverse),
        source=sample.target,
        target=sample.source,
        mask=sample.mask,
        instruction=instruct(template.inverse, slots, _speakers((seed, row_id, "inverse", sample.template))),
        slots=slots | {"inverse_of": sample.template},
    )


Key = tuple[object, ...]


def _speakers(key: Key) -> dict[str, np.random.Generator]:
    return {lang: stream(*key, lang) for lang in LANGUAGES}


def _make(name: str, picture: np.ndarray, key: Key, tools: Tools) -> Sample:
    if min(picture.shape[:2]) < MIN_SIDE:
        raise Unfit(f"picture is smaller than {MIN_SIDE} px")
    rng = stream(*key, "slots")
    if name == "dialogue":
        return _make_dialogue(picture, rng, key, tools)
    if name == "hybrid":
        slots = hybrid_slots(picture, rng, tools)
        pair = hybrid_pair(picture, slots, tools)
    else:
        template = load(name)
        slots = template.slots(picture, rng, tools)
        pair = template.pair(picture, slots, tools)
    mask = mask_of(pair.source, pair.target)
    instruction = instruct(name, slots, _speakers(key))
    return Sample(name, task_of(name), pair.source, pair.target, mask, instruction, slots)


def _make_dialogue(picture: np.ndarray, rng: np.random.Generator, key: Key, tools: Tools) -> Sample:
    kind, plans = plan(picture, rng, tools)
    turns: list[Turn] = []
    for index, step in enumerate(plans):
        target = draw_state(picture, step.state, tools)
        before = turns[step.parent].target if step.parent >= 0 else picture
        instruction = instruct(step.template, step.slots, _speakers((*key, index)))
        turns.append(
            Turn(
                parent=step.parent,
                kind=kind,
                task=task_of(step.template),
                template=step.template,
                instruction=instruction,
                target=target,
                mask=mask_of(before, target),
                slots=step.slots,
            )
        )
    return Sample(
        template="dialogue",
        task=task_of("dialogue"),
        source=picture,
        target=turns[-1].target,
        mask=mask_of(picture, turns[-1].target),
        instruction={
            "en": " ".join(turn.instruction["en"] for turn in turns),
            "zh": "".join(turn.instruction["zh"] for turn in turns),
        },
        slots={
            "kind": kind,
            "turns": [{"parent": t.parent, "template": t.template, "slots": t.slots} for t in turns],
        },
        turns=turns,
    )
