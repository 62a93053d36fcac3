"""Scans and images as numpy archives; every array has a plain name and no pickle is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.atomic import atomic_file
from koosh_gadgets.convert.recording import SERIES, Recording

if TYPE_CHECKING:
    from koosh_models.scan import Geometry

Arrays = Mapping[str, np.ndarray]
PLACE = ("position_mm", "read_dir", "phase_dir", "slice_dir")


def placed(geometry: Geometry) -> dict[str, np.ndarray]:
    """The geometry as arrays."""
    return {name: np.array(getattr(geometry, name)) for name in ("matrix", "fov_mm", *PLACE, "slice_mm")}


def geometry_in(content: Arrays, matrix: tuple[int, ...]) -> Geometry:
    """The geometry of an archive; 1 mm a voxel at the centre of the scanner where it says none."""
    from koosh_models.scan import Geometry

    matrix = tuple(int(n) for n in content["matrix"]) if "matrix" in content else matrix
    fov_mm = tuple(float(f) for f in content["fov_mm"]) if "fov_mm" in content else tuple(float(n) for n in matrix)
    given = {name: tuple(float(v) for v in content[name]) for name in PLACE if name in content}
    slice_mm = float(content["slice_mm"]) if "slice_mm" in content else 1.0
    return Geometry(matrix, fov_mm, slice_mm=slice_mm, **given)  # type: ignore[arg-type]


def scan_arrays(recording: Recording) -> dict[str, np.ndarray]:
    """`kspace`, `omega` (rad/voxel; not for Cartesian), `noise`, `series`, `center` and the geometry."""
    arrays = {"kspace": recording.kspace, "noise": recording.noise, "center": np.array(recording.center)}
    if recording.omega is not None:
        arrays["omega"] = recording.omega
    return {"series": np.array(SERIES), **arrays, **placed(recording.geometry)}


def image_arrays(image: np.ndarray, geometry: Geometry) -> dict[str, np.ndarray]:
    """`image` (z, y, x) or (frame, z, y, x) and its geometry."""
    return {"image": image, **placed(geometry)}


def write(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays under their names; the file is whole or absent."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def recording_of(content: Arrays, name: str) -> Recording:
    """The scan of arrays as `scan_arrays` gives them; without series axes it is one volume."""
    kspace = content["kspace"].astype(np.complex64, copy=False)
    omega = content["omega"].astype(np.float32, copy=False) if "omega" in content else None
    inner = 3 if omega is not None else 4
    kspace = kspace.reshape(*[1] * (len(SERIES) + inner - kspace.ndim), *kspace.shape)
    if omega is not None:
        omega = omega.reshape(*[1] * (len(SERIES) + 3 - omega.ndim), *omega.shape)
        if omega.shape[:6] != kspace.shape[:6] or omega.shape[-2:] != kspace.shape[-2:]:
            raise ValueError(
                f"{name}: omega {omega.shape} and kspace {kspace.shape} don't belong together; wanted "
                "(..., axis, readout, sample) and (..., coil, readout, sample)"
            )
        if "matrix" not in content:
            raise ValueError(f"{name} has `omega` but no `matrix`")
    grid = kspace.shape[-3:] if kspace.shape[-3] > 1 else kspace.shape[-2:]
    geometry = geometry_in(content, grid)
    noise = content["noise"] if "noise" in content else np.zeros((kspace.shape[6], 0), np.complex64)
    center = int(content["center"]) if "center" in content else kspace.shape[-1] // 2
    return Recording(kspace, omega, geometry, kspace.shape[:6], center, noise)


def image_of(content: Arrays, name: str) -> tuple[np.ndarray, Geometry]:
    """The `image` among arrays and where it lies."""
    if "image" not in content:
        raise ValueError(f"{name} has neither `kspace` nor `image`; it has {', '.join(content)}")
    image = content["image"]
    return image, geometry_in(content, image.shape[-3:] if image.ndim > 2 else image.shape)
