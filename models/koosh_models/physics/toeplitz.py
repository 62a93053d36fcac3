"""The normal operator `F^H W F` as a convolution, in one or two volumes of scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from koosh_models.physics.fft import Fft, in_place
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import selfadjoint
from koosh_models.physics.spread import check_weights, spectrum_of

SLAB_BYTES = 3 << 20  # a slab of this size stays near the core; measured best between 1 and 4 MB
GPU_SLAB_BYTES = 256 << 20
GROWTH = 1.5  # of a nearby operator's transforms; 1.25 costs quality where steps use it (docs/networks.md)


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

    def nearby(self, growth: float = GROWTH) -> Toeplitz:
        """Nearly the same operator with transforms of `growth` instead of 2 times the matrix: 0.4 of the work at 1.5.

        Distant voxels then meet on lags that belong to others: each gets the mean of its lags, weighted by how many
        pairs of voxels have them (the optimal circulant of T. Chan 1988, with some padding).
        """
        padded = tuple(_good_size(math.ceil(growth * n)) for n in self.matrix)
        if any(p >= length for p, length in zip(padded, self.padded, strict=True)):
            return self
        folds = [
            folded(n, length, p).to(self.device, self.dtype.to_real())
            for n, length, p in zip(self.matrix, self.padded, padded, strict=True)
        ]
        parts = torch.split(folds[-1], [k.shape[-1] for k in self.kernel], dim=-1)
        spectrum = sum(self._values(k) @ fold.mT for k, fold in zip(self.kernel, parts, strict=True))
        assert isinstance(spectrum, Tensor)
        for axis, fold in enumerate(folds[:-1]):
            spectrum = torch.movedim(torch.tensordot(fold, spectrum, dims=([1], [axis])), 0, axis)
        return Toeplitz(slabs(spectrum), self.matrix, padded)

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
        fft = in_place(torch.get_num_threads())
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
        np.multiply(slab, self._values(kernel).numpy(), out=slab)

    def _values(self, kernel: Tensor) -> Tensor:
        return kernel.float().mul_(self.step) if kernel.dtype == torch.int16 else kernel

    def _convolve_torch(self, image: Tensor) -> Tensor:
        axes = tuple(range(len(self.matrix) - 1))
        rows = torch.fft.fft(image, n=self.padded[-1], dim=-1)
        core = tuple(slice(0, n) for n in self.matrix[:-1])
        for first, last, kernel in self._slabs():
            slab = torch.fft.fftn(rows[..., first:last], s=self.padded[:-1], dim=axes)
            slab *= kernel if kernel.dtype != torch.int16 else kernel.to(rows.real.dtype) * self.step
            rows[..., first:last] = torch.fft.ifftn(slab, dim=axes)[core]
        return torch.fft.ifft(rows, dim=-1)[..., : self.matrix[-1]].contiguous()


def folded(n: int, length: int, short: int) -> Tensor:
    """(short, length) real: takes a spectrum of lags -(n-1)..(n-1) on `length` points to `short` points, where lags l
    and l - short fall together.
    """
    lag = torch.arange(short, dtype=torch.float64)
    counts = torch.stack([n - lag, n - (short - lag)]).clamp_min(0)
    shares = counts / counts.sum(0).clamp_min(1)
    k = torch.arange(length, dtype=torch.float64) / length
    back = sum(
        share[:, None] * torch.exp(2j * torch.pi * lags[:, None] * k)
        for share, lags in zip(shares, (lag, lag - short), strict=True)
    )
    forth = torch.exp(-2j * torch.pi * lag[:, None] * lag / short)
    return (forth @ back).real / length


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
    return Toeplitz(slabs(spectrum_of(nufft, weights, padded)), nufft.matrix, padded)


def slabs(spectrum: Tensor) -> tuple[Tensor, ...]:
    """(*padded) cut along the last axis into parts that stay near the core."""
    *others, last = spectrum.shape
    budget = SLAB_BYTES if spectrum.device.type == "cpu" else GPU_SLAB_BYTES
    width = max(4, min(last, budget // (2 * spectrum.element_size() * prod(others))) // 4 * 4)
    return tuple(part.contiguous() for part in torch.split(spectrum, width, dim=-1))
