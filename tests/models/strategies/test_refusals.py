"""What a strategy can't do, it refuses in words."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from koosh_models.losses import NonFiniteLossError, Objective
from koosh_models.networks import Dims, build
from koosh_models.networks.consistency import ConjugateGradient
from koosh_models.networks.spectral import bounds, convolution_bound, project
from koosh_models.networks.unrolled import Unrolled, regularizer
from koosh_models.strategies import Backprop, Blockwise, Checkpoint, Equilibrium, Greedy, Invertible, Sequential
from tests.models.problems import cartesian

DIMS = Dims(ndim=2, stages=2, layers=3, features=6)


@pytest.mark.parametrize("kind", ["gradient", "proximal"])
def test_invertible_training_names_the_step_that_it_needs(kind):
    problem, truth = cartesian("2d")
    with pytest.raises(TypeError, match=f"cg, not {kind}"):
        Invertible().step(build(replace(DIMS, consistency=kind)), problem, truth)


@pytest.mark.parametrize("strategy", [Greedy(2), Sequential()], ids=["greedy", "sequential"])
def test_training_stages_apart_refuses_shared_weights(strategy):
    with pytest.raises(ValueError, match="shared=False"):
        strategy.phases(build(replace(DIMS, shared=True)))


@pytest.mark.parametrize("strategy", [Greedy(2), Sequential()], ids=["greedy", "sequential"])
def test_one_consistency_step_for_all_counts_as_shared_weights(strategy):
    network = Unrolled(DIMS, [regularizer(DIMS), regularizer(DIMS)], [ConjugateGradient()])
    with pytest.raises(ValueError, match="shared=False"):
        strategy.phases(network)


def test_equilibrium_refuses_stages_of_their_own():
    problem, truth = cartesian("2d")
    with pytest.raises(ValueError, match="shared=True"):
        Equilibrium().step(build(DIMS), problem, truth)


def test_more_modules_than_stages_are_refused():
    with pytest.raises(ValueError, match="3 modules for 2 stages"):
        Greedy(3).phases(build(DIMS))


def test_a_tile_larger_than_its_budget_is_refused():
    problem, truth = cartesian("2d")
    with pytest.raises(ValueError, match="the budget is 1000"):
        Blockwise(tile=8, budget=1000).step(build(DIMS), problem, truth)


@pytest.mark.parametrize(
    "strategy", [Backprop(), Checkpoint(), Blockwise(), Invertible(), Greedy(2), Sequential()], ids=str
)
def test_a_loss_that_is_not_finite_stops_by_name_and_leaves_no_gradient(strategy):
    network = build(DIMS)
    problem, truth = cartesian("2d")
    with pytest.raises(NonFiniteLossError, match=r"'knee 7' is nan.*last good weights"):
        strategy.step(network, replace(problem, name="knee 7"), truth * math.nan)
    assert all(p.grad is None for p in network.parameters())


def test_invertible_training_refuses_losses_on_images_it_does_not_keep():
    problem, truth = cartesian("2d")
    with pytest.raises(ValueError, match="every=0"):
        Invertible(objective=Objective(every=1.0)).step(build(DIMS), problem, truth)


def test_invertible_training_logs_how_many_images_it_kept(caplog):
    problem, truth = cartesian("2d")
    with caplog.at_level(logging.INFO):
        Invertible().step(build(replace(DIMS, lam=1.0)), problem, truth)
    assert "kept 0 of 2" in caplog.text


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 2, 3, 3, 3), (3, 4, 1, 3, 3)])
def test_the_bound_of_a_convolution_holds_and_is_not_slack(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    sides = (9, 8, 10)[: len(shape) - 2]
    convolve = torch.nn.functional.conv2d if len(sides) == 2 else torch.nn.functional.conv3d
    padding = tuple(k // 2 for k in shape[2:])
    x = torch.randn(1, shape[1], *sides, dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        (back,) = torch.autograd.grad(convolve(x, weight, padding=padding).square().sum() / 2, x)
        x = (back / back.norm()).detach().requires_grad_()
    norm = float(convolve(x.detach(), weight, padding=padding).norm())
    assert norm <= convolution_bound(weight) <= 1.4 * norm


def test_projection_bounds_how_far_a_residual_stretches():
    torch.manual_seed(0)
    made = regularizer(DIMS)
    for layer in made.layers:
        layer.weight.data.mul_(3)
    assert project(made, 0.9) == 0.9
    assert math.prod(bounds(made)) == pytest.approx(0.9, rel=1e-4)
    a, b = torch.randn(2, 14, 11), torch.randn(2, 14, 11)
    assert (made(a) - made(b)).norm() <= 0.9 * (a - b).norm()
    weights = made.layers[0].weight.clone()
    assert project(made, 2.0) == pytest.approx(0.9, rel=1e-4)
    assert torch.equal(made.layers[0].weight, weights)


def test_a_bound_is_refused_where_none_is_known():
    with pytest.raises(ValueError, match="not for Unet"):
        bounds(regularizer(replace(DIMS, regularizer="unet", layers=1)))
