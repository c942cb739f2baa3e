"""How many threads the arrays of a run take: one, for rows are shared among threads of our own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def one_of_blas() -> Iterator[None]:
    """Let BLAS work in the calling thread while the block runs.

    It would wake a thread per core for every small product, and they wait busily for the next: a filter takes several
    times the CPU time. So from Python as from the command line. Where we multiply large matrices (dedup/cosine.py),
    threads of our own share the work.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS") == "1":
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield
