"""Rollouts: an iteration of reinforcement is images of its prompts by the old policy, their rewards, and the updates.

The prompts of iteration k are the rows of step k of the plan, batch by batch; every one of them is sampled `group`
times, as `edit sample` does it, without guidance. Rewards of a round of images are asked for by another thread while
the next rounds are sampled. What is learned from is a function of the seed, the iteration, the old weights and the
rewards, which lie in the run's folder, so that an iteration that was interrupted is done again to the same end.

rollouts/NNNNN.jsonl      the rewards of iteration N as they came: what stands there is not asked again
rollouts/NNNNN.parquet    its images, with their scores, as rows that `edit cat` shows and `edit train` learns from
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from edittools.errors import EditError
from edittools.metrics.rewards import combined, optimality
from edittools.nets.base import Conditioning
from edittools.nets.flow import shift_factor
from edittools.nets.images import resize, to_image
from edittools.nets.sampling import euler
from edittools.sample.stage import row_seed
from edittools.stream import codec
from edittools.stream.batch import Batch, Shard
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.row_images import image_value
from edittools.stream.writers.parquet import ParquetSink
from edittools.train import flow_matching
from edittools.train.data import Loader, Step, TrainBatch
from edittools.train.features import ENCODING, Encoder
from edittools.train.hacks import Hacks, observe, said
from edittools.train.heldout import Chunk
from edittools.train.log import read_lines, say
from edittools.train.objectives import Around, TrainedModel
from edittools.train.rewards import RewardJournal, RewardStream, RolloutCase, open_rewards, records
from edittools.train.rows import TARGET, Rows

FOLDER = "rollouts"
PLAIN, GUIDED = "plain", "guided"  # how held-out rows are sampled
_BEAT = 20.0  # seconds that processes wait for each other at a time, while rewards are waited for
Rewarded = dict[tuple[int, int, int], float | None]
"""r of every image: by its batch of the iteration, its number among the candidates, its row of the batch."""


@dataclass
class Prompts:
    """A batch of an iteration's prompts on this device, and the images made of them."""

    place: int  # of the batch among those of the iteration
    counts: bool  # or it is there because others have one more
    batch: TrainBatch
    images: list[Tensor] = field(default_factory=list)  # latents (B, C, h, w) of every candidate


class Rollouts:
    """Makes the steps of a run. Its methods are for every process to call."""

    def __init__(self, settings: dict[str, Any], model: TrainedModel, loader: Loader, around: Around) -> None:
        self.settings, self.model, self.loader, self.around = settings, model, loader, around
        self.group, self.updates, self.times = (settings[name] for name in ("group", "updates", "times"))
        self.rows: Rows = loader.sampler.rows
        self.folder = around.out / FOLDER
        self.beside = model.parallel.beside()
        self.pool = ThreadPoolExecutor(2, "rewards")  # of the first process: one asks, one observes
        self.hacks, self.fetcher = Hacks(), Fetcher()
        self.ended = 0.0  # when the rollouts of the last iteration were
        self.untried = around.first == 0  # nobody has been asked yet
        for line in read_lines(around.out / "rollouts.jsonl") if model.parallel.is_main else []:
            self.hacks.heed(line.get("observed", {}))

    def steps(self) -> Generator[Step, None, None]:
        with contextlib.ExitStack() as stack:
            rewards = None
            if self.model.parallel.is_main:
                rewards = stack.enter_context(open_rewards(self.settings, self.around.out))
            stack.callback(self.pool.shutdown, wait=True, cancel_futures=True)  # before what it asks is closed
            # the second process and those after it learn what is wrong here
            self.model.parallel.wait()
            for plan in self.loader:
                asker = None if rewards is None else RewardJournal(rewards, self.folder / f"{plan.step:05d}.jsonl")
                if plan.step * self.updates >= self.around.first:
                    self.evaluate(plan.step, asker)
                prompts, r = self.iteration(plan, asker)
                for step in range(plan.step * self.updates, (plan.step + 1) * self.updates):
                    if self.around.first <= step < self.model.recipe.steps:
                        yield self.step(step, plan, prompts, r)
                if (plan.step + 1) * self.updates >= self.model.recipe.steps:
                    break
            self.evaluate(-1, None if rewards is None else RewardJournal(rewards, self.folder / "last.jsonl"))

    # ------------------------------------------------------------------------------------------- an iteration

    def iteration(self, plan: Step, asker: RewardJournal | None) -> tuple[list[Prompts], Rewarded]:
        """The images of an iteration's prompts, and what each is worth, on every process."""
        began = time.perf_counter()
        device, parallel = self.model.parallel.device, self.model.parallel
        every = [*plan.batches, *plan.spare]
        prompts = [
            Prompts(number * parallel.world + parallel.rank, number < len(plan.batches), batch.to(device))
            for number, batch in enumerate(every)
        ]
        cases: list[RolloutCase] = []
        asking = None if asker is None else RewardStream(asker, self.pool)
        watched: list[Future[None]] = []
        with self.model.by("old"), asking or contextlib.nullcontext():
            for prompt in prompts:
                for candidate in range(self.group):
                    made = self.sample(prompt, plan.step, candidate)
                    prompt.images.append(made)
                    mine = self.cases(prompt, plan.step, candidate, made) if prompt.counts else []
                    round_ = [case for part in self.beside.to_main(mine) for case in part]
                    cases += round_
                    if asking is not None:
                        asking.put(round_)
                        if candidate == 0:
                            watched.append(self.pool.submit(self._observe, asking.asker, round_))
                    if self.untried:  # what is wrong with the rewards is known before much is sampled
                        self._wait(asker, asking.end() if asking else [], cases, share=0.01)
                        self.untried = False
        done = time.perf_counter()
        diversity = self._diversity(prompts)
        self._wait(asker, [*asking.end(), *watched] if asking else [], cases)
        if asker is not None:
            asker.settle(cases)
        waited = time.perf_counter()
        r: Rewarded = {}
        if asker is not None:
            r = self.worth(asker, cases)
            if plan.step * self.updates >= self.around.first:
                seconds = {"training": began - self.ended} if self.ended else {}  # of the iteration before
                seconds |= {"sampling": done - began, "waiting": waited - done}
                self._tell(plan.step, asker, cases, r, diversity, seconds)
                self._write(plan.step, asker, cases)
        self.ended = time.perf_counter()
        return prompts, self.beside.gather(r)[0]

    def sample(self, prompt: Prompts, iteration: int, candidate: int) -> Tensor:
        """Latents (B, C, h, w) float32 of one candidate of every prompt of a batch, by the weights of now."""
        seed = self.seed(iteration, prompt.place, candidate)
        seeds = [row_seed(seed, name) for name in self.names(prompt, iteration)]
        return sampled(self.model, prompt.batch, seeds, self.settings["sampling_steps"])

    def seed(self, iteration: int, place: int, candidate: int) -> int:
        """Of a candidate, such that no two of a run have the same."""
        text = f"{self.model.recipe.seed} {iteration} {place} {candidate}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")

    def names(self, prompt: Prompts, iteration: int) -> list[str]:
        """Of the groups of a batch: a row may be drawn again, by another batch or by this one."""
        found: list[str] = []
        for row in prompt.batch.rows:
            name = f"{row.id}-i{iteration}b{prompt.place}"
            found.append(f"{name}n{len(found)}" if name in found else name)
        return found

    def cases(self, prompt: Prompts, iteration: int, candidate: int, latents: Tensor) -> list[RolloutCase]:
        seed, found = self.seed(iteration, prompt.place, candidate), []
        made = zip(prompt.batch.samples, self.names(prompt, iteration), decoded(self.model, latents))
        for k, (sample, group, image) in enumerate(made):
            place = prompt.place, candidate, k
            found.append(case_of(self.rows, sample, image, f"{group}-c{candidate}", group, seed, place))
        return found

    def _observe(self, asker: RewardJournal, cases: list[RolloutCase]) -> None:
        """What hacks are told by, of the first candidate of every prompt."""
        writing = any(reward.name.startswith("ocr") for reward in asker.rewards.rewards)
        for case in cases:
            images = [case.result, *case.sources[:1], *([case.target] if case.target else [])]
            result, *others = (codec.decode(self.fetcher.get(image), codec.FULL) for image in images)
            source = others.pop(0) if case.sources else None
            case.observed = observe(result, source, others[0] if others else None, writing)

    def _diversity(self, prompts: list[Prompts]) -> list[float]:
        """Standard deviation between the images of a prompt, over latents; of all processes' prompts."""
        mine = [
            value for prompt in prompts if prompt.counts and self.group > 1
            for value in torch.stack(prompt.images).std(0).flatten(1).mean(1).tolist()
        ]  # fmt: skip
        return [value for part in self.beside.gather(mine) for value in part]

    # ------------------------------------------------------------------------------------------- rewards

    def _wait(
        self, asker: RewardJournal | None, asked: list[Future[None]], cases: list[RolloutCase], share: float = 0.5
    ) -> None:
        """Until the rewards are there. No process is kept in one exchange for longer than a beat.

        Raises EditError, on every process, where after `patience` seconds fewer than this share have a reward.
        """
        problem: BaseException | None = None
        again, pause, end = asked, 1.0, time.monotonic() + self.settings["patience"]
        once_more = True  # what was not asked is asked in any case
        while True:
            done = True
            if asker is not None and problem is None:
                waiting = wait(again, _BEAT).not_done
                problem = next((error for f in again if f.done() and (error := f.exception())), None)
                done = bool(problem) or not waiting
                missing = [case for case in cases if asker.scores(case) is None]
                few = len(cases) - len(missing) < share * len(cases)
                if done and problem is None and (few or (missing and asker.broke and once_more)):
                    done = once_more = False
                    why = asker.problem or "no score"
                    if few and time.monotonic() > end:
                        problem = EditError(
                            f"{len(missing)} of {len(cases)} images have no reward: {why}",
                            hint="the same command goes on, and asks only for what is missing",
                        )
                    else:
                        say(f"{len(missing)} of {len(cases)} images have no reward ({why}): asks again")
                        time.sleep(min(pause, _BEAT, max(0.0, end - time.monotonic())))
                        pause *= 2
                        again = [self.pool.submit(asker.ask, [missing])]
            news = self.beside.gather((done, problem))[0]
            if news[1] is not None:
                raise news[1]
            if news[0]:
                break

    def worth(self, asker: RewardJournal, cases: list[RolloutCase]) -> Rewarded:
        """r of every case, of its group alone; None where there is nothing to learn from."""
        groups: dict[str, list[RolloutCase]] = defaultdict(list)
        for case in cases:
            groups[case.group].append(case)
        rewards, made = asker.rewards.rewards, Rewarded()
        for few in groups.values():
            few.sort(key=lambda case: case.place)
            told = [asker.scores(case) for case in few]
            values = {each.name: [None if one is None else one[each.name] for one in told] for each in rewards}
            made |= zip((case.place for case in few), optimality(combined(values, rewards), self.settings["clip"]))
        return made

    # ------------------------------------------------------------------------------------------- what is learned

    def step(self, step: int, plan: Step, prompts: list[Prompts], r: Rewarded) -> Step:
        """The batches of an update: every `updates`-th candidate, `times` times each, but for those without r."""
        recipe, edit_model = self.model.recipe, self.model.edit_model
        which = range(step % self.updates, self.group, self.updates)
        batches: list[TrainBatch] = []
        spare: list[TrainBatch] = []
        for prompt in prompts:
            batch, count = prompt.batch, len(prompt.batch.rows)
            height, width = batch.samples[0].shapes[0]
            tokens = (height // edit_model.patch) * (width // edit_model.patch)
            parts = [(candidate, turn) for candidate in which for turn in range(self.times)]
            u = flow_matching.stratified_uniform(recipe.seed, step, count * len(parts), prompt.place)
            for (candidate, turn), some in zip(parts, u.split(count)):
                noise = [
                    flow_matching.noise(recipe.seed, step, turn, f"{row.id} {prompt.place} {candidate}",
                                        tuple(batch.target.shape[1:]))
                    for row in batch.rows
                ]  # fmt: skip
                worth = [r.get((prompt.place, candidate, k)) for k in range(count)]
                keep = [k for k, value in enumerate(worth) if value is not None] if prompt.counts else []
                made = batch.candidates(
                    keep or [0], prompt.images[candidate], torch.stack(noise),
                    flow_matching.times(recipe, some, step, tokens), torch.tensor([value or 0.0 for value in worth]),
                )  # fmt: skip
                (batches if keep else spare).append(made)
        learned = sum(value is not None for (_, candidate, _), value in r.items() if candidate in which)
        return Step(step, self.times * learned, batches, plan.epoch, spare)

    # ------------------------------------------------------------------------------------------- what is told

    def _tell(
        self, iteration: int, asker: RewardJournal, cases: list[RolloutCase], r: Rewarded, diversity: list[float],
        seconds: dict[str, float],
    ) -> None:  # fmt: skip
        known = [value for value in r.values() if value is not None]
        groups = {(place, k) for place, _, k in r}
        learned = {(place, k) for (place, _, k), value in r.items() if value is not None}
        told = [case for case in cases if case.observed]
        names = sorted({name for case in told for name in case.observed})
        observed = {
            name: statistics.fmean(case.observed[name] for case in told if name in case.observed) for name in names
        }
        observed |= {"diversity": statistics.fmean(diversity)} if diversity else {}
        before = set(self.hacks.ringing)
        rings = self.hacks.heed(observed)
        if new := [name for name in rings if name not in before]:
            say(f"iteration {iteration + 1}: is the reward being cheated? {said(new)}")
        self.around.tell("rollouts", {
            "step": iteration * self.updates,
            "iteration": iteration,
            "images": len(cases),
            "failed": sum(asker.scores(case) is None for case in cases) / max(1, len(cases)),
            "reward": summary(asker, cases),
            "flat": 1 - len(learned) / max(1, len(groups)),  # groups from which nothing can be learned
            "r": {"mean": statistics.fmean(known), "std": statistics.pstdev(known)} if known else None,
            "observed": observed,
            "alarms": rings,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        })  # fmt: skip

    def _write(self, iteration: int, asker: RewardJournal, cases: list[RolloutCase]) -> None:
        """The shard of an iteration; of older ones the pictures go where `keep_rollouts` says so."""
        most = self.settings["keep_rollouts"]
        write_shard(self.folder / f"{iteration:05d}.parquet", asker, cases)
        for path in sorted(self.folder.glob("*.parquet"))[:-most] if most else []:
            path.unlink()

    # ------------------------------------------------------------------------------------------- held-out rows

    def evaluate(self, iteration: int, asker: RewardJournal | None) -> None:
        """The rewards of held-out rows, at fixed noise, by the weights as they are; -1: after the last iteration."""
        heldout, every = self.around.heldout, self.settings["evaluate_every"]
        if heldout is None or not every or (iteration >= 0 and iteration % every):
            return
        parallel, network = self.model.parallel, self.model.network
        cases: list[RolloutCase] = []
        groups = heldout.groups[: max(1, _fewest(heldout.groups, self.settings["evaluate_rows"]))]
        network.eval()
        for start in range(0, len(groups), parallel.world):
            place = start + parallel.rank
            chunk, counts = heldout.chunk(min(place, len(groups) - 1))
            names = [row_seed(self.model.recipe.seed, heldout.rows[s.row].id) for s in chunk.samples]
            batch = TrainBatch(
                [heldout.rows[s.row] for s in chunk.samples], chunk.target, chunk.references, chunk.conditioning,
                torch.zeros(0), torch.zeros(len(chunk.samples)), chunk.samples, 0, 0,
            ).to(parallel.device)  # fmt: skip
            mine: list[RolloutCase] = []
            for kind, negative in self._guided(chunk):
                images = sampled(self.model, batch, names, self.settings["sampling_steps"], negative)
                for sample, image in zip(chunk.samples, decoded(self.model, images)):
                    group = heldout.rows[sample.row].id
                    case = case_of(heldout.rows, sample, image, f"{group}-{kind}", group, self.model.recipe.seed)
                    mine += [case] if counts and place < len(groups) else []
            cases += [case for part in self.beside.to_main(mine) for case in part]
        if hasattr(network, "reshard"):
            network.reshard()
        network.train()
        self._wait(asker, [] if asker is None else [self.pool.submit(asker.ask, [cases])], cases)
        if asker is not None:
            asker.settle(cases)
            step = self.model.recipe.steps if iteration < 0 else iteration * self.updates
            by_kind = {kind: [case for case in cases if case.id.endswith(f"-{kind}")] for kind in (PLAIN, GUIDED)}
            plain = by_kind[PLAIN]
            failed = sum(asker.scores(case) is None for case in cases) / max(1, len(cases))
            line = {"step": step, "rows": len(plain), "failed": failed, "reward": summary(asker, plain)}
            if by_kind[GUIDED]:
                line["guided"] = summary(asker, by_kind[GUIDED])
            self.around.tell("rewards", line)

    def _guided(self, chunk: Chunk) -> Iterator[tuple[str, Conditioning | None]]:
        """Ways to sample held-out rows: as rollouts are, and with guidance where the model is used with it."""
        yield PLAIN, None
        edit_model, heldout = self.model.edit_model, self.around.heldout
        scale = self.model.recipe.sample_guidance or edit_model.guidance
        if heldout is not None and scale != 1 and isinstance(heldout.features, Encoder):
            texts = [dataclasses.replace(sample, text=edit_model.negative) for sample in chunk.samples]
            said = [heldout.features(sample).conditioning for sample in texts]
            yield GUIDED, {k: v.to(self.model.parallel.device) for k, v in edit_model.collate(said).items()}


def _fewest(groups: Sequence[Sequence[Any]], rows: int) -> int:
    """How many of the groups have so many rows."""
    count = 0
    for number, group in enumerate(groups, 1):
        count += len(group)
        if count >= rows:
            return number
    return len(groups)


@torch.no_grad()
def sampled(
    model: TrainedModel, batch: TrainBatch, seeds: list[int], steps: int, negative: Conditioning | None = None
) -> Tensor:
    """Latents (B, C, h, w) float32 of a batch's rows; each row's noise is of its seed alone.

    Without guidance, or with the recipe's, for which `negative` is the conditioning of its second pass.
    """
    recipe, edit_model = model.recipe, model.edit_model
    shape = tuple(batch.target.shape[1:])
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    height, width = batch.samples[0].shapes[0]
    tokens = (height // edit_model.patch) * (width // edit_model.patch)
    with model.parallel.arithmetic(getattr(torch, recipe.dtype)):
        return euler(
            edit_model, model.network, noise.to(model.parallel.device), batch.references, batch.conditioning,
            steps=steps or recipe.sample_steps or edit_model.steps,
            shift=shift_factor(recipe.shift, recipe.shift_by_tokens, tokens),
            guidance=1.0 if negative is None else recipe.sample_guidance or edit_model.guidance, negative=negative,
        )  # fmt: skip


@torch.no_grad()
def decoded(model: TrainedModel, latents: Tensor) -> Iterator[np.ndarray]:
    """uint8 (h, w, 3) of every row."""
    for row in latents:
        with ENCODING:  # other threads encode prompts meanwhile, and an autoencoder holds what it is at
            image = model.edit_model.images(row[None].float())[0]
        yield to_image(image)


def case_of(
    rows: Rows, sample: Any, image: np.ndarray, identity: str, group: str, seed: int,
    place: tuple[int, int, int] = (0, 0, 0),
) -> RolloutCase:  # fmt: skip
    """The case of an image made of a row's sample: in the size of its first source, as `edit sample` leaves it."""
    row = rows[sample.row]
    height, width = row.sources[0] if row.sources else row.target
    image = np.ascontiguousarray(image if image.shape[:2] == (height, width) else resize(image, height, width))
    language = next((said for (_, said), text in row.texts.items() if text == sample.text), "en")
    known = getattr(rows, "known_target", True)
    return RolloutCase(
        identity, group, row.id, seed, row.task, language, sample.text,
        [rows.reference(sample.row, which) for which in sample.references],
        rows.reference(sample.row, TARGET) if known else None,
        image_value(image), xxhash.xxh3_128_hexdigest(image.tobytes()), place,
    )  # fmt: skip


def summary(asker: RewardJournal, cases: list[RolloutCase]) -> dict[str, Any]:
    """Of every reward its mean, the mean of its standard deviation within groups, and its mean by task."""
    made = {}
    for reward in asker.rewards.rewards:
        values, tasks, groups = [], defaultdict(list), defaultdict(list)
        for case in cases:
            if (scores := asker.scores(case)) is not None:
                values.append(scores[reward.name])
                tasks[case.task].append(scores[reward.name])
                groups[case.group].append(scores[reward.name])
        if values:
            within = [statistics.pstdev(each) for each in groups.values() if len(each) > 1]
            made[reward.name] = {
                "mean": statistics.fmean(values),
                **({"within": statistics.fmean(within)} if within else {}),
                "by_task": {task: statistics.fmean(each) for task, each in sorted(tasks.items())},
            }
    return made


def write_shard(path: Path, asker: RewardJournal, cases: list[RolloutCase]) -> None:
    """Cases as rows in one Parquet file, groups side by side, with the scores that they have."""
    ordered = sorted(cases, key=lambda case: (case.place[0], case.place[2], case.place[1]))
    rows = records(ordered, {case.id: asker.scores(case) for case in ordered})
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = ParquetSink(str(path), None, True)
    sink.open(rows.schema, History().add("train", 1, {"rollouts": path.stem}), len(ordered))
    sink.write(Batch(rows, Shard(0, 1, ""), last=True, seen=len(ordered)))
    sink.finish(Counts(len(ordered), len(ordered)))
