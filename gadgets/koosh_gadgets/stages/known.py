"""Trajectories that are known without the readouts: from a file, or from the header's description."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ismrmrd
import numpy as np

from koosh_gadgets import npz, units
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire.readouts import Readouts

MAX_SAMPLES = 1 << 28


class Known(Protocol):
    """A trajectory that can be asked for."""

    def of(self, block: Readouts) -> np.ndarray:
        """(readout, sample, axis) in cycles per voxel for the readouts of a block."""


@dataclass(frozen=True, eq=False)
class Listed:
    """One trajectory per readout, in the order of the scan.

    table   (readout, sample, axis) cycles per voxel
    first   scan_counter of the first imaging readout, which has row 0
    source  for messages
    """

    table: np.ndarray
    first: int
    source: str

    def of(self, block: Readouts) -> np.ndarray:
        """Rows by scan_counter: a missing number is a missing readout."""
        rows = block.heads["scan_counter"].astype(np.int64) - self.first
        bad = np.flatnonzero((rows < 0) | (rows >= len(self.table)))
        if len(bad):
            number = block.heads["scan_counter"][bad[0]]
            raise ValueError(
                f"readout {number}: scan_counter is number {rows[bad[0]]} of the scan, but {self.source} has "
                f"{len(self.table)} readouts"
            )
        if block.data.shape[2] != self.table.shape[1]:
            raise ValueError(
                f"readout {block.heads['scan_counter'][0]}: number_of_samples is {block.data.shape[2]}, but "
                f"{self.source} has {self.table.shape[1]} samples a readout"
            )
        return self.table[rows]


@dataclass(frozen=True, eq=False)
class Lines:
    """Cartesian readouts: kx along the samples, ky and kz from the encoding steps."""

    encoding: Encoding

    def of(self, block: Readouts) -> np.ndarray:
        """(readout, sample, axis) on the grid of the encoded matrix."""
        n_readouts, _, n_samples = block.data.shape
        matrix, idx = self.encoding.matrix, block.heads["idx"]
        center = np.where(block.heads["center_sample"] == 0, n_samples // 2, block.heads["center_sample"])
        sample = np.arange(n_samples) - center[:, None].astype(np.float64)
        backwards = block.flagged(ismrmrd.ACQ_IS_REVERSE)
        sample[backwards] *= -1
        out = np.empty((n_readouts, n_samples, self.encoding.n_axes), np.float32)
        # an oversampled readout lists more samples than the matrix has columns over the same band
        out[:, :, 0] = sample / max(n_samples, matrix[0])
        for axis, step in enumerate(("kspace_encode_step_1", "kspace_encode_step_2")[: out.shape[2] - 1]):
            k = (idx[step].astype(np.float64) - self.encoding.centers[axis]) / matrix[axis + 1]
            out[:, :, axis + 1] = k[:, None]
        if np.abs(out).max() > 0.5 * units.HIGHEST:
            worst = int(np.abs(out).max((1, 2)).argmax())
            raise ValueError(
                f"readout {block.heads['scan_counter'][worst]}: its encoding steps lie outside the encoded matrix "
                f"{matrix.astype(int).tolist()}"
            )
        return out


def known_trajectory(encoding: Encoding, block: Readouts, settings: Settings, journal: Journal) -> Known:
    """The trajectory of readouts that carry none, or an error that says what to supply."""
    first = int(block.heads["scan_counter"][0])
    table: np.ndarray | None
    if settings.trajectory_file:
        table = from_file(Path(settings.trajectory_file), encoding, settings.trajectory_unit, block.data.shape[2])
        journal.note("the trajectory was taken from the configured file", logging.INFO)
        return Listed(table, first, "the trajectory file")
    if encoding.cartesian:
        return Lines(encoding)
    table = described(encoding, block.data.shape[2])
    if table is None:
        raise ValueError(
            f"readout {first}: trajectory_dimensions is 0 and the header describes no trajectory that can be computed; "
            "supply trajectory_file, or send trajectories with the readouts"
        )
    journal.note(f"the trajectory was computed from the header ({encoding.family})", logging.INFO)
    return Listed(table, first, f"the header's {encoding.family} trajectory")


def described(encoding: Encoding, n_samples: int) -> np.ndarray | None:
    """(readout, sample, axis) cycles per voxel of a family that is known by name, None where it is not."""
    from koosh_models.simulation.trajectories import FAMILIES, trajectory

    wanted = encoding.readouts or encoding.limited
    matrix = tuple(int(n) for n in encoding.matrix[: encoding.n_axes][::-1])
    if encoding.family not in FAMILIES or wanted is None or wanted * n_samples > MAX_SAMPLES:
        return None
    # the same amount of scan time for every family, so this is close at once whatever size the header claims
    acceleration = math.pi / 2 * math.prod(matrix) ** ((len(matrix) - 1) / len(matrix)) / wanted
    for _ in range(8):  # the count of readouts goes as 1/acceleration up to rounding
        if not 0.1 <= acceleration <= 1000:
            return None
        found = trajectory(encoding.family, matrix, acceleration)
        if found.n_readouts == wanted:
            break
        acceleration *= found.n_readouts / wanted
    else:
        return None
    if found.readout != n_samples or found.n_frames is not None:
        return None
    cycles = (found.omega / (2 * math.pi)).clamp(-0.5, 0.5).flip(0).T
    return cycles.reshape(-1, n_samples, encoding.n_axes).numpy().astype(np.float32)


def from_file(path: Path, encoding: Encoding, unit: str, n_samples: int) -> np.ndarray:
    """(readout, sample, axis) cycles per voxel from .npz, ISMRMRD or Pulseq, cut to the imaging readouts."""
    if not path.is_file():
        raise ValueError(f"the trajectory file {path.name} does not exist")
    if path.suffix == ".npz":
        table = from_npz(path)
    elif path.suffix == ".seq":
        from koosh_gadgets.stages.pulseq import trajectory_of

        table, unit = trajectory_of(path, n_samples), "1/m"
    else:
        table = from_ismrmrd(path)
    n = encoding.n_axes
    if table.ndim != 3 or table.shape[2] not in (n, 3):
        raise ValueError(f"the trajectory file {path.name} has shape {table.shape}; wanted (readout, sample, {n})")
    table = table[:, :, :n].astype(np.float32)
    flat = table.reshape(-1, n)
    try:
        chosen = units.choose(flat, encoding.shape, encoding.extent_mm, None if unit == "auto" else unit)
        omega = units.to_radians(flat, chosen.unit, encoding.shape, encoding.extent_mm)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if chosen.unit == "cycles/voxel":  # not there and back: rounding would make it another trajectory
        return np.clip(table, -0.5, 0.5)
    return units.from_radians(omega, "cycles/voxel", encoding.shape, encoding.extent_mm).reshape(table.shape)


def from_npz(path: Path) -> np.ndarray:
    """The array `trajectory` (or the only one) of an .npz file."""
    file = npz.arrays(path)
    name = "trajectory" if "trajectory" in file else next(iter(file), "")
    if not name or (name != "trajectory" and len(file) != 1):
        raise ValueError(f"{path.name} holds {sorted(file)}; wanted an array named trajectory")
    return file[name]


def from_ismrmrd(path: Path) -> np.ndarray:
    """The trajectories of the imaging readouts of an ISMRMRD file."""
    from koosh_gadgets.stages.trajectory import APART

    mask = sum(1 << (flag - 1) for flag in APART)
    with contextlib.closing(ismrmrd.Dataset(str(path), create_if_needed=False)) as file:
        readouts = (file.read_acquisition(i) for i in range(file.number_of_acquisitions()))
        rows = [np.asarray(a.traj) for a in readouts if not a.flags & mask and a.traj.size]
    if not rows or len({r.shape for r in rows}) != 1:
        raise ValueError(f"{path.name} holds no trajectories of one length")
    return np.stack(rows)
