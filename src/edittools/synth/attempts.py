"""Attempts at painted edits: every step of a plan is painted on what it starts from, pasted, and checked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edittools.errors import RowError
from edittools.metrics.pixels import changed
from edittools.painters import Painter, PaintRequest
from edittools.painters.canvas import Canvas, canvas
from edittools.seeded import digest
from edittools.synth.checking import CheckOption, CheckResult, Checks, Painted
from edittools.synth.painting import Plan
from edittools.synth.tuning import Tuning

SAME = RowError("no visible change")


@dataclass(frozen=True)
class Ready:
    """A step that can be painted: on which canvas, along which structure map (uint8 HxWx3 of the whole image)."""

    plan: Plan
    canvas: Canvas
    control: np.ndarray | None = None

    def mask(self, target: np.ndarray) -> np.ndarray:
        """uint8 HxW: where there is paint; of what was painted all over, where it visibly differs."""
        if (self.canvas.alpha > 0).all():
            return changed(self.canvas.source, target).astype(np.uint8) * np.uint8(255)
        return self.canvas.mask


@dataclass(frozen=True)
class PlannedRow:
    """One plan for one row. `first` are its steps that start from the photograph, made ready."""

    row: int
    task: str
    plan: Plan
    image: np.ndarray  # the photograph
    key: tuple[object, ...]  # what its noise depends on
    first: dict[int, Ready] = field(default_factory=dict)
    references: tuple[np.ndarray, ...] = ()  # the row's further images

    def seed(self, attempt: int, step: int) -> int:
        """The first step's first attempt has the plan's own."""
        more = (attempt, *((step,) if step else ())) if attempt or step else ()
        return digest(*self.key, *more) % 2**31


@dataclass
class Attempt:
    """What came of one attempt."""

    seed: int
    images: list[np.ndarray] = field(default_factory=list)  # after each step that was done
    readies: list[Ready] = field(default_factory=list)
    error: RowError | None = None  # of the step that could not be done
    verdict: CheckResult = field(default_factory=lambda: CheckResult({}, None))

    @property
    def passed(self) -> bool:
        return self.error is None and self.verdict.failed is None

    @property
    def target(self) -> np.ndarray:
        return self.images[-1]


class Attempts:
    """A painter, what checks its work, and how often it may try."""

    def __init__(
        self,
        painter: Painter,
        checks: Checks,
        drawer: Any,
        tuning: dict[str, Tuning],
        *,
        attempts: int = 1,
        best: str | None = None,
    ) -> None:
        """`drawer` draws the structure maps that the painter follows, None where it follows none."""
        self.painter, self.checks, self.drawer, self.tuning = painter, checks, drawer, tuning
        self.attempts, self.best = attempts, best

    def ready(self, task: str, plan: Plan, image: np.ndarray) -> Ready | str:
        """A step on this image, or why the painter refuses it."""
        tuning = self.tuning[plan.numbers or task]
        made = canvas(image, plan.mask, tuning.brush(plan.brush, min(image.shape[:2])), self.painter)
        if plan.made is not None:
            return Ready(plan, made)
        why = self.painter.refuses(image, made.alpha > 0)
        if why is not None:
            return why
        control = plan.control
        if control is None and self.drawer is not None:
            control = self._drawn(image, tuning)
        return Ready(plan, made, control)

    def _drawn(self, image: np.ndarray, tuning: Tuning) -> np.ndarray:
        """The structure map of an image, uint8 HxWx3."""
        drawer = self.drawer
        if tuning.edges is not None and hasattr(drawer, "low"):
            drawer = copy.copy(drawer)
            drawer.low, drawer.high = tuning.edges
        drawn = drawer.draw(image)
        return np.repeat(drawn[..., None], 3, axis=2) if drawn.ndim == 2 else drawn

    def __call__(self, works: Sequence[PlannedRow]) -> list[Attempt]:
        """The best attempt at every plan: the first that passes all checks, or of all attempts the best by `best`."""
        found: dict[int, Attempt] = {}
        waiting = list(range(len(works)))
        for attempt in range(self.attempts):
            for k, outcome in zip(waiting, self._attempt([works[k] for k in waiting], attempt)):
                if k not in found or self._worth(outcome) > self._worth(found[k]):
                    found[k] = outcome
            if self.best is None:
                waiting = [k for k in waiting if not found[k].passed]
            if not waiting:
                break
        return [found[k] for k in range(len(works))]

    def _worth(self, outcome: Attempt) -> tuple[bool, bool, float]:
        """The more the better: whether it passed, whether it was done, the score of `best`."""
        one = next((one for one in self.checks.asked if one.name == self.best), None)
        score = one.good(outcome.verdict.values.get(one.name)) if one and outcome.verdict.values else 0.0
        return outcome.passed, outcome.error is None, score

    def _attempt(self, works: Sequence[PlannedRow], attempt: int) -> list[Attempt]:
        """One attempt at all plans, step by step; what failed in a step goes no further."""
        made = [Attempt(work.seed(attempt, 0)) for work in works]
        for step in range(max((len(work.plan.chain) for work in works), default=0)):
            going = [k for k, work in enumerate(works) if made[k].passed and step < len(work.plan.chain)]
            readies: dict[int, Ready] = {}
            for k in going:
                ready = self._step(works[k], made[k], step)
                if isinstance(ready, str):
                    made[k].error = RowError(ready, works[k].plan.slots.get("object"))
                else:
                    readies[k] = ready
            self._do(works, made, readies, attempt, step)
        return made

    def _step(self, work: PlannedRow, outcome: Attempt, step: int) -> Ready | str:
        if step in work.first:
            return work.first[step]
        one = work.plan.chain[step]
        image = work.image if one.parent < 0 else outcome.images[one.parent]
        return self.ready(work.task, one.plan, image)

    def _do(
        self, works: Sequence[PlannedRow], made: list[Attempt], readies: dict[int, Ready], attempt: int, step: int
    ) -> None:
        """Paint a step of several works together, and check it."""
        asked = [k for k, ready in readies.items() if ready.plan.made is None]
        requests = [self._request(works[k], readies[k], works[k].seed(attempt, step)) for k in asked]
        painted = dict(zip(asked, self.painter.paint(requests)))
        finished: dict[int, Painted] = {}
        for k, ready in readies.items():
            under, paint = ready.canvas, painted.get(k)
            if isinstance(paint, RowError):
                made[k].error = paint
                continue
            target = under.laid(ready.plan.made) if ready.plan.made is not None else under.paste(paint)  # type: ignore[arg-type]
            if (target == under.source).all():
                made[k].error = SAME
                continue
            made[k].images.append(target)
            made[k].readies.append(ready)
            finished[k] = Painted(under.source, target, under.alpha > 0, ready.plan)
        for k, verdict in zip(finished, self.checks(list(finished.values()))):
            made[k].verdict = _worst(made[k].verdict, verdict, self.checks.asked)

    def _request(self, work: PlannedRow, ready: Ready, seed: int) -> PaintRequest:
        plan = ready.plan
        told: dict[str, Any] = {"prompt": plan.prompt, "negative": plan.negative, "instruction": plan.instruction}
        told["control"] = None if ready.control is None else ready.canvas.cropped(ready.control)
        told |= {
            "references": work.references if plan.guide is None else (ready.canvas.cropped(plan.guide),),
            "seed": seed,
            "sampling": self.tuning[plan.numbers or work.task].sampling,
        }
        return ready.canvas.request(**told)


def _worst(one: CheckResult, other: CheckResult, asked: Sequence[CheckOption]) -> CheckResult:
    """Of two steps: the worse value of every check, and the first failure."""
    values: dict[str, float | None] = {}
    for check in asked:
        known = [v.values[check.name] for v in (one, other) if v.values.get(check.name) is not None]
        if any(check.name in v.values for v in (one, other)):
            values[check.name] = min(known, key=check.good) if known else None
    return CheckResult(values, one.failed or other.failed)
