"""Ranks: who this process is, what all agree on, gradients averaged. Plain torch.distributed under torchrun or srun."""

from __future__ import annotations

import datetime
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from koosh_models.physics.mri import robust_scale
from koosh_models.physics.operator import selfadjoint
from koosh_models.physics.problem import LinearProblem

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


@dataclass(frozen=True)
class Ranks:
    """This process among all of the run.

    rank, world, local   its number, how many, its number on its node
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Who this process is, from what torchrun or srun set; alone where neither did."""
    for names in LAUNCHERS:
        if names[0] == "SLURM_PROCID" and not environment.get("KOOSH_DISTRIBUTED"):
            continue  # inside an allocation a plain `koosh train` is one process
        found = [name for name in names if name in environment]
        if not found:
            continue
        if missing := [name for name in names if name not in environment]:
            raise ValueError(f"{found[0]} is set but not {', '.join(missing)}: start the ranks with torchrun or srun")
        rank, world, local = (int(environment[name]) for name in names)
        if world > 1 and (absent := [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in environment]):
            raise ValueError(f"{world} ranks but no {' and '.join(absent)}: export them in the job script, see docs")
        return Ranks(rank, world, local)
    return Ranks()


def join(me: Ranks, device: torch.device, timeout_s: int = 600) -> None:
    """Meet the other ranks: nccl on GPUs, gloo on CPUs."""
    if me.world == 1 or distributed.is_initialized():
        return
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=me.rank,
        world_size=me.world,
        timeout=datetime.timedelta(seconds=timeout_s),
    )


def leave() -> None:
    """Part from the other ranks."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def together() -> bool:
    """Whether there are other ranks."""
    return distributed.is_initialized() and distributed.get_world_size() > 1


def average(parameters: Iterable[nn.Parameter], *numbers: float) -> list[float]:
    """The means of these numbers over all ranks, and of the gradients in place: one message a step for everything.

    A rank without a gradient counts as zero.
    """
    if not together():
        return list(numbers)
    trained = [p for p in parameters if p.requires_grad]
    own = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = torch.cat([*(g.flatten() for g in own), own[0].new_tensor(numbers)])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    *parts, means = torch.split(flat, [*(p.numel() for p in trained), len(numbers)])
    for p, part in zip(trained, parts, strict=True):
        p.grad = part.view_as(p)
    return [float(v) for v in means]


@dataclass
class Heard:
    """Sums of numbers over all ranks, heard `lag` steps after they were told: nobody waits for the slowest.

    Every rank hears the same sums at the same step.
    """

    device: torch.device
    lag: int = 0

    def __post_init__(self) -> None:
        self._under_way: deque[tuple[Tensor, distributed.Work | None]] = deque()

    def tell(self, *numbers: float) -> None:
        """Send this step's numbers on their way."""
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device if self.device.type == "cuda" else "cpu")
        self._under_way.append((values, distributed.all_reduce(values, async_op=True) if together() else None))

    def hear(self, everything: bool = False) -> list[list[float]]:
        """The sums that are due, oldest first; with `everything` all that were told."""
        out = []
        while len(self._under_way) > (0 if everything else self.lag):
            values, work = self._under_way.popleft()
            if work is not None:
                work.wait()
            out.append([float(v) for v in values])
        return out


def collected(own: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The named tensors of all ranks together, on every rank; a later rank's replace an earlier one's of that name."""
    if not together():
        return own
    out = {}
    where = device if device.type == "cuda" else torch.device("cpu")
    for rank in range(distributed.get_world_size()):
        mine = rank == distributed.get_rank()
        data = save({k: t.detach().cpu().contiguous() for k, t in own.items()}) if mine else b""
        size = torch.tensor([len(data)], device=where)
        distributed.broadcast(size, rank)
        message = torch.frombuffer(bytearray(data), dtype=torch.uint8) if mine else torch.empty(int(size)).byte()
        message = message.to(where)
        distributed.broadcast(message, rank)
        out.update(load(message.cpu().numpy().tobytes()))
    return out


def same(parameters: Iterable[Tensor]) -> None:
    """Give every rank the first one's weights."""
    if together():
        for tensor in parameters:
            distributed.broadcast(tensor.data, 0)


def wait() -> None:
    """Until all ranks are here."""
    if together():
        distributed.barrier()


def total(image: Tensor) -> Tensor:
    """Sum of an image over all ranks; every rank gets the same bits."""
    image = image.contiguous()
    distributed.all_reduce(torch.view_as_real(image) if image.is_complex() else image)
    return image


@dataclass(frozen=True)
class CoilTeam:
    """The ranks of the run as those that share a measurement."""

    rank: int
    size: int

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all of them, in place where the tensor is contiguous."""
        return total(tensor)


def joined(own: LinearProblem) -> LinearProblem:
    """The problem whose coils lie on several ranks, from this rank's share of them; all ranks use it in step.

    `N = sum_ranks N_rank` and `b = sum_ranks b_rank`, so that each rank holds the maps and samples of its coils alone.
    """
    if not together():
        return own

    def apply(x: Tensor) -> Tensor:
        return total(own.normal(x))

    def normal(x: Tensor) -> Tensor:
        return selfadjoint(x, apply)

    b = total(own.b.clone())
    team = CoilTeam(distributed.get_rank(), distributed.get_world_size())
    return replace(own, normal=normal, b=b, scale=robust_scale(b), team=team, nearby=None)
