"""The normal operator `F^H W F` as a convolution, in one or two volumes of scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import selfadjoint

SLAB_BYTES = 3 << 20  # a slab of this size stays near the core; measured best between 1 and 4 MB
GPU_SLAB_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Toeplitz:
    """`x -> F^H W F x` by zero-padded FFTs, the last axis first and the others slab by slab along it.

    Only the last axis is ever padded for the whole volume, so the scratch is two volumes and one slab. The kernel is
    real because the weights are.

    kernel  (slab, padded z, padded y, columns)  float32 / float64, or int16 with `step` (the 16-bit form)
    matrix  (z, y, x) or (y, x)
    padded  transform lengths, each at least 2 n - 1
    step    kernel values per integer in the 16-bit form
    """

    kernel: tuple[Tensor, ...]
    matrix: tuple[int, ...]
    padded: tuple[int, ...]
    step: float = 1.0

    def normal(self, x: Tensor) -> Tensor:
        """(..., *matrix) -> (..., *matrix)."""
        if tuple(x.shape[-len(self.matrix) :]) != self.matrix:
            raise ValueError(f"image has shape {tuple(x.shape)}, wanted (..., {', '.join(map(str, self.matrix))})")
        return selfadjoint(x, self._normal)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images it acts on."""
        return torch.complex128 if self.kernel[0].dtype == torch.float64 else torch.complex64

    @property
    def device(self) -> torch.device:
        """Where the kernel lives."""
        return self.kernel[0].device

    def to(self, device: torch.device | str) -> Toeplitz:
        """The same operator on `device`."""
        return Toeplitz(tuple(k.to(device) for k in self.kernel), self.matrix, self.padded, self.step)

    def sixteen_bit(self) -> Toeplitz:
        """The same operator with its kernel in 16-bit integers: half the memory, error below 1.6e-5 of the peak."""
        peak = max(float(k.abs().max()) for k in self.kernel)
        step = peak / 32767 or 1.0
        kernel = tuple((k / step).round().to(torch.int16) for k in self.kernel)
        return Toeplitz(kernel, self.matrix, self.padded, step)

    def _normal(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, *self.matrix)
        convolve = self._convolve_cpu if x.device.type == "cpu" else self._convolve_torch
        return torch.stack([convolve(image) for image in images]).reshape(x.shape)

    def convolve(self, image: Tensor) -> Tensor:
        """One image (*matrix) -> (*matrix), outside autograd; the loop over coils calls this."""
        return self._convolve_cpu(image) if image.device.type == "cpu" else self._convolve_torch(image)

    def product(self, one: Tensor, image: Tensor) -> Tensor:
        """`convolve(one * image)`; on the CPU formed in the scratch, and valid until the next call."""
        if image.device.type != "cpu":
            return self._convolve_torch(one * image)
        rows = torch.from_numpy(self._scratch[0])[..., : self.matrix[-1]]
        torch.mul(one, image, out=rows)
        self._transform()
        return rows

    @cached_property
    def _scratch(self) -> tuple[np.ndarray, np.ndarray]:
        complex_type = np.complex128 if self.kernel[0].dtype == torch.float64 else np.complex64
        rows = np.empty((*self.matrix[:-1], self.padded[-1]), complex_type)
        slab = np.empty((*self.padded[:-1], self.kernel[0].shape[-1]), complex_type)
        return rows, slab

    def _slabs(self) -> Iterator[tuple[int, int, Tensor]]:
        start = 0
        for kernel in self.kernel:
            yield start, start + kernel.shape[-1], kernel
            start += kernel.shape[-1]

    def _convolve_cpu(self, image: Tensor) -> Tensor:
        rows = torch.from_numpy(self._scratch[0])[..., : self.matrix[-1]]
        rows.copy_(image)
        self._transform()
        return rows.clone(memory_format=torch.contiguous_format)

    def _transform(self) -> None:
        """Convolve what stands in the scratch's first columns, in place."""
        rows, buffer = self._scratch
        fft = _fft(torch.get_num_threads())
        rows[..., self.matrix[-1] :] = 0
        fft(rows, (rows.ndim - 1,), True)
        for first, last, kernel in self._slabs():
            self._convolve_slab(rows[..., first:last], buffer[..., : last - first], kernel, fft)
        fft(rows, (rows.ndim - 1,), False)

    def _convolve_slab(self, rows: np.ndarray, slab: np.ndarray, kernel: Tensor, fft: Fft) -> None:
        if len(self.matrix) == 3:
            (nz, ny), core = self.matrix[:2], slab[: self.matrix[0]]
            core[:, :ny], core[:, ny:], slab[nz:] = rows, 0, 0
            fft(core, (1,), True)
            fft(slab, (0,), True)
            self._multiply(slab, kernel)
            fft(slab, (0,), False)
            fft(core, (1,), False)
            rows[...] = core[:, :ny]
        else:
            ny = self.matrix[0]
            slab[:ny], slab[ny:] = rows, 0
            fft(slab, (0,), True)
            self._multiply(slab, kernel)
            fft(slab, (0,), False)
            rows[...] = slab[:ny]

    def _multiply(self, slab: np.ndarray, kernel: Tensor) -> None:
        if kernel.dtype == torch.int16:
            np.multiply(slab, kernel.float().mul_(self.step).numpy(), out=slab)
        else:
            np.multiply(slab, kernel.numpy(), out=slab)

    def _convolve_torch(self, image: Tensor) -> Tensor:
        axes = tuple(range(len(self.matrix) - 1))
        rows = torch.fft.fft(image, n=self.padded[-1], dim=-1)
        core = tuple(slice(0, n) for n in self.matrix[:-1])
        for first, last, kernel in self._slabs():
            slab = torch.fft.fftn(rows[..., first:last], s=self.padded[:-1], dim=axes)
            slab *= kernel if kernel.dtype != torch.int16 else kernel.to(rows.real.dtype) * self.step
            rows[..., first:last] = torch.fft.ifftn(slab, dim=axes)[core]
        return torch.fft.ifft(rows, dim=-1)[..., : self.matrix[-1]].contiguous()


Fft = Callable[[np.ndarray, tuple[int, ...], bool], None]


def _fft(threads: int) -> Fft:
    """In-place FFT `fft(array, axes, forward)`, normalised on the way back: ducc0's, or torch's in its absence."""
    try:
        from ducc0.fft import c2c
    except ImportError:
        return _torch_fft

    def transform(a: np.ndarray, axes: tuple[int, ...], forward: bool) -> None:
        c2c(a, axes=axes, forward=forward, inorm=0 if forward else 2, out=a, nthreads=threads)

    return transform


def _torch_fft(a: np.ndarray, axes: tuple[int, ...], forward: bool) -> None:
    t = torch.from_numpy(a)
    t.copy_(torch.fft.fftn(t, dim=axes) if forward else torch.fft.ifftn(t, dim=axes))


def padded_sizes(matrix: tuple[int, ...]) -> tuple[int, ...]:
    """Transform lengths at least 2 n - 1 that have only small prime factors."""
    return tuple(_good_size(2 * n - 1) for n in matrix)


def _good_size(n: int) -> int:
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def build(nufft: Nufft, weights: Tensor) -> Toeplitz:
    """The Toeplitz form of `nufft^H W nufft`; its peak memory is the kernel and the point-spread function.

    weights  (sample) real, non-negative
    """
    check_weights(nufft, weights)
    padded = padded_sizes(nufft.matrix)
    spectrum = spectrum_of(nufft, weights, padded)
    budget = SLAB_BYTES if spectrum.device.type == "cpu" else GPU_SLAB_BYTES
    column = 2 * spectrum.element_size() * prod(padded[:-1])
    width = max(4, min(padded[-1], budget // column) // 4 * 4)
    return Toeplitz(tuple(part.contiguous() for part in torch.split(spectrum, width, dim=-1)), nufft.matrix, padded)


def check_weights(nufft: Nufft, weights: Tensor) -> None:
    """Refuse weights that don't belong to the trajectory."""
    if weights.is_complex() or weights.shape != nufft.omega.shape[1:]:
        raise ValueError(f"weights are {weights.dtype} {tuple(weights.shape)}, wanted one real value a sample")


def spectrum_of(nufft: Nufft, weights: Tensor, padded: tuple[int, ...]) -> Tensor:
    """Real Fourier transform of the point-spread function, (*padded), k = 0 at index 0."""
    spread = point_spread(nufft, weights, padded)
    if spread.device.type == "cpu":
        _fft(torch.get_num_threads())(spread.numpy(), tuple(range(spread.ndim)), True)
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
