from itertools import islice, pairwise

import pytest
import torch

from koosh_models.baselines.pet import iterates, map_em, map_iterates, osem, smoothed
from koosh_models.physics.pet.emission import Poisson, data_term, emission_problem, expected, responses
from koosh_models.physics.pet.prior import Neighbours, access_order, bowsher, fuse, quadratic, relative
from koosh_models.physics.pet.projector import ordered_subsets
from koosh_models.physics.pet.psf import Gaussian
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.physics.problem import EmissionProblem

DOUBLE = torch.empty(0, dtype=torch.float64)
SCANNER = Scanner(12, 20, 4.0)
GRID = natural(SCANNER, 20)


def disc() -> torch.Tensor:
    place = torch.arange(20, dtype=torch.float64) - 9.5
    inside = (place[:, None].square() + place.square()) < 60
    hot = ((place[:, None] - 3).square() + (place + 2).square()) < 6
    return inside.double() + 2 * hot.double()


def measured(n_subsets: int = 1, noisy: bool = True, background: float = 2.0) -> tuple[Poisson, EmissionProblem]:
    generator = torch.Generator().manual_seed(1)
    projectors = ordered_subsets(SCANNER, GRID, n_subsets, DOUBLE)
    factor = 0.5 + torch.rand(SCANNER.sinogram(2), dtype=torch.float64, generator=generator) / 2
    model = responses(projectors, Gaussian((6.0, 6.0), GRID.voxel_mm), factor)
    mean = expected(model, disc()) + background
    counts = torch.poisson(mean, generator=generator) if noisy else mean
    return data_term(model, counts, background), emission_problem(model, counts, background)


def test_mlem_never_lowers_the_likelihood_and_stays_non_negative() -> None:
    term, problem = measured()
    images = [problem.flat(), *islice(iterates(problem), 25)]
    values = [term.log_likelihood(x) for x in images]
    assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(values))
    assert all(float(x.min()) >= 0 for x in images)


def test_mlem_keeps_the_counts_without_background() -> None:
    term, problem = measured(background=0.0)
    x = osem(problem, 3)
    torch.testing.assert_close(expected(term.model, x).sum(), sum(c.sum() for c in term.counts))


def test_noise_free_mlem_comes_to_explain_the_data() -> None:
    term, problem = measured(noisy=False)

    def misfit(x: torch.Tensor) -> float:
        return float((expected(term.model, x) + 2 - term.counts[0]).norm() / term.counts[0].norm())

    assert misfit(osem(problem, 200)) < 0.1 * misfit(osem(problem, 5))


def test_the_truth_is_a_fixed_point_of_every_subset_without_noise() -> None:
    _, problem = measured(5, noisy=False)
    truth = disc() * problem.support
    for subset in range(5):
        torch.testing.assert_close(problem.em(truth, subset), truth, rtol=1e-9, atol=1e-9)


def test_osem_runs_ahead_of_mlem() -> None:
    _, one = measured(1)
    term, five = measured(5)
    assert term.log_likelihood(osem(five, 1)) > term.log_likelihood(osem(one, 3))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12, 13])
def test_the_access_order_visits_every_subset_once(n: int) -> None:
    assert sorted(access_order(n)) == list(range(n))


@pytest.mark.parametrize("kind", ["quadratic", "bowsher"])
def test_map_em_never_lowers_the_penalized_likelihood(kind: str) -> None:
    term, problem = measured()
    prior = quadratic((20, 20), GRID.voxel_mm, disc()) if kind == "quadratic" else bowsher(disc()[None], GRID.voxel_mm)
    strength = 0.2
    beta = strength * relative(problem, 0)
    images = [problem.flat(), *islice(map_iterates(problem, prior, strength), 20)]
    values = [term.log_likelihood(x) - beta * prior.energy(x) for x in images]
    assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(values))


def test_map_em_without_a_prior_is_osem_to_the_last_bit() -> None:
    _, problem = measured(3)
    assert torch.equal(map_em(problem, quadratic((20, 20), GRID.voxel_mm, disc()), 0.0, 2), osem(problem, 2))


def test_a_strong_prior_gives_a_smoother_image() -> None:
    _, problem = measured(3)
    prior = quadratic((20, 20), GRID.voxel_mm, disc())
    rough = [prior.energy(map_em(problem, prior, s, 10)) for s in (0.0, 0.1, 1.0)]
    assert rough[0] > rough[1] > rough[2]


def test_bowsher_leaves_an_edge_of_the_guide_that_a_quadratic_prior_blurs() -> None:
    guide = torch.zeros(1, 20, 20, dtype=torch.float64)
    guide[..., 10:] = 1.0
    step = 1 + guide[0]
    assert bowsher(guide, (1.0, 1.0), 3).energy(step) == 0
    assert quadratic((20, 20), (1.0, 1.0), step).energy(step) > 1


@pytest.mark.parametrize("shape", [(7, 6), (4, 5, 6)])
def test_weights_of_both_priors_are_symmetric(shape: tuple[int, ...]) -> None:
    guide = torch.rand((2, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for prior in (quadratic(shape, (2.0,) * len(shape), guide), bowsher(guide, (2.0,) * len(shape))):
        x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (grad,) = torch.autograd.grad(energy(prior, x), x)
        # with symmetric weights the surrogate touches the prior: both slopes agree at the current image
        torch.testing.assert_close(grad, 2 * prior.total * (x - prior.middle(x)).detach())


def energy(prior: Neighbours, x: torch.Tensor) -> torch.Tensor:
    """The prior's value as a pair sum that autograd can see."""
    total = x.new_zeros(())
    for offset, weight in zip(prior.offsets, prior.weights, strict=True):
        rolled = torch.roll(x, [-o for o in offset], dims=tuple(range(x.ndim)))
        total = total + (weight * (x - rolled).square()).sum() / 4
    return total


def test_the_fused_image_makes_the_penalized_em_surrogate_stationary() -> None:
    generator = torch.Generator().manual_seed(3)
    em, pull, weight = (torch.rand(500, dtype=torch.float64, generator=generator) * s for s in (3.0, 4.0, 10.0))
    x = fuse(em, pull, weight, torch.ones(()).double())
    assert float(x.min()) > 0
    residual = weight * x.square() + (1 - weight * pull) * x - em
    assert float(residual.abs().max()) < 1e-12


def test_fusing_copes_with_empty_negative_and_extreme_voxels() -> None:
    em = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-20, 1.0])
    pull = torch.tensor([5.0, -5.0, -5.0, 5.0, 1.0, 1.0])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1e8])
    pull.requires_grad_()
    x = fuse(em, pull, weight, torch.ones(()))
    (grad,) = torch.autograd.grad(x.sum(), pull)
    x = x.detach()
    assert bool(torch.isfinite(x).all())
    assert bool(torch.isfinite(grad).all())
    assert float(x.min()) >= 0
    assert float(x[3]) == 1.0
    assert abs(float(x[5]) - 1) < 1e-5


def test_the_fused_images_implicit_gradient_is_that_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(4)
    em, pull, inverse = (
        torch.rand(30, dtype=torch.float64, generator=generator).requires_grad_(i < 2) for i in range(3)
    )
    strength = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    image = torch.rand(30, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda e, p, g: fuse(e, p, inverse, g), (em, pull, strength))
    assert torch.autograd.gradcheck(lambda e, p, g: fuse(e, p, inverse, g), (em, pull, image))


def test_smoothing_keeps_the_activity() -> None:
    torch.testing.assert_close(smoothed(disc(), 5.0, (4.0, 4.0)).sum(), disc().sum(), rtol=1e-3, atol=0)
    assert smoothed(disc(), 0.0, (4.0, 4.0)).equal(disc())


def test_voxels_that_nothing_sees_stay_zero_and_those_of_other_subsets_keep_their_value() -> None:
    projectors = ordered_subsets(Scanner(2, 3, 4.0), natural(Scanner(2, 3, 4.0), 9, 36.0), 2, DOUBLE)
    model = responses(projectors)
    counts = torch.ones(Scanner(2, 3, 4.0).sinogram(2), dtype=torch.float64)
    problem = emission_problem(model, counts)
    x = osem(problem, 2)
    assert bool(torch.isfinite(x).all())
    assert float(x[~problem.support].abs().max()) == 0
    other = (problem.inverse_sensitivity[0] == 0) & problem.support
    assert bool(other.any())
    start = problem.flat()
    assert torch.equal(problem.em(start, 0)[other], start[other])


def test_lines_without_counts_or_expectation_do_no_harm() -> None:
    term, _ = measured(3)
    model = tuple(term.model)
    counts = torch.zeros(SCANNER.sinogram(2), dtype=torch.float64)
    counts[0, 10] = 4.0
    x = osem(emission_problem(model, counts), 4)
    assert bool(torch.isfinite(x).all())
    assert float(x.min()) >= 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (-torch.ones(12, 20), "give the prompts"),
        (torch.zeros(12, 20), "no counts"),
        (torch.full((12, 20), float("nan")), "finite"),
        (torch.ones(12, 20, dtype=torch.int32), "floating-point"),
        (torch.ones(12, 21), "scanner measures"),
    ],
)
def test_data_that_cannot_be_counts_are_refused_with_the_remedy(counts: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        emission_problem(responses(ordered_subsets(SCANNER, GRID, 2)), counts)


def test_negative_background_and_a_start_that_does_not_fit_are_refused() -> None:
    model = responses(ordered_subsets(SCANNER, GRID, 2))
    with pytest.raises(ValueError, match="background"):
        emission_problem(model, torch.ones(12, 20), -1.0)
    with pytest.raises(ValueError, match="start image"):
        osem(emission_problem(model, torch.ones(12, 20)), 1, torch.ones(3, 3))
    with pytest.raises(ValueError, match="guide"):
        emission_problem(model, torch.ones(12, 20), guide=torch.ones(1, 3, 3))
