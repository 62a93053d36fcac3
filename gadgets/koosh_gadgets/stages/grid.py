"""From a volume of readouts to a `Scan`: the grid that is reconstructed, its place, and what is cut out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.volume import Volume

if TYPE_CHECKING:
    from koosh_models.scan import Geometry, Scan

AXES = "xyz"


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels that are reconstructed, over the encoded field of view, and those that are wanted, (x, y(, z)).

    stretch  voxel of the grid over voxel of the encoding: the trajectory is scaled by it
    """

    matrix: np.ndarray
    fov_mm: np.ndarray
    wanted: np.ndarray

    def stretch(self, encoding: Encoding) -> np.ndarray:
        """(axis) factor of the trajectory."""
        n = len(self.matrix)
        return np.asarray((self.fov_mm / self.matrix) / (encoding.fov_mm[:n] / encoding.matrix[:n]))


def grid(encoding: Encoding, matrix: int = 0) -> Grid:
    """The header's recon voxels (or `matrix` voxels an axis) over the encoded field of view.

    Recon voxels coarser than the encoded ones would throw samples away: then the encoded voxels are kept.
    """
    n = encoding.n_axes
    encoded, fov = encoding.matrix[:n], encoding.fov_mm[:n]
    recon, recon_fov = encoding.recon_matrix[:n], encoding.recon_fov_mm[:n]
    voxel = np.minimum(recon_fov / recon, fov / encoded) if not matrix else fov / matrix
    voxel = np.where(np.abs(voxel * encoded / fov - 1) < 1e-3, fov / encoded, voxel)
    size = np.maximum(1, np.rint(fov / voxel))
    wanted = np.clip(np.rint(np.minimum(recon_fov, fov) / voxel), 1, size)
    return Grid(size.astype(int), size * voxel, wanted.astype(int))


def geometry(volume: Volume, matrix: np.ndarray, fov_mm: np.ndarray, journal: Journal) -> Geometry:
    """Place and orientation from the readouts' headers; matrix and field of view (x, y(, z))."""
    from koosh_models.scan import Geometry

    head = volume.heads[len(volume.heads) // 2]
    axes = np.array([head["read_dir"], head["phase_dir"], head["slice_dir"]], np.float64)
    if not np.isfinite(axes).all() or (np.linalg.norm(axes, axis=1) < 0.5).any():
        journal.note("the readouts carry no orientation: the scanner's axes are assumed (read x, phase y, slice z)")
        axes = np.eye(3)
    u, _, v = np.linalg.svd(axes)
    if np.abs(u @ v - axes).max() > 1e-2:
        raise ValueError(
            f"readout {head['scan_counter']}: read_dir, phase_dir and slice_dir are not orthogonal unit vectors: "
            f"{np.round(axes, 4).tolist()}"
        )
    position = head["position"].astype(np.float64)
    if not np.isfinite(position).all() or np.abs(position).max() > 1e5:
        raise ValueError(f"readout {head['scan_counter']}: position is {position.tolist()}; wanted mm")
    if any(np.abs(volume.heads["position"] - head["position"]).max(1) > 1e-2):
        journal.note("the position changes within the volume: that of its middle readout is used")
    read, phase, through = (_vector(row) for row in u @ v)
    x, y, z = position.tolist()
    return Geometry(
        matrix=tuple(int(n) for n in matrix[::-1]),
        fov_mm=tuple(float(f) for f in fov_mm[::-1]),
        position_mm=(x, y, z),
        read_dir=read,
        phase_dir=phase,
        slice_dir=through,
        slice_mm=float(volume.encoding.recon_fov_mm[2] / volume.encoding.recon_matrix[2]),
    )


def _vector(row: np.ndarray) -> tuple[float, float, float]:
    x, y, z = row.tolist()
    return x, y, z


def scan_of(volume: Volume, place: Grid, journal: Journal) -> Scan:
    """The volume as a `Scan`; samples beyond a coarser grid are dropped, whole columns where all readouts agree."""
    import torch

    from koosh_models.scan import Scan

    scale = (place.stretch(volume.encoding) * 2 * math.pi).astype(np.float32)
    omega = (volume.trajectory * scale)[:, :, ::-1]
    data = volume.data
    inside = np.asarray((np.abs(omega) <= math.pi * (1 + 1e-4)).all(2))
    weights = None
    if not inside.all():
        columns = np.asarray(inside.any(0))
        lo, hi = int(columns.argmax()), len(columns) - int(columns[::-1].argmax())
        omega, inside, data = omega[:, lo:hi], inside[:, lo:hi], data[:, :, lo:hi]
        journal.note(f"{1 - inside.mean():.0%} of the samples lie beyond the reconstructed grid and are not used")
        data = data * inside
        weights = torch.from_numpy(inside.reshape(-1).astype(np.float32))
    flat = np.ascontiguousarray(np.clip(omega, -math.pi, math.pi).reshape(-1, omega.shape[2]).T)
    return Scan(
        kspace=torch.from_numpy(np.ascontiguousarray(data).reshape(len(data), -1)),
        omega=torch.from_numpy(flat),
        geometry=geometry(volume, place.matrix, place.fov_mm, journal),
        readout=data.shape[2],
        weights=weights,
    )


def cropped(image: np.ndarray, place: Grid) -> np.ndarray:
    """The wanted middle of (..., z, y, x) or (..., y, x): voxel n//2 stays voxel n//2."""
    index: list[slice | EllipsisType] = [...]
    for n, m in zip(place.matrix[::-1], place.wanted[::-1], strict=True):
        start = int(n) // 2 - int(m) // 2
        index.append(slice(start, start + int(m)))
    return image[tuple(index)]
