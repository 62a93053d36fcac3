"""Every imaging readout with its trajectory in cycles per voxel of the encoded matrix, columns kx, ky(, kz)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import ismrmrd
import numpy as np

from koosh_gadgets import units
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.known import Known, known_trajectory
from koosh_gadgets.wire.readouts import Readouts

# readouts that carry signal but not of the image
APART = (
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)

EDGE = 0.5 * units.HIGHEST  # cycles per voxel


def with_trajectory(
    items: Iterable[object],
    spaces: Sequence[Encoding],
    settings: Settings,
    journal: Journal,
    known: dict[int, Known] | None = None,
) -> Iterator[object]:
    """Imaging readouts with a checked trajectory; navigators and the like are passed on untouched.

    known  is given what was read from a file or computed, by encoding
    """
    attach = _Attach(spaces, settings, journal, {} if known is None else known)
    for item in items:
        if not isinstance(item, Readouts):
            yield item
            continue
        apart = item.flagged(*APART)
        if apart.all():
            yield item
        else:
            if apart.any():
                yield item[apart]
                item = item[~apart]
            with journal.timed("trajectory"):
                ready = list(attach.block(item))
            yield from ready
    yield from attach.rest()


class _Attach:
    """Where the trajectory comes from, and its unit once enough of it has been seen."""

    def __init__(
        self, spaces: Sequence[Encoding], settings: Settings, journal: Journal, known: dict[int, Known]
    ) -> None:
        self.spaces, self.settings, self.journal, self.known = spaces, settings, journal, known
        self.delays = delays_of(settings.delays)
        self.units: dict[int, str] = {}
        self.held: dict[int, list[Readouts]] = {}

    def block(self, block: Readouts) -> Iterator[Readouts]:
        """The block, or nothing yet, or all that was held back for want of a unit."""
        for space in np.unique(block.heads["encoding_space_ref"]):
            part = block[block.heads["encoding_space_ref"] == space] if len(self.spaces) > 1 else block
            if space >= len(self.spaces):
                raise ValueError(
                    f"readout {part.heads['scan_counter'][0]}: encoding_space_ref is {space}, but the header has "
                    f"{len(self.spaces)} encodings"
                )
            yield from self._space(int(space), part)

    def _space(self, space: int, block: Readouts) -> Iterator[Readouts]:
        encoding = self.spaces[space]
        if block.trajectory.shape[2] == 0:
            yield self._delayed(self._known(space, block), encoding)
            return
        block = checked_axes(block, encoding, self.journal)
        if space not in self.units:
            self.held.setdefault(space, []).append(block)
            if not self._recognise(space, final=False):
                return
            yield from (self._converted(space, b) for b in self.held.pop(space))
        else:
            yield self._converted(space, block)

    def rest(self) -> Iterator[Readouts]:
        """What is still held back at the end of the scan."""
        for space in list(self.held):
            self._recognise(space, final=True)
            yield from (self._converted(space, b) for b in self.held.pop(space))

    def _recognise(self, space: int, final: bool) -> bool:
        """Find the unit: configured, named by the header, or detected."""
        encoding, named = self.spaces[space], self.settings.trajectory_unit
        if named != "auto":
            self.units[space] = units.canonical(named)
        elif encoding.unit:
            try:
                self.units[space] = units.canonical(encoding.unit)
            except ValueError:  # what the header says is not repeated
                known = ", ".join(units.UNITS)
                raise ValueError(
                    f"the header's trajectoryUnit is unknown; known: {known}; set trajectory_unit"
                ) from None
        else:
            unit = detected(self.held[space], encoding, final)
            if unit is None:
                return False
            self.units[space] = unit
            self.journal.note(f"the trajectory's unit was taken to be {unit}", logging.INFO)
        self.journal.facts["koosh_trajectory_unit"] = self.units[space]
        return True

    def _converted(self, space: int, block: Readouts) -> Readouts:
        encoding, unit = self.spaces[space], self.units[space]
        scale = cycles(unit, encoding)
        block = block if (scale == 1).all() else block.with_trajectory(block.trajectory * scale)
        return self._delayed(checked_range(block, unit), encoding)

    def _delayed(self, block: Readouts, encoding: Encoding) -> Readouts:
        return block.with_trajectory(shifted(block.trajectory, self.delays)) if self.delays.any() else block

    def _known(self, space: int, block: Readouts) -> Readouts:
        """Readouts without trajectory get it from the file or from the header."""
        if space not in self.known:
            encoding = self.spaces[space]
            self.known[space] = known_trajectory(encoding, block, self.settings, self.journal)
        return block.with_trajectory(self.known[space].of(block))


def cycles(unit: str, encoding: Encoding) -> np.ndarray:
    """(axis) cycles per voxel that one of the unit is, columns x, y(, z)."""
    factors = units.radians(unit, encoding.shape, encoding.extent_mm)[::-1] / (2 * math.pi)
    return factors.astype(np.float32)


def detected(blocks: list[Readouts], encoding: Encoding, final: bool) -> str | None:
    """The unit in which the blocks reach the edge of the encoded matrix; None where more has to be seen."""
    peaks = np.zeros(encoding.n_axes)
    for block in blocks:
        good = block.trajectory[np.isfinite(block.trajectory).all((1, 2))]
        peaks = np.maximum(peaks, np.abs(good).max((0, 1), initial=0)[::-1])
    if not final and not units.fitting(peaks, encoding.shape, encoding.extent_mm):
        return None
    try:
        return units.detected(peaks, encoding.shape, encoding.extent_mm).unit
    except ValueError as error:
        raise ValueError(f"readout {blocks[0].heads['scan_counter'][0]}: {error}") from error


def delays_of(text: str) -> np.ndarray:
    """(3) gradient delays along x, y, z in samples; zero where they are estimated later, from whole volumes."""
    if text.strip() in ("", "0", "auto"):
        return np.zeros(3)
    try:
        values = np.array([float(v) for v in text.split(",")])
    except ValueError as error:
        raise ValueError(f"delays is {text[:40]!r}; wanted three numbers x,y,z in samples, or auto") from error
    if values.shape != (3,) or not np.isfinite(values).all() or np.abs(values).max() > 20:
        raise ValueError(f"delays is {text[:40]!r}; wanted three numbers within 20 samples")
    return values


def shifted(trajectory: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """(readout, sample, axis) as a gradient that comes `delays` samples late traces it, linear in between."""
    n_samples = trajectory.shape[1]
    out = np.empty_like(trajectory)
    for axis in range(trajectory.shape[2]):
        at = np.arange(n_samples) - delays[axis]
        low = np.clip(np.floor(at).astype(int), 0, max(0, n_samples - 2))
        part = (at - low).astype(np.float32)  # beyond the ends the line goes on
        k = trajectory[:, :, axis]
        high = np.minimum(low + 1, n_samples - 1)
        out[:, :, axis] = k[:, low] * (1 - part) + k[:, high] * part
    return out


def checked_axes(block: Readouts, encoding: Encoding, journal: Journal) -> Readouts:
    """The block with as many trajectory axes as its matrix has."""
    n, wanted = block.trajectory.shape[2], encoding.n_axes
    if n == wanted:
        return block
    if n == 3 and wanted == 2:
        journal.note("the third trajectory axis of 2D readouts (a density, or zero) is ignored", logging.INFO)
        return block.with_trajectory(np.ascontiguousarray(block.trajectory[:, :, :2]))
    raise ValueError(
        f"readout {block.heads['scan_counter'][0]}: trajectory_dimensions is {n}, but the encoded matrix "
        f"{encoding.matrix.astype(int).tolist()} needs {wanted}"
    )


def checked_range(block: Readouts, unit: str) -> Readouts:
    """The block, if its trajectory stays inside the matrix; readouts with NaN are left to the buffer to drop."""
    reach = np.abs(block.trajectory).max((1, 2))
    reach = np.where(np.isfinite(reach), reach, 0)
    if not (reach > EDGE).any():
        if (reach > 0.5).any():
            return replace(block, trajectory=np.clip(block.trajectory, -0.5, 0.5))
        return block
    worst = int(reach.argmax())
    raise ValueError(
        f"readout {block.heads['scan_counter'][worst]}: its trajectory reaches {reach[worst]:.4g} cycles per voxel "
        f"(read as {unit}), beyond 0.5: name the unit with trajectory_unit, or correct the header's matrix"
    )
