"""The templates that exist: every file in templates/ is one, and nothing else has to be changed."""

from functools import lru_cache

from edittools.registry import Registry
from edittools.synth.core import Template

TEMPLATES = Registry("edittools.synth.templates", "edittools.templates")
PAINTED = Registry("edittools.synth.painted", "edittools.painted")  # see edittools.synth.painting
CHECKS = Registry("edittools.synth.checks", "edittools.paint_checks")  # see edittools.synth.checking


def atomic_names() -> tuple[str, ...]:
    """Names of all templates, in alphabetical order."""
    return TEMPLATES.names


@lru_cache(maxsize=256)
def load(name: str) -> Template:
    """Read a template's declarations; KeyError for an unknown name."""
    if name not in atomic_names():
        raise KeyError(f"no such template: {name}")
    module = TEMPLATES.load(name)
    return Template(
        name=name,
        task=module.TASK,
        local=module.LOCAL,
        instruction=module.INSTRUCTION,
        detail=module.DETAIL,
        keeps=getattr(module, "KEEPS", {}),
        effect=getattr(module, "EFFECT", {}),
        inverse=getattr(module, "INVERSE", None),
        slots=module.slots,
        apply=module.apply,
        invert_slots=getattr(module, "invert_slots", dict),
    )
