"""What goes wrong in a real scanner: off-resonance, gradient delays, rigid motion and breathing.

The scan keeps its nominal trajectory; only the data follow the true one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from koosh_models.physics.nufft import Nufft
from koosh_models.simulation.shapes import band_limited
from koosh_models.simulation.trajectories import Trajectory

Measure = Callable[[Tensor, Tensor], Tensor]
"""(image, omega) -> (coil, sample) k-space."""
STATES = 8
"""Positions that a moving object takes during a scan."""


@dataclass(frozen=True)
class Imperfections:
    """How the measurement differs from the ideal one; all zero is ideal.

    off_resonance_hz   largest deviation of a smooth field map
    dwell_us           time from sample to sample, for off-resonance
    delays             of the gradients x, y, z in samples: `k_true(t) = k_nominal(t - delay)`
    motion_voxels, motion_degrees   spread of the positions that the object takes one after the other
    breathing_voxels   how far the object moves along z (2D: y) with every breath
    breaths            in the whole scan
    """

    off_resonance_hz: float = 0.0
    dwell_us: float = 4.0
    delays: tuple[float, float, float] = (0.0, 0.0, 0.0)
    motion_voxels: float = 0.0
    motion_degrees: float = 0.0
    breathing_voxels: float = 0.0
    breaths: float = 20.0

    @property
    def moving(self) -> bool:
        """Whether the object moves."""
        return bool(self.motion_voxels or self.motion_degrees or self.breathing_voxels)


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the object is during each readout.

    state   (readout) index of the pose
    turns   (state, axis, axis) rotations, axes z, y, x
    shifts  (state, axis) in voxels, axes z, y, x
    """

    state: Tensor
    turns: Tensor
    shifts: Tensor


def delayed(trajectory: Trajectory, delays: Sequence[float]) -> Tensor:
    """The true omega (..., axis, sample): each axis lags by its delay (x, y, z, in samples) along every readout."""
    readouts = trajectory.omega.reshape(*trajectory.omega.shape[:-1], -1, trajectory.readout).double()
    rows = [
        shifted(readouts[..., axis, :, :], delays[readouts.shape[-3] - 1 - axis]) for axis in range(readouts.shape[-3])
    ]
    omega = torch.stack(rows, dim=-3).flatten(-2)
    # beyond pi the spectrum of an image on a grid repeats
    return ((omega + math.pi) % (2 * math.pi) - math.pi).float()


def shifted(path: Tensor, delay: float) -> Tensor:
    """The path (..., sample) at sample - delay, linear between samples and beyond the ends."""
    n = path.shape[-1]
    if n < 2 or delay == 0:
        return path
    place = torch.arange(n, dtype=torch.float64) - delay
    left = place.floor().clamp(0, n - 2).long()
    return path[..., left] + (place - left) * (path[..., left + 1] - path[..., left])


def field_map(matrix: tuple[int, ...], peak_hz: float, seed: int) -> Tensor:
    """(z, y, x) or (y, x) smooth off-resonance in Hz, zero on average, `peak_hz` at its largest."""
    shape = (1, *matrix) if len(matrix) == 2 else matrix
    field = torch.from_numpy(band_limited(shape, np.random.default_rng([seed, 31]), 0.6)).reshape(matrix)
    field = field - field.mean()
    return field * (peak_hz / float(field.abs().max()))


def off_resonant(
    image: Tensor, omega: Tensor, field_hz: Tensor, times_s: Tensor, measure: Measure, segments: int = 0
) -> Tensor:
    """(coil, sample) k-space with the phase `exp(-2 pi i f(r) t)`, by time segments fitted to the field's range.

    times_s  (sample) time of every sample of one readout; all readouts have the same
    Least-squares interpolation between segments as in Man et al. 1997, MRM 37:785.
    """
    span = float(times_s.max() - times_s.min()) * float(field_hz.max() - field_hz.min())
    n = segments or 4 + math.ceil(2.5 * span)
    knots = torch.linspace(float(times_s.min()), float(times_s.max()), n, dtype=torch.float64)
    bins = torch.linspace(float(field_hz.min()), float(field_hz.max()), 8 * n, dtype=torch.float64)
    basis, wanted = (torch.exp(-2j * math.pi * bins[:, None] * t) for t in (knots, times_s.double()))
    weights = torch.linalg.lstsq(basis, wanted, driver="gelsd").solution.to(torch.complex64)
    total = torch.zeros(())
    for knot, weight in zip(knots, weights, strict=True):
        turn = torch.exp(-2j * math.pi * field_hz * float(knot)).to(torch.complex64)
        y = measure(image * turn, omega)
        total = total + (y.reshape(*y.shape[:-1], -1, len(times_s)) * weight).flatten(-2)
    return total


def motion_of(what: Imperfections, n_readouts: int, n_axes: int, seed: int) -> Motion:
    """Poses for every readout: steps from pose to pose, or the phases of breathing, or both at once."""
    rng = np.random.default_rng([seed, 41])
    n_steps = STATES if what.motion_voxels or what.motion_degrees else 1
    n_phases = STATES if what.breathing_voxels else 1
    step = (torch.arange(n_readouts) * n_steps) // n_readouts
    # exhalation lasts longer than inhalation: a fourth power of a sine
    breath = torch.sin(math.pi * what.breaths * torch.arange(n_readouts) / n_readouts) ** 4
    phase = (breath * n_phases).long().clamp_max(n_phases - 1)
    turns: list[Tensor] = []
    shifts: list[Tensor] = []
    for _ in range(n_steps):
        turn = rotation(np.deg2rad(what.motion_degrees) * rng.standard_normal(3), n_axes)
        move = torch.from_numpy(what.motion_voxels * rng.standard_normal(n_axes))
        if not turns:
            turn, move = torch.eye(n_axes, dtype=torch.float64), torch.zeros(n_axes, dtype=torch.float64)
        for index in range(n_phases):
            depth = what.breathing_voxels * index / max(n_phases - 1, 1)
            turns.append(turn)
            shifts.append(move + depth * torch.eye(n_axes, dtype=torch.float64)[0])
    return Motion(step * n_phases + phase, torch.stack(turns), torch.stack(shifts))


def rotation(angles: np.ndarray, n_axes: int) -> Tensor:
    """(axis, axis) rotation about z, y, x by `angles`; in 2D about z only."""
    a, b, c = (float(v) for v in angles)
    z = torch.tensor([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]], dtype=torch.float64)
    if n_axes == 2:
        return z[1:, 1:]
    y = torch.tensor([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]], dtype=torch.float64)
    x = torch.tensor([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]], dtype=torch.float64)
    return z @ y @ x


def moved(image: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """The image turned about voxel n//2 and then shifted, exactly as far as its band limit allows.

    Its spectrum is taken at turned frequencies by a non-uniform transform, so nothing is interpolated between voxels.
    """
    axes = [2 * math.pi * (torch.arange(n, dtype=torch.float64) - n // 2) / n for n in image.shape]
    omega = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    turned = turn.T @ omega
    inside = (turned.abs() <= math.pi).all(0)
    at = turned.clamp(-math.pi, math.pi).float()
    spectrum = Nufft(at, tuple(image.shape), 8e-6).forward(image) * inside
    spectrum = spectrum * torch.exp(-1j * (shift @ omega)).to(spectrum.dtype)
    axes_all = tuple(range(image.ndim))
    back = torch.fft.ifftn(torch.fft.ifftshift(spectrum.reshape(image.shape), dim=axes_all), norm="ortho")
    return torch.fft.fftshift(back, dim=axes_all)


def moving(image: Tensor, omega: Tensor, readout: int, motion: Motion, measure: Measure) -> Tensor:
    """(coil, sample) k-space of an object that takes the poses of `motion`; the coils stay where they are."""
    paths = omega.reshape(len(omega), -1, readout)
    out: Tensor | None = None
    for state in range(len(motion.turns)):
        chosen = motion.state == state
        if not bool(chosen.any()):
            continue
        y = measure(moved(image, motion.turns[state], motion.shifts[state]), paths[:, chosen].flatten(1))
        if out is None:
            out = torch.zeros(y.shape[0], len(motion.state), readout, dtype=y.dtype)
        out[:, chosen] = y.reshape(len(y), -1, readout)
    assert out is not None
    return out.flatten(1)
