"""The normal operator `F^H W F` as eight convolutions of the image's own size: slower than slabs on a CPU, but lean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import selfadjoint
from koosh_models.physics.spread import check_weights, spectrum_of


@dataclass(frozen=True, eq=False)
class ShiftedToeplitz:
    """The same convolution as eight transforms of the image's own size, each half a cell apart in k-space.

    The frequencies 2 m + s of a transform of length 2 n are the transform of length n of `x exp(-i pi s r / n)`.
    Scratch is one volume whatever the device; the slab form is faster on a CPU, this one leaner where memory is short.

    kernel  (shift, z, y, x) float32, float64 or int16 with `step`; shifts in the order of `itertools.product`
    """

    kernel: Tensor
    step: float = 1.0

    @property
    def matrix(self) -> tuple[int, ...]:
        """(z, y, x) or (y, x)."""
        return tuple(self.kernel.shape[1:])

    def normal(self, x: Tensor) -> Tensor:
        """(*matrix) -> (*matrix)."""
        return selfadjoint(x, self.convolve)

    def convolve(self, image: Tensor) -> Tensor:
        """One image (*matrix) -> (*matrix), outside autograd."""
        axes, out = tuple(range(image.ndim)), torch.zeros_like(image)
        for shift, kernel in zip(product((0, 1), repeat=image.ndim), self.kernel, strict=True):
            part = torch.fft.fftn(self._ramped(image, shift, -1), dim=axes)
            part *= kernel if kernel.dtype != torch.int16 else kernel.to(part.real.dtype) * self.step
            out += self._ramped(torch.fft.ifftn(part, dim=axes), shift, 1)
        return out.div_(len(self.kernel))

    def product(self, one: Tensor, image: Tensor) -> Tensor:
        """`convolve(one * image)`."""
        return self.convolve(one * image)

    def nearby(self) -> ShiftedToeplitz:
        """Itself."""
        return self

    def _ramped(self, image: Tensor, shift: tuple[int, ...], sign: int) -> Tensor:
        for axis, (s, n) in enumerate(zip(shift, image.shape, strict=True)):
            if s:
                angle = sign * torch.pi * torch.arange(n, dtype=torch.float64) / n
                ramp = torch.polar(torch.ones_like(angle), angle).to(image.dtype).to(image.device)
                image = image * ramp.reshape(-1, *[1] * (image.ndim - 1 - axis))
        return image

    def sixteen_bit(self) -> ShiftedToeplitz:
        """The same operator with its kernel in 16-bit integers."""
        step = float(self.kernel.abs().max()) / 32767 or 1.0
        return ShiftedToeplitz((self.kernel / step).round().to(torch.int16), step)

    def to(self, device: torch.device | str) -> ShiftedToeplitz:
        """The same operator on `device`."""
        return ShiftedToeplitz(self.kernel.to(device), self.step)


def build_shifted(nufft: Nufft, weights: Tensor) -> ShiftedToeplitz:
    """The eight-shift form of `nufft^H W nufft`.

    weights  (sample) real, non-negative
    """
    check_weights(nufft, weights)
    spectrum = spectrum_of(nufft, weights, tuple(2 * n for n in nufft.matrix))
    shifts = product((0, 1), repeat=spectrum.ndim)
    return ShiftedToeplitz(torch.stack([spectrum[tuple(slice(s, None, 2) for s in shift)] for shift in shifts]))
