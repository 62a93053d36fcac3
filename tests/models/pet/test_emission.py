"""PET networks: the shared unrolled network with EM steps."""

from dataclasses import replace

import pytest
import torch

from koosh_models.baselines.pet import iterates, osem
from koosh_models.networks import Dims, build
from koosh_models.networks.consistency import Split
from koosh_models.networks.emission import EmissionStep, Strength
from koosh_models.physics.pet.projector import ordered_subsets
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.physics.problem import EmissionProblem
from koosh_models.simulation.pet import Acquisition, Measurement, measure, noise_free, problem_of
from koosh_models.simulation.tissue import procedural
from tests.models.problems import cartesian

SCANNERS = {"2d": Scanner(18, 24, 8.0), "3d": Scanner(9, 12, 16.0, n_rings=4, ring_mm=8.0, max_difference=2)}


def scan_of(name: str, n_subsets: int = 3, guided: bool = False) -> tuple[Measurement, EmissionProblem]:
    scanner = SCANNERS[name]
    geometry = natural(scanner, 24 if name == "2d" else 12)
    projectors = ordered_subsets(scanner, geometry, n_subsets, torch.empty(0, dtype=torch.float64))
    scan = measure(procedural("head", geometry, 3), projectors, Acquisition(1e5), 5)
    return scan, problem_of(scan, projectors, guided)


def dims(name: str, **change: object) -> Dims:
    base = Dims(
        ndim=2 if name == "2d" else 3, stages=4, features=4, layers=2, consistency="em", channels=1, start="ones"
    )
    return replace(base, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize("shared", [True, False])
def test_with_gamma_zero_the_network_is_osem_to_the_last_bit(name: str, shared: bool) -> None:
    torch.manual_seed(0)
    _, problem = scan_of(name)
    network = build(dims(name, gamma=0.0, shared=shared)).double()
    images = iterates(problem)
    for image in network.images(problem):
        assert torch.equal(image, next(images))


@pytest.mark.parametrize("name", SCANNERS)
def test_images_are_non_negative_and_finite_whatever_the_regularizer_says(name: str) -> None:
    torch.manual_seed(0)
    _, problem = scan_of(name)
    network = build(dims(name, gamma=3.0)).double()
    with torch.no_grad():
        for parameter in network.regularizers.parameters():
            parameter.mul_(20)
        for image in network.images(problem):
            assert bool(torch.isfinite(image).all())
            assert float(image.min()) >= 0


@pytest.mark.parametrize("truncated", [True, False])
def test_gradients_of_an_em_step_agree_with_differences(truncated: bool) -> None:
    _, problem = scan_of("2d")
    step = EmissionStep(1, Strength(0.5), truncated).double()
    x = (problem.flat() * 0.5 + 0.1).requires_grad_()
    pull = (problem.flat() * 0.3).requires_grad_()
    toward = torch.rand(problem.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = step(problem, x, pull)
    grads = torch.autograd.grad((out * toward).sum(), [x, pull, step.strength.raw])
    ratio = problem.ratio(x.detach(), step.subset(problem))

    def value(x: torch.Tensor, pull: torch.Tensor, raw: torch.Tensor) -> float:
        step.strength.raw.data = raw
        data = x * ratio if truncated else step.data(problem, x)
        return float((step.fuse(problem, data, pull) * toward).sum())

    at = [x.detach(), pull.detach(), step.strength.raw.detach().clone()]
    with torch.no_grad():
        for index, grad in enumerate(grads):
            along = torch.rand(at[index].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            ends = [[a + (s * 1e-5 * along if i == index else 0) for i, a in enumerate(at)] for s in (1, -1)]
            slope = (value(*ends[0]) - value(*ends[1])) / 2e-5
            assert abs(slope - float((grad * along).sum())) <= 1e-6 * abs(slope)


def test_the_em_part_of_a_step_is_apart_from_its_parameters() -> None:
    _, problem = scan_of("2d")
    step = EmissionStep(2, Strength(0.5)).double()
    assert isinstance(step, Split)
    x, pull = problem.flat(), problem.flat() * 0.3
    data = step.data(problem, x)
    assert not data.requires_grad
    assert torch.equal(step.fuse(problem, data, pull), step(problem, x, pull))


def test_steps_of_a_shared_network_take_the_subsets_in_turn_and_share_gamma() -> None:
    _, problem = scan_of("2d")
    network = build(dims("2d", shared=True, stages=6))
    steps = [stage.consistency for stage in network.stages]
    assert sorted(s.subset(problem) for s in steps[:3]) == [0, 1, 2]
    assert len({id(s.strength.raw) for s in steps}) == 1
    assert sum(p.numel() for p in network.parameters()) == 1 + sum(p.numel() for p in network.regularizers.parameters())


def test_targets_are_the_osem_images_of_the_noise_free_data() -> None:
    scanner = SCANNERS["2d"]
    projectors = ordered_subsets(scanner, natural(scanner, 24), 3)
    scan = measure(procedural("head", projectors[0].geometry, 3), projectors, Acquisition(1e5), 5)
    problem = problem_of(scan, projectors)
    targets = noise_free(scan, projectors, problem, 30)
    error = [float((t - scan.truth).norm() / scan.truth.norm()) for t in targets]
    noisy = float((osem(problem, 10) - scan.truth).norm() / scan.truth.norm())
    assert error[-1] < error[2] < error[0]
    assert error[-1] < noisy


def test_the_guide_reaches_the_network_and_a_missing_one_is_refused() -> None:
    torch.manual_seed(0)
    _, plain = scan_of("2d")
    _, guided = scan_of("2d", guided=True)
    network = build(dims("2d", guides=1)).double()
    assert not torch.equal(network(guided), network(replace(guided, guide=torch.zeros_like(guided.guide))))
    with pytest.raises(ValueError, match="guide channel"):
        network(plain)


def test_more_counts_of_the_same_patient_give_the_same_image_scaled() -> None:
    torch.manual_seed(0)
    _, problem = scan_of("2d")
    network = build(dims("2d", gamma=0.5)).double()
    louder = EmissionProblem(
        lambda x, subset: problem.ratio(x / 100, subset), problem.inverse_sensitivity, problem.scale * 100
    )
    # S (y / P x) does not change when y and x are both a hundred times larger
    torch.testing.assert_close(network(louder), network(problem) * 100)


def test_an_em_step_refuses_an_mri_problem() -> None:
    problem, _ = cartesian("2d")
    with pytest.raises(TypeError, match="EmissionProblem"):
        EmissionStep(0, Strength(1.0))(problem, problem.b, problem.b)
    with pytest.raises(ValueError, match="gamma"):
        Strength(-1.0)
