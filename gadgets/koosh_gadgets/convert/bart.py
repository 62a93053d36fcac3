"""BART's .cfl / .hdr pairs: sixteen dimensions, the first one runs fastest.

0 read, 1 phase, 2 slice (or 1 sample, 2 readout behind an empty 0), 3 coil, 5 contrast, 10 phase of a series,
11 repetition, 13 slice, 14 average. Trajectories are (3, sample, readout), kx, ky, kz in cycles per field of view.
BART's transforms have this project's sign, centre and scale (checked by tests against `bart` itself).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from koosh_gadgets import units
from koosh_gadgets.atomic import atomic_file, write_atomic
from koosh_gadgets.convert.recording import SERIES, Recording

log = logging.getLogger(__name__)
N_DIMS = 16
COIL = 3
PLACE = {"contrast": 5, "phase": 10, "repetition": 11, "slice": 13, "average": 14}


def bases(path: str | Path) -> Path:
    """The name without .cfl or .hdr."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path


def write_cfl(path: str | Path, array: np.ndarray) -> None:
    """Write an array whose axes are BART's in reverse order (last axis is dimension 0); both files whole or absent."""
    base = bases(path)
    dims = [*array.shape[::-1], *[1] * (N_DIMS - array.ndim)]
    with atomic_file(base.with_name(base.name + ".cfl")) as file:
        file.write(np.ascontiguousarray(array, np.complex64).data)
    write_atomic(base.with_name(base.name + ".hdr"), f"# Dimensions\n{' '.join(map(str, dims))}\n".encode())


def read_cfl(path: str | Path) -> np.ndarray:
    """(dim 15, ..., dim 0) complex64."""
    base = bases(path)
    text = base.with_name(base.name + ".hdr").read_text(errors="replace").split("\n")
    try:
        dims = [int(word) for word in text[text.index("# Dimensions") + 1].split()]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{base.name}.hdr doesn't say `# Dimensions` and whole numbers: no BART header") from error
    data = np.fromfile(base.with_name(base.name + ".cfl"), np.complex64)
    if min(dims, default=0) < 1 or len(dims) > N_DIMS or data.size != np.prod(dims, dtype=object):
        raise ValueError(f"{base.name}.cfl holds {data.size} numbers, but its header says {' x '.join(map(str, dims))}")
    return data.reshape([*[1] * (N_DIMS - len(dims)), *dims[::-1]])


def beside(base: Path, what: str) -> Path:
    """The name of an array that belongs to another: scan.cfl has scan_traj.cfl and scan_noise.cfl."""
    return base.with_name(f"{base.name}_{what}")


def write_recording(path: str | Path, recording: Recording) -> list[Path]:
    """Write k-space, trajectory and noise; the names that were written."""
    base = bases(path)
    if recording.series[SERIES.index("set")] > 1:
        raise ValueError(f"BART has no dimension for {recording.series[0]} sets; convert to .npz, or one set at a time")
    kspace = recording.kspace[0]
    names = [base]
    if recording.omega is not None:
        kspace = kspace[..., None]  # coil, readout, sample, 1
        write_cfl(beside(base, "traj"), spread(columns(recording), 3))
        names.append(beside(base, "traj"))
    write_cfl(base, spread(kspace, 4))
    if recording.noise.size:
        write_cfl(beside(base, "noise"), recording.noise[:, None, None])
        names.append(beside(base, "noise"))
    return names


def columns(recording: Recording) -> np.ndarray:
    """(average, slice, repetition, phase, contrast, readout, sample, 3) in cycles per field of view."""
    assert recording.omega is not None
    omega, matrix = np.moveaxis(recording.omega[0], -3, 0), recording.geometry.matrix
    k = units.from_radians(omega.reshape(len(matrix), -1), "cycles/FOV", matrix, recording.geometry.fov_mm)
    k = np.pad(k, ((0, 0), (0, 3 - k.shape[1])))
    return k.reshape(*omega.shape[1:], 3)


def spread(array: np.ndarray, inner: int) -> np.ndarray:
    """Five series axes and `inner` others (dimensions 0 to 3 or 2) put at BART's places."""
    shape = [1] * N_DIMS
    for name, size in zip(SERIES[1:], array.shape[:5], strict=True):
        shape[PLACE[name]] = size
    shape[:inner] = array.shape[5:][::-1]
    return array.reshape(shape[::-1])


def read_recording(
    path: str | Path, matrix: tuple[int, ...] | None = None, fov_mm: tuple[float, ...] | None = None
) -> Recording:
    """The scan of k-space `path` with its `_traj` (and `_noise`) beside it, or of Cartesian k-space without one.

    matrix   (z, y, x); where not given, what the trajectory reaches, or the Cartesian grid
    fov_mm   same order; 1 mm a voxel where not given, since BART's files hold no lengths
    """
    from koosh_models.scan import Geometry

    base = bases(path)
    kspace = collected(read_cfl(base), base.name, 4)
    noise_at = beside(base, "noise").with_suffix(".hdr")
    noise = read_cfl(beside(base, "noise")).reshape(kspace.shape[5], -1) if noise_at.exists() else None
    if beside(base, "traj").with_name(beside(base, "traj").name + ".hdr").exists():
        k = collected(read_cfl(beside(base, "traj")), f"{base.name}_traj", 3).real
        flat = k.reshape(-1, 3)
        matrix = matrix_of(flat) if matrix is None else matrix
        kspace = kspace[..., 0]
    else:
        grid = kspace.shape[-3:] if kspace.shape[-3] > 1 else kspace.shape[-2:]
        matrix, k = tuple(int(n) for n in grid), None
    if fov_mm is None:
        fov_mm = tuple(float(n) for n in matrix)
        log.warning("BART files hold no field of view; taking 1 mm a voxel (--fov-mm sets it)")
    geometry = Geometry(matrix, fov_mm)
    noise = np.zeros((kspace.shape[5], 0), np.complex64) if noise is None else noise
    series = (1, *kspace.shape[:5])
    if k is None:
        return Recording(kspace[None], None, geometry, series, matrix[-1] // 2, noise)
    omega = units.to_radians(k.reshape(-1, 3), "cycles/FOV", matrix, fov_mm)
    omega = np.moveaxis(omega.reshape(len(matrix), *k.shape[:-1]), 0, -3)
    omega = np.ascontiguousarray(np.broadcast_to(omega, (*kspace.shape[:5], *omega.shape[5:])))
    center = int(np.linalg.norm(omega[0, 0, 0, 0, 0, :, 0], axis=0).argmin())
    return Recording(kspace[None], omega[None], geometry, series, center, noise)


def collected(array: np.ndarray, name: str, inner: int) -> np.ndarray:
    """(average, slice, repetition, phase, contrast, *inner) of a BART array; other dimensions must be one."""
    dims = array.shape[::-1]
    used = {*range(inner), *PLACE.values()}
    if extra := {d: n for d, n in enumerate(dims) if n > 1 and d not in used}:
        raise ValueError(
            f"{name}: BART dimension {', '.join(f'{d} is {n}' for d, n in extra.items())}; can't convert that"
        )
    return array.reshape(*[dims[PLACE[s]] for s in SERIES[1:]], *dims[:inner][::-1])


def matrix_of(k: np.ndarray) -> tuple[int, ...]:
    """(z, y, x) whose edge the trajectory (sample, 3) in cycles per field of view reaches; (y, x) where kz is 0."""
    reach = [max(1, 2 * round(float(peak))) for peak in np.abs(k).max(axis=0)]
    matrix = tuple(reach[::-1]) if reach[2] > 1 else tuple(reach[1::-1])
    log.warning("matrix %s (x last) taken from the trajectory's reach; --matrix sets it", matrix)
    return matrix


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (z, y, x), (y, x) or (frame, z, y, x) as read, phase, slice (and dimension 10)."""
    if image.ndim == 4:
        frames, z, y, x = image.shape
        image = image.reshape(frames, *[1] * (PLACE["phase"] - 3), z, y, x)
    write_cfl(path, image)


def read_image(path: str | Path) -> np.ndarray:
    """(z, y, x) or (frame, z, y, x) of an image; coils and maps must be combined."""
    array = read_cfl(path)
    dims = array.shape[::-1]
    if extra := {d: n for d, n in enumerate(dims) if n > 1 and d not in (0, 1, 2, PLACE["phase"])}:
        raise ValueError(f"{Path(path).name}: dimension {extra} is more than one; combine coils and maps first")
    frames = dims[PLACE["phase"]]
    volume = array.reshape(frames, *dims[2::-1])
    return volume if frames > 1 else volume[0]
