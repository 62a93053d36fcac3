"""What one reconstruction needs, and nothing of how it came."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)
Vector = tuple[float, float, float]
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Where the volume lies in the patient.

    matrix       voxels, (z, y, x), or (y, x) in 2D
    fov_mm       extent of the matrix, same order
    position_mm  centre of the volume (voxel matrix//2), patient coordinates x, y, z (LPS)
    read_dir, phase_dir, slice_dir   unit vectors along +x, +y, +z of the image, LPS
    slice_mm     thickness of a 2D slice
    """

    matrix: tuple[int, ...]
    fov_mm: tuple[float, ...]
    position_mm: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)
    slice_mm: float = 1.0

    def __post_init__(self) -> None:
        if len(self.matrix) not in (2, 3) or len(self.fov_mm) != len(self.matrix):
            raise ValueError(f"matrix {self.matrix} and field of view {self.fov_mm} need two or three axes each")
        if min(self.matrix) < 1 or min(self.fov_mm) <= 0:
            raise ValueError(f"matrix {self.matrix} and field of view {self.fov_mm} mm must be positive")

    @property
    def voxel_mm(self) -> tuple[float, ...]:
        """Voxel size in mm, same order as the matrix."""
        return tuple(f / n for f, n in zip(self.fov_mm, self.matrix, strict=True))


@dataclass(frozen=True, eq=False)
class Scan:
    """One measurement of one volume (or of a series of frames).

    kspace    (coil, sample) or (frame, coil, sample)  complex64
    omega     (axis, sample) or (frame, axis, sample)  float32, rad/voxel in [-pi, pi], rows z, y, x (2D: y, x)
    geometry  matrix, field of view, position
    readout   samples in one readout; samples of a readout are neighbours
    weights   (sample) or (frame, sample) density weights, None where not computed yet
    """

    kspace: Tensor
    omega: Tensor
    geometry: Geometry
    readout: int
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        check_samples(self.kspace, self.omega, len(self.geometry.matrix))
        if self.readout < 1 or self.kspace.shape[-1] % self.readout:
            raise ValueError(
                f"{self.kspace.shape[-1]} samples are no whole number of readouts of {self.readout} samples each"
            )
        wanted = self.omega[..., 0, :].shape
        if self.weights is not None and self.weights.shape != wanted:
            raise ValueError(f"weights have shape {tuple(self.weights.shape)}, wanted one a sample: {tuple(wanted)}")

    @staticmethod
    def from_arrays(
        kspace: Array, omega: Array, matrix: tuple[int, ...], fov_mm: tuple[float, ...] | None = None
    ) -> Scan:
        """A scan from plain arrays of numpy or torch, readout by readout.

        kspace  (coil, readout, sample), of a series (frame, coil, readout, sample)
        omega   (axis, readout, sample), of a series (frame, axis, readout, sample): rad/voxel, rows z, y, x (2D: y, x)
        matrix  voxels, (z, y, x) or (y, x);  fov_mm  their extent, 1 mm a voxel where not given
        """
        samples, path = torch.as_tensor(kspace), torch.as_tensor(omega)
        if samples.ndim not in (3, 4) or path.ndim != samples.ndim or samples.shape[-2:] != path.shape[-2:]:
            raise ValueError(
                f"k-space {tuple(samples.shape)} and trajectory {tuple(path.shape)} don't belong together; wanted "
                "(coil, readout, sample) and (axis, readout, sample), a series with its frames in front of both"
            )
        if 0 < float(path.abs().max()) <= 0.5 * (1 + 1e-4):
            log.warning("the trajectory ends at 0.5 rad/voxel: if it is in cycles per voxel, multiply it by 2 pi")
        flat = samples.flatten(-2).to(torch.complex64).contiguous()
        place = Geometry(tuple(matrix), tuple(float(n) for n in (matrix if fov_mm is None else fov_mm)))
        # what rounding puts beyond pi belongs to the edge
        turns = path.flatten(-2).to(torch.float32)
        turns = torch.where(turns.abs() <= math.pi * (1 + 1e-4), turns.clamp(-math.pi, math.pi), turns)
        return Scan(flat, turns.contiguous(), place, int(samples.shape[-1]))

    @property
    def n_coils(self) -> int:
        """Receive channels."""
        return int(self.kspace.shape[-2])

    @property
    def n_frames(self) -> int | None:
        """Frames of a series, None for a single volume."""
        return int(self.kspace.shape[0]) if self.kspace.ndim == 3 else None

    @property
    def n_readouts(self) -> int:
        """Readouts (spokes, interleaves, lines) in one frame."""
        return int(self.kspace.shape[-1]) // self.readout

    def frame(self, index: int) -> Scan:
        """The scan of one frame of a series."""
        if self.n_frames is None:
            raise ValueError("this scan has no frames: it is a single volume")
        weights = None if self.weights is None else self.weights[index]
        return replace(self, kspace=self.kspace[index], omega=self.omega[index], weights=weights)

    def only(self, which: Tensor) -> Scan:
        """The scan of these readouts of a single volume, with the density weights that they had in the whole.

        which  (readout) indices
        """
        if self.n_frames is not None:
            raise ValueError("wanted a single volume: take the readouts of one frame after the other")
        at = which.to(self.kspace.device)

        def cut(samples: Tensor) -> Tensor:
            return samples.reshape(-1, self.n_readouts, self.readout)[:, at].flatten(1)

        weights = None if self.weights is None else cut(self.weights)[0]
        return replace(self, kspace=cut(self.kspace), omega=cut(self.omega), weights=weights)

    def to(self, device: torch.device | str) -> Scan:
        """The same scan on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, kspace=self.kspace.to(device), omega=self.omega.to(device), weights=weights)


def check_samples(kspace: Tensor, omega: Tensor, n_axes: int) -> None:
    """Refuse samples and trajectory that don't belong together, are empty, not finite or outside the matrix."""
    if kspace.ndim not in (2, 3) or not kspace.is_complex():
        raise ValueError(
            f"k-space is {kspace.dtype} {tuple(kspace.shape)}; wanted complex (coil, sample) or (frame, coil, sample)"
        )
    if kspace.numel() == 0:
        raise ValueError(f"the scan is empty: k-space has shape {tuple(kspace.shape)}")
    if omega.shape != (*kspace.shape[:-2], n_axes, kspace.shape[-1]):
        raise ValueError(
            f"trajectory has shape {tuple(omega.shape)}, wanted {(*kspace.shape[:-2], n_axes, kspace.shape[-1])} "
            f"for k-space {tuple(kspace.shape)} and a {n_axes}D matrix"
        )
    if not bool(torch.isfinite(omega).all()):
        raise ValueError("the trajectory contains NaN or Inf; check the file or gadget that supplied it")
    if (peak := float(omega.abs().max())) > torch.pi * (1 + 1e-4):
        raise ValueError(
            f"trajectory reaches {peak:.4g} rad/voxel, beyond pi: name its unit with trajectory_unit, "
            "or choose a larger matrix"
        )
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError("k-space contains NaN or Inf; drop those readouts first (the buffer gadget does)")
