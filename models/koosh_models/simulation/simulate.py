"""A scan of a known truth: coils, trajectory, noise, and what goes wrong in a real scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models import memory
from koosh_models.physics.nufft import Nufft
from koosh_models.scan import Geometry, Scan
from koosh_models.simulation.coils import loop_maps
from koosh_models.simulation.imperfections import (
    Imperfections,
    Motion,
    delayed,
    field_map,
    motion_of,
    moving,
    off_resonant,
)
from koosh_models.simulation.trajectories import Trajectory

EPS = 8e-6
"""Of the transform that makes the data: well below what reconstructions use, and what single precision can give."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A scan and what is known about it.

    scan      what was measured
    truth     (z, y, x), (y, x) or (frame, y, x) complex64: the image without noise
    maps      (coil, z, y, x) complex64, sum of squares over coil is one
    mask      bool, the object, same shape as `truth`
    sigma     complex standard deviation of the noise in every sample
    field_hz  off-resonance, same shape as one image, None without
    motion    where the object was during each readout, None where it lay still
    """

    scan: Scan
    truth: Tensor
    maps: Tensor
    mask: Tensor
    sigma: float
    field_hz: Tensor | None = None
    motion: Motion | None = None


def simulate(
    truth: Tensor,
    trajectory: Trajectory,
    *,
    mask: Tensor | None = None,
    maps: Tensor | None = None,
    n_coils: int = 8,
    noise: float = 0.02,
    seed: int = 0,
    geometry: Geometry | None = None,
    imperfections: Imperfections | None = None,
) -> Simulated:
    """The scan of `truth` along `trajectory`; the same arguments give the same bits.

    noise     sigma = sqrt(2) noise mean|truth in mask| for every complex sample
    maps      made by `loop_maps` with `n_coils` where not given
    geometry  field of view 1 mm a voxel where not given
    """
    matrix = checked_matrix(truth, trajectory)
    check_memory(maps.shape[0] if maps is not None else n_coils, matrix, trajectory)
    mask = truth.abs() > 0.02 * truth.abs().max() if mask is None else mask
    maps = loop_maps(matrix, n_coils, seed) if maps is None else maps
    geometry = Geometry(matrix, tuple(float(n) for n in matrix)) if geometry is None else geometry
    if noise < 0 or not math.isfinite(noise):
        raise ValueError(f"noise is {noise}; wanted a share of the mean signal, 0 or more")
    sigma = math.sqrt(2) * noise * float(truth[mask].abs().mean()) if noise else 0.0
    what = Imperfections() if imperfections is None else imperfections
    field_hz = field_map(matrix, what.off_resonance_hz, seed) if what.off_resonance_hz else None
    motion = motion_of(what, trajectory.n_readouts, len(matrix), seed) if what.moving else None
    clean = measured(truth.to(torch.complex64), maps, trajectory, what, field_hz, motion)
    kspace = clean + sigma * white(clean.shape, seed)
    scan = Scan(kspace, trajectory.omega, geometry, trajectory.readout)
    return Simulated(scan, truth, maps, mask, sigma, field_hz, motion)


def checked_matrix(truth: Tensor, trajectory: Trajectory) -> tuple[int, ...]:
    """The matrix of the image, once it is known to fit the trajectory."""
    axes = int(trajectory.omega.shape[-2])
    frames = trajectory.n_frames
    wanted = axes + (frames is not None)
    if truth.ndim != wanted or (frames is not None and truth.shape[0] != frames):
        series = "" if frames is None else f" with {frames} frames in front"
        raise ValueError(f"the image has shape {tuple(truth.shape)}; {trajectory.family} needs {axes} axes{series}")
    if not bool(torch.isfinite(torch.view_as_real(truth.to(torch.complex64))).all()):
        raise ValueError("the image contains NaN or Inf; clean the volume before simulating a scan of it")
    if not bool(truth.abs().max() > 0):
        raise ValueError("the image is zero everywhere; there is nothing to simulate")
    return tuple(truth.shape[-axes:])


def check_memory(n_coils: int, matrix: tuple[int, ...], trajectory: Trajectory) -> None:
    """Refuse a scan that can't fit: coil maps, coil images and their spectra, and k-space twice."""
    images, samples = n_coils * math.prod(matrix), n_coils * trajectory.omega[..., 0, :].numel()
    need = 8 * (3 * images + 2 * samples)
    free = memory.available()
    if free is not None and need > free:
        raise ValueError(
            f"{n_coils} coils on {' x '.join(map(str, matrix))} voxels need about {need / 2**30:.3g} GiB and "
            f"{free / 2**30:.3g} GiB are free; take fewer coils, a smaller matrix or a higher acceleration"
        )


def measured(
    truth: Tensor,
    maps: Tensor,
    trajectory: Trajectory,
    what: Imperfections,
    field_hz: Tensor | None,
    motion: Motion | None,
) -> Tensor:
    """(coil, sample) or (frame, coil, sample) k-space without noise."""
    matrix = tuple(maps.shape[1:])
    times_s = 1e-6 * what.dwell_us * (torch.arange(trajectory.readout) - trajectory.center)

    def plain(image: Tensor, omega: Tensor) -> Tensor:
        return Nufft(omega, matrix, EPS).forward(maps * image)

    def measure(image: Tensor, omega: Tensor) -> Tensor:
        return plain(image, omega) if field_hz is None else off_resonant(image, omega, field_hz, times_s, plain)

    omega = delayed(trajectory, what.delays) if any(what.delays) else trajectory.omega
    if trajectory.n_frames is not None:
        if motion is not None:
            raise ValueError("rigid motion and breathing are for still anatomies; a series moves by itself")
        return torch.stack([measure(image, path) for image, path in zip(truth, omega, strict=True)])
    if motion is None:
        return measure(truth, omega)
    return moving(truth, omega, trajectory.readout, motion, measure)


def white(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Complex normal noise with a mean square of one."""
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed + 7919))
