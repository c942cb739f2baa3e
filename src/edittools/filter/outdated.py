"""Which scores that rows have already were made of other pixels, by an earlier release."""

from __future__ import annotations

from edittools.stream import codec
from edittools.stream.history import History


def outdated(history: History, name: str, image: str, stage: int) -> bool:
    """Whether the last `filter` that measured this (an option's name) of this image knew other pixels.

    stage  the VERSION of the stage that measures

    Scores that no node of the history tells of are somebody's own, and stay.
    """
    nodes = {node["hash"]: node for node in history.nodes}
    left, seen = list(history.heads), set()
    while left:
        node = nodes.get(left.pop())
        if node is None or node["hash"] in seen:
            continue
        seen.add(node["hash"])
        settings = node.get("settings") or {}
        if node.get("command") != "filter" or settings.get("image", "target") != image or settings.get(name) is None:
            left += node.get("inputs") or []
        elif node.get("version", 0) < codec.VERSION + stage - 1:  # as a run's version is made
            return True
    return False
