"""What commands that ask a model have in common: the run with a session, whose replies say what is to be made anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edittools.stream.ipc import Counts
    from edittools.stream.run import RunOptions
    from edittools.stream.sink import Sink
    from edittools.stream.source import Source
    from edittools.vlm.session import Session


def run_asking(
    stages: list[Any],
    session: Session,
    source: Source,
    run_options: RunOptions,
    has_state: Callable[[str, Set[str]], bool],
    again: Set[str],
) -> tuple[Sink, Counts]:
    """Send every row through the stages, which ask the session. `has_state` says of the Parquet file of a finished
    shard whether it has rows in one of some states; those with one of `again` are made anew.
    """
    from edittools.stream.run import open_progress, open_sink, run
    from edittools.stream.writers.shards import ShardSetSink

    sink = open_sink(run_options)
    if again and isinstance(sink, ShardSetSink):
        if run_options.ray is None:
            sink.again = lambda path: has_state(path, again)
        else:  # its tasks look for themselves, and all have to be started
            run_options = dataclasses.replace(run_options, overwrite=True)
    progress = open_progress(session.command, source, run_options, sink, session.said)
    session.refresh = progress.refresh
    with session:
        if session.config.batch == "collect":
            session.collect()
        total = run(session.command, source, stages, session.settings, run_options, sink=sink, progress=progress)
    return sink, total
