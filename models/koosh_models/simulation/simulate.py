"""A scan of a known truth: coils, trajectory, noise, and what goes wrong in a real scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.nufft import Nufft
from koosh_models.scan import Geometry, Scan
from koosh_models.simulation.coils import loop_maps
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
    """

    scan: Scan
    truth: Tensor
    maps: Tensor
    mask: Tensor
    sigma: float


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
) -> Simulated:
    """The scan of `truth` along `trajectory`; the same arguments give the same bits.

    noise     sigma = sqrt(2) noise mean|truth in mask| for every complex sample
    maps      made by `loop_maps` with `n_coils` where not given
    geometry  field of view 1 mm a voxel where not given
    """
    matrix = checked_matrix(truth, trajectory)
    mask = truth.abs() > 0.02 * truth.abs().max() if mask is None else mask
    maps = loop_maps(matrix, n_coils, seed) if maps is None else maps
    geometry = Geometry(matrix, tuple(float(n) for n in matrix)) if geometry is None else geometry
    if noise < 0 or not math.isfinite(noise):
        raise ValueError(f"noise is {noise}; wanted a share of the mean signal, 0 or more")
    sigma = math.sqrt(2) * noise * float(truth[mask].abs().mean()) if noise else 0.0
    clean = measured(truth.to(torch.complex64), maps, trajectory)
    kspace = clean + sigma * white(clean.shape, seed)
    scan = Scan(kspace, trajectory.omega, geometry, trajectory.readout)
    return Simulated(scan, truth, maps, mask, sigma)


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


def measured(truth: Tensor, maps: Tensor, trajectory: Trajectory) -> Tensor:
    """(coil, sample) or (frame, coil, sample) k-space without noise."""
    matrix = tuple(maps.shape[1:])
    if trajectory.n_frames is None:
        return Nufft(trajectory.omega, matrix, EPS).forward(maps * truth)
    frames = zip(truth, trajectory.omega, strict=True)
    return torch.stack([Nufft(omega, matrix, EPS).forward(maps * image) for image, omega in frames])


def white(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Complex normal noise with a mean square of one."""
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed + 7919))
