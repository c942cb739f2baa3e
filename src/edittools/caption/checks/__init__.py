"""Tests of captions, one per file: each is a Kind that writes scores `caption_...` and no columns.

Some ask a model (the order test, the mirror test, questions about claims), others count words.
"""

from __future__ import annotations

from edittools.caption.kind import Kind
from edittools.errors import UsageError
from edittools.registry import Registry

CHECKS = Registry("edittools.caption.checks", "edittools.caption_checks")


def load_check(name: str) -> Kind:
    """Raises UsageError."""
    if name not in CHECKS.names:
        raise UsageError(f"--check {name}: no test of that name", hint="known: " + ", ".join(CHECKS.names))
    return CHECKS.load(name).KIND
