"""Estimates of a run's needs before it trains: memory per device, time per step, disk space.

The largest batch goes through the real network, forward and backward, as tensors that have shapes and no numbers
(torch's FakeTensorMode), while the bytes of all that is alive are counted. What an optimiser keeps is counted by its
rule. A model of any size is planned on any machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edittools.errors import EditError
from edittools.nets import from_scratch, load_edit_model
from edittools.nets import shapes as known
from edittools.nets.base import Conditioning, EditModel, text_length
from edittools.nets.lora import add_lora
from edittools.nets.shapes import Shape
from edittools.train import flow_matching
from edittools.train.activations import checkpoint_activations
from edittools.train.bucket_sampler import BucketSampler
from edittools.train.config import OPTIMIZERS, Recipe
from edittools.train.frozen import BlockSwap, quantize_frozen
from edittools.train.log import PEAKS, peak_tflops
from edittools.train.optimizers import Optimizers
from edittools.weights.lookup import stored_bytes

UTILISATION = 0.4  # of a card's peak, that a step's time is told for: what well-tuned loops reach
CARDS = (24, 48, 80, 141)  # GB, that adapters are planned for
SPARE = 1.5e9  # bytes of a card that CUDA and its libraries take


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    frozen: float
    trained: float  # float32
    gradients: float
    optimizer: float
    average: float
    copies: float  # of weights, that the objective keeps
    gathered: float  # of sharded weights, what is whole at once
    activations: float  # at most, with what else a forward and a backward pass make
    encoders: float = 0.0

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Budget:
    memory: Memory
    block: float  # bytes of the largest block's frozen weights
    blocks: int
    tokens: int  # image tokens of the largest batch
    rows: int  # of it
    flops: float  # of a step, on all devices together
    checkpoint: float  # bytes of one
    model: float  # bytes of the finished one
    features: float  # bytes of one row's stored features
    swapped: float = 0.0  # bytes of blocks that wait in a process's main memory

    @property
    def copy(self) -> float:
        """Bytes of the copy of its state that a process keeps in its main memory while a checkpoint is written."""
        return self.memory.trained + self.memory.optimizer + self.memory.average + self.memory.copies


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0
        self.gradients = self.most_beside = 0  # beside gradients
        self.weights: set[int] = set()
        self.cast = True  # what autocast makes of weights is counted: sharded ones come in its precision

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten._local_scalar_dense.default:
            # no numbers: a network that asks is one whether a mask is full, which that of an example is
            return True if args[0].dtype == torch.bool else 1
        if op is torch.ops.aten.equal.default:
            return True  # crops of one scene
        made = op(*args, **(kwargs or {}))
        cast = not self.cast and op is torch.ops.aten._to_copy.default and self.is_weight(args[0])
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.count(tensor, not cast)
        return made

    def count(self, tensor: Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes() if counts else 0
            self.now += self.sizes[key]
            weakref.finalize(storage, self._forget, key)
        self.most = max(self.most, self.now)
        self.most_beside = max(self.most_beside, self.now - self.gradients)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)

    def ignore(self, tensor: Tensor) -> None:
        """Weights, which are counted by themselves."""
        storage = tensor.untyped_storage()
        self.sizes[storage._cdata] = 0
        self.weights.add(storage._cdata)

    def counted(self, fetch: Callable[[int], list[Tensor]]) -> Callable[[int], list[Tensor]]:
        """Weights that come and go, which is done unseen by modes."""

        def fetched(number: int) -> list[Tensor]:
            found = fetch(number)
            for tensor in found:
                self.count(tensor)
            return found

        return fetched

    def is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.weights


def shapeless() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def load_shapes(recipe: Recipe, fake: Any, texts: Iterable[str]) -> EditModel:
    """The architecture without encoders, its network's weights as shapes: what trains in float32, the rest as
    stored.
    """
    new = bool(recipe.model.get("transformer")) or (from_scratch(recipe.system) and not recipe.model.get("weights"))
    settings, lora = dict(recipe.model), None
    if new and settings.get("lora"):
        lora = settings.pop("lora")  # peft converts modules, which those without numbers do not bear
    with fake if new else contextlib.nullcontext():
        edit_model = load_edit_model(recipe.system, settings, encoders=False, texts=lambda: texts)
    if lora:
        transformer: Any = edit_model.network.transformer
        add_lora(transformer, lora, recipe.seed)
    exact = recipe.dtype == "float32"
    stored = torch.bfloat16 if new else None  # a base that is planned without its weights: as they are published
    with fake:
        for module in edit_model.network.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    kind = torch.float32 if p.requires_grad or exact else stored or p.dtype
                    module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=kind), p.requires_grad)
    return edit_model


def largest(recipe: Recipe, edit_model: EditModel, sampler: BucketSampler | None) -> tuple[int, tuple[Shape, ...]]:
    """Rows and shapes of the largest batch: the sampler's, else edits with one reference of the largest shape."""
    if sampler is not None:
        draws = sampler.largest()
        return len(draws), sampler.samples[draws[0].sample].shapes
    shape = max(known.shapes(recipe.ratios, recipe.resolution, edit_model.multiple), key=math.prod)
    shapes = (shape, shape)
    tokens = image_tokens(edit_model, shapes) * _passes(recipe)
    return (1 if edit_model.one_row else max(1, recipe.batch_tokens // tokens)), shapes


def _passes(recipe: Recipe) -> int:
    """Of a row through the network: both images of a preference pair."""
    return 2 if recipe.pairs else 1


def image_tokens(edit_model: EditModel, shapes: Sequence[Shape]) -> int:
    seen = shapes if edit_model.sees_references else shapes[:1]
    return sum(h * w for h, w in seen) // edit_model.patch**2


def measure(
    recipe: Recipe,
    *,
    sampler: BucketSampler | None = None,
    texts: Iterable[str] = (),
    mode: str = "single",
    world: int = 1,
    shards: int = 1,
    encoders: float = 0.0,
) -> Budget:
    """The budget of a run on `world` devices, whose weights are sharded over `shards` of them."""
    fake = shapeless()
    edit_model = load_shapes(recipe, fake, texts)
    rows, shapes = largest(recipe, edit_model, sampler)
    sharded = shards > 1 or mode in ("fsdp", "hsdp")
    traced = _trace(recipe, fake, edit_model, rows * _passes(recipe), shapes, sharded)
    optimizers = Optimizers(
        recipe, traced.trained, {id(p) for block in edit_model.blocks() for p in block.parameters()}
    )
    numbers = sum(p.numel() for p in traced.trained.values())
    state = _optimizer_bytes(recipe, optimizers)
    average = 4.0 * numbers if recipe.ema else 0.0
    copies = 4.0 * numbers * len(recipe.copies)
    several = -(-recipe.microbatches // world) > 1 or mode in ("fsdp", "hsdp")
    memory = Memory(
        frozen=traced.frozen / shards,
        trained=4.0 * numbers / shards,
        gradients=4.0 * numbers / shards,
        optimizer=state / shards,
        average=average / shards,
        copies=copies / shards,
        gathered=_gathered(recipe, edit_model) if sharded else 0.0,
        activations=_activations(recipe, fake, traced, optimizers, 0.0 if several else 4.0 * numbers / shards),
        encoders=encoders,
    )
    return Budget(
        memory,
        block=max(traced.of_blocks, default=0.0),
        blocks=len(traced.of_blocks),
        tokens=rows * _passes(recipe) * image_tokens(edit_model, shapes),
        rows=rows,
        flops=_flops(recipe, edit_model, shapes, traced.row) * rows * _passes(recipe) * recipe.microbatches,
        checkpoint=4.0 * numbers + state + average + copies,
        model=4.0 * (numbers if recipe.model.get("lora") else sum(p.numel() for p in edit_model.network.parameters())),
        features=0.0 if from_scratch(recipe.system) else _feature_bytes(recipe, edit_model, shapes, traced.row),
        swapped=traced.swapped,
    )


@dataclass(frozen=True)
class _Traced:
    """What the largest batch's way through the network has come to, in bytes."""

    trained: dict[str, nn.Parameter]
    frozen: float  # on a device
    swapped: float  # that waits in the main memory
    of_blocks: list[int]  # frozen, of every block
    alive: Alive
    row: Conditioning  # one row's


def _trace(
    recipe: Recipe, fake: Any, edit_model: EditModel, rows: int, shapes: Sequence[Shape], sharded: bool
) -> _Traced:
    """Make the network as small as the recipe says, and send the largest batch through it and back."""
    blocks, network = edit_model.blocks(), edit_model.network
    with fake:
        if recipe.quantize:
            quantize_frozen(blocks, recipe.quantize, torch.device("cpu"))
        of_blocks = [sum(_bytes(block, False)) for block in blocks]
        swap = BlockSwap(blocks, recipe.block_swap, torch.device("cpu")) if recipe.block_swap else None
        checkpoint_activations(edit_model, recipe.checkpointing)
        waiting = swap.waiting if swap else set()
        weights = [*network.parameters(), *network.buffers()]
        frozen = sum(t.nbytes for t in weights if not t.requires_grad and id(t) not in waiting)
        swapped = sum(t.nbytes for t in weights if id(t) in waiting)
        alive = Alive()
        alive.cast = not sharded
        if swap:
            swap._fetch = alive.counted(swap._fetch)  # type: ignore[assignment, method-assign]
        for tensor in weights:
            alive.ignore(tensor)
        row = edit_model.example(len(shapes) - 1)
        with alive:
            _pass(recipe, edit_model, rows, shapes, row, alive)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return _Traced(trained, frozen, float(swapped), of_blocks, alive, row)


def _activations(recipe: Recipe, fake: Any, traced: _Traced, optimizers: Optimizers, gradients: float) -> float:
    """What else there is at most; `gradients`: bytes that come as what is remembered goes, 0 where they stay."""
    alive = traced.alive
    most = max(0.0, alive.most - gradients) if gradients else float(alive.most_beside)
    if OPTIMIZERS.declared("WHOLE", False)[recipe.optimizer]:
        with fake:
            most = max(most, _update(optimizers, alive))
    return most


def _optimizer_bytes(recipe: Recipe, optimizers: Optimizers) -> float:
    """What the rules keep. Raises EditError where an optimizer's file says it of other classes than its own."""
    stored = OPTIMIZERS.declared("KEPT", {})[recipe.optimizer]
    if stored and (other := {type(rule).__name__ for rule, _ in optimizers.pairs} - stored.keys()):
        raise EditError(f"optimizer `{recipe.optimizer}`: its KEPT names {', '.join(stored)}, not {', '.join(other)}")
    return float(
        sum(
            stored.get(type(rule).__name__, 8.0) * p.numel()
            for rule, _ in optimizers.pairs
            for group in rule.param_groups
            for p in group["params"]
        )
    )


def _gathered(recipe: Recipe, edit_model: EditModel) -> float:
    """Of sharded weights, what is whole at once: two blocks' weights, the gradients of one's that train in two
    precisions, and what belongs to no block."""
    width = 4 if recipe.dtype == "float32" else 2

    def whole(weights: Iterable[Tensor]) -> float:  # few bits are gathered as they are
        return float(sum(p.numel() * width if p.is_floating_point() else p.nbytes for p in weights))

    blocks = [list(block.parameters()) for block in edit_model.blocks()]
    inside = {id(p) for block in blocks for p in block}
    most = max(
        (2 * whole(block) + (width + 4.0) * sum(p.numel() for p in block if p.requires_grad) for block in blocks),
        default=0.0,
    )
    return most + whole(p for p in edit_model.network.parameters() if id(p) not in inside)


def _flops(recipe: Recipe, edit_model: EditModel, shapes: Sequence[Shape], row: Conditioning) -> float:
    """Of a row's forward and backward pass in a step; of a prompt, of all that is made and learned of it."""
    seen = shapes if edit_model.sees_references else shapes[:1]
    sizes = [image_tokens(edit_model, [shape]) for shape in seen]
    again = {"none": 3.0, "selective": 3.3, "full": 4.0}[recipe.checkpointing]
    again += len(recipe.copies)  # a forward pass by each
    if recipe.rollouts:
        told = recipe.of_objective()
        steps = told["sampling_steps"] or recipe.sample_steps or edit_model.steps
        again = told["group"] / told["updates"] * (steps + told["times"] * again)
    return again * edit_model.row_flops(sizes, text_length(row))


def _feature_bytes(recipe: Recipe, edit_model: EditModel, shapes: Sequence[Shape], row: Conditioning) -> float:
    """Of a row's stored features."""
    kept = shapes if edit_model.sees_references or recipe.region_weight else shapes[:1]
    stored = [*kept, shapes[0]] if recipe.pairs else kept
    latents = sum(math.prod(edit_model.latent_shape(*shape)) for shape in stored)
    said = sum(v.numel() * (2 if v.is_floating_point() else 8) for v in row.values())
    return 2.0 * latents + recipe.variants * said


def _bytes(module: nn.Module, trains: bool) -> Iterator[int]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.requires_grad == trains:
            yield tensor.nbytes


def _pass(
    recipe: Recipe, edit_model: EditModel, rows: int, shapes: Sequence[Shape], row: Conditioning, alive: Alive
) -> None:
    """One forward and one backward pass, as forward_backward() in loop.py has them."""
    target, *references = [torch.zeros(rows, *edit_model.latent_shape(*shape)) for shape in shapes]
    conditioning = edit_model.collate([row] * rows)
    noise, t = torch.zeros_like(target), torch.zeros(rows)
    for parameter in edit_model.network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: _accumulated(p, alive))
    x_t = target + noise
    dtype = getattr(torch, recipe.dtype)
    with torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext():
        output = edit_model.network(x_t, t, references, conditioning)
    flow_matching.errors(output, target, noise, edit_model.predicts, 1.0).sum().backward()


def _update(optimizers: Optimizers, alive: Alive) -> float:
    """Bytes that an update makes beside what it keeps."""
    optimizers.prepare()
    for rule, _ in optimizers.pairs:
        for group in rule.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
    with alive:
        before = alive.most = alive.now
        optimizers.step(0.0)
    return alive.most - before


def _accumulated(parameter: Tensor, alive: Alive) -> None:
    if parameter.grad is not None:
        alive.gradients += parameter.grad.nbytes


# ---------------------------------------------------------------------------------------------------- for people


def lines(recipe: Recipe, budget: Budget, world: int, rows: int | None) -> list[str]:
    """A budget in words: `edit train -n --budget`."""
    memory = budget.memory
    parts = [f"{name} {_gb(value)}" for name, value in dataclasses.asdict(memory).items() if value]
    told = [
        f"memory per device: {_gb(memory.total)}, beside what CUDA takes, about {_gb(SPARE)}",
        f"  {', '.join(parts)}",
        f"  largest batch: {budget.rows} rows, {budget.tokens} image tokens",
    ]
    each = budget.flops / world / 1e12
    peak = peak_tflops(torch.device("cuda")) if torch.cuda.is_available() else None
    cards = {torch.cuda.get_device_name(): peak} if peak else {n: PEAKS[n] for n in ("H100", "A100", "RTX 4090")}
    times = ", ".join(f"{each / top / UTILISATION:.3g} s on {name}" for name, top in cards.items())
    told.append(f"step: {each:.4g} TFLOP per device; at {UTILISATION:.0%} of the peak {times}")
    swapped = f", blocks that wait there {_gb(budget.swapped)}" if budget.swapped else ""
    told.append(f"main memory of each process: a copy of what a checkpoint holds {_gb(budget.copy)}{swapped}")
    told += disk(recipe, budget)
    if budget.features:
        of = f"{rows} rows" if rows is not None else "a thousand rows"
        told.append(f"disk: stored features {_gb(budget.features * (1000 if rows is None else rows))} for {of}")
    return told


def disk(recipe: Recipe, budget: Budget) -> list[str]:
    """Disk space of checkpoints and models, and what `keep_gb` leaves."""
    models = recipe.steps // recipe.keep_every if recipe.keep_every else 0
    kept = recipe.keep_last + models
    wanted = budget.checkpoint * kept + budget.model * models
    told = f"disk: checkpoints {_gb(budget.checkpoint * kept)} ({kept} of {_gb(budget.checkpoint)}), "
    if models:
        told += f"kept models {_gb(budget.model * models)} ({models} of {_gb(budget.model)}), "
    lines = [f"{told}the finished model {_gb(budget.model)}"]
    if recipe.keep_gb:
        # whatever it says: the latest checkpoint and the one that is written, the latest kept model
        least = 2 * budget.checkpoint + (budget.model if models else 0.0)
        room = recipe.keep_gb * 1e9
        says = "as much as is wanted" if wanted <= room else "the oldest go first"
        if room < least:
            says = f"less than the {_gb(least)} that are kept whatever it says"
        lines.append(f"disk: `keep_gb` leaves {_gb(room)} of it to checkpoints and kept models: {says}")
    return lines


def plans(recipe: Recipe, budget: Budget, mode: str, measured: Callable[[Recipe], Budget]) -> list[str]:
    """For adapters: what lets them fit cards of usual sizes, each setting measured before it is told.

    budget     of the recipe as it is
    measured   measure() on the same devices, in this parallel mode
    """
    if not recipe.model.get("lora") or recipe.quantize or recipe.block_swap:
        return []
    found = {("", 0): budget}

    def of(quantize: str, swap: int) -> Budget:
        if (quantize, swap) not in found:
            found[quantize, swap] = measured(dataclasses.replace(recipe, quantize=quantize, block_swap=swap))
        return found[quantize, swap]

    swaps = recipe.checkpointing != "none" and mode not in ("fsdp", "hsdp")  # as Recipe and check_shared() have it
    most = {"": budget.blocks // 2 * swaps, "int8": budget.blocks // 2 * swaps, "nf4": budget.blocks * swaps}

    def plan(card: float) -> str:
        for quantize in most:
            swap = 0
            while swap <= most[quantize]:
                now = of(quantize, swap)
                over = now.memory.total + SPARE - card * 1e9
                if over <= 0:
                    named = [f'quantize = "{quantize}"'] * bool(quantize) + [f"block_swap = {swap}"] * bool(swap)
                    return ", ".join(named) or "as it is"
                swap += math.ceil(over / now.block) + (0 if swap else 2)  # two of those that wait are there at once
        return "no; fewer `batch_tokens`"

    told = []
    for card in CARDS:
        try:
            told.append(f"  {card} GB: {plan(card)}")
        except EditError as error:  # what 4 bits need is not installed
            told.append(f"  {card} GB: not known, {error}")
    return ["fits on a card of", *told]


def encoder_bytes(weights: str, dtype: str) -> float:
    """Bytes of the frozen encoders in a model's folder, in this number type."""
    names = ("vae", "text_encoder", "text_encoder_2", "image_encoder")
    return sum(stored_bytes(Path(weights, name), getattr(torch, dtype).itemsize) for name in names)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
