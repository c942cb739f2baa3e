"""The one way in which text from data enters the report."""

from __future__ import annotations

from html import escape


def text(value: object) -> str:
    """A value as HTML or SVG text, or attribute: escaped, without control characters and lone surrogates."""
    printable = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(value))
    return escape(printable.encode("utf-8", "replace").decode("utf-8"))
