"""Two ranks: the same weights as one rank that does all the work, whether volumes or coils are spread."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from koosh_models.training import checkpoint, distributed
from koosh_models.training.cases import draw
from koosh_models.training.distributed import Ranks
from koosh_models.training.loop import Run
from tests.models.training.small import recipe
from tests.system.slurm import free_ports

CPU = torch.device("cpu")


def rank_of_two(rank: int, port: int, folder: str, changes: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        Run(recipe(*changes), Path(folder), Path(folder).parent / "cases", Ranks(rank, 2, rank), CPU).train()
    finally:
        distributed.leave()


def two_ranks(folder: Path, *changes: str) -> checkpoint.State:
    """The final state of a run of two ranks."""
    assert "tests" in sys.modules
    multiprocessing.start_processes(
        rank_of_two, (free_ports(1)[0], str(folder), changes), nprocs=2, start_method="spawn"
    )
    return checkpoint.newest(folder / "checkpoints")


def one_rank(folder: Path, *changes: str) -> checkpoint.State:
    run = Run(recipe(*changes), folder, folder.parent / "cases", Ranks(), CPU)
    run.train()
    return checkpoint.newest(folder / "checkpoints")


def apart(a: checkpoint.State, b: checkpoint.State) -> float:
    return max(float((a.network[k] - b.network[k]).norm() / a.network[k].norm().clamp_min(1e-6)) for k in a.network)


@pytest.mark.slow
def test_volumes_over_two_ranks_give_the_weights_of_one_rank_that_accumulates(tmp_path):
    alone = one_rank(tmp_path / "one", "training.accumulate=2")
    spread = two_ranks(tmp_path / "two", "training.accumulate=1")
    assert spread.step == alone.step
    assert apart(alone, spread) < 1e-4


@pytest.mark.slow
def test_coils_over_two_ranks_give_the_weights_of_one_rank(tmp_path):
    changes = ("training.accumulate=1", "data.coils=[3, 4]")
    alone = one_rank(tmp_path / "one", *changes)
    spread = two_ranks(tmp_path / "two", *changes, 'training.share="coils"')
    assert spread.step == alone.step
    assert apart(alone, spread) < 1e-4


def test_shares_of_the_coils_add_up_to_the_measurement():
    case = draw(recipe("data.coils=[3, 3]").data, "training", 0)
    whole, parts = case.problem(), [case.share(rank, 2).problem() for rank in range(2)]
    assert torch.allclose(sum(p.b for p in parts), whole.b, atol=1e-5 * float(whole.b.abs().max()))
    x = case.target
    both = sum(p.normal(x) for p in parts)
    assert float((both - whole.normal(x)).norm() / both.norm()) < 1e-5


def test_more_ranks_than_coils_are_refused():
    case = draw(recipe("data.coils=[2, 2]").data, "training", 0)
    with pytest.raises(ValueError, match="2 coils can't be split over 3 ranks"):
        case.share(0, 3)
