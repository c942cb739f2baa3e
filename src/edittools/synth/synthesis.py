"""Model-free synthesis: exact edits of an image, with their instructions and masks.

    samples, skipped = synthesize(image, "row-7", seed=1, templates=["add", "gray"], per_row=2, tools=Tools())

Every sample is a pure function of (seed, row id, template, repetition): neither the order of calls nor
the choice of other templates changes it.
"""

from collections.abc import Sequence

import numpy as np

from edittools.caption.lexicon import LANGUAGES
from edittools.caption.wording import instruct
from edittools.seeded import digest, stream
from edittools.synth.compose import hybrid_pair, hybrid_slots
from edittools.synth.core import MIN_SIDE, DialogueTurn, Inapplicable, Pair, SynthSample, Tools, mask_of
from edittools.synth.dialogue import draw_state, plan
from edittools.synth.fonts import Fonts, find_fonts
from edittools.synth.registry import atomic_names, load, rendered_names

__all__ = [
    "DialogueTurn",
    "Fonts",
    "Pair",
    "SynthSample",
    "Tools",
    "choose_templates",
    "find_fonts",
    "invert",
    "synthesize",
    "task_of",
    "template_names",
]  # fmt: skip

COMPOSITES = ("dialogue", "hybrid")


def template_names() -> list[str]:
    """All templates, in alphabetical order, and the two that are composed of them; none that need a renderer."""
    return sorted((*atomic_names(), *COMPOSITES))


def task_of(name: str) -> str:
    """The canonical task of a template. A dialogue's sources and targets combine edits, as a hybrid's do."""
    return "hybrid" if name in COMPOSITES else load(name).task


def choose_templates(templates: Sequence[str], row_id: str, seed: int, count: int) -> list[tuple[str, int]]:
    """`count` (template, repetition) for a row. No template comes twice before every template has come once.

    Each row has its own order, by hash, so over many rows all templates are about equally frequent.
    """
    order = sorted(set(templates), key=lambda kind: digest(seed, row_id, "order", kind))
    return [(order[i % len(order)], i // len(order)) for i in range(count)]


def synthesize(
    image: np.ndarray,
    row_id: str,
    *,
    seed: int = 0,
    templates: Sequence[str] | None = None,
    per_row: int = 1,
    tools: Tools,
) -> tuple[list[SynthSample], list[tuple[str, str]]]:
    """Make `per_row` edits of one image (uint8 HxWx3).

    templates: names out of template_names(), which None is all of, and rendered_names().
    Returns the samples and what was skipped, as (template, reason).
    """
    names = template_names() if templates is None else list(templates)
    if unknown := {*names} - {*template_names(), *rendered_names()}:
        raise ValueError(f"unknown templates: {', '.join(sorted(unknown))}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 HxWx3, not {image.dtype} {image.shape}")
    samples: list[SynthSample] = []
    skipped: list[tuple[str, str]] = []
    for name, repetition in choose_templates(names, row_id, seed, per_row) if names else []:
        try:
            samples.append(_make(name, image, (seed, row_id, name, repetition), tools))
        except Inapplicable as reason:
            skipped.append((name, str(reason)))
    return samples, skipped


def invert(sample: SynthSample, row_id: str, *, seed: int = 0) -> SynthSample | None:
    """The inverse edit: source and target swapped, with the wording of the inverse template.

    None if the template has no inverse. slots["inverse_of"] names the template it came from.
    """
    if sample.template in COMPOSITES:
        return None
    template = load(sample.template)
    if template.inverse is None:
        return None
    slots = template.invert_slots(sample.slots)
    return SynthSample(
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


def _make(name: str, image: np.ndarray, key: Key, tools: Tools) -> SynthSample:
    if min(image.shape[:2]) < MIN_SIDE:
        raise Inapplicable(f"picture is smaller than {MIN_SIDE} px")
    rng = stream(*key, "slots")
    if name == "dialogue":
        return _make_dialogue(image, rng, key, tools)
    if name == "hybrid":
        slots = hybrid_slots(image, rng, tools)
        pair = hybrid_pair(image, slots, tools)
    else:
        template = load(name)
        slots = template.slots(image, rng, tools)
        pair = template.pair(image, slots, tools)
    mask = mask_of(pair.source, pair.target)
    instruction = instruct(name, slots, _speakers(key))
    return SynthSample(name, task_of(name), pair.source, pair.target, mask, instruction, slots)


def _make_dialogue(image: np.ndarray, rng: np.random.Generator, key: Key, tools: Tools) -> SynthSample:
    kind, plans = plan(image, rng, tools)
    turns: list[DialogueTurn] = []
    for index, step in enumerate(plans):
        target = draw_state(image, step.state, tools)
        before = turns[step.parent].target if step.parent >= 0 else image
        instruction = instruct(step.template, step.slots, _speakers((*key, index)))
        turns.append(
            DialogueTurn(
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
    return SynthSample(
        template="dialogue",
        task=task_of("dialogue"),
        source=image,
        target=turns[-1].target,
        mask=mask_of(image, turns[-1].target),
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
