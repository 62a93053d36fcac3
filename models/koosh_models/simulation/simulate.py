"""A scan of a known truth: coils, trajectory, noise, and what goes wrong in a real scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import finufft
import torch
from torch import Tensor

from koosh_models.scan import Geometry, Scan
from koosh_models.simulation.coils import loop_maps
from koosh_models.simulation.trajectories import Trajectory


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
    if trajectory.n_frames is None:
        return encoded(maps * truth, trajectory.omega)
    return torch.stack([encoded(maps * image, omega) for image, omega in zip(truth, trajectory.omega, strict=True)])


def encoded(images: Tensor, omega: Tensor) -> Tensor:
    """(coil, sample) of coil images (coil, z, y, x): `N^-1/2 sum_r x(r) exp(-i omega.r)`."""
    transform = {2: finufft.nufft2d2, 3: finufft.nufft3d2}[omega.shape[0]]
    points = [row.numpy() for row in omega]
    values = transform(*points, images.contiguous().numpy(), eps=1e-5, isign=-1, upsampfac=2.0)
    return torch.from_numpy(values).reshape(images.shape[0], -1) / math.sqrt(math.prod(images.shape[1:]))


def white(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Complex normal noise with a mean square of one."""
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed + 7919))
