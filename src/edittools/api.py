"""The commands as a small Python API: `edittools.read("raw/").filter(sharpness="q05..").write("clean/")`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from edittools.settings import configured
from edittools.stream import threads
from edittools.stream.batch import Batch, Stage
from edittools.stream.ipc import Counts
from edittools.stream.run import RunOptions, TwoPassStage, open_input, run, settings_of
from edittools.stream.source import Source


class Dataset:
    """A source and the steps its rows will go through. Nothing runs before `rows` or `write` asks for it.

    A step is what a command does; its settings are the command's options by their names, with the same defaults, and
    what `write` records of them is what the command records.
    """

    def __init__(
        self, source: Source, steps: tuple[tuple[Stage, ...], ...] = (), *, jobs: int = 1, limit: int | None = None
    ) -> None:
        self.source, self.steps, self.jobs, self.limit = source, steps, jobs, limit
        self.sessions: tuple[AbstractContextManager[Any], ...] = ()  # with models; open while rows are made

    def pipe(self, *stages: Stage) -> Dataset:
        """This data set with one more step, of a stage or several."""
        made = Dataset(self.source, (*self.steps, stages), jobs=self.jobs, limit=self.limit)
        made.sessions = self.sessions
        return made

    def dedup(self, *, against: str | None = None, **settings: Any) -> Dataset:
        """`edit dedup`: drop copies. `against` is a folder with what earlier runs kept. Raises UsageError."""
        from edittools.dedup.config import DedupConfig
        from edittools.dedup.stage import DedupStage

        stage = DedupStage(configured(DedupConfig, settings), jobs=self.jobs, against=against)
        if against is not None:
            stage.open_store("-")
        return self.pipe(stage)

    def filter(self, **settings: Any) -> Dataset:
        """`edit filter`: a bound per filter, as text (`sharpness="q05.."`), `where`, and so on. Raises UsageError."""
        from edittools.filter.config import FilterConfig
        from edittools.filter.stage import filter_stages

        return self.pipe(*filter_stages(configured(FilterConfig, settings), self.jobs))

    def synth(self, **settings: Any) -> Dataset:
        """`edit synth`: edit pairs of every image; with `painter`, of their objects. Raises UsageError."""
        from edittools.synth.config import PaintConfig, SynthConfig

        if settings.get("painter") is not None:
            from edittools.synth.paint_stage import PaintStage

            return self.pipe(PaintStage(configured(PaintConfig, settings), jobs=self.jobs))
        from edittools.synth.stage import SynthStage

        return self.pipe(SynthStage(configured(SynthConfig, settings), jobs=self.jobs))

    def ground(self, **settings: Any) -> Dataset:
        """`edit ground`: objects, their masks, faces, structure maps. Raises UsageError."""
        from edittools.ground.config import GroundConfig
        from edittools.ground.stage import GroundStage

        return self.pipe(GroundStage(configured(GroundConfig, settings), jobs=self.jobs))

    def caption(self, **settings: Any) -> Dataset:
        """`edit caption`: captions and instructions; with `kinds`, `model` and `cache_dir` by a model, whose replies
        are kept there. Raises UsageError, EditError.
        """
        from edittools.caption.config import CaptionConfig
        from edittools.caption.model_stage import caption_stages
        from edittools.vlm.session import Session

        config = configured(CaptionConfig, settings)
        stages, session = caption_stages(
            config, lambda: Session(config, RunOptions(quiet=True), command="caption", retries=0)
        )
        made = self.pipe(*stages)
        if session is not None:
            session.settings = config.recorded(styles=None)
            made.sessions = (*self.sessions, session)
        return made

    def score(self, **settings: Any) -> Dataset:
        """`edit score`: measure pairs and results. Raises UsageError."""
        from edittools.score.config import ScoreConfig
        from edittools.score.stage import score_stage

        return self.pipe(score_stage(configured(ScoreConfig, settings), self.jobs))

    def sample(self, model: str, **settings: Any) -> Dataset:
        """`edit sample`: edit rows with a model, which is loaded with the first row. Raises UsageError."""
        from edittools.sample.config import SampleConfig
        from edittools.sample.stage import SampleStage

        return self.pipe(SampleStage(configured(SampleConfig, {"model": model, **settings})))

    def pair(self, by: str | tuple[str, ...], **settings: Any) -> Dataset:
        """`edit pair`: preference pairs of candidates, by their scores. Raises UsageError."""
        from edittools.pair.config import PairConfig
        from edittools.pair.stage import PairStage

        return self.pipe(PairStage(configured(PairConfig, {"by": by, **settings}), jobs=self.jobs))

    def judge(self, rubric: str, model: str, cache_dir: str, **settings: Any) -> Dataset:
        """`edit judge`: ask a model by a rubric; replies are kept in `cache_dir`. Raises UsageError, EditError.

        Here nothing counts rows without a score as failed: `judgements` says of each why.
        """
        from edittools.judge.config import JudgeConfig
        from edittools.judge.stage import judge_stage
        from edittools.vlm.session import Session

        config = configured(JudgeConfig, {"rubric": rubric, "model": model, "cache_dir": cache_dir, **settings})
        session = Session(config, RunOptions(quiet=True), repeats=config.repeats)
        stage = judge_stage(config, session, self.jobs)
        session.settings = stage.recorded
        made = self.pipe(stage)
        made.sessions = (*self.sessions, session)
        return made

    def batches(self) -> Iterator[Batch]:
        """The batches that come out. A stage that needs two passes decides first.

        Until the last one numpy multiplies in one thread, in what is done with the batches too.
        """
        self._recorded()  # what cannot be done is said first
        with contextlib.ExitStack() as stack:
            stack.enter_context(threads.one_of_blas())
            for session in self.sessions:
                stack.enter_context(session)
            self._decide()
            yield from self._through(self.stages)

    @property
    def stages(self) -> list[Stage]:
        return [stage for step in self.steps for stage in step]

    def _decide(self) -> None:
        """Let every two-pass stage see the rows as they reach it, and decide."""
        passed: list[Stage] = []
        schema = self.source.schema
        for stage in self.stages:
            schema = stage.schema(schema)  # some learn from it which columns they are about
            if isinstance(stage, TwoPassStage) and stage.decisions_digest is None:
                if not self.source.replayable:
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
        """Rows as dictionaries; images are references (see record.IMAGE) or bytes."""
        for batch in self.batches():
            yield from batch.rows.to_pylist()

    def write(self, output: str, *, overwrite: bool = False, max_errors: str = "1%") -> Counts:
        """Run and write: a folder, or a file whose name ends in .tar, .parquet, .arrows or .jsonl.

        The same call again continues where it stopped. Raises TooManyFailed where more rows failed than `max_errors`,
        a number of rows or a percentage: the output is written then, and its rejects say which.
        """
        options = RunOptions(output=output, overwrite=overwrite, max_errors=max_errors, quiet=True)
        command, settings = self._recorded()
        if any(isinstance(stage, TwoPassStage) for stage in self.stages[1:]):
            # The run loop shows a two-pass stage the rows of the source, not what is left of them by then.
            with threads.one_of_blas():
                self._decide()
        with contextlib.ExitStack() as stack:
            for session in self.sessions:
                stack.enter_context(session)
            return run(command, self.source, self.stages, settings, options)

    def _recorded(self) -> tuple[str, dict[str, Any]]:
        """What the history says: of one step what its command says, of several all of them in their order."""
        found = [(step[0].name, settings_of(step, self.source, self.limit)) for step in self.steps]
        if len(found) < 2:
            return found[0] if found else ("cat", settings_of([], self.source, self.limit))
        return "+".join(name for name, _ in found), {f"{k} {name}": told for k, (name, told) in enumerate(found)}


def read(*paths: str, partial: bool = False, limit: int | None = None, jobs: int | None = None) -> Dataset:
    """Open shard sets, folders, tars, Parquet files, JSON lines or URLs.

    limit  read the first rows only
    jobs   threads of every step; None: one per core
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Dataset(open_input(list(paths), RunOptions(partial=partial, limit=limit)), jobs=jobs or cores, limit=limit)
