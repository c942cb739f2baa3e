"""Second sets of what trains, sharded as it is: the network has one in place of its own weights while a block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import nn

from edittools.train.parallel import local

RAW, AVERAGE = "raw", "average"  # names of the weights as they are, and of their average


class Copy:
    """What the trained parameters were when it was made, until something writes into `values`."""

    def __init__(self, trained: dict[str, nn.Parameter], lock: threading.RLock | None = None) -> None:
        """lock: held while weights change; None: one of its own."""
        self.trained = trained
        self.away = False  # the network has it, and `values` are the network's
        self.lock = lock or threading.RLock()
        self.values = {name: p.detach().clone() for name, p in trained.items()}

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the network has the copy; afterwards again its own weights, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        with self.lock:
            for name, value in self.values.items():
                mine, other = local(self.trained[name].detach()), local(value)
                kept = mine.clone()  # one tensor at a time: no second copy of the network
                mine.copy_(other)
                other.copy_(kept)
            self.away = not self.away

    @torch.no_grad()
    def follow(self, kept: float = 0.0) -> None:
        """Take the trained parameters as they are now, but for a share of itself that is kept."""
        for name, value in self.values.items():
            local(value).lerp_(local(self.trained[name].detach()), 1 - kept)


class Average(Copy):
    """The moving average of what trains (FireRed 3.5)."""

    def __init__(self, trained: dict[str, nn.Parameter], decay: float) -> None:
        """decay: 0 is none, whose `values` are empty."""
        super().__init__(trained if decay else {})
        self.trained, self.decay = trained, decay

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Fold in the weights after the k-th averaged step (from 1).

        The average is a true weighted mean of the weights seen, the i-th with weight decay^(k-i): nothing of the
        random start is left in it. decay = 1 is the arithmetic mean.
        """
        if not self.values:
            return
        # e_k = Σ_i d^(k-i) θ_i / Σ_i d^(k-i)   =>   e_k = e_(k-1) + r_k (θ_k - e_(k-1)),  r_k = (1 - d) / (1 - d^k)
        rate = 1 / k if self.decay == 1 else (1 - self.decay) / (1 - self.decay**k)
        torch._foreach_lerp_(
            [local(v) for v in self.values.values()], [local(p.detach()) for p in self.trained.values()], rate
        )
