"""What a run will need: memory per device, time per step, room on disk; told before anything is trained.

The largest batch goes through the real network, forward and backward, as tensors that have shapes and no numbers
(torch's FakeTensorMode), while the bytes of all that is alive are counted. What an optimiser keeps is counted by its
rule. A model of any size is planned on any machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edittools.models import shapes as known
from edittools.models.lora import add_lora
from edittools.models.shapes import Shape
from edittools.models.systems import load_system
from edittools.models.systems.base import Conditions, System
from edittools.models.weights import stored_bytes
from edittools.train import objective
from edittools.train.activations import checkpoint_activations
from edittools.train.config import Recipe
from edittools.train.frozen import BlockSwap, quantize_frozen
from edittools.train.log import PEAKS, peak_tflops
from edittools.train.optimizers import Optimizers
from edittools.train.plan import Plan

KEPT = {"AdamW": 8.0, "AdamW8bit": 2.0 + 8 / 256, "Prodigy": 16.0, "Muon": 4.0}  # bytes per number that a rule trains
UTILISATION = 0.4  # of a card's peak, that a step's time is told for: what well-tuned loops reach
CARDS = (24, 48, 80)  # GB, that adapters are planned for
SPARE = 1.5e9  # bytes of a card that CUDA and its libraries take


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    frozen: float
    trained: float  # float32
    gradients: float
    optimizer: float
    average: float
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

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten._local_scalar_dense.default:
            # no numbers: a network that asks is one whether a mask is full, which that of an example is
            return True if args[0].dtype == torch.bool else 1
        if op is torch.ops.aten.equal.default:
            return True  # crops of one scene
        made = op(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
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


def shapeless() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def load_shapes(recipe: Recipe, fake: Any, texts: Sequence[str]) -> System:
    """The system without encoders, its network's weights as shapes: what trains in float32, the rest as stored."""
    new = bool(recipe.model.get("transformer")) or recipe.system == "small"
    settings, lora = dict(recipe.model), None
    if new and settings.get("lora"):
        lora = settings.pop("lora")  # peft converts modules, which those without numbers do not bear
    with fake if new else contextlib.nullcontext():
        system = load_system(recipe.system, settings, encoders=False, texts=lambda: sorted(texts))
    if lora:
        transformer: Any = system.network.transformer
        add_lora(transformer, lora, recipe.seed)
    exact = recipe.dtype == "float32"
    stored = torch.bfloat16 if new else None  # a base that is planned without its weights: as they are published
    with fake:
        for module in system.network.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    kind = torch.float32 if p.requires_grad or exact else stored or p.dtype
                    module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=kind), p.requires_grad)
    return system


def largest(recipe: Recipe, system: System, plan: Plan | None) -> tuple[int, tuple[Shape, ...]]:
    """Rows and shapes of the largest batch: the plan's, else edits with one reference of the largest shape."""
    if plan is not None:
        draws = plan.largest()
        return len(draws), plan.samples[draws[0].sample].shapes
    shape = max(known.shapes(recipe.ratios, recipe.sides, system.multiple), key=math.prod)
    shapes = (shape, shape)
    tokens = image_tokens(system, shapes)
    return (1 if system.one_row else max(1, recipe.batch_tokens // tokens)), shapes


def image_tokens(system: System, shapes: Sequence[Shape]) -> int:
    seen = shapes if system.sees_references else shapes[:1]
    return sum(h * w for h, w in seen) // system.patch**2


def measure(
    recipe: Recipe, *, plan: Plan | None = None, texts: Sequence[str] = (), mode: str = "single", world: int = 1,
    shards: int = 1, encoders: float = 0.0,
) -> Budget:  # fmt: skip
    """The budget of a run on `world` devices, whose weights are sharded over `shards` of them."""
    fake = shapeless()
    system = load_shapes(recipe, fake, texts)
    rows, shapes = largest(recipe, system, plan)
    blocks = system.blocks()
    counts = [sum(p.numel() for p in block.parameters()) for block in blocks]
    with fake:
        if recipe.quantize:
            quantize_frozen(blocks, recipe.quantize, torch.device("cpu"))
        frozen_of = [sum(_bytes(block, False)) for block in blocks]
        swap = BlockSwap(blocks, recipe.block_swap, torch.device("cpu")) if recipe.block_swap else None
        checkpoint_activations(system, recipe.checkpointing)
        waiting = swap.waiting if swap else set()
        network = system.network
        trained = [p for p in network.parameters() if p.requires_grad]
        weights = [*network.parameters(), *network.buffers()]
        frozen = sum(t.nbytes for t in weights if not t.requires_grad and id(t) not in waiting)
        alive = Alive()
        for tensor in weights:
            alive.ignore(tensor)
        row = system.example(len(shapes) - 1)
        with alive:
            _pass(recipe, system, rows, shapes, row, alive)
    numbers = sum(p.numel() for p in trained)
    several = -(-recipe.batches // world) > 1 or mode in ("fsdp", "hsdp")
    gradients = 4.0 * numbers / shards
    activations = alive.most_beside if several else max(0.0, alive.most - gradients)
    if swap is not None:  # what is fetched is not seen
        activations += 2 * max(frozen_of)
    inner = {id(p) for block in blocks for p in block.parameters()}
    optimizers = Optimizers(recipe, {n: p for n, p in network.named_parameters() if p.requires_grad}, inner)
    if recipe.optimizer == "muon":  # its updates are whole matrices, all of one shape at once
        with fake:
            activations = max(activations, _update(optimizers, alive))
    state = sum(
        KEPT[type(rule).__name__] * p.numel()
        for rule, _ in optimizers.pairs
        for group in rule.param_groups
        for p in group["params"]
    )
    average = 4.0 * numbers if recipe.ema else 0.0
    gathered = 0.0
    if shards > 1 or mode in ("fsdp", "hsdp"):
        width = 4 if recipe.dtype == "float32" else 2
        root = sum(p.numel() for p in network.parameters()) - sum(counts)
        # two blocks' weights, one's gradients in two precisions, and what belongs to no block
        gathered = max(counts, default=0) * (2 * width + width + 4.0) + root * width
    memory = Memory(
        frozen / shards,
        4.0 * numbers / shards,
        gradients,
        state / shards,
        average / shards,
        gathered,
        activations,
        encoders,
    )
    text = next((v.shape[0] for k, v in row.items() if k in ("order", "states", "words")), 0)
    forward = system.flops(image_tokens(system, shapes), image_tokens(system, shapes[:1]), text)
    again = {"none": 3.0, "selective": 3.3, "full": 4.0}[recipe.checkpointing]
    latents = sum(math.prod(system.latent_shape(*shape)) for shape in shapes)
    encoded = 2.0 * latents + recipe.variants * sum(
        v.numel() * (2 if v.is_floating_point() else 8) for v in row.values()
    )
    return Budget(
        memory,
        max(frozen_of, default=0.0),
        len(blocks),
        rows * image_tokens(system, shapes),
        rows,
        again * forward * rows * recipe.batches,
        4.0 * numbers + state + average,
        sum(p.numel() * 4.0 for p in (trained if recipe.model.get("lora") else network.parameters())),
        0.0 if recipe.system == "small" else encoded,
    )


def _bytes(module: nn.Module, trains: bool) -> Iterator[int]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.requires_grad == trains:
            yield tensor.nbytes


def _pass(
    recipe: Recipe, system: System, rows: int, shapes: Sequence[Shape], row: Conditions, alive: Alive
) -> None:
    """One forward and one backward pass, as forward_backward() in loop.py has them."""
    target, *references = [torch.zeros(rows, *system.latent_shape(*shape)) for shape in shapes]
    conditions = system.collate([row] * rows)
    noise, t = torch.zeros_like(target), torch.zeros(rows)
    for parameter in system.network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: _accumulated(p, alive))
    x_t = target + noise
    dtype = getattr(torch, recipe.dtype)
    with torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext():
        output = system.network(x_t, t, references, conditions)
    objective.errors(output, target, noise, system.predicts, 1.0).sum().backward()


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
    kept = recipe.keep_last + (recipe.steps // recipe.keep_every if recipe.keep_every else 0)
    told.append(
        f"disk: checkpoints {_gb(budget.checkpoint * kept)} ({kept} of {_gb(budget.checkpoint)}), "
        f"the finished model {_gb(budget.model)}"
    )
    if budget.features:
        of = f"{rows} rows" if rows is not None else "a thousand rows"
        told.append(f"disk: stored features {_gb(budget.features * (1000 if rows is None else rows))} for {of}")
    return told


def plans(recipe: Recipe, budget: Budget) -> list[str]:
    """For adapters: what lets them fit cards of usual sizes, by arithmetic from this budget."""
    if not recipe.model.get("lora") or recipe.quantize or recipe.block_swap:
        return []
    told, beside = [], budget.memory.total - budget.memory.frozen
    for card in CARDS:
        for quantize, share in (("", 1.0), ("int8", 0.5), ("nf4", 4.5 / 16)):
            over = beside + budget.memory.frozen * share + SPARE - card * 1e9
            swap = max(0, math.ceil(over / (budget.block * share))) + (2 if over > 0 else 0)
            if swap <= budget.blocks // 2 or (quantize == "nf4" and swap <= budget.blocks):
                named = [f'quantize = "{quantize}"'] * bool(quantize) + [f"block_swap = {swap}"] * bool(swap)
                told.append(f"  {card} GB: {', '.join(named) or 'as it is'}")
                break
        else:
            told.append(f"  {card} GB: no; fewer `batch_tokens`")
    return ["fits on a card of", *told]


def encoder_bytes(weights: str, dtype: str) -> float:
    """Of the frozen encoders in a model's folder."""
    names = ("vae", "text_encoder", "text_encoder_2", "image_encoder")
    return sum(stored_bytes(Path(weights, name), getattr(torch, dtype).itemsize) for name in names)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
