"""Which unit a file's trajectory is in, and its conversion to rad/voxel: the one place where that happens.

Matrix and field of view are the encoded ones, (z, y, x) or (y, x); trajectories in files are (sample, axis) with the
columns kx, ky(, kz); `omega` is (axis, sample) with the rows z, y, x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNITS = ("cycles/voxel", "cycles/FOV", "1/m", "rad/m", "rad/voxel")
ALIASES = {
    "cycles/pixel": "cycles/voxel", "cycles/fov": "cycles/FOV", "1/fov": "cycles/FOV", "cycles/m": "1/m",
    "m^-1": "1/m", "rad/pixel": "rad/voxel",
}  # fmt: skip
LOWEST, HIGHEST = 0.45, 1.02
"""A unit fits where the farthest sample lies in this range of the edge of k-space (pi rad/voxel)."""


@dataclass(frozen=True)
class Choice:
    """The unit in which a trajectory is read.

    unit    one of `UNITS`
    source  "configuration", "header" or "detection"
    peak    the farthest sample on any axis in rad/voxel
    """

    unit: str
    source: str
    peak: float

    def __str__(self) -> str:
        """One sentence for the log."""
        return f"trajectory in {self.unit} (by {self.source}), reaching {self.peak:.3f} rad/voxel"


def choose(
    k: NDArray[np.floating],
    matrix: tuple[int, ...],
    fov_mm: tuple[float, ...],
    configured: str | None = None,
    header: str | None = None,
) -> Choice:
    """The unit of the trajectory `k` (sample, axis): the configured one, else the header's, else the one that fits.

    A configured "auto" counts as none. A named unit that leads outside the matrix, no unit that fits, and two that do
    are a ValueError which names them.
    """
    check(k, matrix, fov_mm)
    peaks = np.abs(k[:, : len(matrix)]).max(axis=0)[::-1].astype(float)
    for name, source in ((configured, "configuration"), (header, "header")):
        if name and name != "auto":
            return named(name, source, peaks, matrix, fov_mm)
    return detected(peaks, matrix, fov_mm)


def check(k: NDArray[np.floating], matrix: tuple[int, ...], fov_mm: tuple[float, ...]) -> None:
    """Refuse a trajectory that is empty, not finite or has too few axes."""
    if k.ndim != 2 or k.shape[1] < len(matrix) or len(matrix) != len(fov_mm):
        raise ValueError(f"the trajectory has shape {k.shape}, wanted (sample, {len(matrix)}) for the matrix {matrix}")
    if not k.size:
        raise ValueError("the trajectory is empty: no readout carries one")
    if not np.isfinite(k).all():
        raise ValueError("the trajectory contains NaN or Inf; check the file or gadget that supplied it")


def radians(unit: str, matrix: tuple[int, ...], fov_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """(axis) rad/voxel that one of the unit is, rows z, y, x."""
    n, fov_m = np.array(matrix, float), np.array(fov_mm, float) / 1000
    known = {
        "cycles/voxel": np.full(len(n), 2 * np.pi),
        "cycles/FOV": 2 * np.pi / n,
        "1/m": 2 * np.pi * fov_m / n,
        "rad/m": fov_m / n,
        "rad/voxel": np.ones(len(n)),
    }
    return known[canonical(unit)]


def canonical(unit: str) -> str:
    """The unit's name in `UNITS`."""
    name = unit.strip()
    name = name if name in UNITS else ALIASES.get(name.lower().replace(" ", ""), name.lower())
    if name not in UNITS:
        raise ValueError(f"unknown trajectory unit {unit!r}; known: {', '.join(UNITS)}")
    return name


def to_radians(
    k: NDArray[np.floating], unit: str, matrix: tuple[int, ...], fov_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """(axis, sample) omega of the trajectory `k` (sample, axis); samples a rounding beyond pi are put on it."""
    check(k, matrix, fov_mm)
    omega = k[:, : len(matrix)].T[::-1] * radians(unit, matrix, fov_mm)[:, None]
    peak = float(np.abs(omega).max())
    if peak > np.pi * HIGHEST:
        raise ValueError(
            f"in {canonical(unit)} the trajectory reaches {peak:.4g} rad/voxel, beyond pi, for the encoded matrix "
            f"{matrix} and field of view {fov_mm} mm; set trajectory_unit to the right one of {', '.join(UNITS)}"
        )
    return np.ascontiguousarray(np.clip(omega, -np.pi, np.pi), np.float32)


def from_radians(
    omega: NDArray[np.floating], unit: str, matrix: tuple[int, ...], fov_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """(sample, axis) trajectory with the columns kx, ky(, kz) of `omega` (axis, sample)."""
    return np.ascontiguousarray((omega / radians(unit, matrix, fov_mm)[:, None])[::-1].T, np.float32)


def named(
    unit: str, source: str, peaks: NDArray[np.float64], matrix: tuple[int, ...], fov_mm: tuple[float, ...]
) -> Choice:
    """The unit that was named, if the trajectory stays inside the matrix with it."""
    peak = float((peaks * radians(unit, matrix, fov_mm)).max())
    if peak > np.pi * HIGHEST:
        fits = fitting(peaks, matrix, fov_mm)
        hint = f"it would fit {' or '.join(fits)}" if fits else "no known unit fits; check matrix and field of view"
        raise ValueError(
            f"the {source} says the trajectory is in {canonical(unit)}, but then it reaches {peak:.4g} rad/voxel, "
            f"beyond pi; {hint}"
        )
    return Choice(canonical(unit), source, peak)


def detected(peaks: NDArray[np.float64], matrix: tuple[int, ...], fov_mm: tuple[float, ...]) -> Choice:
    """The only unit that fits matrix and field of view."""
    fits = fitting(peaks, matrix, fov_mm)
    if len(fits) == 1:
        return Choice(fits[0], "detection", float((peaks * radians(fits[0], matrix, fov_mm)).max()))
    what = f"up to {peaks.max():.4g} on the encoded matrix {matrix} over {fov_mm} mm"
    if fits:
        raise ValueError(f"the trajectory ({what}) fits two units: {' and '.join(fits)}; name one with trajectory_unit")
    raise ValueError(
        f"the trajectory ({what}) fits none of {', '.join(UNITS)}: wanted 0.45 to 1 of the edge of k-space; "
        "name its unit with trajectory_unit, or correct matrix and field of view"
    )


def fitting(peaks: NDArray[np.float64], matrix: tuple[int, ...], fov_mm: tuple[float, ...]) -> list[str]:
    """The units in which the farthest sample lies near the edge of k-space and none lies beyond."""
    edge = {unit: float((peaks * radians(unit, matrix, fov_mm)).max()) / np.pi for unit in UNITS}
    return [unit for unit, share in edge.items() if LOWEST <= share <= HIGHEST]
