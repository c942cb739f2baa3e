"""From slots to text: the bare imperative of an edit, and the sentences around it."""

import numpy as np

from edittools.caption.grammar import Literal, expand, sentence
from edittools.caption.lexicon import LANGUAGES, word
from edittools.caption.referring import REFERRING
from edittools.seeded import draw
from edittools.synth.registry import load

KEEPS = {
    True: {  # a region changes
        "en": [
            "everything else {stays|remains} {exactly as it is|unchanged|untouched}",
            "the rest of {the picture|the image} {must not change|stays exactly the same}",
            "all other parts {stay exactly the same|are not touched}",
        ],
        "zh": ["其余{部分|内容|区域}{保持不变|完全不变|不要改动}", "{画面|图片}的其他地方{保持原样|不变}"],
    },
    False: {  # the whole image changes
        "en": [
            ("{the content and the composition|objects and their positions} {stay|remain} {the same|as they are}"),
            "{nothing is|no object is} added, removed or moved",
        ],
        "zh": ["{内容和构图|物体及其位置}{保持不变|不变}", "{不增加、不删除、也不移动任何物体}"],
    },
}
JOINS = {
    "en": ["<first>{, and | and |, then |; also |, and also }<second>"],
    "zh": ["<first>，{并|同时|然后|再|另外}<second>"],
}


def say(patterns: list[str], slots: dict, lang: str, rng: np.random.Generator) -> str:
    """Expand one of the patterns with the slots' words."""
    return expand(draw(rng, patterns), lambda name, kind: word(name, kind, slots, lang), rng)


def imperative(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    """The edit as a bare imperative, no capital letter and no full stop: `add a small red star ...`.

    slots["parts"] marks a hybrid; slots["wording"] a turn that refers to earlier ones.
    """
    if "parts" in slots:
        first, second = (imperative(part["template"], part["slots"], lang, rng) for part in slots["parts"])
        return say(JOINS[lang], {"first": Literal(first), "second": Literal(second)}, lang, rng)
    plain = say(load(name).instruction[lang], slots, lang, rng)
    if "wording" not in slots:
        return plain
    return say(REFERRING[slots["wording"]][name][lang], slots | {"core": Literal(plain)}, lang, rng)


def details(name: str, slots: dict, lang: str, rng: np.random.Generator) -> list[str]:
    """Statements, without full stops, of what the target looks like: one for each atomic edit."""
    if "parts" in slots:
        return [text for part in slots["parts"] for text in details(part["template"], part["slots"], lang, rng)]
    return [say(load(name).detail[lang], slots, lang, rng)]


def keeps(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    """A statement of what stays the same."""
    if "parts" in slots:
        return say(KEEPS[True][lang], slots, lang, rng)
    template = load(name)
    return say(template.keeps.get(lang) or KEEPS[template.local][lang], slots, lang, rng)


def instruct(name: str, slots: dict, rngs: dict[str, np.random.Generator]) -> dict[str, str]:
    """The instruction in every language; one generator each, so that languages do not disturb each other."""
    return {lang: sentence(imperative(name, slots, lang, rngs[lang]), lang) for lang in LANGUAGES}
