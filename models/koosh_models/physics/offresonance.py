"""Off-resonance by time segmentation: the phase that a field map adds during a readout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.operator import Operator, linear


@dataclass(frozen=True, eq=False)
class OffResonance:
    """`y(t) = sum_r x(r) exp(-2 pi i f(r) t) exp(-i omega(t).r)` as `sum_l c_l(t) F (exp(-2 pi i f tau_l) x)`.

    Sutton, Noll and Fessler 2003, with least-squares interpolators over the map's own histogram of frequencies.

    fourier    of the images without off-resonance, (..., z, y, x) -> (..., sample)
    phases     (segment, z, y, x) complex
    weights    (segment, sample) complex
    """

    fourier: Operator
    phases: Tensor
    weights: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(..., z, y, x) -> (..., sample)."""
        return linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """(..., sample) -> (..., z, y, x)."""
        return linear(y, self._adjoint, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.phases, self.weights, strict=True)
        return torch.stack([weight * self.fourier.forward(phase * x) for phase, weight in pairs]).sum(0)

    def _adjoint(self, y: Tensor) -> Tensor:
        pairs = zip(self.phases, self.weights, strict=True)
        return torch.stack([phase.conj() * self.fourier.adjoint(weight.conj() * y) for phase, weight in pairs]).sum(0)


def with_off_resonance(
    fourier: Operator, field_hz: Tensor, times_s: Tensor, segments: int | None = None
) -> OffResonance:
    """The operator with off-resonance.

    field_hz  (z, y, x) real
    times_s   (sample) time of each sample after excitation, or after the echo if the map's phase is taken there
    segments  interpolation points in time; by default enough for an error near 1e-3
    """
    if not bool(torch.isfinite(field_hz).all() & torch.isfinite(times_s).all()):
        raise ValueError("the field map or the sample times contain NaN or Inf")
    span = float(times_s.max() - times_s.min()) * float(field_hz.max() - field_hz.min())
    count = segments or int(torch.ceil(torch.tensor(span))) * 2 + 3
    tau = torch.linspace(float(times_s.min()), float(times_s.max()), count, dtype=torch.float64)
    unique, where = torch.unique(times_s.double(), return_inverse=True)
    weights = interpolators(histogram_points(field_hz), unique, tau)[:, where]
    phases = torch.polar(torch.ones(()), (-2 * torch.pi * tau[:, None] * field_hz.double().flatten()).float())
    shape = (count, *field_hz.shape)
    return OffResonance(fourier, phases.reshape(shape).to(field_hz.device), weights.to(torch.complex64))


def histogram_points(field_hz: Tensor, count: int = 128) -> Tensor:
    """Frequencies that stand for the map: evenly spaced over its range, so that rare ones are fitted too."""
    return torch.linspace(float(field_hz.min()), float(field_hz.max()), count, dtype=torch.float64)


def interpolators(frequencies: Tensor, times: Tensor, tau: Tensor) -> Tensor:
    """(segment, time): least-squares coefficients with `sum_l c_l(t) exp(-2 pi i f tau_l) = exp(-2 pi i f t)`."""
    basis = torch.exp(-2j * torch.pi * frequencies[:, None] * tau[None])
    target = torch.exp(-2j * torch.pi * frequencies[:, None] * times[None])
    return torch.linalg.lstsq(basis, target, driver="gelsd", rcond=1e-7).solution
