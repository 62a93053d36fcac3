"""The unrolled network over slices, volumes and cine."""

from dataclasses import replace

import pytest
import torch

from koosh_models.networks import Dims, build
from koosh_models.physics.problem import LinearProblem
from tests.models.problems import cartesian

KINDS = {
    "2d": Dims(ndim=2, stages=3, layers=3, features=6),
    "3d": Dims(ndim=3, stages=2, layers=2, features=4),
    "cine": Dims(ndim=3, stages=2, regularizer="spacetime", layers=2, features=4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consistency", ["gradient", "cg", "proximal"])
def test_every_stage_is_consistency_of_regularization(kind, consistency):
    torch.manual_seed(0)
    network = build(replace(KINDS[kind], consistency=consistency))
    problem, _ = cartesian(kind)
    x = network.start(problem)
    for stage in network.stages:
        x = stage.consistency(problem, x, stage.regularize(problem, x))
    assert torch.equal(network(problem), x)
    assert x.dtype == torch.complex64


@pytest.mark.parametrize("kind", KINDS)
def test_multiplying_the_measurement_multiplies_the_image(kind):
    torch.manual_seed(0)
    network = build(KINDS[kind])
    problem, _ = cartesian(kind)
    louder = LinearProblem(problem.normal, problem.b * 1e4, problem.scale * 1e4)
    with torch.no_grad():
        image, loud = network(problem), network(louder)
    assert (loud / 1e4 - image).norm() <= 1e-5 * image.norm()


def test_nothing_of_a_problem_reaches_the_weights_and_sharing_stores_one_set():
    torch.manual_seed(0)
    own, shared = build(KINDS["3d"]), build(replace(KINDS["3d"], shared=True))
    problem, _ = cartesian("3d")
    names = set(own.state_dict())
    own(problem)
    assert set(own.state_dict()) == names
    assert sum(p.numel() for p in own.parameters()) == 2 * sum(p.numel() for p in shared.parameters())
    assert shared.stage(0).regularizer is shared.stage(1).regularizer


def test_the_start_image_is_the_one_chosen():
    problem, _ = cartesian("2d")
    network = {name: build(replace(KINDS["2d"], start=name)) for name in ("zero", "adjoint", "cg")}
    misfit = {k: float((problem.normal(n.start(problem)) - problem.b).norm()) for k, n in network.items()}
    assert float(network["zero"].start(problem).abs().max()) == 0
    assert torch.equal(network["adjoint"].start(problem), problem.b)
    assert misfit["cg"] < misfit["adjoint"] < misfit["zero"]


def test_weights_saved_and_loaded_give_the_same_bits():
    torch.manual_seed(0)
    first, second = build(KINDS["2d"]), build(KINDS["2d"])
    problem, _ = cartesian("2d")
    assert not torch.equal(first(problem), second(problem))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(problem), second(problem))


def test_bfloat16_convolutions_stay_close_and_give_gradients():
    torch.manual_seed(0)
    network = build(KINDS["3d"])
    half = build(replace(KINDS["3d"], precision="bf16"))
    half.load_state_dict(network.state_dict())
    problem, truth = cartesian("3d")
    whole, fast = network(problem), half(problem)
    assert fast.dtype == torch.complex64
    assert 0 < (fast - whole).norm() < 1e-2 * whole.norm()
    (fast - truth).abs().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in half.parameters())


def test_conditioning_changes_the_image_once_it_has_learned():
    torch.manual_seed(0)
    network = build(replace(KINDS["2d"], traits=1))
    for regularizer in network.regularizers:
        for film in regularizer.films:
            torch.nn.init.normal_(film.map.weight)
    problem, _ = cartesian("2d")
    quiet, noisy = network(replace(problem, traits=(0.0,))), network(replace(problem, traits=(2.0,)))
    assert not torch.allclose(quiet, noisy)
    with pytest.raises(ValueError, match="brings 0 traits"):
        network(problem)


def test_an_image_smaller_than_the_reach_is_refused():
    problem, _ = cartesian("2d", shape=(9, 3))
    with pytest.raises(ValueError, match="receptive radius"):
        build(KINDS["2d"])(problem)


def test_an_image_of_other_axes_is_refused():
    problem, _ = cartesian("3d")
    with pytest.raises(ValueError, match="over 2 axes"):
        build(KINDS["2d"])(problem)


def test_a_guide_that_the_network_does_not_take_is_refused():
    problem, _ = cartesian("2d")
    with pytest.raises(ValueError, match="guide"):
        build(KINDS["2d"])(replace(problem, guide=torch.zeros(1, *problem.shape)))


def test_turning_the_phase_of_the_measurement_turns_that_of_an_upright_network_and_of_no_other():
    problem, _ = cartesian("3d")
    turn = torch.polar(torch.ones(()), torch.tensor(2.0))
    turned = LinearProblem(problem.normal, problem.b * turn, problem.scale)
    for upright in (True, False):
        torch.manual_seed(0)
        network = build(replace(KINDS["3d"], upright=upright))
        with torch.no_grad():
            image, other = network(problem), network(turned)
        off = float((other / turn - image).norm() / image.norm())
        assert off < 1e-5 if upright else off > 1e-3


def test_the_smooth_phase_is_found_below_noise_and_is_a_constant_to_the_network():
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij"))
    phase = 0.8 * grid[0] - 0.5 * grid[1] * grid[2]
    noise = 0.1 * torch.randn(24, 24, 24, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    b = torch.polar(torch.ones(24, 24, 24), phase) + noise
    found = LinearProblem(lambda x: x, b).phase
    inside = (slice(4, -4),) * 3
    assert float((found * torch.polar(torch.ones(()), -phase)).angle()[inside].abs().max()) < 0.1
    assert torch.allclose(found.abs(), torch.ones(24, 24, 24))


def test_early_stages_may_take_more_solver_steps():
    dims = Dims(stages=5, layers=2, features=4, cg_steps=2, cg_early=3)
    assert [step.steps for step in build(dims).steps] == dims.solver_steps == [3, 3, 2, 2, 2]
    assert replace(dims, cg_early=0).solver_steps == [2] * 5
    assert [step.steps for step in build(replace(dims, cg_early=0, shared=True)).steps] == [2]
    with pytest.raises(ValueError, match="share one step"):
        replace(dims, shared=True)
