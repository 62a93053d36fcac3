"""The non-uniform Fourier transform, its Toeplitz normal, and SENSE around them."""

from math import prod

import pytest
import torch
from torch import Tensor

from koosh_models.physics import engines, toeplitz
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import PairNormal, Sense, SenseNormal, SmoothMaps
from koosh_models.physics.shifted import build_shifted
from tests.properties import assert_adjoint, assert_double_backward, assert_gradient, assert_normal, random_complex

BACKENDS = [b for b in engines.BACKENDS if b != "cufinufft"]
SIZES = [(6, 8, 10), (9, 4, 7), (1, 1, 1), (1, 6, 5), (8, 11), (7, 6)]


def trajectory(axes: int, n: int = 50, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return ((torch.rand((axes, n), generator=generator, dtype=torch.float64) * 2 - 1) * torch.pi).to(dtype)


def direct_sum(omega: Tensor, x: Tensor) -> Tensor:
    """The definition, in double precision."""
    grids = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - n // 2 for n in x.shape], indexing="ij")
    phase = sum(o[:, None] * g.flatten()[None] for o, g in zip(omega.double(), grids, strict=True))
    return (torch.exp(-1j * phase) @ x.to(torch.complex128).flatten()) / prod(x.shape) ** 0.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("matrix", SIZES)
def test_forward_equals_the_direct_sum_amplitude_included(backend, matrix):
    omega, x = trajectory(len(matrix)), random_complex(matrix)
    got, want = Nufft(omega, matrix, 1e-5, backend).forward(x), direct_sum(omega, x)
    assert (got - want).norm() <= 1e-3 * want.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("matrix", SIZES)
def test_every_backend_passes_the_shared_properties(backend, matrix):
    op = Nufft(trajectory(len(matrix)), matrix, 1e-4, backend)
    x, y = random_complex(matrix), random_complex((50,), 1)
    assert_adjoint(op, x, y, 1e-4)
    assert_gradient(op, x, y, 1e-3)
    assert_double_backward(op, x, 1e-3)


@pytest.mark.parametrize("backend", ["finufft", "ducc0"])
def test_double_precision_is_a_reference(backend):
    omega, x = trajectory(3, dtype=torch.float64), random_complex((6, 8, 10), dtype=torch.complex128)
    got, want = Nufft(omega, (6, 8, 10), 1e-10, backend).forward(x), direct_sum(omega, x)
    assert (got - want).norm() <= 1e-8 * want.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_are_independent_images(backend):
    op, x = Nufft(trajectory(2), (8, 11), 1e-5, backend), random_complex((2, 3, 8, 11))
    assert torch.allclose(op.forward(x)[1, 2], op.forward(x[1, 2]), atol=1e-5)
    y = random_complex((2, 3, 50))
    assert torch.allclose(op.adjoint(y)[1, 2], op.adjoint(y[1, 2]), atol=1e-5)


def test_a_point_off_centre_gives_its_plane_wave():
    x = torch.zeros(6, 8, 10, dtype=torch.complex64)
    x[3 + 1, 4 - 2, 5 + 3] = 1
    omega = trajectory(3)
    want = torch.exp(-1j * (omega[0] - 2 * omega[1] + 3 * omega[2])) / 480**0.5
    assert torch.allclose(Nufft(omega, (6, 8, 10)).forward(x), want, atol=1e-4 / 480**0.5 * 10)


def test_a_trajectory_beyond_pi_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="convert its unit"):
        Nufft(torch.full((3, 5), 4.0), (6, 8, 10))
    with pytest.raises(ValueError, match="convert its unit"):
        Nufft(torch.full((3, 5), float("nan")), (6, 8, 10))


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(ValueError, match="finufft, ducc0"):
        _ = Nufft(trajectory(2), (8, 8), backend="fftw").engine


@pytest.mark.parametrize("matrix", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_toeplitz_equals_the_weighted_pair(matrix, dtype):
    eps, rtol = (1e-5, 2e-4) if dtype == torch.float32 else (1e-11, 1e-9)
    omega = trajectory(len(matrix), dtype=dtype)
    weights = torch.rand(50, dtype=dtype, generator=torch.Generator().manual_seed(0))
    nufft = Nufft(omega, matrix, eps)
    kernel = toeplitz.build(nufft, weights)
    x = random_complex((2, *matrix), dtype=kernel.dtype)
    want = nufft.adjoint(nufft.forward(x) * weights)
    assert (kernel.normal(x) - want).norm() <= rtol * want.norm()


@pytest.mark.parametrize("matrix", SIZES)
def test_the_eight_shift_form_equals_the_slab_form_and_is_self_adjoint(matrix):
    nufft, weights = Nufft(trajectory(len(matrix)), matrix, 1e-5), torch.rand(50)
    shifted, x, y = build_shifted(nufft, weights), random_complex(matrix), random_complex(matrix, 1)
    want = toeplitz.build(nufft, weights).normal(x)
    assert (shifted.normal(x) - want).norm() <= 1e-5 * want.norm()
    left = torch.vdot(shifted.normal(x).flatten(), y.flatten())
    assert abs(left - torch.vdot(x.flatten(), shifted.normal(y).flatten())) <= 1e-4 * want.norm() * y.norm()
    half = shifted.sixteen_bit()
    assert (half.normal(x) - want).norm() <= half.step * x.norm() + 1e-5 * want.norm()


@pytest.mark.parametrize("matrix", [(12, 9, 16), (15, 18)])
def test_the_torch_path_of_toeplitz_equals_the_cpu_path(matrix):
    kernel = toeplitz.build(Nufft(trajectory(len(matrix)), matrix, 1e-5), torch.rand(50))
    x = random_complex(matrix)
    want = kernel.convolve(x)
    assert (kernel._convolve_torch(x) - want).norm() <= 1e-5 * want.norm()


def test_toeplitz_in_slabs_equals_one_slab(monkeypatch):
    nufft, weights, x = Nufft(trajectory(3), (6, 8, 10), 1e-5), torch.rand(50), random_complex((6, 8, 10))
    whole = toeplitz.build(nufft, weights)
    monkeypatch.setattr(toeplitz, "SLAB_BYTES", 1)
    slabs = toeplitz.build(nufft, weights)
    assert len(slabs.kernel) > len(whole.kernel) == 1
    assert torch.allclose(slabs.normal(x), whole.normal(x), rtol=1e-4, atol=1e-6)


def test_the_sixteen_bit_kernel_errs_by_at_most_half_a_step():
    kernel = toeplitz.build(Nufft(trajectory(3), (6, 8, 10), 1e-5), torch.rand(50))
    half, x = kernel.sixteen_bit(), random_complex((6, 8, 10))
    error = (half.normal(x) - kernel.normal(x)).norm()
    assert 0 < error <= half.step / 2 * x.norm() * 1.01
    assert half.kernel[0].element_size() == 2


def test_toeplitz_is_differentiable_and_self_adjoint():
    kernel = toeplitz.build(Nufft(trajectory(3), (6, 8, 10), 1e-5), torch.rand(50))
    x, y = random_complex((6, 8, 10)).requires_grad_(), random_complex((6, 8, 10), 1)
    (torch.vdot(kernel.normal(x).flatten(), y.flatten()).real).backward()
    assert torch.allclose(x.grad, kernel.normal(y), atol=1e-5)


def sense(group: int, matrix: tuple[int, ...] = (6, 8, 10)) -> Sense:
    return Sense(random_complex((5, *matrix), 2), Nufft(trajectory(len(matrix)), matrix, 1e-5), group)


@pytest.mark.parametrize("group", [1, 2, 5, 9])
def test_sense_passes_the_shared_properties_in_any_coil_group(group):
    op = sense(group)
    x, y = random_complex((6, 8, 10)), random_complex((5, 50), 1)
    assert_adjoint(op, x, y, 1e-4)
    assert_gradient(op, x, y, 1e-3)
    assert_double_backward(op, x, 1e-3)
    assert torch.allclose(op.forward(x), sense(5).forward(x), atol=1e-5)


@pytest.mark.parametrize("matrix", [(6, 8, 10), (9, 7)])
def test_both_sense_normals_equal_adjoint_of_weighted_forward(matrix):
    op, weights = sense(2, matrix), torch.rand(50)
    x = random_complex(matrix)
    want = op.adjoint(op.forward(x) * weights)
    for normal in (PairNormal(op, weights), SenseNormal(op.maps, toeplitz.build(op.fourier, weights))):
        assert (normal.normal(x) - want).norm() <= 3e-4 * want.norm()


def test_smooth_maps_equal_the_sum_of_their_waves_for_every_coil_group():
    maps = SmoothMaps(random_complex((3, 2, 3, 4)), torch.rand(6, 8, 9))
    z, y, x = (torch.arange(n) - n // 2 for n in (6, 8, 9))
    want = torch.zeros(3, 6, 8, 9, dtype=torch.complex64)
    for kz in range(2):
        for ky in range(3):
            for kx in range(4):
                wave = (kz - 1) * z[:, None, None] / 6 + (ky - 1) * y[:, None] / 8 + (kx - 2) * x / 9
                want += maps.coefficients[:, kz, ky, kx, None, None, None] * torch.exp(2j * torch.pi * wave)
    assert torch.allclose(maps.coils(0, 3), want * maps.gain, atol=1e-4)
    assert torch.allclose(maps.coils(1, 2), (want * maps.gain)[1:2], atol=1e-4)


def test_the_normal_check_refuses_a_wrong_normal():
    class Wrong:
        def forward(self, x):
            return 2 * x

        adjoint = forward

        def normal(self, x):
            return 3 * x

    with pytest.raises(AssertionError):
        assert_normal(Wrong(), random_complex((3,)), 1e-3)
