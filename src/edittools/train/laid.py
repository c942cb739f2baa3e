"""A new network that the processes of a machine have in common, until each takes of it what it trains.

One of them makes it. Its tensors lie in a file that all map into memory: what a process only reads, all have once; what
it changes is its own.
"""

from __future__ import annotations

import io
import mmap
import pickle
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor, nn

from edittools.train.mapped import Unnamed, no_room, once_a_machine, temporary
from edittools.train.parallel import Parallel

_ALIGNED = 64  # bytes that tensors begin at multiples of


def module_once_a_machine(parallel: Parallel, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, bit for bit, on every process of a machine; each calls it. It is made once.

    Raises what `make` raises, on all of them, and EditError where TMPDIR has no room for it.
    """
    if parallel.world == 1:
        return make()
    laid = once_a_machine(parallel, lambda: Laid(make()))
    return laid.module()


class Laid:
    """A module, its tensors in a file without a name; pickled it is where the processes of the machine find it."""

    def __init__(self, module: nn.Module) -> None:
        """Raises EditError where there is no room for it."""
        file, skeleton = temporary(), io.BytesIO()
        try:
            _Pickler(skeleton, file).dump(module)
            file.flush()
        except OSError as error:
            raise no_room(error) from error
        self.skeleton, self.file = skeleton.getvalue(), Unnamed(file)

    def module(self) -> nn.Module:
        memory = mmap.mmap(self.file.file.fileno(), 0, access=mmap.ACCESS_COPY)
        return _Unpickler(self.skeleton, memory).load()  # type: ignore[no-any-return]


class _Pickler(pickle.Pickler):
    """Of a tensor it writes where it lies in `file`."""

    def __init__(self, skeleton: io.BytesIO, file: IO[bytes]) -> None:
        super().__init__(skeleton)
        self.file = file
        self.places: dict[int, tuple[Any, ...]] = {}

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.places:  # a module may have it twice
            self.file.write(bytes(-self.file.tell() % _ALIGNED))
            place = self.file.tell()
            plain = value.detach().contiguous()
            plain = torch.view_as_real(plain) if plain.is_complex() else plain
            plain.flatten().view(torch.uint8).numpy().tofile(self.file)
            trains = value.requires_grad if isinstance(value, nn.Parameter) else None
            self.places[id(value)] = place, value.dtype, tuple(value.shape), trains
        return self.places[id(value)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, skeleton: bytes, memory: mmap.mmap) -> None:
        super().__init__(io.BytesIO(skeleton))
        self.memory = memory
        self.found: dict[tuple[Any, ...], Tensor] = {}

    def persistent_load(self, place: tuple[Any, ...]) -> Tensor:
        if place not in self.found:
            offset, dtype, shape, trains = place
            count = torch.Size(shape).numel()
            value = torch.empty(shape, dtype=dtype)
            if count:
                value = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=offset).reshape(shape)
            self.found[place] = value if trains is None else nn.Parameter(value, trains)
        return self.found[place]
