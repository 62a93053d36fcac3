"""Toeplitz operators with smaller transforms: nearly the same, exact where far voxels have nothing in common."""

import pytest
import torch

from koosh_models.physics import toeplitz
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import inner
from koosh_models.physics.toeplitz import Toeplitz
from tests.models.test_nufft import trajectory
from tests.properties import random_complex


def dense(operator: Toeplitz) -> torch.Tensor:
    """Its matrix, column by column."""
    size = torch.Size(operator.matrix).numel()
    columns = [operator.normal(e.reshape(operator.matrix)).flatten() for e in torch.eye(size, dtype=operator.dtype)]
    return torch.stack(columns, 1)


def built(matrix: tuple[int, ...], samples: int = 900) -> Toeplitz:
    omega = trajectory(len(matrix), samples, dtype=torch.float64)
    return toeplitz.build(
        Nufft(omega, matrix, 1e-9), torch.rand(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    )


@pytest.mark.parametrize("growth", [1.1, 1.25, 1.5])
def test_each_lag_of_a_smaller_transform_is_the_mean_over_its_pairs_of_voxels(growth):
    exact = built((9, 7))
    near = exact.nearby(growth)
    assert near.padded < exact.padded
    wanted, found = dense(exact), dense(near)
    lags = torch.stack(torch.meshgrid(*(torch.arange(n) for n in exact.matrix), indexing="ij")).flatten(1)
    apart = (lags[:, :, None] - lags[:, None, :]) % torch.tensor(near.padded)[:, None, None]
    classes = apart[0] * near.padded[1] + apart[1]
    means = torch.zeros(int(classes.max()) + 1, dtype=wanted.dtype)
    counts = torch.zeros(len(means), dtype=torch.float64).index_add_(
        0, classes.flatten(), torch.ones(classes.numel()).double()
    )
    means.index_add_(0, classes.flatten(), wanted.flatten())
    assert (found - (means / counts.clamp_min(1))[classes]).norm() <= 1e-9 * wanted.norm()


@pytest.mark.parametrize("matrix", [(9, 8), (6, 7, 8)])
def test_a_smaller_transform_is_self_adjoint_and_not_far_off(matrix):
    exact = built(matrix, 3000)
    near = exact.nearby()
    x, y = (random_complex(matrix, seed, torch.complex128) for seed in (1, 2))
    assert abs(inner(y, near.normal(x)) - inner(near.normal(y), x)) <= 1e-9 * float(x.norm() * y.norm())
    assert (near.normal(x) - exact.normal(x)).norm() < 0.3 * exact.normal(x).norm()


def test_short_lags_alone_make_it_exact():
    exact = built((9, 8))
    spectrum = torch.cat(exact.kernel, -1).to(torch.complex128)
    lags = torch.fft.ifft2(spectrum)
    for axis, (n, length) in enumerate(zip(exact.matrix, exact.padded, strict=True)):
        at = torch.fft.fftfreq(length, 1 / length).abs() <= n // 4
        lags = lags * at.reshape([-1 if k == axis else 1 for k in range(2)])
    short = Toeplitz((torch.fft.fft2(lags).real.contiguous(),), exact.matrix, exact.padded)
    x = random_complex(exact.matrix, 3, torch.complex128)
    assert (short.nearby(1.5).normal(x) - short.normal(x)).norm() <= 1e-10 * short.normal(x).norm()


def test_a_16_bit_kernel_has_a_nearby_operator_too():
    exact = built((6, 7, 8))
    small = Toeplitz(tuple(k.float() for k in exact.kernel), exact.matrix, exact.padded)
    x = random_complex(exact.matrix, 4)
    full, half = small.nearby().normal(x), small.sixteen_bit().nearby().normal(x)
    assert (full - half).norm() <= 1e-3 * full.norm()


def test_what_would_not_be_smaller_stays():
    exact = built((9, 8))
    assert exact.nearby(2.0) is exact
