"""The page for the one who decides: of a study's page, the cases that those before disagree about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edittools.bench.studies.build import PAGE
from edittools.bench.studies.design import design_of
from edittools.errors import EditError, UsageError
from edittools.stream import files

_STUDY = b'<script type="application/json" id="study">'
_END = b"</script>\n"


def write_third_page(
    folder: str, key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], path: str, overwrite: bool
) -> int:
    """Write the page; returns how many cases are on it. Answers to it are scored with the same key as the others.

    Raises UsageError for a design that nobody has to decide in, EditError where nothing is open.
    """
    find = getattr(design_of(key).reporter(), "undecided", None)
    if find is None:
        raise UsageError(f"design {key['design']} has no disagreements to decide")
    only = find(key, answers)
    if not only:
        raise EditError("there is no disagreement to decide")
    files.refuse_existing(path, overwrite)
    wanted = {b'<script type="application/json" id="case-%d">' % number for number in only}
    try:
        with (Path(folder) / PAGE).open("rb") as page, files.atomic(path) as out:
            for line in page:
                if line.startswith(_STUDY):
                    header = {**json.loads(line[len(_STUDY) : -len(_END)]), "only": only}
                    if header["study"] != key["study"]:
                        raise EditError(f"{folder}: the page is of another study than the key")
                    line = _STUDY + json.dumps(header).replace("<", "\\u003c").encode() + _END
                elif (
                    line.startswith(b'<script type="application/json" id="case-')
                    and line.partition(b">")[0] + b">" not in wanted
                ):
                    continue
                out.write(line)
    except OSError as error:
        raise EditError(f"{folder}/{PAGE}: {error.strerror}") from error
    return len(only)
