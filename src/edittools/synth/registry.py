"""The templates that exist: every file in templates/ is one, and nothing else has to be changed."""

from functools import lru_cache

from edittools.registry import Registry
from edittools.synth.core import Template

TEMPLATES = Registry("edittools.synth.templates", "edittools.templates")
PAINTED = Registry("edittools.synth.painted", "edittools.painted")  # see edittools.synth.painting
CHECKS = Registry("edittools.synth.checks", "edittools.paint_checks")  # see edittools.synth.checking


def atomic_names() -> tuple[str, ...]:
    """Names of all templates that need no renderer, in alphabetical order."""
    return tuple(name for name in TEMPLATES.names if name not in rendered_names())


@lru_cache(maxsize=1)
def rendered_names() -> tuple[str, ...]:
    """Names of the templates that need one, and are therefore not among `all`: those that say RENDERED."""
    return tuple(name for name, said in TEMPLATES.declared("RENDERED", False).items() if said)


@lru_cache(maxsize=256)
def load(name: str) -> Template:
    """Read a template's declarations; KeyError for an unknown name."""
    if name not in TEMPLATES.names:
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
