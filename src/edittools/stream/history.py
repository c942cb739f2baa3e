"""How a data set was made: a small graph that every command adds one node to.

A node is {command, version, settings, inputs, hash}. `inputs` are the hashes of the nodes it read from, and
`hash` covers everything else in the node, so that a hash names a whole chain of commands. Settings say what
is computed; they never hold paths, thread counts or anything else that leaves the result unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import xxhash


def digest(*parts: str | bytes) -> str:
    """A 128-bit hex digest of the parts, with their boundaries. Guards against accidents, not attackers."""
    state = xxhash.xxh3_128()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def canonical_json(value: object) -> str:
    """JSON with one spelling: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class History:
    """The nodes in the order they came to be; `heads` are the ones nothing else has read yet."""

    nodes: tuple[dict[str, Any], ...] = field(default=())
    heads: tuple[str, ...] = field(default=())

    def add(self, command: str, version: int, settings: dict[str, Any]) -> History:
        """This history followed by one command that read all of its heads."""
        node: dict[str, object] = {"command": command, "version": version, "settings": settings}
        node["inputs"] = list(self.heads)
        node["hash"] = digest(canonical_json(node))
        nodes = self.nodes if any(n["hash"] == node["hash"] for n in self.nodes) else (*self.nodes, node)
        return History(nodes, (str(node["hash"]),))

    def merge(self, other: History) -> History:
        """Both histories side by side, for a command with several inputs."""
        known = {node["hash"] for node in self.nodes}
        nodes = self.nodes + tuple(node for node in other.nodes if node["hash"] not in known)
        heads = self.heads + tuple(head for head in other.heads if head not in self.heads)
        return History(nodes, heads)

    def to_json(self) -> str:
        return canonical_json({"nodes": list(self.nodes), "heads": list(self.heads)})

    @classmethod
    def from_json(cls, text: str | bytes | None) -> History:
        """Read what `to_json` wrote; nothing where there is nothing. Raises ValueError for anything else."""
        if not text:
            return cls()
        try:
            record = json.loads(text)
            nodes = tuple(record["nodes"])
            if any(not isinstance(node["hash"], str) for node in nodes):
                raise ValueError("a node without a hash")
            heads = tuple(record["heads"])
            if any(not isinstance(head, str) for head in heads):
                raise ValueError("a head that is no hash")
            history = cls(nodes, heads)
            history.to_json().encode()  # half a surrogate pair can be read, but not be written again
            return history
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a history: {error}") from error

    @property
    def hash(self) -> str:
        return digest(*self.heads)

    def difference(self, old: History) -> str | None:
        """The first thing that was otherwise when `old` was made, as `command: setting old -> new`; None if nothing."""
        for before, now in zip(old.nodes, self.nodes):
            if before["command"] != now["command"]:
                break
            if before.get("version") != now["version"]:
                return f"{now['command']}: results changed with this release of edittools"
            was, is_now = before.get("settings") or {}, now["settings"]
            for name in sorted({*was, *is_now}):
                if was.get(name) != is_now.get(name):
                    return f"{now['command']}: {name} {_short(was.get(name))} → {_short(is_now.get(name))}"
        chains = [" | ".join(str(node["command"]) for node in history.nodes) for history in (old, self)]
        return f"{chains[0]} → {chains[1]}" if chains[0] != chains[1] else None


def _short(value: object) -> str:
    text = "unset" if value is None else canonical_json(value)
    return text if len(text) <= 60 else text[:57] + "..."
