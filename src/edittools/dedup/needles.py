"""Pieces of private files, and private names and texts as they are spelled, looked for in the bytes of files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import IO

import numpy as np

from edittools.dedup.private_words import INSIDE, PrivateWords, alone

_WORD = 8
_BLOCK = 1 << 24


class Needles:
    """All that is looked for, by its first 8 bytes: made once, whatever number of files is searched."""

    def __init__(self, pieces: Mapping[bytes, str], words: PrivateWords) -> None:
        """`pieces`: bytes of private files -> their place."""
        self.said = {piece: f"bytes of the private {place}" for piece, place in pieces.items()}
        self.names = {name.encode() for name in words.names}
        self.said |= {name: f"{name.decode()}, as it is" for name in self.names}
        spelled = {text.encode(): key for text, key in words.spelled.items()}
        self.said |= {raw: f"{raw.decode()!r}, as it is" for raw, key in spelled.items() if len(key.encode()) >= INSIDE}
        self.short = [raw for raw in self.said if len(raw) < _WORD]
        self.by_word: dict[int, list[bytes]] = defaultdict(list)
        for raw in self.said.keys() - set(self.short):
            self.by_word[int.from_bytes(raw[:_WORD], "little")].append(raw)
        self.wanted = np.array(sorted(self.by_word), np.uint64)
        self.longest = max(map(len, self.said), default=_WORD)

    def find(self, file: IO[bytes]) -> list[str]:
        """What is found in a file from where it stands on, in words."""
        found: dict[bytes, None] = {}
        before, block = b"", file.read(_BLOCK)
        while block:
            more = file.read(_BLOCK)
            data = before + block
            # What begins where `before` does was looked at; what ends with the data is when the next sign is known.
            found |= dict.fromkeys(self._in_block(data, 1 if before else 0, len(data) - bool(more)))
            before, block = data[-self.longest - 1 :], more
        return [self.said[raw] for raw in found]

    def _in_block(self, data: bytes, first: int, last: int) -> list[bytes]:
        found: list[bytes] = []
        for raw in self.short:
            start = data.find(raw, first, last)
            while start >= 0 and not self._counts(data, raw, start):
                start = data.find(raw, start + 1, last)
            found += [raw] if start >= 0 else []
        for shift in range(min(_WORD, len(data) - _WORD + 1)) if len(self.wanted) else ():
            words = np.frombuffer(data, np.uint64, (len(data) - shift) // _WORD, shift)
            for place in np.flatnonzero(np.isin(words, self.wanted)).tolist():
                start = shift + _WORD * place
                for raw in self.by_word[int(words[place])]:
                    if start >= first and data.startswith(raw, start, last) and self._counts(data, raw, start):
                        found.append(raw)
        return found

    def _counts(self, data: bytes, raw: bytes, start: int) -> bool:
        return raw not in self.names or alone(data, start, start + len(raw))
