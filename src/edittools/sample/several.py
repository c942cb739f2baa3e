"""One editor per device, each in a process of its own."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import numpy as np

from edittools.errors import RowError
from edittools.nets.editor import Editor, EditRequest, Work
from edittools.nets.load import load_editor
from edittools.workers import Workers, devices


class _Remote:
    """In its process: an editor that tells its work with its images."""

    def __init__(self, editor: Editor, device: str) -> None:
        self.editor, self.device = editor, device

    def about(self) -> tuple[int, bool]:
        return self.editor.batch_size, getattr(self.editor, "from_text", False)

    def edit(self, requests: list[EditRequest]) -> tuple[list[np.ndarray | RowError], Work]:
        from edittools.nets.acceleration import peak_memory

        made = self.editor.edit(requests)
        return made, dataclasses.replace(self.editor.work, peak=peak_memory(self.device))


def _load(spec: str, device: str, dtype: str, threads: int | None, options: dict[str, Any]) -> _Remote:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return _Remote(load_editor(spec, device, dtype, **options), device)


class SeveralEditors:
    """An editor whose edit() may be called by as many threads at once as there are processes.

    Every call is done by one process as it would be by a single editor, so results do not depend on how many there are.
    """

    def __init__(self, spec: str, device: str, dtype: str, processes: int, **options: Any) -> None:
        """The options are load_editor()'s, and so are the errors."""
        names = devices(device, processes)
        threads = None
        if device == "cpu":  # they share the cores
            import torch

            threads = max(1, torch.get_num_threads() // processes)
        given = [(spec, name, dtype, threads, options) for name in names]
        self.workers = Workers(_load, given, [f"{name} (process {k})" for k, name in enumerate(names)])
        self.at_once = processes
        self.batch_size: int
        self.from_text: bool
        self.batch_size, self.from_text = self.workers.call("about")
        self._lock = threading.Lock()
        self._works: dict[int, Work] = {}
        self._began: float | None = None
        self.work = Work()

    def edit(self, requests: list[EditRequest]) -> list[np.ndarray | RowError]:
        with self.workers.free() as worker:
            began = time.perf_counter()
            made, work = worker.call("edit", requests)
        with self._lock:
            self._began = min(began, self._began or began)
            self._works[id(worker)] = work
            every = self._works.values()
            self.work = Work(
                sum(each.images for each in every),
                time.perf_counter() - self._began,
                sum(each.flops for each in every),
                max((each.peak for each in every if each.peak is not None), default=None),
            )
        return made

    def close(self) -> None:
        self.workers.close()
