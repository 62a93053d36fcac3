"""Ranks: who this process is, what all agree on, gradients averaged. Plain torch.distributed under torchrun or srun."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
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


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all ranks, one message; a rank without a gradient counts as zero."""
    if not together():
        return
    trained = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in trained])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for p, part in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
        p.grad = part.view_as(p).clone()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank raised its flag: all get the same answer at the same step."""
    if not together():
        return flag
    seen = torch.tensor([int(flag)], device=device if device.type == "cuda" else "cpu")
    distributed.all_reduce(seen, op=distributed.ReduceOp.MAX)
    return bool(seen.item())


def mean(value: float, device: torch.device) -> float:
    """Mean of a number over all ranks."""
    if not together():
        return value
    seen = torch.tensor([value], dtype=torch.float64, device=device if device.type == "cuda" else "cpu")
    distributed.all_reduce(seen)
    return float(seen.item()) / distributed.get_world_size()


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
    return replace(own, normal=normal, b=b, scale=robust_scale(b))
