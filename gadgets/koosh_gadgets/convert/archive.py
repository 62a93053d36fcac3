"""Scans and images as numpy archives; every array has a plain name and no pickle is read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.atomic import atomic_file
from koosh_gadgets.convert.recording import SERIES, Recording

if TYPE_CHECKING:
    from koosh_models.scan import Geometry

PLACE = ("position_mm", "read_dir", "phase_dir", "slice_dir")


def placed(geometry: Geometry) -> dict[str, object]:
    """The geometry as arrays."""
    return {name: np.array(getattr(geometry, name)) for name in ("matrix", "fov_mm", *PLACE, "slice_mm")}


def geometry_in(content: np.lib.npyio.NpzFile, matrix: tuple[int, ...]) -> Geometry:
    """The geometry of an archive; 1 mm a voxel at the centre of the scanner where it says none."""
    from koosh_models.scan import Geometry

    matrix = tuple(int(n) for n in content["matrix"]) if "matrix" in content else matrix
    fov_mm = tuple(float(f) for f in content["fov_mm"]) if "fov_mm" in content else tuple(float(n) for n in matrix)
    given = {name: tuple(float(v) for v in content[name]) for name in PLACE if name in content}
    slice_mm = float(content["slice_mm"]) if "slice_mm" in content else 1.0
    return Geometry(matrix, fov_mm, slice_mm=slice_mm, **given)  # type: ignore[arg-type]


def write_recording(path: str | Path, recording: Recording) -> None:
    """Write `kspace`, `omega` (rad/voxel; not for Cartesian), `noise`, `series`, `center` and the geometry."""
    arrays = {"kspace": recording.kspace, "noise": recording.noise, "center": recording.center}
    if recording.omega is not None:
        arrays["omega"] = recording.omega
    with atomic_file(path) as file:
        np.savez(file, series=np.array(SERIES), **arrays, **placed(recording.geometry))  # type: ignore[arg-type]


def write_image(path: str | Path, image: np.ndarray, geometry: Geometry) -> None:
    """Write `image` (z, y, x) or (frame, z, y, x) and its geometry."""
    with atomic_file(path) as file:
        np.savez(file, image=image, **placed(geometry))  # type: ignore[arg-type]


def opened(path: str | Path) -> np.lib.npyio.NpzFile:
    """The archive; what isn't one is a clear error."""
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{Path(path).name} is no .npz archive: {error}") from error
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError(f"{Path(path).name} holds one bare array; wanted an .npz archive")
    return content


def read_recording(path: str | Path) -> Recording:
    """The scan of an archive as `write_recording` makes it; without series axes it is one volume."""
    with opened(path) as content:
        if "kspace" not in content:
            raise ValueError(f"{Path(path).name} has no `kspace`; it has {', '.join(content.files)}")
        kspace = content["kspace"].astype(np.complex64, copy=False)
        omega = content["omega"].astype(np.float32, copy=False) if "omega" in content else None
        inner = 3 if omega is not None else 4
        kspace = kspace.reshape(*[1] * (len(SERIES) + inner - kspace.ndim), *kspace.shape)
        if omega is not None:
            omega = omega.reshape(*[1] * (len(SERIES) + 3 - omega.ndim), *omega.shape)
            if omega.shape[:6] != kspace.shape[:6] or omega.shape[-2:] != kspace.shape[-2:]:
                raise ValueError(
                    f"{Path(path).name}: omega {omega.shape} and kspace {kspace.shape} don't belong together; wanted "
                    "(..., axis, readout, sample) and (..., coil, readout, sample)"
                )
        if omega is not None and "matrix" not in content:
            raise ValueError(f"{Path(path).name} has `omega` but no `matrix`")
        grid = kspace.shape[-3:] if kspace.shape[-3] > 1 else kspace.shape[-2:]
        geometry = geometry_in(content, grid)
        noise = content["noise"] if "noise" in content else np.zeros((kspace.shape[6], 0), np.complex64)
        center = int(content["center"]) if "center" in content else kspace.shape[-1] // 2
    return Recording(kspace, omega, geometry, kspace.shape[:6], center, noise)


def read_image(path: str | Path) -> tuple[np.ndarray, Geometry]:
    """The `image` of an archive and where it lies."""
    with opened(path) as content:
        if "image" not in content:
            raise ValueError(f"{Path(path).name} has neither `kspace` nor `image`; it has {', '.join(content.files)}")
        image = content["image"]
        return image, geometry_in(content, image.shape[-3:] if image.ndim > 2 else image.shape)
