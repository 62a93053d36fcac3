"""The point-spread function of a sampling pattern, and its spectrum: what a Toeplitz operator multiplies by."""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from torch import Tensor

from koosh_models.physics.fft import in_place
from koosh_models.physics.nufft import Nufft


def check_weights(nufft: Nufft, weights: Tensor) -> None:
    """Refuse weights that don't belong to the trajectory."""
    if weights.is_complex() or weights.shape != nufft.omega.shape[1:]:
        raise ValueError(f"weights are {weights.dtype} {tuple(weights.shape)}, wanted one real value a sample")


def spectrum_of(nufft: Nufft, weights: Tensor, padded: tuple[int, ...]) -> Tensor:
    """Real Fourier transform of the point-spread function, (*padded), k = 0 at index 0."""
    spread = point_spread(nufft, weights, padded)
    if spread.device.type == "cpu":
        in_place(torch.get_num_threads())(spread.numpy(), tuple(range(spread.ndim)), True)
        return spread.real
    return torch.fft.fftn(spread).real


def point_spread(nufft: Nufft, weights: Tensor, padded: tuple[int, ...]) -> Tensor:
    """The point-spread function on lags -(n-1)..(n-1), wrapped into `padded` with lag 0 at index 0.

    One adjoint of image size for each octant of lags whose first lag is positive; the rest follows from
    psf(-r) = conj psf(r), since weights are real.
    """
    matrix, scale = nufft.matrix, prod(nufft.matrix) ** -0.5
    complex_type = torch.complex64 if nufft.omega.dtype == torch.float32 else torch.complex128
    psf = torch.zeros(padded, dtype=complex_type, device=nufft.omega.device)
    for signs in product((False, True), repeat=len(matrix) - 1):
        # lags 0..n-1, or -n..-1 of which -n lies outside the linear convolution and is left out
        starts = [0, *(-n if negative else 0 for negative, n in zip(signs, matrix[1:], strict=True))]
        shift = torch.tensor([s + n // 2 for s, n in zip(starts, matrix, strict=True)], dtype=nufft.omega.dtype)
        phase = (nufft.omega * shift.to(nufft.omega.device)[:, None]).sum(0)
        octant = nufft.adjoint(torch.polar(weights.to(nufft.omega.dtype), phase)).mul_(scale)
        source = tuple(slice(1 if s else 0, n) for s, n in zip(starts, matrix, strict=True))
        target = tuple(
            slice(p - n + 1, p) if s else slice(0, n) for s, n, p in zip(starts, matrix, padded, strict=True)
        )
        psf[target] = octant[source]
    rest = tuple(range(len(matrix) - 1))
    for lag in range(1, matrix[0]):
        psf[-lag] = psf[lag].flip(rest).roll([1] * len(rest), rest).conj()
    return psf
