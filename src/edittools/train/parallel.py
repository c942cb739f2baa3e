"""Several devices: DDP, FSDP2 and HSDP, started by `torchrun` or `accelerate launch`, which set RANK and WORLD_SIZE."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edittools.errors import EditError, UsageError
from edittools.nets.acceleration import open_device

MODES = ("auto", "single", "ddp", "fsdp", "hsdp")
PATIENCE = datetime.timedelta(minutes=30)  # that processes wait for each other


@dataclass
class Parallel:
    """This process among those that train together."""

    mode: str  # "single", "ddp", "fsdp" or "hsdp"
    rank: int
    world: int
    device: torch.device
    mesh: Any = None  # of the parameters' shards
    group: Any = None  # that they exchange numbers and objects by; None: all of torch's
    store: Any = None  # of few words, which each may read and write at any time; None: there is one process
    told: bool = False  # another process says what is wrong
    gone: bool = False  # another process is, and nothing can be exchanged any more

    def beside(self) -> Parallel:
        """The same processes exchanging by themselves, in the main memory, as threads beside the training have to.

        Every process calls it.
        """
        if self.world == 1:
            return dataclasses.replace(self, device=torch.device("cpu"))
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return dataclasses.replace(self, device=torch.device("cpu"), group=group)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # ------------------------------------------------------------------------------------------- the network

    def wrap(
        self,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        dtype: torch.dtype,
        waiting: Collection[int] = (),
        exact: Sequence[nn.Module] = (),
    ) -> Any:
        """The network as it is called in training.

        What trains is kept in float32, masters of arithmetic in `dtype`; frozen weights in the precision that they
        have, which in float32 arithmetic is float32. With FSDP2 and HSDP every block is sharded by itself, gradients
        are summed in float32.

        waiting   the ids of tensors that stay in the main memory
        exact     modules whose weights are gathered in the precision that they are kept in

        Weights go to the device one after the other, and block by block where they are sharded: no device ever holds
        a whole model, and of the main memory, where weights are mapped files, no more than a block is taken.
        """

        def settle(module: nn.Module, device: torch.device | None = None) -> None:
            for tensor in (*module.parameters(), *module.buffers()):
                if hasattr(tensor, "to_local"):
                    continue  # of a block that is sharded already
                real = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()  # others are bits: FrozenLinear
                exact = real and (tensor.requires_grad or dtype == torch.float32)
                place = None if id(tensor) in waiting else device
                tensor.data = tensor.data.to(place, torch.float32 if exact else tensor.dtype)

        if self.mode in ("fsdp", "hsdp"):
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

            # Weights are gathered in `dtype`; what is computed in which precision autocast decides, as everywhere else:
            # inputs stay as they are, so that times are not rounded.
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
            kept = dataclasses.replace(policy, param_dtype=None)
            for block, rule in (*((each, policy) for each in blocks), *((each, kept) for each in exact)):
                settle(block)
                fully_shard(block, mesh=self.mesh, mp_policy=rule)  # moves it to the device
            settle(network)
            return fully_shard(network, mesh=self.mesh, mp_policy=policy)
        settle(network, self.device)
        if self.mode == "ddp":
            from torch.nn.parallel import DistributedDataParallel

            # every process has read the same files: only what trains is made equal
            frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
            frozen += [name for name, _ in network.named_buffers()]
            network._ddp_params_and_buffers_to_ignore = frozen  # type: ignore[assignment]
            return DistributedDataParallel(network, gradient_as_bucket_view=True)
        return network

    @contextlib.contextmanager
    def last_of_step(self, network: Any, last: bool) -> Iterator[None]:
        """What is left of exchanging gradients to the backward pass of a step's last batch.

        DDP: all of it, since every process has whole gradients anyway. HSDP: the sum over the copies of the model.
        Sharded gradients are summed over the shards, and let go, in every backward pass: 4 bytes per parameter on
        every GPU would be more than all else.
        """
        if self.mode == "hsdp":
            network.set_requires_all_reduce(last)
            yield
        elif self.mode == "ddp" and not last:
            with network.no_sync():
                yield
        else:
            yield

    def arithmetic(self, dtype: torch.dtype) -> Any:
        """The context of a forward pass in `dtype`."""
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype)

    # ------------------------------------------------------------------------------------------- numbers

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values, group=self.group)
        return values.cpu()

    def gather(self, value: Any) -> list[Any]:
        """Small objects of all processes, in the order of their ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.group)
        return found

    def to_main(self, value: Any) -> list[Any]:
        """Objects of all processes on the first one, in the order of their ranks; nothing on the others."""
        if self.world == 1:
            return [value]
        found: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(value, found, dst=0, group=self.group)
        return found or []

    def on_main(self, work: Callable[[], Any]) -> Any:
        """What the first process's work returns, on every process; what it raises is raised on every one."""
        found: Any = None
        if self.is_main:
            try:
                found = work()
            except Exception as error:
                if self.world == 1:
                    raise
                found = error
        found = self.gather(found)[0]
        if isinstance(found, Exception):
            raise found
        return found

    def any(self, flag: bool) -> bool:
        """All-reduce: True if `flag` is True in any process."""
        return bool(self.sum(torch.tensor([float(flag)])).item())

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.group)

    def close(self) -> None:
        if self.world > 1 and dist.is_initialized() and not self.gone:
            dist.destroy_process_group()


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; every process has to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """A whole tensor that every process has, sharded as another one is."""
    if not hasattr(sharded, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh: Any = sharded.device_mesh
    whole = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, sharded.placements)  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, or all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def start(
    mode: str, device: str, processes: int | None = None, replicas: int | None = None, adapters: bool = False
) -> Parallel:
    """Join the processes that a launcher started.

    mode        "auto": where there are several processes FSDP2, or DDP for `adapters`, whose frozen weights need no
                exchange; else single
    processes   how many there have to be
    replicas    HSDP: how many copies of the model there are; None: one per node

    Raises UsageError where the launcher started fewer processes than asked for, as `accelerate launch --cpu` does
    without saying so.
    """
    if mode not in MODES:
        raise UsageError(f"no parallel mode `{mode}`", hint=", ".join(MODES))
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes is not None and processes != world:
        raise UsageError(
            f"{processes} processes were asked for, and the launcher started {world}",
            hint=f"torchrun --nproc-per-node {processes} -m edittools train ...",
        )
    if mode == "auto":
        mode = "single" if world == 1 else "ddp" if adapters else "fsdp"
    if replicas is not None and mode != "hsdp":
        raise UsageError(f"--replicas: the mode `{mode}` has no copies of the model", hint="--parallel hsdp")
    if mode == "single":
        if world > 1:
            raise UsageError(f"{world} processes cannot train in the mode `single`")
        return Parallel("single", 0, 1, open_device(device))
    if "RANK" not in os.environ:
        hint = "torchrun --nproc-per-node N -m edittools train ..."
        raise UsageError(f"the mode `{mode}` needs a launcher", hint=hint)
    # every process its own, should there be so many
    place = open_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device.startswith("cuda") else device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    try:
        store, rank, world = next(iter(dist.rendezvous("env://", rank, world, timeout=PATIENCE)))
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EditError(f"the processes did not find each other: {str(error).splitlines()[0]}") from error
    mesh = None
    if mode in ("fsdp", "hsdp"):
        from torch.distributed.device_mesh import init_device_mesh

        if mode == "hsdp":
            count = replicas or max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", str(world))))
            if world % count:
                raise UsageError(f"{world} processes cannot hold {count} copies of equal size")
            mesh = init_device_mesh(place.type, (count, world // count), mesh_dim_names=("replicate", "shard"))
        else:
            mesh = init_device_mesh(place.type, (world,), mesh_dim_names=("shard",))
    return Parallel(mode, rank, world, place, mesh, store=dist.PrefixStore("edittools", store))
