"""Curved readouts: Archimedean, on cones, and Seiffert's spherical spirals, sampled at equal arc length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GOLDEN_ANGLE = math.pi * (math.sqrt(5.0) - 1.0) / 2.0
SAMPLES_PER_NYQUIST = 1.5
"""Samples along a curve for every 1/FOV of its length."""
FINE = 8192


def equal_steps(curve: Tensor, n_samples: int) -> Tensor:
    """(axis, n_samples) points at equal arc length on the finely drawn `curve` (axis, point), both ends included."""
    step = curve.diff(dim=1).norm(dim=0)
    along = torch.cat([step.new_zeros(1), step.cumsum(0)])
    want = torch.linspace(0, float(along[-1]), n_samples, dtype=curve.dtype)
    right = torch.searchsorted(along, want).clamp(1, len(along) - 1)
    share = (want - along[right - 1]) / (along[right] - along[right - 1])
    return curve[:, right - 1] + share * (curve[:, right] - curve[:, right - 1])


def n_for(length: float, size: int) -> int:
    """Samples of a curve that is `length` radii of k-space long."""
    return math.ceil(SAMPLES_PER_NYQUIST * length * size / 2)


def n_interleaves(size: int, acceleration: float) -> int:
    """Interleaves of a 2D spiral scan: a full one has one for every eight samples of the diameter."""
    return max(1, round(size / 8 / acceleration))


def interleaves(size: int, acceleration: float, n_arms: int) -> tuple[Tensor, int]:
    """(2, sample) Archimedean arms of four turns each, successive arms turned by the golden angle; samples of one."""
    turns = 4.0
    tau = torch.linspace(0, 1, FINE, dtype=torch.float64)
    curve = math.pi * tau * torch.stack([(2 * math.pi * turns * tau).sin(), (2 * math.pi * turns * tau).cos()])
    length = float(curve.diff(dim=1).norm(dim=0).sum()) / math.pi
    arm = equal_steps(curve, n_for(length, size))
    angle = GOLDEN_ANGLE * torch.arange(n_arms, dtype=torch.float64)
    sin, cos = angle.sin()[:, None], angle.cos()[:, None]
    y, x = cos * arm[0] + sin * arm[1], cos * arm[1] - sin * arm[0]
    return torch.stack([y.flatten(), x.flatten()]).float(), arm.shape[1]


@dataclass(frozen=True)
class Winding:
    """How a readout winds about the axis of its cone: `windings` turns at the equator, for a matrix of `size`."""

    size: int
    windings: float

    @property
    def length(self) -> float:
        """Radii of k-space that the longest readout (at the equator) travels."""
        w = 2 * math.pi * self.windings
        return (w * math.sqrt(1 + w * w) + math.asinh(w)) / (2 * w)

    @property
    def n_samples(self) -> int:
        """Samples of every readout."""
        return n_for(self.length, self.size)


def on_cones(directions: Tensor, winding: Winding) -> Tensor:
    """(3, sample) spirals on cones; a readout ends at pi times its direction (3, readout), rows z, y, x."""
    tau = torch.linspace(0, 1, FINE // 4, dtype=torch.float64)
    turn = 2 * math.pi * winding.windings * (tau - 1)
    spokes = []
    for z, y, x in directions.T.tolist():
        flat = math.hypot(y, x)
        angle = math.atan2(y, x) + turn * flat
        curve = math.pi * tau * torch.stack([torch.full_like(tau, z), flat * angle.sin(), flat * angle.cos()])
        spokes.append(equal_steps(curve, winding.n_samples))
    return torch.cat(spokes, dim=1).float()


def seiffert(size: int, modulus: float = 0.1, arc: float = 8.0) -> tuple[Tensor, float]:
    """(3, sample) one Seiffert spiral whose radius grows from 0 to pi, and its length in radii of k-space.

    Speyrer et al. 2022, MRM: sn(s) cos(sqrt(m) s), sn(s) sin(sqrt(m) s), cn(s) on the unit sphere, s its arc length.
    """
    tau = torch.linspace(0, 1, FINE, dtype=torch.float64)
    s = arc * tau
    sn, cn = jacobi(s, modulus)
    turn = math.sqrt(modulus) * s
    curve = math.pi * tau * torch.stack([cn, sn * turn.sin(), sn * turn.cos()])
    length = float(curve.diff(dim=1).norm(dim=0).sum()) / math.pi
    return equal_steps(curve, n_for(length, size)), length


def jacobi(u: Tensor, m: float) -> tuple[Tensor, Tensor]:
    """Jacobi's elliptic sn and cn of u with parameter m, by arithmetic-geometric means (Abramowitz & Stegun 16.4)."""
    a, b, ratios = 1.0, math.sqrt(1 - m), []
    while True:
        a, b, c = (a + b) / 2, math.sqrt(a * b), (a - b) / 2
        ratios.append(c / a)
        if c < 1e-15:
            break
    phi = 2 ** len(ratios) * a * u
    for ratio in reversed(ratios):
        phi = (phi + (ratio * phi.sin()).asin()) / 2
    return phi.sin(), phi.cos()


def turned(curve: Tensor, directions: Tensor) -> Tensor:
    """(3, sample) copies of `curve`, each turned so that +z becomes its direction (3, readout), rows z, y, x.

    The curve is first turned about its own axis, by the golden angle from readout to readout.
    """
    index = torch.arange(directions.shape[1], dtype=torch.float64)
    sin, cos = (GOLDEN_ANGLE * index).sin()[:, None], (GOLDEN_ANGLE * index).cos()[:, None]
    z = curve[0].expand(len(index), -1)
    y, x = cos * curve[1] + sin * curve[2], cos * curve[2] - sin * curve[1]
    tilt, about = torch.acos(directions[0].clamp(-1, 1))[:, None], torch.atan2(directions[1], directions[2])[:, None]
    z, x = tilt.cos() * z - tilt.sin() * x, tilt.sin() * z + tilt.cos() * x
    y, x = about.cos() * y + about.sin() * x, about.cos() * x - about.sin() * y
    return torch.stack([z.flatten(), y.flatten(), x.flatten()]).float()
