"""A whole scan in memory, as it was measured: what every format is converted from and to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets import units
from koosh_gadgets.files import ScanFile, open_scan
from koosh_gadgets.survey import kinds, sizes, user_parameter

if TYPE_CHECKING:
    from koosh_models.scan import Geometry

SERIES = ("set", "average", "slice", "repetition", "phase", "contrast")
"""Counters that make a series of volumes, slowest first."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Every imaging sample of one encoding, nothing weighted, whitened or left out.

    kspace    (*series, coil, readout, sample) complex64; Cartesian (*series, coil, z, y, x), zero where not measured
    omega     (*series, axis, readout, sample) float32 rad/voxel, rows z, y, x; None for Cartesian
    geometry  encoded matrix and field of view, (z, y, x) or (y, x)
    series    how many of each of `SERIES` there are
    center    sample of a readout where the echo is
    noise     (coil, sample) of the noise readouts; without samples where there were none
    """

    kspace: np.ndarray
    omega: np.ndarray | None
    geometry: Geometry
    series: tuple[int, ...]
    center: int
    noise: np.ndarray

    @property
    def n_coils(self) -> int:
        """Receive channels."""
        return int(self.kspace.shape[len(SERIES)])


def read_recording(path: str | Path, unit: str | None = None) -> Recording:
    """The scan of an ISMRMRD file; it must have one encoding and readouts of one shape."""
    with open_scan(path) as file:
        what = kinds(file.heads)
        chosen = what == "imaging"
        if not chosen.any():
            raise ValueError(f"{file.name} has no imaging readout: is the noise flag set on every readout?")
        check_uniform(file, chosen)
        data, k, noise = gathered(file, chosen, what == "noise")
        heads = file.heads[chosen]
        encoding = file.header.encoding[int(heads["encoding_space_ref"][0])]
        geometry = geometry_of(encoding.encodedSpace, heads[0])
        header_unit = user_parameter(file.header, "trajectoryUnit")
    order, series = arranged(heads)
    data, k, heads = data[order], k[order], heads[order]
    before = int(heads["discard_pre"][0])
    center = int(heads["center_sample"][0]) - before
    if k.shape[2]:
        flat = k.reshape(-1, k.shape[2])
        choice = units.choose(flat, geometry.matrix, geometry.fov_mm, unit, str(header_unit) if header_unit else None)
        omega = units.to_radians(flat, choice.unit, geometry.matrix, geometry.fov_mm)
        kspace = data.reshape(*series, -1, *data.shape[1:]).swapaxes(-3, -2)
        omega = np.moveaxis(omega.reshape(len(omega), *series, -1, data.shape[2]), 0, -3)
        return Recording(np.ascontiguousarray(kspace), np.ascontiguousarray(omega), geometry, series, center, noise)
    if encoding.trajectory.value != "cartesian":
        raise ValueError(f"{file.name} is {encoding.trajectory.value} but its readouts carry no trajectory")
    grid = gridded(data, heads, geometry, series, encoding, center)
    return Recording(grid, None, geometry, series, grid.shape[-1] // 2, noise)


def check_uniform(file: ScanFile, chosen: np.ndarray) -> None:
    """Refuse what has no single array: several encodings, readouts of different shapes."""
    heads = file.heads[chosen]
    if len(np.unique(heads["encoding_space_ref"])) > 1:
        raise ValueError(f"{file.name} has several encodings; split it by encoding_space_ref before converting")
    names = ("number_of_samples", "active_channels", "trajectory_dimensions", "discard_pre", "discard_post")
    for name in names:
        if len(seen := np.unique(heads[name])) > 1:
            raise ValueError(
                f"{file.name}: imaging readouts differ in {name} ({', '.join(map(str, seen))}); can't convert"
            )


def gathered(file: ScanFile, chosen: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(readout, coil, sample) data, (readout, sample, axis) paths, discarded samples cut; (coil, sample) noise."""
    data, paths, quiet = [], [], []
    for slab in file.slabs():
        block = file.block(slab)
        if chosen[slab].any():
            mine = block[chosen[slab]]
            stop = mine.data.shape[2] - int(mine.heads["discard_post"][0])
            keep = slice(int(mine.heads["discard_pre"][0]), stop)
            data.append(mine.data[:, :, keep])
            paths.append(mine.trajectory[:, keep])
        if noise[slab].any():
            quiet.append(block.data[noise[slab]].swapaxes(0, 1).reshape(block.data.shape[1], -1))
    empty = np.zeros((data[0].shape[1], 0), np.complex64)
    return np.concatenate(data), np.concatenate(paths), np.concatenate(quiet, axis=1) if quiet else empty


def arranged(heads: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The order of the readouts by series counters, then arrival, and how many of each counter there are."""
    ranks = [np.unique(heads["idx"][name], return_inverse=True) for name in SERIES]
    series = tuple(len(values) for values, _ in ranks)
    number = np.ravel_multi_index([rank for _, rank in ranks], series)
    counts = np.bincount(number, minlength=int(np.prod(series)))
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"the volumes of the series have {counts.min()} to {counts.max()} readouts; "
            "an array needs equally many in each"
        )
    return np.argsort(number, kind="stable"), series


def geometry_of(space: object, head: np.void) -> Geometry:
    """Encoded matrix and field of view, with the place of the first readout."""
    from koosh_models.scan import Geometry

    matrix, fov_mm = sizes(space)
    vectors = [tuple(float(v) for v in head[name]) for name in ("position", "read_dir", "phase_dir", "slice_dir")]
    (px, py, pz), (rx, ry, rz), (qx, qy, qz), (sx, sy, sz) = vectors
    slice_mm = float(space.fieldOfView_mm.z) / space.matrixSize.z  # type: ignore[attr-defined]
    return Geometry(matrix, fov_mm, (px, py, pz), (rx, ry, rz), (qx, qy, qz), (sx, sy, sz), slice_mm)


def gridded(
    data: np.ndarray, heads: np.ndarray, geometry: Geometry, series: tuple[int, ...], encoding: object, center: int
) -> np.ndarray:
    """(*series, coil, z, y, x) Cartesian k-space with the centre at n//2; a line that came twice is averaged."""
    n_z, n_y = (1, *geometry.matrix)[-3:-1]
    n_coils, n_samples = data.shape[1:]
    n_x = max(n_samples, geometry.matrix[-1])
    # an asymmetric echo is filled up with zeros
    first = n_x // 2 - (center or n_samples // 2)
    if first < 0 or first + n_samples > n_x:
        raise ValueError(f"{n_samples} samples with the centre at {center} don't fit on {n_x} columns")
    limits = encoding.encodingLimits  # type: ignore[attr-defined]
    steps = []
    for name, n in (("kspace_encode_step_2", n_z), ("kspace_encode_step_1", n_y)):
        limit = getattr(limits, name.replace("encode", "encoding"))
        index = heads["idx"][name].astype(int) - (n // 2 if limit is None else int(limit.center)) + n // 2
        if index.min() < 0 or index.max() >= n:
            raise ValueError(f"{name} runs from {index.min()} to {index.max()} on {n} lines; check the encoding limits")
        steps.append(index)
    volume = np.repeat(np.arange(int(np.prod(series))), len(data) // int(np.prod(series)))
    grid = np.zeros((int(np.prod(series)), n_z, n_y, n_coils, n_x), np.complex64)
    counted = np.zeros(grid.shape[:3], np.float32)
    np.add.at(grid[..., first : first + n_samples], (volume, *steps), data)
    np.add.at(counted, (volume, *steps), 1)
    grid /= np.maximum(counted, 1)[..., None, None]
    return np.ascontiguousarray(grid.transpose(0, 3, 1, 2, 4)).reshape(*series, n_coils, n_z, n_y, n_x)
