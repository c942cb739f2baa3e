"""Random generators that are pure functions of a seed and names: the order of calls changes nothing."""

import hashlib

import numpy as np


def digest(*parts: object) -> int:
    """128-bit hash of the parts; the same on every machine and in every process."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def stream(*parts: object) -> np.random.Generator:
    """A generator that is a pure function of the parts, so nothing depends on the order of calls."""
    return np.random.Generator(np.random.PCG64(digest(*parts)))


def draw(rng: np.random.Generator, options: "tuple[str, ...] | list[str]") -> str:
    """One of the options (`rng.choice` would turn it into a numpy string)."""
    return options[int(rng.integers(len(options)))]
