"""An operator of the coils that see most, and conjugate gradients that use it between exact residuals."""

import pytest
import torch

from koosh_models.networks.consistency import ConjugateGradient
from koosh_models.physics.mri import non_cartesian
from koosh_models.physics.operator import inner
from koosh_models.physics.sense import DenseMaps, SmoothMaps, strongest, synthesised
from koosh_models.scan import Geometry, Scan
from koosh_models.support import Box, BoxedMaps
from tests.models.problems import coil_maps
from tests.models.test_nufft import trajectory
from tests.properties import random_complex

MATRIX = (12, 10, 14)


def scan_of(samples: int, n_coils: int = 8) -> tuple[Scan, torch.Tensor]:
    """A scan of noise, dense enough for the Toeplitz form or sparse enough for the explicit pair."""
    omega = trajectory(3, samples)
    weights = torch.rand(samples, generator=torch.Generator().manual_seed(8))
    scan = Scan(random_complex((n_coils, samples)), omega, Geometry(MATRIX, (240.0,) * 3), 1, weights)
    return scan, coil_maps(n_coils, MATRIX, torch.complex64)


def test_virtual_maps_are_sums_of_the_maps_however_they_are_kept():
    matrix = random_complex((2, 3))
    smooth = SmoothMaps(random_complex((3, 2, 3, 4)), torch.rand(6, 8, 9))
    boxed = BoxedMaps(smooth, Box((1, 2, 3), (4, 5, 6), (6, 8, 9)))
    for maps in (smooth, boxed, DenseMaps(synthesised(smooth.coefficients, smooth.waves))):
        wanted = torch.tensordot(matrix, maps.coils(0, 3), dims=1)
        torch.testing.assert_close(maps.combined(matrix).coils(0, 2), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [80, 900])
def test_all_virtual_coils_together_are_the_exact_operator(samples):
    scan, maps = scan_of(samples)
    problem = non_cartesian(scan, maps)
    x = random_complex(MATRIX, 3)
    whole = strongest(maps, x, kept=1.0)
    assert whole.shape[0] == 8
    found = non_cartesian(scan, whole).normal(x)
    # the density of the pair and of the kernel is that of one trajectory: only coils were turned
    assert (found - problem.normal(x)).norm() <= 1e-3 * found.norm()


@pytest.mark.parametrize("samples", [80, 900])
def test_fewer_coils_are_a_part_of_the_operator_and_what_is_near_is_self_adjoint(samples):
    scan, maps = scan_of(samples)
    problem = non_cartesian(scan, maps)
    x, y = random_complex(MATRIX, 5), random_complex(MATRIX, 6)
    assert abs(inner(y, problem.near(x)) - inner(problem.near(y), x)) <= 1e-3 * float(x.norm() * y.norm())
    part = non_cartesian(scan, strongest(maps, problem.b)).normal
    assert 0 < float(inner(x, part(x))) < float(inner(x, problem.normal(x)))
    assert problem.near is problem.near  # made once


def test_one_coil_suffices_where_all_see_the_same():
    maps = coil_maps(1, MATRIX, torch.complex64).expand(4, *MATRIX) / 2
    assert strongest(maps, random_complex(MATRIX)).shape[0] == 1


def test_double_precision_stays_double():
    maps = coil_maps(4, MATRIX, torch.complex128)
    assert strongest(maps, random_complex(MATRIX, 1, torch.complex128)).coils(0, 1).dtype == torch.complex128


def test_no_image_no_choice():
    maps = coil_maps(4, MATRIX, torch.complex64)
    assert strongest(maps, torch.zeros(MATRIX, dtype=torch.complex64)).shape[0] == 4


def test_the_steps_near_the_operator_start_from_the_exact_residual():
    problem = non_cartesian(*scan_of(900))
    z = random_complex(MATRIX, 4)
    out, path = ConjugateGradient(0.05, steps=2, tolerance=1e-3, near=True).value(problem, z, z)
    residual = problem.b - problem.normal(z)
    (alpha, beta), (other, _) = path
    again = residual - alpha * (problem.near(residual) + 0.05 * residual)
    torch.testing.assert_close(out, z + alpha * residual + other * (again + beta * residual), rtol=1e-3, atol=1e-3)


def test_the_gradient_near_the_operator_is_that_of_the_same_polynomial():
    problem = non_cartesian(*scan_of(900))
    step = ConjugateGradient(0.05, steps=2, tolerance=1e-3, near=True)
    z, g, change = (random_complex(MATRIX, seed) for seed in (4, 5, 6))
    _, path = step.value(problem, z, z)
    pulled = step.pull(problem, g, path).to_regularized

    def followed(image: torch.Tensor) -> torch.Tensor:
        """The image of the same steps from another start."""
        r = problem.b - problem.normal(image)
        x, p = image, r
        for alpha, beta in path:
            x, r = x + alpha * p, r - alpha * (problem.near(p) + 0.05 * p)
            p = r + beta * p
        return x

    ahead = float(inner(g, followed(z + change) - followed(z)))
    assert abs(ahead - float(inner(pulled, change))) <= 1e-3 * float(g.norm() * change.norm())


def test_without_a_nearby_operator_the_exact_one_is_used():
    problem = non_cartesian(*scan_of(900))
    bare = type(problem)(problem.normal, problem.b, problem.scale)
    assert bare.near == bare.normal
