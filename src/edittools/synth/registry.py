"""The templates that exist: every file in templates/ is one, and nothing else has to be changed."""

import importlib
import pkgutil
from functools import lru_cache

from edittools.synth import templates
from edittools.synth.core import Template


@lru_cache(maxsize=1)
def atomic_names() -> tuple[str, ...]:
    """Names of all templates, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(templates.__path__)))


@lru_cache(maxsize=256)
def load(name: str) -> Template:
    """Read a template's declarations; KeyError for an unknown name."""
    if name not in atomic_names():
        raise KeyError(f"no such template: {name}")
    module = importlib.import_module(f"{templates.__name__}.{name}")
    return Template(
        name=name,
        task=module.TASK,
        local=module.LOCAL,
        instruction=module.INSTRUCTION,
        detail=module.DETAIL,
        keeps=getattr(module, "KEEPS", {}),
        inverse=getattr(module, "INVERSE", None),
        slots=module.slots,
        apply=module.apply,
        invert_slots=getattr(module, "invert_slots", dict),
    )
