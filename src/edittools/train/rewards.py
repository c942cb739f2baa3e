"""Rewards in training: what candidates are worth within their group, and who is asked for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pyarrow as pa

from edittools.errors import EditError, UsageError, describe
from edittools.filter.direction import parse_rewards, reward_values
from edittools.metrics.rewards import Reward, combined, optimality
from edittools.pair.rewards import Rewards
from edittools.record import IMAGE, PROVENANCE, TEXT
from edittools.settings import from_words, names_of
from edittools.stream.batch import Stage
from edittools.stream.groups import GROUP, group_slices
from edittools.stream.scores import check_score
from edittools.train.config import Recipe


@dataclass(frozen=True)
class GroupRewards:
    """How candidates are rewarded: by scores that they have, each within its group."""

    rewards: list[Reward]
    clip: float  # standard deviations of a group

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> GroupRewards:
        """Those of an objective with the settings `by`, `floor` and `clip`. Raises UsageError."""
        settings = recipe.of_objective()
        by, floor = names_of(settings["by"]), names_of(settings["floor"])
        if not by:
            raise UsageError("recipe: `objective_settings`: `by` says which scores are the rewards")
        return cls(parse_rewards(by, floor), settings["clip"])

    def check(self, schema: pa.Schema) -> None:
        """Raises UsageError for rows that are no candidates with these scores."""
        if GROUP not in schema.names:
            raise UsageError(
                "the input has no column `group`: which rows are candidates of one?",
                hint="`edit sample --candidates K` makes them, `edit score` and `edit judge` their rewards",
            )
        for reward in self.rewards:
            check_score(schema, reward.name)

    def of(self, rows: pa.RecordBatch) -> list[float | None]:
        """In [0, 1], of every row of whole groups; None where there is nothing to learn from."""
        values, made = reward_values(rows, self.rewards, "result"), list[float | None]()
        for _, start, stop in group_slices(rows):
            few = combined({name: each[start:stop] for name, each in values.items()}, self.rewards)
            made += optimality(few, self.clip)
        return made


# ---------------------------------------------------------------- images that the model makes on the way


@dataclass
class RolloutCase:
    """A candidate to be rewarded, with what it was made from; images are values of the column type IMAGE."""

    id: str
    group: str
    parent: str  # the id of the prompt
    seed: int
    task: str
    language: str
    text: str
    sources: list[dict[str, Any]]
    target: dict[str, Any] | None  # the truth, where there is one
    result: dict[str, Any]
    content: str  # a hash of the result's pixels
    place: tuple[int, int, int] = (0, 0, 0)  # batch of the iteration, candidate, row of the batch
    observed: dict[str, float] = field(default_factory=dict)


Scores = Mapping[str, Mapping[str, float] | None]
"""Of cases by their id; None where there is no reward."""


def records(cases: Sequence[RolloutCase], scores: Scores | None = None) -> pa.RecordBatch:
    """Cases as candidate rows, as `edit sample --candidates` makes them; with their scores, where these are given."""
    provenance = [{"seed": case.seed, "parents": [case.parent]} for case in cases]
    made: dict[str, pa.Array] = {
        "id": pa.array([case.id for case in cases], pa.string()),
        "task": pa.array([case.task for case in cases], pa.string()),
        "source": pa.array([case.sources for case in cases], pa.list_(IMAGE)),
        "instruction": pa.array([{case.language: case.text} for case in cases], TEXT),
        "provenance": pa.array(provenance, PROVENANCE),
        GROUP: pa.array([case.group for case in cases], pa.string()),
        "seed": pa.array([case.seed for case in cases], pa.int64()),
        "result": pa.array([case.result for case in cases], IMAGE),
    }
    if all(case.target is not None for case in cases):
        made["target"] = pa.array([case.target for case in cases], IMAGE)
    if scores is not None:
        names = sorted({name for said in scores.values() for name in said or ()})
        kind = pa.struct([(name, pa.float64()) for name in names])
        made["scores"] = pa.array([scores.get(case.id) or dict.fromkeys(names) for case in cases], kind)
    return pa.record_batch(made)


@contextlib.contextmanager
def open_rewards(settings: Mapping[str, Any], out: Path) -> Iterator[Rewards]:
    """An objective's rewards: `by` and `floor` of the scores that its `rewards` give, commands as a shell has them:
    "score", "judge --rubric NAME --model NAME ...", with | between several.

    What a judge replies is kept in OUT/rollouts/replies/. Raises UsageError for other commands, EditError.
    """
    with contextlib.ExitStack() as stack:
        stages: list[Stage] = []
        for words in map(shlex.split, settings["rewards"].split("|")):
            name = words[0] if words else ""
            try:
                stages += _stages(name, words[1:], out, stack)
            except UsageError as error:
                raise UsageError(f"recipe: `objective_settings`: `rewards`: {name}: {error}", error.hint) from None
        yield Rewards(stages, names_of(settings["by"]), names_of(settings["floor"]))


def _stages(name: str, words: list[str], out: Path, stack: contextlib.ExitStack) -> list[Stage]:
    from edittools.score.config import ScoreConfig
    from edittools.score.stage import score_stage

    if name == "score":
        return [score_stage(from_words(ScoreConfig, words))]
    if name == "filter":
        from edittools.filter.config import FilterConfig
        from edittools.filter.stage import filter_stages

        return filter_stages(from_words(FilterConfig, ["--image", "result", *words]))  # unless they say another
    if name == "judge":
        from edittools.judge.by_name import named_judge
        from edittools.judge.config import JudgeConfig
        from edittools.judge.stage import judge_stage
        from edittools.stream.run import RunOptions
        from edittools.vlm.session import Session

        options = RunOptions(output=str(out / "rollouts" / "judged"), quiet=True)
        config = named_judge(from_words(JudgeConfig, words))
        if isinstance(config, ScoreConfig):
            return [score_stage(config)]
        if config.cache_dir is None:
            config = dataclasses.replace(config, cache_dir=str(out / "rollouts" / "replies"))
        session = Session(config, options, repeats=config.repeats)
        stage = judge_stage(config, session)
        session.settings = stage.recorded
        stack.enter_context(session)
        return [stage]
    raise UsageError("commands that give scores are score, judge and filter")


class RewardJournal:
    """Asks for the rewards of an iteration's cases, and writes down what it was told: nothing is asked twice."""

    def __init__(self, rewards: Rewards, path: Path) -> None:
        """path: of the journal, lines {"id", "image", "scores"}; what an earlier process wrote there is known, unless
        the run goes on with other rewards.
        """
        self.rewards, self.path = rewards, path
        self.problem = ""  # the last, in words
        self.broke = False  # whether there were questions that were not asked to their end
        self.known: dict[tuple[str, str], dict[str, float] | None] = {}
        names = {reward.name for reward in rewards.rewards}
        if path.exists():
            found, others = {}, False
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off
                    said = json.loads(line)
                    if said["scores"] is not None and names != said["scores"].keys():
                        others = True
                    else:
                        found[said["id"], said["image"]] = said["scores"]
            # what other rewards could not score these may
            self.known = {key: scores for key, scores in found.items() if scores is not None or not others}

    def ask(self, rounds: Iterable[Sequence[RolloutCase]]) -> None:
        """Fill in what is not known of these, of a round when its answers are there; meanwhile later ones are drawn and
        asked about. What fails stays unknown. Raises UsageError."""
        asked: dict[str, RolloutCase] = {}

        def unknown() -> Iterator[pa.RecordBatch]:
            for round_ in rounds:
                new = [case for case in round_ if (case.id, case.content) not in self.known]
                if new:
                    asked.update((case.id, case) for case in new)
                    yield records(new)

        names = [reward.name for reward in self.rewards.rewards]
        try:
            for found in self.rewards.stream(unknown()):
                for identity, said in found.items():
                    if all(said[name] is not None for name in names):
                        self._note(asked[identity], {name: float(said[name] or 0) for name in names})
            self.problem = self.rewards.rejected or self.problem
        except UsageError:
            raise
        except EditError as error:  # nobody can be reached
            self.problem, self.broke = describe(error), True

    def settle(self, cases: Iterable[RolloutCase]) -> None:
        """What these are still without, they stay without."""
        for case in cases:
            if (case.id, case.content) not in self.known:
                self._note(case, None)

    def _note(self, case: RolloutCase, scores: dict[str, float] | None) -> None:
        self.known[case.id, case.content] = scores
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": case.id, "image": case.content, "scores": scores}) + "\n")

    def scores(self, case: RolloutCase) -> dict[str, float] | None:
        """Every reward by its name, the higher the better; None where there is none."""
        return self.known.get((case.id, case.content))


class RewardStream:
    """Rounds of cases that are asked about in a thread, one stream of questions, while later rounds are made.

    As a context it ends: after an exception what nobody has been asked yet is dropped.
    """

    def __init__(self, asker: RewardJournal, pool: ThreadPoolExecutor) -> None:
        self.asker, self.pool = asker, pool
        self.rounds: SimpleQueue[Sequence[RolloutCase] | None] = SimpleQueue()  # None: no more come
        self.asked: list[Future[None]] = []

    def put(self, cases: Sequence[RolloutCase]) -> None:
        """Another round. A new stream begins where the last one has ended, or broke."""
        if not self.asked or (self.asked[-1].done() and self.asked[-1].exception() is None):
            self.rounds.put(None)  # a stage of the stream that broke may still wait there
            self.rounds = SimpleQueue()
            self.asked.append(self.pool.submit(self.asker.ask, iter(self.rounds.get, None)))
        self.rounds.put(cases)

    def end(self) -> list[Future[None]]:
        """No more rounds come; what is done when all have been asked about."""
        self.rounds.put(None)
        return self.asked

    def __enter__(self) -> RewardStream:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is not None:
            with contextlib.suppress(Empty):
                while True:
                    self.rounds.get_nowait()
        self.end()
