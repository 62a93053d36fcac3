"""Tiled equals whole: image, gradients of image, weights and conditioning, for every regularizer."""

from dataclasses import replace

import pytest
import torch

from koosh_models.networks import Dims, tiles
from koosh_models.networks.stage import Stage
from koosh_models.networks.unrolled import Unrolled, build, regularizer
from tests.models.problems import SHAPES, cartesian
from tests.properties import random_complex

KINDS = {
    "2d": Dims(ndim=2, layers=3, features=6),
    "3d": Dims(ndim=3, layers=3, features=4),
    "unet2d": Dims(ndim=2, regularizer="unet", layers=1, features=4),
    "unet3d": Dims(ndim=3, regularizer="unet", layers=1, features=3),
    "upright3d": Dims(ndim=3, layers=3, features=4, upright=True),
    "cine": Dims(ndim=3, regularizer="spacetime", layers=2, features=4),
}
SIDES = {"below the halo": 2, "divides": 5, "does not": 4, "exceeds": 40}


def kind_of(name: str) -> str:
    return name.removeprefix("unet").removeprefix("upright")


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 8, 10), (9, 4, 7)])
@pytest.mark.parametrize("side", [1, 3, 5, 16, (2, 40, 3)])
@pytest.mark.parametrize("name", ["3d", "unet3d"])
def test_cores_tile_the_volume_once_and_start_on_the_grid(shape, side, name):
    made = regularizer(KINDS[name])
    seen = torch.zeros(shape, dtype=torch.int)
    for tile in tiles.plan(shape, side, made):
        seen[tile.core] += 1
        assert all(s.start % made.stride[0] == 0 for s in (*tile.core, *tile.outer))
        assert torch.zeros(shape)[tile.outer][tile.local].shape == seen[tile.core].shape
    assert (seen == 1).all()


def gradients(network: Unrolled, problem, x, side):
    stage = network.stage(0)
    x = x.clone().requires_grad_()
    condition = network.condition(problem)
    if side is None:
        out = stage.regularize(problem, x, condition)
    else:
        out = tiles.tiled(stage, problem, x, condition, tiles.plan(x.shape, side, stage.regularizer))
    loss = (out * random_complex(tuple(x.shape), 9, x.dtype)).real.sum() + out.abs().square().sum()
    weights = [*network.regularizers.parameters(), *_parameters(network.conditioning)]
    return [out, *torch.autograd.grad(loss, [x, *weights])]


def _parameters(module):
    return [] if module is None else list(module.parameters())


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("traits", [0, 2])
def test_tiled_equals_whole_in_double_precision(name, side, traits):
    torch.manual_seed(0)
    network = build(replace(KINDS[name], traits=traits, stages=1)).double()
    for film in network.regularizers[0].films or ():
        torch.nn.init.normal_(film.map.weight, std=0.3)
    problem, truth = cartesian(kind_of(name), dtype=torch.complex128)
    problem = replace(problem, traits=(0.3, -1.0)[:traits])
    for ours, wanted in zip(
        gradients(network, problem, truth, side), gradients(network, problem, truth, None), strict=True
    ):
        assert (ours - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("name", KINDS)
def test_tiled_equals_whole_in_single_precision(name, side):
    torch.manual_seed(0)
    network = build(replace(KINDS[name], stages=1))
    problem, truth = cartesian(kind_of(name))
    ours, wanted = gradients(network, problem, truth, side), gradients(network, problem, truth, None)
    assert (ours[0] - wanted[0]).abs().max() <= 1e-6 * wanted[0].abs().max()
    for a, b in zip(ours[1:], wanted[1:], strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_a_real_image_with_a_guide_is_tiled_exactly_too():
    torch.manual_seed(0)
    made = regularizer(replace(KINDS["3d"], channels=1, guides=1)).double()
    problem, _ = cartesian("3d", dtype=torch.complex128)
    shape = SHAPES["3d"]
    problem = replace(problem, guide=random_complex((1, *shape), 4, torch.complex128).real)
    stage = Stage(made, torch.nn.Identity())
    x = random_complex(shape, 5, torch.complex128).real
    whole = stage.regularize(problem, x)
    tiled = tiles.regularize(stage, problem, x, None, tiles.plan(shape, 4, made))
    assert not tiled.is_complex()
    assert (tiled - whole).norm() <= 1e-12 * whole.norm()


def test_autograd_holds_one_volume_for_a_tiled_regularizer():
    network = build(replace(KINDS["3d"], stages=1))
    problem, truth = cartesian("3d")
    stage, held = network.stage(0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        tiles.tiled(stage, problem, truth, None, tiles.plan(truth.shape, 4, stage.regularizer))
    assert [t.data_ptr() for t in held] == [truth.data_ptr()]


def test_the_tile_fills_the_budget_and_no_more():
    made = regularizer(KINDS["3d"])
    budget = 400_000
    side = tiles.side_for((40, 40, 40), made, budget)

    def needs(s):
        return tiles.largest(tiles.plan((40, 40, 40), s, made)) * made.activations * 4

    assert needs(side) <= budget < needs(side + 1)


def test_a_budget_below_the_smallest_tile_is_refused_with_what_it_needs():
    with pytest.raises(ValueError, match="too small for any tile"):
        tiles.side_for((40, 40, 40), regularizer(KINDS["3d"]), 1000)


def test_inference_uses_the_same_tiles_and_gives_the_same_image():
    torch.manual_seed(0)
    network = build(replace(KINDS["3d"], stages=2)).double()
    problem, _ = cartesian("3d", dtype=torch.complex128)
    with torch.no_grad():
        whole = network(problem)
        assert (network(problem, tile=5) - whole).norm() <= 1e-10 * whole.norm()
