"""Two ranks: the same weights as one rank that does all the work, whether volumes or coils are spread."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from koosh_models.networks.unrolled import build
from koosh_models.strategies.meter import Meter
from koosh_models.training import checkpoint, distributed
from koosh_models.training.cases import draw
from koosh_models.training.distributed import Ranks
from koosh_models.training.journal import rows
from koosh_models.training.loop import Run
from koosh_models.training.plan import parts
from tests.models.training.small import recipe
from tests.system.slurm import free_ports

CPU = torch.device("cpu")
Work = Callable[[int, Path, tuple[str, ...]], None]


def rank_of_two(rank: int, port: int, work: Work, folder: str, changes: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        work(rank, Path(folder), changes)
    finally:
        distributed.leave()


def in_two_ranks(work: Work, folder: Path, *changes: str) -> None:
    """Call `work(rank, folder, changes)` in two processes that know each other."""
    assert "tests" in sys.modules
    arguments = (free_ports(1)[0], work, str(folder), changes)
    multiprocessing.start_processes(rank_of_two, arguments, nprocs=2, start_method="spawn")


def trains(rank: int, folder: Path, changes: tuple[str, ...]) -> None:
    Run(recipe(*changes), folder, folder.parent / "cases", Ranks(rank, 2, rank), CPU).train()


def two_ranks(folder: Path, *changes: str) -> checkpoint.State:
    """The final state of a run of two ranks."""
    in_two_ranks(trains, folder, *changes)
    return checkpoint.newest(folder / "checkpoints")


def one_rank(folder: Path, *changes: str) -> checkpoint.State:
    run = Run(recipe(*changes), folder, folder.parent / "cases", Ranks(), CPU)
    run.train()
    return checkpoint.newest(folder / "checkpoints")


def apart(a: checkpoint.State, b: checkpoint.State) -> float:
    """Of all weights together: one voxel that rounding moves over a kink moves a bias near zero by 1e-4 of itself."""
    first, second = (torch.cat([state.network[k].flatten() for k in a.network]) for state in (a, b))
    return float((first - second).norm() / first.norm())


@pytest.mark.slow
def test_volumes_over_two_ranks_give_the_weights_of_one_rank_that_accumulates(tmp_path):
    alone = one_rank(tmp_path / "one", "training.accumulate=2")
    spread = two_ranks(tmp_path / "two", "training.accumulate=1")
    assert spread.step == alone.step
    assert apart(alone, spread) < 1e-5


@pytest.mark.slow
def test_coils_over_two_ranks_give_the_weights_of_one_rank(tmp_path):
    changes = ("training.accumulate=1", "data.coils=[3, 4]")
    alone = one_rank(tmp_path / "one", *changes)
    spread = two_ranks(tmp_path / "two", *changes, 'training.share="coils"')
    assert spread.step == alone.step
    assert apart(alone, spread) < 1e-5


LARGE = ("data.coils=[4, 4]", "data.matrix=[[32, 32, 32]]", "network.stages=4", "training.memory_mb=12")


def step_of_a_large_volume(rank: int, folder: Path, changes: tuple[str, ...]) -> None:
    """One step of every strategy that has tiles, divided and not: gradients, and what autograd held."""
    case = draw(recipe(*changes).data, "training", 0).inside()
    whole, part = case.problem(), distributed.joined(case.share(rank, 2).problem())
    off, held = {}, {}
    for name in ("blockwise", "invertible"):
        found = recipe(*changes, f"phases.1.strategy={name}", "phases.1.options={}", "network.cg_tolerance=1e-7")
        grads, peaks = [], []
        for problem in (whole, part):
            torch.manual_seed(0)
            network, strategy = build(replace(found.network, lam=4.0)), parts(found)[-1].strategy
            with Meter(CPU, tuple(network.parameters())) as meter:
                strategy.step(network, problem, case.target)
            assert meter.peak == pytest.approx(strategy.memory(network, problem), rel=0.05)
            grads.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
            peaks.append(meter.peak)
        off[name], held[name] = float((grads[0] - grads[1]).norm() / grads[0].norm()), peaks[1] / peaks[0]
    (folder / f"{rank}.json").write_text(json.dumps([off, held]))


@pytest.mark.slow
def test_ranks_that_share_a_volume_share_its_tiles_and_get_the_undivided_gradient(tmp_path):
    in_two_ranks(step_of_a_large_volume, tmp_path, *LARGE)
    for rank in range(2):
        off, held = json.loads((tmp_path / f"{rank}.json").read_text())
        assert off["blockwise"] < 1e-5
        assert off["invertible"] < 1e-4  # its inputs are recomputed, to a tolerance of 3e-5
        assert held["blockwise"] <= 0.6


def trains_and_is_stopped(rank: int, folder: Path, changes: tuple[str, ...]) -> None:
    """A pipeline that one rank is asked to stop in the middle of, and that goes on from its checkpoint."""
    first = Run(recipe(*changes), folder, folder.parent / "cases", Ranks(rank, 2, rank), CPU)

    def interrupt(step: int, loss: float) -> None:
        if rank == 1 and step == 1:
            first.stop(signal.SIGTERM, None)

    outcome = first.train(interrupt)
    assert outcome.stopped
    assert 1 < outcome.step < 10
    again = Run(recipe(*changes), folder, folder.parent / "cases", Ranks(rank, 2, rank), CPU)
    again.resume(checkpoint.newest(again.saves, again.print))
    assert again.step == outcome.step
    again.train()


@pytest.mark.slow
def test_a_pipeline_ends_with_the_weights_of_greedy_to_the_bit_stopped_or_not(tmp_path):
    common = ("phases.0.steps=10", "phases.0.options={ modules = 2 }", "phases.1.steps=1", "phases.1.strategy=greedy")
    wanted = one_rank(tmp_path / "one", "phases.0.strategy=greedy", *common, "phases.1.options={}")
    last = ('phases.1.strategy="pipelined"', "phases.1.options={}")
    in_two_ranks(trains_and_is_stopped, tmp_path / "two", "phases.0.strategy=pipelined", *common, *last)
    found = checkpoint.newest(tmp_path / "two" / "checkpoints")
    for ours, theirs in ((found.network, wanted.network), (found.mean, wanted.mean)):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert found.optimizers.keys() == wanted.optimizers.keys()
    assert all(torch.equal(found.optimizers[k], v) for k, v in wanted.optimizers.items())
    lines = [[r[k] for k in ("step", "loss")] for r in rows(tmp_path / "two" / "log.csv") if r["phase"] != "validation"]
    alone = [[r[k] for k in ("step", "loss")] for r in rows(tmp_path / "one" / "log.csv") if r["phase"] != "validation"]
    assert lines == alone


def test_a_pipeline_of_one_rank_says_how_to_get_more(tmp_path):
    with pytest.raises(ValueError, match="start more with torchrun"):
        Run(recipe("phases.0.strategy=pipelined"), tmp_path, None, Ranks(), CPU)


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
