"""Trajectories in whatever unit -> cycles per voxel of the encoded matrix: the one place where that is done."""

from __future__ import annotations

import math

import numpy as np

UNITS = ("cycles/voxel", "cycles/fov", "1/m", "rad/m", "rad/voxel")
EDGE = 0.5 * (1 + 2e-3)  # cycles per voxel; rounding of half a matrix
# largest distance from the centre that a whole scan of its matrix reaches, in cycles per voxel
REACH = (0.27, 0.5 * math.sqrt(3) * 1.01)


def factor(unit: str, matrix: np.ndarray, fov_mm: np.ndarray) -> np.ndarray:
    """What one unit is in cycles per voxel, per axis (x, y, z)."""
    voxel_m = fov_mm / matrix / 1000
    factors = {
        "cycles/voxel": np.ones_like(voxel_m),
        "cycles/fov": 1 / matrix,
        "1/m": voxel_m,
        "rad/m": voxel_m / (2 * math.pi),
        "rad/voxel": np.full_like(voxel_m, 1 / (2 * math.pi)),
    }
    return factors[unit]


def fitting(peak: np.ndarray, radius: dict[str, float], matrix: np.ndarray, fov_mm: np.ndarray) -> list[str]:
    """Units in which a trajectory with these extents samples just the encoded matrix."""
    return [
        unit
        for unit in UNITS
        if (peak * factor(unit, matrix, fov_mm)).max() <= EDGE and REACH[0] <= radius[unit] <= REACH[1]
    ]


def radii(trajectory: np.ndarray, matrix: np.ndarray, fov_mm: np.ndarray) -> dict[str, float]:
    """Largest distance from the centre in cycles per voxel, were (..., axis) in each unit."""
    return {unit: float(np.sqrt(np.square(trajectory * factor(unit, matrix, fov_mm)).sum(-1).max())) for unit in UNITS}


def detect(trajectory: np.ndarray, matrix: np.ndarray, fov_mm: np.ndarray) -> str | None:
    """The unit of (..., axis), None where none fits; two units that mean different things are an error."""
    peak = np.abs(trajectory).reshape(-1, trajectory.shape[-1]).max(0)
    fits = fitting(peak, radii(trajectory, matrix, fov_mm), matrix, fov_mm)
    if len(fits) > 1 and not all(
        np.allclose(factor(u, matrix, fov_mm), factor(fits[0], matrix, fov_mm), rtol=1e-2) for u in fits
    ):
        raise ValueError(
            f"the trajectory's peak {np.round(peak, 4).tolist()} (kx, ky, kz) fits {' and '.join(fits)}; "
            "name its unit with trajectory_unit"
        )
    return fits[0] if fits else None


def unfit(trajectory: np.ndarray, matrix: np.ndarray, fov_mm: np.ndarray) -> str:
    """The sentence for a trajectory that fits no unit."""
    peak = np.abs(trajectory).reshape(-1, trajectory.shape[-1]).max(0)
    found = ", ".join(f"{u} {r:.3g}" for u, r in radii(trajectory, matrix, fov_mm).items())
    return (
        f"the trajectory's peak {np.round(peak, 4).tolist()} fits no unit for matrix {matrix.astype(int).tolist()} and "
        f"field of view {fov_mm.tolist()} mm (wanted a radius near 0.5 cycles per voxel; it would be: {found}); "
        "name its unit with trajectory_unit, or correct matrix and field of view"
    )
