"""The stage that makes edit pairs with a painter, out of images whose objects are known."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.ground import MAPS
from edittools.ground.config import described, weights_of
from edittools.metrics.boxes import mask_shares
from edittools.metrics.pixels import as_mask
from edittools.painters import PAINTERS, Painter, load_painter
from edittools.record import PROVENANCE
from edittools.seeded import digest, stream
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import image_value, list_slots, whole_list
from edittools.stream.rows import RowPool, column_values, row_paths
from edittools.synth.attempts import SAME, Attempt, Attempts, PlannedRow
from edittools.synth.checking import CheckOption, Checks
from edittools.synth.config import PaintConfig
from edittools.synth.painting import Plan, Region, Scene
from edittools.synth.registry import PAINTED
from edittools.synth.stage import carried_schema, row_images_of, with_carried
from edittools.synth.telling import facts_of, known_by, lexicon, library
from edittools.synth.tuning import read_tuning

_ROWS = 8  # whose edits are painted together


class PaintStage:
    """Stage: a row with `objects` becomes `per_row` painted edits at most, named PARENT-painted_TASK-K.

    What a task makes itself (`Plan.made`) is laid as it is. Which objects are edited, the words and the painter's noise
    depend on the seed and the row's id only. The mask is where any paint was laid; all other pixels are the source's.
    An edit that the painter refuses is counted in the rejects, and so is one that failed a check in all attempts, with
    its value, unless `keep_failed`.
    """

    name = "synth"
    VERSION = 1

    def __init__(self, config: PaintConfig, *, jobs: int = 1) -> None:
        self.config, self.jobs = config, jobs
        self.tasks = {name: PAINTED.load(name) for name in config.painted}
        self.asked = [CheckOption.parse(spec) for spec in config.check]
        names = [one.name for one in self.asked]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise UsageError(f"--check {twice} is given twice")
        self.tuning = read_tuning(config.tune, PAINTED.names)
        self.words = lexicon(config)
        instructed = any(getattr(module, "INSTRUCTS", False) for module in self.tasks.values())
        self.experts = library(config) if instructed else {}
        self.fetcher = Fetcher()

    @functools.cached_property
    def painter(self) -> Painter:
        config = self.config
        told: dict[str, Any] = {"lora": config.lora, "controlnet": config.controlnet, "redux": config.redux}
        painter = load_painter(config.painter or "", **config.placed, **told)
        follows = config.control.partition("=")[0] if "control" in painter.wants else None
        for name, module in self.tasks.items():
            if module.PROMPT and "prompt" not in painter.wants:
                raise UsageError(f"--painted {name}: --painter {config.painter} takes no prompt")
            if getattr(module, "INSTRUCTS", False) and "instruction" not in painter.wants:
                raise UsageError(
                    f"--painted {name}: --painter {config.painter} follows no instruction",
                    hint="--painter editor=MODEL",
                )
            if getattr(module, "SHOWS", False) != ("reference" in painter.wants):
                showing = [task for task in PAINTED.names if getattr(PAINTED.load(task), "SHOWS", False)]
                wants = "reference" in painter.wants
                raise UsageError(
                    f"--painted {name}: shows {'no' if wants else 'an'} image to --painter {config.painter}",
                    hint=f"--painted {','.join(showing)} show one" if wants else "--painter in_context",
                )
            if (own := getattr(module, "CONTROL", follows)) != follows:
                raise UsageError(f"--painted {name}: wants a painter that follows a map `{own}`", hint="--control")
        if self.config.attempts > 1 and not painter.wants:
            raise UsageError(f"--attempts: --painter {self.config.painter} paints the same every time")
        return painter

    @functools.cached_property
    def map(self) -> Any:
        """What draws the structure map that the painter follows; None where it follows none."""
        if "control" not in self.painter.wants or all(hasattr(one, "CONTROL") for one in self.tasks.values()):
            return None
        name, weights = weights_of(MAPS, self.config.control)
        return MAPS.load(name).load(weights, **self.config.placed)

    @functools.cached_property
    def attempts(self) -> Attempts:
        checks = Checks(self.asked, **self.config.placed)
        told = {"attempts": self.config.attempts, "best": self.config.best}
        return Attempts(self.painter, checks, self.map, self.tuning, **told)  # type: ignore[arg-type]

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records. Raises EditError for a painter whose weights are not there."""
        _ = self.painter
        told: dict[str, Any] = {"painter": self.painter_name, "painted": list(self.tasks)}
        told |= {"check": [one.described for one in self.asked], "words": known_by(self.words)}
        told |= {"library": known_by(self.experts)} if self.experts else {}
        told |= {"control": described(MAPS, self.config.control)} if self.map is not None else {}
        said = self.config.recorded(**told)
        models = self.painter.wants or any(one.told for one in self.asked)
        return said if models else {k: v for k, v in said.items() if k not in ("device", "dtype")}

    @property
    def painter_name(self) -> str:
        """The painter and what its weights are called."""
        from edittools.weights.digest import model_digest

        name, _, weights = (self.config.painter or "").partition("=")
        weights = weights or PAINTERS.declared("WEIGHTS", "")[name]
        parts = [name, *([model_digest(weights)] if weights else [])]
        more = (self.config.controlnet, self.config.redux, *self.config.lora)
        return " ".join([*parts, *(f"with {model_digest(spec)}" for spec in more if spec)])

    def schema(self, schema: pa.Schema) -> pa.Schema:
        bare = all(getattr(module, "BARE", False) for module in self.tasks.values())
        if "objects" not in schema.names and not bare:
            raise UsageError("the input has no `objects` to paint over", hint="`edit ground` finds them")
        return carried_schema(schema, self.checked_columns)

    @functools.cached_property
    def checked_columns(self) -> dict[str, pa.DataType]:
        """The columns that the checks add."""
        scores = [(f"check_{one.name}", pa.float64()) for one in self.asked]
        made = {"scores": pa.struct(scores)} if scores else {}
        return made | ({"failed": pa.string()} if self.config.keep_failed else {})

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        pool = RowPool(self.jobs)
        try:
            for batch in batches:
                schema = self.schema(batch.rows.schema)
                _ = self.attempts  # loaded before the threads ask for it
                yield from pool.run(batch, functools.partial(self._work, schema=schema), schema, _ROWS)
        finally:
            pool.close()

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        rows = batch.rows
        ids, paths, origins = column_values(rows, "id"), row_paths(rows), column_values(rows, "provenance")
        sources, further = list(row_images_of(rows)), [items[1:] for items in list_slots(rows, "source")]
        works, rejects = self._planned(rows, ids, paths, sources, further)
        made: list[dict[str, Any]] = []
        parents: list[int] = []
        counts: dict[tuple[int, str], int] = {}
        for work, outcome in zip(works, self.attempts(works)):
            number = counts[work.row, work.task] = counts.get((work.row, work.task), -1) + 1
            identity = f"{ids[work.row]}-painted_{work.task}-{number}"
            if outcome.error is not None:
                why, failed = outcome.error, outcome.error is not SAME
                rejects.append(Reject(identity, self.name, why.reason, why.value, failed, paths[work.row]))
            elif not outcome.passed and not self.config.keep_failed:
                reason, value = outcome.verdict.reason, outcome.verdict.value
                rejects.append(Reject(identity, self.name, reason, value, False, paths[work.row]))
            else:
                shown = [sources[work.row], *further[work.row]]
                some = self._rows(identity, work, outcome, shown, ids[work.row], origins[work.row] or {})
                made += some
                parents += [work.row] * len(some)
        return batch.replace(with_carried(made, parents, rows, schema, self.checked_columns), rejects)

    # ------------------------------------------------------------ plans

    def _planned(
        self, rows: pa.RecordBatch, ids: list[Any], paths: list[Any], sources: list[Any], further: list[Any]
    ) -> tuple[list[PlannedRow], list[Reject]]:
        """The edits of every row, and why there are none of some."""
        works: list[PlannedRow] = []
        rejects: list[Reject] = []
        objects, said = column_values(rows, "objects"), facts_of(rows)
        for row, reference in enumerate(sources):
            try:
                if reference is None:
                    raise RowError("no picture")
                pixels = codec.decode(self.fetcher.get(reference), codec.FULL, self.config.max_pixels)
                regions = self._regions(objects[row] or [], (pixels.shape[0], pixels.shape[1]))
                scene = Scene(
                    pixels,
                    regions,
                    self.words,
                    references=self._further(further[row]),
                    prompts="prompt" in self.painter.wants,
                    experts=self.experts,
                    **said[row],
                )
            except RowError as error:
                rejects.append(Reject(str(ids[row]), self.name, error.reason, error.value, True, paths[row]))
                continue
            chosen, refused = self._plans(row, str(ids[row]), scene)
            works += chosen
            rejects += [
                Reject(f"{ids[row]}-painted_{task}", self.name, why, value, False, paths[row])
                for task, why, value in refused
            ]
        return works, rejects

    def _further(self, items: list[Any]) -> tuple[np.ndarray, ...]:
        """The row's images behind the first, where the painter is shown them."""
        if not self.experts and "reference" not in self.painter.wants:
            return ()
        return tuple(
            codec.decode(self.fetcher.get(one), codec.FULL, self.config.max_pixels)
            for one in whole_list(items, "source")
        )

    def _regions(self, items: list[dict[str, Any]], shape: tuple[int, int]) -> tuple[Region, ...]:
        """The objects that have a mask, at the image's size."""
        found = []
        for item in items:
            if not item or not item.get("mask"):
                continue
            mask = codec.decode(self.fetcher.get(item["mask"]), codec.Raster(gray=True), self.config.max_pixels)
            if (inside := as_mask(mask, *shape)).any():
                name = item.get("name") or ""
                # Lines of writing are told apart by what they say.
                name = f'text "{item["text"]}"' if name == "text" and item.get("text") else name
                found.append(Region(name, inside, _box(item.get("box"), inside)))
        return tuple(found)

    def _plans(self, row: int, identity: str, scene: Scene) -> tuple[list[PlannedRow], list[tuple[str, str, object]]]:
        """The edits of an image, tasks in turn, and what the painter refuses: (task, why, the object's name)."""
        key = (self.config.seed, identity)
        waiting: dict[str, list[Plan]] = {}
        refused: list[tuple[str, str, object]] = []
        for task, module in self.tasks.items():
            try:
                plans = module.plans(scene, stream(*key, "painted", task, "words"))
            except RowError as error:  # of a request that nobody can carry out
                refused.append((task, error.reason, error.value))
                continue
            refused += [] if plans else [(task, "no object fits", None)]
            order = sorted(range(len(plans)), key=lambda k, task=task: digest(*key, "painted", task, k))  # type: ignore[misc]
            waiting[task] = [plans[k] for k in order]
        chosen: list[PlannedRow] = []
        turns = sorted(self.tasks, key=lambda task: digest(*key, "painted", task))
        while len(chosen) < self.config.per_row and any(waiting.values()):
            for task in turns:
                if not waiting.get(task) or len(chosen) == self.config.per_row:
                    continue
                plan = waiting[task].pop(0)
                work, why = self._work_of(row, task, plan, scene, key)
                if why is None:
                    chosen.append(work)
                else:
                    refused.append((task, why, plan.slots.get("object")))
        return chosen, refused

    def _work_of(
        self, row: int, task: str, plan: Plan, scene: Scene, key: tuple[object, ...]
    ) -> tuple[PlannedRow, str | None]:
        """A plan made ready, and why the painter refuses it, if it does."""
        noise = (*key, "painted", task, "noise", plan.instruction)
        work = PlannedRow(row, task, plan, scene.image, noise, references=scene.references)
        for number, step in enumerate(plan.chain):
            if step.parent >= 0:
                continue
            ready = self.attempts.ready(task, step.plan, scene.image)
            if isinstance(ready, str):
                return work, ready
            work.first[number] = ready
        return work, None

    # ------------------------------------------------------------ rows

    def _rows(
        self, identity: str, work: PlannedRow, outcome: Attempt, sources: list[Any], parent: str, origin: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The row of an edit; with `inverse` that of its way back, where there is one and it passed; with `steps` those
        of its steps, each of which names the row that it starts from."""
        plan, verdict = work.plan, outcome.verdict
        provenance: dict[str, Any] = {field.name: origin.get(field.name) for field in PROVENANCE}
        slots = {**plan.slots, "prompt": plan.prompt, "noise": outcome.seed}
        provenance.update(
            sha256=None, template=None, model=self.painter_name, seed=self.config.seed, parents=[str(parent)],
            slots=_json(slots),
        )  # fmt: skip
        images = [image_value(image) for image in outcome.images]
        masks = [ready.mask(image) for ready, image in zip(outcome.readies, outcome.images)]
        one = {
            "id": identity, "task": plan.task or self.tasks[work.task].TASK, "source": sources, "target": images[-1],
            "mask": image_value(np.maximum.reduce(masks)), "instruction": _text(plan.instruction), "turns": None,
            "provenance": provenance, "scores": {f"check_{name}": value for name, value in verdict.values.items()},
            "failed": None if verdict.failed is None else f"{verdict.reason} {verdict.value:g}",
        }  # fmt: skip
        if plan.turns:
            return [one | _dialogue(plan, images, masks, sources[0])]
        back = one | {
            "source": [images[-1], *map(image_value, plan.references)], "target": sources[0],
            "instruction": _text(plan.inverse),
        }  # fmt: skip
        if plan.backwards:
            return [back]
        made = [one]
        name, _, number = identity.rpartition("-")
        inverse = getattr(self.tasks[work.task], "INVERSE", None)
        if self.config.inverse and inverse is not None and plan.inverse is not None and outcome.passed:
            made.append(back | {"id": f"{name}_inverse-{number}", "task": inverse})
        if self.config.steps and plan.steps and outcome.passed:
            for k, step in enumerate(plan.steps):
                before = parent if step.parent < 0 else f"{name}_step{step.parent + 1}-{number}"
                made.append(one | {
                    "id": f"{name}_step{k + 1}-{number}", "task": step.plan.task,
                    "source": sources if step.parent < 0 else [images[step.parent]], "target": images[k],
                    "mask": image_value(masks[k]), "instruction": _text(step.plan.instruction),
                    "provenance": provenance | {"parents": [before], "slots": _json(step.plan.slots)},
                })  # fmt: skip
        return made


def _box(said: Any, mask: np.ndarray) -> tuple[float, float, float, float]:
    """Where an object is, in shares: the box that its row says, or, where that is none, the one about its mask."""
    sides = [float("nan") if side is None else float(side) for side in said or ()]
    if len(sides) == 4 and 0 <= sides[0] < sides[2] <= 1 and 0 <= sides[1] < sides[3] <= 1:
        return sides[0], sides[1], sides[2], sides[3]
    around = mask_shares(mask)
    assert around is not None, "regions have a mask with something in it"
    return around[0], around[1], around[2], around[3]


def _dialogue(plan: Plan, images: list[Any], masks: list[np.ndarray], photograph: Any) -> dict[str, Any]:
    """What the row of a dialogue has of its own."""
    turns = [
        {
            "parent": turn.parent, "kind": turn.kind, "task": turn.task, "template": None,
            "instruction": _text(turn.instruction), "slots": _json({"step": turn.step}),
            "target": photograph if turn.step < 0 else images[turn.step],
            # Of a turn whose image is the photograph the edit is the way back of what its source was made by.
            "mask": image_value(masks[plan.source if turn.step < 0 else turn.step]),
        }
        for turn in plan.turns
    ]  # fmt: skip
    return {
        "source": [photograph if plan.source < 0 else images[plan.source]], "target": turns[-1]["target"],
        "turns": turns, "instruction": _text(" ".join(turn.instruction for turn in plan.turns)),
    }  # fmt: skip


def _text(english: str | None) -> dict[str, str | None]:
    return {"en": english, "zh": None}


def _json(slots: Any) -> str:
    return json.dumps(slots, ensure_ascii=False, sort_keys=True)
