"""Every exact strategy gives the gradient of ordinary backpropagation, whatever the image and the consistency step."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from koosh_models.losses import Objective, relative_l1
from koosh_models.networks import Dims, build, spectral
from koosh_models.networks.unrolled import Unrolled, regularizer
from koosh_models.strategies import Backprop, Blockwise, Checkpoint, Invertible
from tests.models.problems import cartesian

KINDS = {
    "2d": Dims(ndim=2, stages=3, layers=3, features=6, lam=0.5, cg_tolerance=1e-12, cg_steps=60),
    "3d": Dims(ndim=3, stages=3, layers=2, features=4, lam=0.5, cg_tolerance=1e-12, cg_steps=60),
    "cine": Dims(
        ndim=3, stages=3, regularizer="spacetime", layers=2, features=4, lam=0.5, cg_tolerance=1e-12, cg_steps=60
    ),
}
PLAIN = Objective()
EXACT = {
    "checkpoint": lambda objective: Checkpoint(objective),
    "tiles that divide": lambda objective: Blockwise(tile=5, objective=objective),
    "tiles that don't": lambda objective: Blockwise(tile=4, objective=objective),
    "tiles that exceed": lambda objective: Blockwise(tile=99, objective=objective),
    "tile from budget": lambda objective: Blockwise(budget=200_000, objective=objective),
    "host": lambda objective: Blockwise(tile=(3, 6, 5), boundaries="host", objective=objective),
}


def grads(strategy, network, problem, target) -> torch.Tensor:
    network.zero_grad()
    strategy.step(network, problem, target)
    assert all(p.grad is not None for p in network.parameters())
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def strategy_for(name, dims, objective=PLAIN):
    if name == "host" and dims.ndim == 2:
        return Blockwise(tile=(6, 5), boundaries="host", objective=objective)
    return EXACT[name](objective)


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consistency", ["gradient", "cg", "proximal"])
def test_gradient_equals_backpropagation(name, kind, consistency):
    torch.manual_seed(0)
    dims = replace(KINDS[kind], consistency=consistency)
    network = build(dims)
    problem, truth = cartesian(kind)
    want = grads(Backprop(), network, problem, truth)
    assert distance(grads(strategy_for(name, dims), network, problem, truth), want) <= 1e-5


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "options", [{}, {"shared": True}, {"traits": 2}, {"regularizer": "unet", "layers": 1, "features": 2}]
)
def test_gradient_equals_backpropagation_in_double_precision(name, options):
    torch.manual_seed(0)
    dims = replace(KINDS["3d"], **options)
    network = build(dims).double()
    problem, truth = cartesian("3d", dtype=torch.complex128)
    problem = replace(problem, traits=(0.5, -0.3)[: dims.traits])
    want = grads(Backprop(), network, problem, truth)
    assert distance(grads(strategy_for(name, dims), network, problem, truth), want) <= 1e-10


@pytest.mark.parametrize("name", EXACT)
def test_losses_on_every_image_give_the_same_gradient_too(name):
    torch.manual_seed(0)
    objective = Objective(relative_l1, every=0.7)
    network = build(KINDS["2d"]).double()
    problem, truth = cartesian("2d", dtype=torch.complex128)

    def series(k):
        return truth * (k / 3)

    want = grads(Backprop(objective), network, problem, series)
    assert distance(grads(strategy_for(name, KINDS["2d"], objective), network, problem, series), want) <= 1e-10


class Fused(nn.Module):
    """A consistency step that is not linear in its images and knows no hand-written backward."""

    kind = "fused"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, problem, x, regularized):
        return (problem.b + self.weight * regularized * regularized.abs() + x.abs() * x) / (1 + self.weight)


@pytest.mark.parametrize("name", EXACT)
def test_a_step_without_hand_written_backward_works_in_every_exact_strategy(name):
    torch.manual_seed(0)
    dims = KINDS["2d"]
    network = Unrolled(dims, [regularizer(dims) for _ in range(3)], [Fused()]).double()
    problem, truth = cartesian("2d", dtype=torch.complex128)
    want = grads(Backprop(), network, problem, truth)
    assert distance(grads(strategy_for(name, dims), network, problem, truth), want) <= 1e-10


def test_a_truncated_gradient_is_that_of_its_stages_alone():
    torch.manual_seed(0)
    network = build(KINDS["2d"]).double()
    problem, truth = cartesian("2d", dtype=torch.complex128)
    Backprop(last=1).step(network, problem, truth)
    own = torch.cat([p.grad.flatten() for p in network.stage(2).parameters()])
    assert all(p.grad is None for k in (0, 1) for p in network.stage(k).parameters())
    network.zero_grad()
    Backprop().step(network, problem, truth)
    whole = torch.cat([p.grad.flatten() for p in network.stage(2).parameters()])
    assert distance(own, whole) <= 1e-12
    assert Backprop(last=1).phases(network) == [network.stage(2).parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_invertible_gradient_agrees_at_ten_stages(kind):
    torch.manual_seed(0)
    network = build(replace(KINDS[kind], stages=10, lam=3.0, cg_tolerance=1e-7))
    problem, truth = cartesian(kind)
    strategy = Invertible()
    ours = grads(strategy, network, problem, truth)
    want = grads(Backprop(), network, problem, truth)
    assert distance(ours, want) <= 1e-3
    assert float(torch.dot(ours, want) / ours.norm() / want.norm()) >= 0.9999
    assert strategy.kept == ()


def test_the_invertible_gradient_is_exact_on_tiles_too():
    torch.manual_seed(0)
    network = build(replace(KINDS["3d"], lam=1.0)).double()
    problem, truth = cartesian("3d", dtype=torch.complex128)
    ours = grads(Invertible(tile=5), network, problem, truth)
    assert distance(ours, grads(Backprop(), network, problem, truth)) <= 1e-8


def test_the_guard_keeps_boundaries_whose_inversion_is_broken():
    torch.manual_seed(0)
    network = build(replace(KINDS["2d"], stages=6, lam=0.05, cg_steps=8, cg_tolerance=1e-12))
    problem, truth = cartesian("2d")
    guarded, blind = Invertible(), Invertible(tolerance=float("inf"))
    ours = grads(guarded, network, problem, truth)
    want = grads(Backprop(), network, problem, truth)
    assert len(guarded.kept) > 0
    assert distance(ours, want) <= 1e-3
    assert distance(grads(blind, network, problem, truth), want) > 10 * distance(ours, want)


@pytest.mark.parametrize(("kind", "layers"), [("cnn", 2), ("unet", 1)])
def test_residuals_that_stretch_are_scaled_down_until_they_can_be_run_backwards(kind, layers):
    torch.manual_seed(0)
    network = build(replace(KINDS["2d"], regularizer=kind, layers=layers, stages=3, lam=3.0, cg_tolerance=1e-7))
    problem, truth = cartesian("2d")
    with torch.no_grad():
        spectral.scale(network.regularizers[1], 40)
    strategy, kept = Invertible(), []
    for _ in range(6):
        strategy.step(network, problem, truth)
        kept.append(strategy.kept)
    assert 1 in kept[0]
    assert kept[-1] == ()
    weights = [p.clone() for p in network.parameters()]
    strategy.step(network, problem, truth)
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
