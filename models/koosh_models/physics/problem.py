"""What a consistency step needs of one measurement. MRI, Cartesian MRI, cine and PET are four of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from koosh_models.physics.operator import Apply


class Team(Protocol):
    """Ranks that work on one measurement together, each with some of its coils and some of the tiles.

    rank, size  this one's number, and how many
    """

    @property
    def rank(self) -> int:
        """This one's number."""

    @property
    def size(self) -> int:
        """How many."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all of them, in place where the tensor is contiguous; all get the same bits."""


class Problem(Protocol):
    """One measurement as a network sees it.

    shape   of the image: (z, y, x), (y, x), or (frame, y, x) for cine
    device  where its tensors live
    scale   one positive number; images are divided by it on the way into the network and multiplied on the way out
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""

    @property
    def scale(self) -> float:
        """Typical magnitude of the image (a robust percentile)."""


SMOOTH = 2.5  # voxels, standard deviation of the Gaussian that leaves the smooth phase


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """Weighted least squares `|W^1/2 (A x - y)|^2`, as its normal equations `N x = b`.

    normal   x -> A^H W A x, self-adjoint; 1 where k-space is well sampled, at most 1 to 3 with density weights
    b        A^H W y, complex
    scale    robust magnitude of the image that solves it
    traits   numbers a network may be conditioned on, e.g. (noise relative to scale, acceleration)
    guide    real image (channel, *shape) of another contrast, already of order one; None without
    name     what errors call this measurement
    team     ranks that share this measurement, each of which calls `normal` with the same image; None: it is alone
    nearby   makes a cheaper operator that is nearly `normal`; None: there is none
    """

    normal: Apply
    b: Tensor
    scale: float = 1.0
    traits: tuple[float, ...] = ()
    guide: Tensor | None = None
    name: str = ""
    team: Team | None = None
    nearby: Callable[[], Apply] | None = None

    def __post_init__(self) -> None:
        if not self.b.is_complex():
            raise ValueError(f"b is {self.b.dtype}, wanted a complex image")
        if not (self.scale > 0 and self.scale < float("inf")):
            raise ValueError(f"scale is {self.scale}, wanted a positive finite number: is the scan all zero?")

    @cached_property
    def near(self) -> Apply:
        """An operator for the steps between exact residuals: nearly `normal`, and cheaper where there is such a one."""
        return self.normal if self.nearby is None else self.nearby()

    @cached_property
    def phase(self) -> Tensor:
        """Unit complex image: the smooth phase of the measurement, that of `b` without its high frequencies."""
        axes = [2 * math.pi * torch.fft.fftfreq(n, device=self.b.device) for n in self.shape]
        window = self.b.real.new_ones(self.shape)
        for k, axis in enumerate(axes):
            along = torch.exp(-axis.square() * SMOOTH**2 / 2).to(window)
            window *= along.reshape([-1 if i == k else 1 for i in range(len(axes))])
        low = torch.fft.ifftn(torch.fft.fftn(self.b) * window)
        return torch.polar(torch.ones_like(low.real), low.angle())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        return tuple(self.b.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.b.device


class Ratio(Protocol):
    """What one EM update of one subset multiplies the image by."""

    def __call__(self, x: Tensor, subset: int) -> Tensor:
        """`S_s P_s^T (y_s / (P_s x + r_s))`, same shape as x, non-negative."""


@dataclass(frozen=True, eq=False)
class EmissionProblem:
    """Poisson counts `y ~ Poisson(P_s x + r_s)` in ordered subsets.

    ratio    (x, subset) -> S_s * P_s^T (y_s / (P_s x + r_s)), with S_s = 1 / sensitivity of the subset
    inverse_sensitivity  (subset, z, y, x) real, S_s; zero where the subset sees nothing
    traits   numbers a network may be conditioned on, e.g. the logarithm of the counts
    guide    real image (channel, z, y, x) of another contrast on the same grid, e.g. MR, of order one; None without
    name     what errors call this measurement
    """

    ratio: Ratio
    inverse_sensitivity: Tensor
    scale: float = 1.0
    traits: tuple[float, ...] = ()
    guide: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.scale < float("inf")):
            raise ValueError(f"scale is {self.scale}, wanted a positive finite number: does the scan hold counts?")
        if self.guide is not None and tuple(self.guide.shape[1:]) != self.shape:
            raise ValueError(f"guide has shape {tuple(self.guide.shape)}, wanted (channel, {self.shape}): resample it")

    def em(self, x: Tensor, subset: int) -> Tensor:
        """`x * ratio(x)`: the EM update of one subset, non-negative."""
        return x * self.ratio(x, subset)

    def flat(self) -> Tensor:
        """The usual start image: `scale` wherever something is seen, else 0."""
        return self.support.to(self.inverse_sensitivity) * self.scale

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        return tuple(self.inverse_sensitivity.shape[1:])

    @property
    def n_subsets(self) -> int:
        """Ordered subsets."""
        return int(self.inverse_sensitivity.shape[0])

    @property
    def support(self) -> Tensor:
        """(z, y, x) bool, voxels that any subset sees."""
        return (self.inverse_sensitivity > 0).any(0)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.inverse_sensitivity.device
