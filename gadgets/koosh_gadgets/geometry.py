"""From a volume's place in the patient to DICOM's and NIfTI's words for it, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the module itself would import torch
    from koosh_models.scan import Geometry

Floats = NDArray[np.float64]

# Directions off by more than this move the far corner of a 512 matrix by over 0.05 voxel: refuse, don't repair.
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Planes:
    """A stack of slices in LPS mm, numbered along `row x column` as readers of DICOM expect.

    origin    (3,)  centre of the first voxel of the first slice
    row       (3,)  unit vector along which the column index (x) grows
    column    (3,)  unit vector along which the row index (y) grows
    step      (3,)  from one slice to the next, mm
    spacing   (dz, dy, dx) mm
    reverse   True where slice 0 is the last plane of the volume: its directions are left-handed
    """

    origin: Floats
    row: Floats
    column: Floats
    step: Floats
    spacing: tuple[float, float, float]
    reverse: bool

    def position(self, index: int) -> Floats:
        """(3,) centre of the first voxel of slice `index`, LPS mm."""
        return self.origin + index * self.step


def matrix3(geometry: Geometry) -> tuple[int, int, int]:
    """Voxels (z, y, x); a 2D geometry is one slice."""
    z, y, x = (1, *geometry.matrix)[-3:]
    return z, y, x


def voxel3(geometry: Geometry) -> tuple[float, float, float]:
    """Voxel size (z, y, x) in mm; a 2D geometry is `slice_mm` thick."""
    z, y, x = (geometry.slice_mm, *geometry.voxel_mm)[-3:]
    return z, y, x


def rotation(geometry: Geometry) -> Floats:
    """(3, 3) columns read, phase, slice, exactly orthonormal; left-handed where the geometry is.

    Rounding of single precision is taken out (nearest orthonormal matrix); anything worse is refused.
    """
    given = np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir], dtype=np.float64).T
    names = f"read {geometry.read_dir}, phase {geometry.phase_dir}, slice {geometry.slice_dir}"
    if not np.isfinite(given).all() or not given.any(axis=0).all():
        raise ValueError(f"directions are missing or not finite: {names}; set read_dir, phase_dir and slice_dir")
    u, _, vh = np.linalg.svd(given)
    nearest = u @ vh
    if (error := np.abs(given - nearest).max()) > DIRECTION_TOLERANCE:
        raise ValueError(
            f"directions are not orthogonal unit vectors (off by {error:.2g}, at most {DIRECTION_TOLERANCE:g}): {names}"
        )
    return np.asarray(nearest)


def affine_lps(geometry: Geometry) -> Floats:
    """(4, 4) from voxel index (x, y, z, 1) to patient mm, LPS; voxel matrix//2 lies at `position_mm`."""
    centre = np.asarray(geometry.position_mm, dtype=np.float64)
    if centre.shape != (3,) or not np.isfinite(centre).all():
        raise ValueError(f"position_mm is {geometry.position_mm}; wanted three finite numbers (LPS mm)")
    affine = np.eye(4)
    affine[:3, :3] = rotation(geometry) * np.array(voxel3(geometry)[::-1])
    affine[:3, 3] = centre - affine[:3, :3] @ np.array([n // 2 for n in matrix3(geometry)[::-1]], dtype=np.float64)
    return affine


def affine_ras(geometry: Geometry) -> Floats:
    """(4, 4) from voxel index (x, y, z, 1) to mm in NIfTI's axes, RAS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps(geometry)


def planes(geometry: Geometry) -> Planes:
    """The slices of the volume, in the order in which `row x column` points.

    A left-handed volume is written from its last plane to its first: every voxel keeps its place, and readers
    that assume a right-handed stack agree with those that look at each position.
    """
    affine, axes = affine_lps(geometry), rotation(geometry)
    step, origin = affine[:3, 2], affine[:3, 3]
    reverse = bool(np.linalg.det(axes) < 0)
    if reverse:
        origin, step = origin + (matrix3(geometry)[0] - 1) * step, -step
    return Planes(origin, axes[:, 0], axes[:, 1], step, voxel3(geometry), reverse)


def from_affine(affine: Floats, shape: tuple[int, ...], slice_mm: float | None = None) -> Geometry:
    """The geometry of a (z, y, x) volume whose voxel (x, y, z, 1) lies at `affine @ index`, LPS mm."""
    from koosh_models.scan import Geometry

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"the matrix from voxels to mm is singular or not finite: {np.round(affine, 6).tolist()}")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    read, phase, through = (_vector(affine[:3, k] / size[k]) for k in range(3))
    count = np.array(shape[-3:][::-1])
    geometry = Geometry(
        matrix=tuple(int(n) for n in shape[-3:]),
        fov_mm=tuple(float(v) for v in (size * count)[::-1]),
        position_mm=_vector(affine[:3, :3] @ (count // 2) + affine[:3, 3]),
        read_dir=read,
        phase_dir=phase,
        slice_dir=through,
        slice_mm=float(size[2]) if slice_mm is None else slice_mm,
    )
    rotation(geometry)
    return geometry


def _vector(values: Floats) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
