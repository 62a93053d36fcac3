"""Recordings and images written as ISMRMRD files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ismrmrd
import numpy as np

from koosh_gadgets.convert.recording import SERIES, Recording
from koosh_gadgets.files import write_images

if TYPE_CHECKING:
    from koosh_models.scan import Geometry
    from koosh_models.simulation.trajectories import Trajectory


def write_recording(path: str | Path, recording: Recording) -> None:
    """Write the scan: header, noise readouts, every readout with its counters, trajectory in cycles per voxel."""
    import torch

    from koosh_models.simulation.header import Protocol
    from koosh_models.simulation.recordfile import Record, write_record

    trajectory, kspace = path_of(recording)
    noise = torch.from_numpy(quiet(recording.noise))
    counters = tuple(
        {name: int(i) for name, i, n in zip(SERIES, index, recording.series, strict=True) if n > 1}
        for index in np.ndindex(*recording.series)
    )
    protocol = Protocol("Unknown", "KOOSH-CONVERTED", "", source="conversion")
    record = Record(torch.from_numpy(kspace), noise, trajectory, recording.geometry, protocol, counters)
    write_record(path, record)


def quiet(noise: np.ndarray, most: int = 4096) -> np.ndarray:
    """(readout, coil, sample) noise readouts of at most `most` samples from (coil, sample)."""
    n_coils, n = noise.shape
    if n == 0:
        return np.zeros((0, n_coils, 1), np.complex64)
    size = max(d for d in range(1, min(n, most) + 1) if n % d == 0)
    return np.ascontiguousarray(noise.reshape(n_coils, -1, size).swapaxes(0, 1), np.complex64)


def path_of(recording: Recording) -> tuple[Trajectory, np.ndarray]:
    """The trajectory of all volumes, and (volume, coil, sample) k-space."""
    import torch

    from koosh_models.simulation.trajectories import Trajectory

    if recording.omega is None:
        return lines_of(recording)
    *_, n_axes, n_readouts, n_samples = recording.omega.shape
    omega = recording.omega.reshape(-1, n_axes, n_readouts * n_samples)
    kspace = recording.kspace.reshape(len(omega), recording.n_coils, -1)
    family = f"{n_axes}D non-Cartesian"
    return Trajectory(family, torch.from_numpy(omega.copy()), n_samples, recording.center), kspace


def lines_of(recording: Recording) -> tuple[Trajectory, np.ndarray]:
    """The lines of Cartesian volumes in which anything was measured."""
    import torch

    from koosh_models.simulation.cartesian import lines_to_omega
    from koosh_models.simulation.trajectories import Trajectory

    grid = recording.kspace.reshape(-1, *recording.kspace.shape[-4:])
    measured = (grid != 0).any(axis=(1, 4))
    counts = measured.sum(axis=(1, 2))
    if counts.min() != counts.max() or not counts.max():
        raise ValueError(
            f"the volumes have {counts.min()} to {counts.max()} lines with data; wanted equally many in each"
        )
    steps = np.stack([np.argwhere(mask) for mask in measured])
    kspace = np.stack([volume[:, z, y] for volume, (z, y) in zip(grid, steps.transpose(0, 2, 1), strict=True)])
    n_axes, n_x = len(recording.geometry.matrix), grid.shape[-1]
    matrix = (*recording.geometry.matrix[:-1], n_x)
    omega = torch.stack([lines_to_omega(torch.from_numpy(s[:, 3 - n_axes :]), matrix) for s in steps])
    lines = torch.from_numpy(steps[:, :, ::-1].copy())
    path = Trajectory("cartesian", omega, n_x, n_x // 2, lines)
    return path, np.ascontiguousarray(kspace.reshape(len(grid), grid.shape[1], -1))


def write_volume(path: str | Path, image: np.ndarray, geometry: Geometry) -> None:
    """Write (z, y, x), (y, x) or (frame, z, y, x) as one 3D image a frame, with its place in the patient."""
    frames = image.reshape(-1, *(1, *image.shape)[-3:])
    kind = ismrmrd.IMTYPE_COMPLEX if np.iscomplexobj(image) else ismrmrd.IMTYPE_MAGNITUDE
    kept = np.complex64 if np.iscomplexobj(image) else image.dtype if image.dtype == np.uint16 else np.float32
    extent = (geometry.slice_mm, *geometry.fov_mm)[-3:]
    images = []
    for index, frame in enumerate(frames):
        images.append(ismrmrd.Image.from_array(
            np.ascontiguousarray(frame, kept), transpose=False, image_type=kind, image_series_index=1,
            image_index=index + 1, phase=index, field_of_view=extent[::-1], position=geometry.position_mm,
            read_dir=geometry.read_dir, phase_dir=geometry.phase_dir, slice_dir=geometry.slice_dir,
        ))  # fmt: skip
    write_images(path, images)
