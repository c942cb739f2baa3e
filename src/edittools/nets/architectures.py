"""The architectures by name, and the files that they may have."""

from __future__ import annotations

import importlib
from types import ModuleType

from edittools.registry import Registry

ARCHITECTURES = Registry("edittools.nets", "edittools.architectures", packages_only=True)


def weight_adapters() -> list[ModuleType]:
    """The files `weights.py` of the architectures that have one: what `python -m edittools.convert` does for them.

    TITLE                the model's name
    LAYOUTS              in which layouts it is written; the first one is ours
    GIVEN                part -> (option, help): folders of the model that releases lack, and that may be given
    reads(path)          is this file or folder a checkpoint of it, in any layout? EditError where it cannot be read
    convert(path, target, layout, given)   what it was, in words
    missing_encoders(folder)   the parts that a converted folder lacks
    """
    return _files("weights")


def namings() -> list[ModuleType]:
    """The files `names.py` of the architectures that have one, for networks that files of adapters are for.

    PUBLISHED           name of a release -> the class of its transformer, and its configuration
    released(modules)   what releases call diffusers' modules -> these, several where one holds them all, one below the
                        other; nothing for the modules of another network
    """
    return _files("names")


def _files(name: str) -> list[ModuleType]:
    return [
        importlib.import_module(f"{module}.{name}")
        for architecture, module in ARCHITECTURES.modules.items()
        if ARCHITECTURES.path(architecture).with_name(f"{name}.py").exists()
    ]
