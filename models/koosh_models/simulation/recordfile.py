"""Simulated scans as ISMRMRD files, written in batches of compound arrays and whole or not at all."""

from __future__ import annotations

import io
import math
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import torch
from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype
from numpy.typing import NDArray
from torch import Tensor

from koosh_models.scan import Geometry
from koosh_models.simulation.header import LIMIT, Protocol, header_xml
from koosh_models.simulation.simulate import Simulated, white
from koosh_models.simulation.trajectories import Trajectory

BATCH = 512
TICK_MS = 2.5
"""ISMRMRD's acquisition time stamps count steps of 2.5 ms on this kind of scanner."""


@dataclass(frozen=True, eq=False)
class Record:
    """What goes into a file.

    kspace      (coil, sample) or (frame, coil, sample)
    noise       (readout, coil, sample) noise readouts, none where empty
    trajectory  of the imaging readouts
    series      counters of each frame by name; frames are phases where empty
    """

    kspace: Tensor
    noise: Tensor
    trajectory: Trajectory
    geometry: Geometry
    protocol: Protocol = field(default_factory=Protocol)
    series: tuple[dict[str, int], ...] = ()

    @property
    def counters(self) -> tuple[dict[str, int], ...]:
        """The counters of every frame."""
        return self.series or tuple({"phase": i} for i in range(self.trajectory.n_frames or 1))


def write_scan(
    path: str | Path, simulated: Simulated, trajectory: Trajectory, protocol: Protocol | None = None, seed: int = 0
) -> None:
    """Write the scan as ISMRMRD: header, noise readouts, then every readout with its trajectory in cycles per voxel."""
    protocol = Protocol() if protocol is None else protocol
    n_coils = simulated.scan.n_coils
    n_noise = protocol.n_noise if simulated.sigma > 0 else 0
    noise = simulated.sigma * white((n_noise, n_coils, trajectory.readout), seed + 1)
    kspace, mix = simulated.scan.kspace, torch.from_numpy(mixing(n_coils, protocol.correlation))
    if protocol.correlation:
        kspace, noise = mix @ kspace, mix @ noise
    write_record(path, Record(kspace, noise, trajectory, simulated.scan.geometry, protocol), seed)


def write_record(path: str | Path, record: Record, seed: int = 0) -> None:
    """Write header, noise and imaging readouts; the file is whole or absent."""
    trajectory, n_noise = record.trajectory, len(record.noise)
    imaging = readouts(record.kspace, trajectory.readout)
    paths = None if trajectory.lines is not None else columns(trajectory)
    head = heads(record)
    xml = header_xml(trajectory, record.geometry, imaging.shape[1], record.protocol, record.counters, seed)
    # in memory first: an HDF5 file that can't be closed for want of disk ends the process when it ends
    with h5py.File(held := io.BytesIO(), "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", data=[xml.encode()], dtype=h5py.special_dtype(vlen=bytes), maxshape=(1,))
        n = len(head)
        data = group.create_dataset("data", (n,), acquisition_dtype, maxshape=(None,), chunks=(min(BATCH, n),))
        for start in range(0, n, BATCH):
            chosen = range(start, min(start + BATCH, n))
            samples = [record.noise[i] if i < n_noise else imaging[i - n_noise] for i in chosen]
            ways = None if paths is None else [None if i < n_noise else paths[i - n_noise] for i in chosen]
            data[start : chosen.stop] = batch(head[start : chosen.stop], samples, ways)
    put(Path(path), held.getbuffer())


def put(path: Path, content: memoryview) -> None:
    """The content under that name for this user alone, whole and on the disk, or nothing."""
    part = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def batch(
    head: NDArray[np.void], samples: list[Tensor], paths: list[NDArray[np.float32] | None] | None
) -> NDArray[np.void]:
    """(readout) records of header, trajectory and data, as the file holds them."""
    out = np.empty(len(head), acquisition_dtype)
    out["head"] = head
    none = np.zeros(0, np.float32)
    for i in range(len(head)):
        path = None if paths is None else paths[i]
        out["traj"][i] = none if path is None else path
        out["data"][i] = np.ascontiguousarray(samples[i].numpy()).ravel().view(np.float32)
    return out


def readouts(kspace: Tensor, size: int) -> Tensor:
    """(readout, coil, sample) of k-space (coil, sample) or (frame, coil, sample), frames in their order."""
    frames = kspace if kspace.ndim == 3 else kspace[None]
    n_frames, n_coils, _ = frames.shape
    return frames.reshape(n_frames, n_coils, -1, size).transpose(1, 2).reshape(-1, n_coils, size)


def columns(trajectory: Trajectory) -> NDArray[np.float32]:
    """(readout, sample * axis) kx, ky(, kz) of every sample in cycles per voxel of the encoded matrix."""
    omega = trajectory.omega if trajectory.omega.ndim == 3 else trajectory.omega[None]
    cycles = (omega / (2 * math.pi)).clamp(-0.5, 0.5).flip(1).transpose(1, 2)
    return cycles.reshape(-1, trajectory.readout * cycles.shape[-1]).numpy()


def heads(record: Record) -> NDArray[np.void]:
    """(noise + imaging readout) headers with counters, flags, times and position."""
    trajectory, geometry, protocol = record.trajectory, record.geometry, record.protocol
    n_noise, n_coils = len(record.noise), record.kspace.shape[-2]
    n = n_noise + len(record.counters) * trajectory.n_readouts
    head = np.zeros(n, acquisition_header_dtype)
    head["version"], head["measurement_uid"] = 1, 1
    head["scan_counter"] = np.arange(1, n + 1)
    head["acquisition_time_stamp"] = 17_280_000 + np.arange(n) * protocol.tr_ms / TICK_MS
    head["number_of_samples"] = trajectory.readout
    head["available_channels"] = head["active_channels"] = n_coils
    for coil in range(min(n_coils, 1024)):
        head["channel_mask"][:, coil // 64] |= np.uint64(1 << (coil % 64))
    head["sample_time_us"] = protocol.dwell_us
    head["position"] = geometry.position_mm
    head["read_dir"], head["phase_dir"], head["slice_dir"] = geometry.read_dir, geometry.phase_dir, geometry.slice_dir
    head["flags"][:n_noise] = flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    imaging = head[n_noise:]
    imaging["center_sample"] = trajectory.center
    imaging["trajectory_dimensions"] = 0 if trajectory.lines is not None else len(geometry.matrix)
    if n_noise:
        head["number_of_samples"][:n_noise] = record.noise.shape[2]
    count(imaging, trajectory, record.counters)
    return head


def count(head: NDArray[np.void], trajectory: Trajectory, series: tuple[dict[str, int], ...]) -> None:
    """Fill in the indices and the first / last flags of the imaging readouts."""
    per_frame = trajectory.n_readouts
    index = np.arange(len(head))
    within = index % per_frame
    if trajectory.lines is None:
        first, second = within % (LIMIT + 1), within // (LIMIT + 1)
    else:
        first, second = trajectory.lines.reshape(-1, 2).numpy().T
    head["idx"]["kspace_encode_step_1"], head["idx"]["kspace_encode_step_2"] = first, second
    for name in {name for frame in series for name in frame}:
        head["idx"][name] = np.array([frame.get(name, 0) for frame in series])[index // per_frame]
    begin, end = within == 0, within == per_frame - 1
    head["flags"][begin] |= flag(ismrmrd.ACQ_FIRST_IN_SLICE) | flag(ismrmrd.ACQ_FIRST_IN_PHASE)
    head["flags"][end] |= flag(ismrmrd.ACQ_LAST_IN_SLICE) | flag(ismrmrd.ACQ_LAST_IN_PHASE)
    head["flags"][0] |= flag(ismrmrd.ACQ_FIRST_IN_REPETITION)
    head["flags"][-1] |= flag(ismrmrd.ACQ_LAST_IN_REPETITION) | flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def flag(number: int) -> np.uint64:
    """The bit of an ISMRMRD flag, which are counted from one."""
    return np.uint64(1 << (number - 1))


def mixing(n_coils: int, correlation: float) -> NDArray[np.complex64]:
    """(coil, coil) L with `(L L^H)_ij = correlation^|i-j| e^(i(i-j)/2)`; white noise n becomes L n."""
    if not 0 <= correlation < 1:
        raise ValueError(f"noise correlation is {correlation:g}; wanted 0 to below 1")
    apart = torch.arange(n_coils)[:, None] - torch.arange(n_coils)
    covariance = torch.polar(torch.tensor(float(correlation)) ** apart.abs(), 0.5 * apart.float())
    return torch.linalg.cholesky(covariance.to(torch.complex128)).to(torch.complex64).numpy()
