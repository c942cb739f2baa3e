"""The stages as a small Python API, for notebooks: `edittools.read("in/").pipe(stage).write("out/")`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edittools.stream import threads
from edittools.stream.batch import Batch, Stage
from edittools.stream.run import RunOptions, TwoPassStage, open_input, run
from edittools.stream.source import Source
from edittools.stream.wire import Counts


class Dataset:
    """A source and the stages its rows will go through. Nothing runs before `rows` or `write` asks for it."""

    def __init__(self, source: Source, stages: tuple[Stage, ...] = ()) -> None:
        self.source, self.stages = source, stages

    def pipe(self, stage: Stage) -> Dataset:
        """This data set with one more stage, such as `filters.stage.FilterStage`."""
        return Dataset(self.source, (*self.stages, stage))

    def batches(self) -> Iterator[Batch]:
        """The batches that come out. A stage that needs two passes makes its verdict first.

        Until the last one numpy multiplies in one thread, in what is done with the batches too.
        """
        with threads.one_of_blas():
            self._decide(self.stages)
            yield from self._through(list(self.stages))

    def _decide(self, stages: tuple[Stage, ...]) -> None:
        """Let every two-pass stage see the rows as they reach it, and make its verdict."""
        passed: list[Stage] = []
        for stage in stages:
            if isinstance(stage, TwoPassStage) and stage.verdict_digest is None:
                if not self.source.rewindable:
                    raise ValueError(f"{stage.name} reads its input twice, and a pipe can be read only once")
                for _ in stage.observe(self._through(passed)):
                    pass
                stage.decide()
            passed.append(stage)

    def _through(self, stages: list[Stage]) -> Iterator[Batch]:
        batches = self.source.batches(lambda shard: True)
        for stage in stages:
            batches = stage(batches)
        return batches

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as dictionaries; pictures are references (see record.IMAGE) or bytes."""
        for batch in self.batches():
            yield from batch.rows.to_pylist()

    def write(
        self,
        output: str,
        *,
        settings: dict[str, Any] | None = None,
        overwrite: bool = False,
        max_errors: str = "1%",
    ) -> Counts:
        """Run and write: a folder, or a file whose name ends in .tar, .parquet, .arrows or .jsonl.

        `settings` go into the history; they must say everything that the stages were made with, because a finished
        shard of the same history is not made again. Raises TooManyFailed where more rows failed than `max_errors`,
        a number of rows or a percentage: the output is written then, and its rejects say which.
        """
        names = "+".join(stage.name for stage in self.stages) or "write"
        options = RunOptions(output=output, overwrite=overwrite, max_errors=max_errors, quiet=True)
        if any(isinstance(stage, TwoPassStage) for stage in self.stages[1:]):
            # The run loop shows a two-pass stage the rows of the source, not what is left of them by then.
            with threads.one_of_blas():
                self._decide(self.stages)
        return run(names, self.source, list(self.stages), settings or {}, options)


def read(*paths: str, partial: bool = False, limit: int | None = None) -> Dataset:
    """Open shard sets, folders, tars, Parquet files, JSON lines or URLs."""
    return Dataset(open_input(list(paths), RunOptions(partial=partial, limit=limit)))
