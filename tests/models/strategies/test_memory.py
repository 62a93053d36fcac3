"""Each strategy holds what its formula says, and no more."""

from dataclasses import replace

import pytest
import torch

from koosh_models.networks import Dims, build
from koosh_models.strategies import Backprop, Blockwise, Checkpoint, Equilibrium, Greedy, Invertible, Sequential
from koosh_models.strategies.meter import Meter
from koosh_models.strategies.strategy import volume
from tests.models.problems import cartesian

KINDS = {
    "2d": Dims(ndim=2, stages=6, layers=4, features=8, lam=1.0, cg_tolerance=1e-7),
    "3d": Dims(ndim=3, stages=4, layers=3, features=6, lam=1.0, cg_tolerance=1e-7),
    "cine": Dims(ndim=3, stages=4, regularizer="spacetime", layers=2, features=4, lam=1.0, cg_tolerance=1e-7),
}
SHAPES = {"2d": (40, 38), "3d": (16, 18, 17), "cine": (8, 22, 24)}
STRATEGIES = {
    "backprop": lambda: Backprop(),
    "truncated": lambda: Backprop(last=2),
    "checkpoint": lambda: Checkpoint(),
    "blockwise": lambda: Blockwise(tile=8),
    "blockwise, host": lambda: Blockwise(tile=8, boundaries="host"),
    "invertible": lambda: Invertible(bound="proven"),
    "greedy": lambda: Greedy(2),
    "sequential": lambda: Sequential(stage=1),
}


def peak(strategy, network, problem, truth) -> int:
    with Meter(problem.device, tuple(network.parameters())) as meter:
        strategy.step(network, problem, truth)
    assert meter.held == 0
    return meter.peak


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consistency", ["gradient", "cg", "proximal"])
def test_a_step_holds_what_the_formula_says(name, kind, consistency):
    if name == "invertible" and consistency != "cg":
        consistency = "cg"
    torch.manual_seed(0)
    network = build(replace(KINDS[kind], consistency=consistency))
    problem, truth = cartesian(kind, shape=SHAPES[kind])
    strategy = STRATEGIES[name]()
    seen = peak(strategy, network, problem, truth)
    assert seen == pytest.approx(strategy.memory(network, problem), rel=0.02)


def test_equilibrium_holds_one_stage_whatever_it_ran():
    network = build(replace(KINDS["2d"], shared=True))
    problem, truth = cartesian("2d", shape=SHAPES["2d"])
    strategy = Equilibrium(limit=12, tolerance=0.0)
    seen = peak(strategy, network, problem, truth)
    assert strategy.run == 12
    assert seen == pytest.approx(strategy.memory(network, problem), rel=0.02)


@pytest.mark.parametrize("name", ["backprop", "blockwise"])
def test_half_precision_halves_the_graph(name):
    problem, truth = cartesian("3d", shape=SHAPES["3d"])
    network = build(replace(KINDS["3d"], precision="bf16"))
    seen = peak(STRATEGIES[name](), network, problem, truth)
    assert seen == pytest.approx(STRATEGIES[name]().memory(network, problem), rel=0.1)


@pytest.mark.parametrize(
    ("name", "grows"), [("blockwise", 1), ("checkpoint", 1), ("blockwise, host", 0), ("invertible", 0)]
)
def test_more_stages_cost_one_volume_each_or_nothing(name, grows):
    problem, truth = cartesian("2d", shape=SHAPES["2d"])
    seen, kept = {}, []
    for stages in (5, 20):
        torch.manual_seed(0)
        network = build(replace(KINDS["2d"], stages=stages, lam=8.0))
        strategy = STRATEGIES[name]()
        seen[stages] = peak(strategy, network, problem, truth)
        kept += getattr(strategy, "kept", ())
    extra = 15 * grows * volume(network, problem)
    assert not kept
    assert seen[20] - seen[5] == pytest.approx(extra, abs=0.05 * seen[5])


def test_the_meter_counts_a_storage_once_while_it_is_held():
    x = torch.ones(1000, requires_grad=True)
    with Meter() as meter:
        y = (x * x).exp()
        assert meter.held == 8000
        y.sum().backward()
    assert meter.held == 0
    assert meter.peak == 8000
