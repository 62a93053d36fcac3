"""Readouts in blocks: what the stages work on, because one call per readout would cost more than its arithmetic."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import ismrmrd
import numpy as np

from koosh_gadgets.wire import ids
from koosh_gadgets.wire.errors import Malformed
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.messages import check
from koosh_gadgets.wire.source import Source

HEAD = np.dtype(ismrmrd.AcquisitionHeader)
WHOLE = struct.Struct("<H34xHxxH136xH")  # the same behind the message's number
SIZES = struct.Struct("<34xHxxH136xH")  # number_of_samples, active_channels, trajectory_dimensions
BLOCK = 32  # small enough to stay in the cache: 5 us a readout of 16 x 256 where 256 of them take 9
BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Readouts:
    """Consecutive readouts of one shape.

    heads       (readout) structured, the fields of ISMRMRD's acquisition header
    trajectory  (readout, sample, axis) float32, in whatever unit the source uses
    data        (readout, coil, sample) complex64
    """

    heads: np.ndarray
    trajectory: np.ndarray
    data: np.ndarray

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, index: slice | np.ndarray) -> Readouts:
        return Readouts(self.heads[index], self.trajectory[index], self.data[index])

    def with_data(self, data: np.ndarray) -> Readouts:
        """The same readouts with other k-space, (readout, coil, sample); coil counts follow."""
        heads = self.heads
        if data.shape[1] != self.data.shape[1]:
            heads = heads.copy()
            heads["active_channels"] = heads["available_channels"] = data.shape[1]
            heads["channel_mask"] = 0
        return replace(self, heads=heads, data=data)

    def with_trajectory(self, trajectory: np.ndarray) -> Readouts:
        """The same readouts with another trajectory, (readout, sample, axis)."""
        heads = self.heads.copy()
        heads["trajectory_dimensions"] = trajectory.shape[2]
        return replace(self, heads=heads, trajectory=trajectory)

    def flagged(self, *flags: int) -> np.ndarray:
        """(readout) bool: any of ISMRMRD's acquisition flags (numbered from 1) is set."""
        mask = sum(1 << (flag - 1) for flag in flags)
        return (self.heads["flags"] & np.uint64(mask)) != 0

    def acquisitions(self) -> Iterator[ismrmrd.Acquisition]:
        """One object per readout."""
        for head, trajectory, data in zip(self.heads, self.trajectory, self.data, strict=True):
            yield ismrmrd.Acquisition(ismrmrd.AcquisitionHeader.from_buffer_copy(head.tobytes()), data, trajectory)


def shape_of(acquisition: ismrmrd.Acquisition) -> tuple[int, int, int]:
    """Samples, coils, trajectory axes."""
    return acquisition.number_of_samples, acquisition.active_channels, acquisition.trajectory_dimensions


def capacity(n_samples: int, n_coils: int, n_axes: int) -> int:
    """Readouts in a full block; it depends on their shape alone, so that blocks do not depend on timing."""
    return max(1, min(BLOCK, BLOCK_BYTES // max(1, n_samples * (8 * n_coils + 4 * n_axes))))


def gather(acquisitions: list[ismrmrd.Acquisition]) -> Readouts:
    """One block of readouts that all have the shape of the first."""
    heads = np.frombuffer(b"".join(bytes(a.getHead()) for a in acquisitions), HEAD).copy()
    trajectory = np.stack([np.asarray(a.traj, np.float32) for a in acquisitions])
    return Readouts(heads, trajectory, np.stack([np.asarray(a.data, np.complex64) for a in acquisitions]))


def blocks(items: Iterable[object]) -> Iterator[object]:
    """The same items with single acquisitions gathered into blocks, as the wire would have cut them."""
    group: list[ismrmrd.Acquisition] = []
    for item in items:
        full = group and (len(group) == capacity(*shape_of(group[0])) or not isinstance(item, ismrmrd.Acquisition))
        if group and (full or shape_of(item) != shape_of(group[0])):
            yield gather(group)
            group = []
        if isinstance(item, ismrmrd.Acquisition):
            group.append(item)
        else:
            yield item
    if group:
        yield gather(group)


class Filler:
    """A block being filled straight from the wire, without an object per readout."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        n_samples, n_coils, n_axes = self.shape = shape
        self.capacity = capacity(*shape)
        self.n = 0
        self.trajectory = np.empty((self.capacity, n_samples, n_axes), np.float32)
        self.data = np.empty((self.capacity, n_coils, n_samples), np.complex64)
        self._heads = bytearray(340 * self.capacity)
        self._flat = (_flat(self.trajectory), _flat(self.data))
        self._sizes = (4 * n_samples * n_axes, 8 * n_samples * n_coils)
        self._wanted = (ids.ACQUISITION, *shape)
        self.message_size = 342 + sum(self._sizes)  # of an acquisition of this shape, its number included

    def takes(self, raw: memoryview | None) -> bool:
        """Whether this is a further acquisition message of the block."""
        return raw is not None and self.n < self.capacity and WHOLE.unpack_from(raw) == self._wanted

    def add(self, raw: memoryview) -> None:
        """Copy one whole acquisition message into the block."""
        n, (row_t, row_d) = self.n, self._sizes
        self._heads[340 * n : 340 * n + 340] = raw[2:342]
        self._flat[0][n * row_t : (n + 1) * row_t] = raw[342 : 342 + row_t]
        self._flat[1][n * row_d : (n + 1) * row_d] = raw[342 + row_t :]
        self.n = n + 1

    def block(self) -> Readouts:
        """What has arrived."""
        n = self.n
        return Readouts(np.frombuffer(self._heads, HEAD)[:n], self.trajectory[:n], self.data[:n])


def _flat(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(bytearray())


def next_shape(source: Source, limits: Limits) -> tuple[int, int, int]:
    """Shape of the acquisition message in front, checked."""
    shape: tuple[int, int, int] = SIZES.unpack_from(source.peek(342), 2)
    n_samples, n_coils, n_axes = shape
    check("a readout", n_samples * (8 * n_coils + 4 * n_axes), limits.acquisition)
    if not n_samples or not n_coils:
        raise Malformed(f"a readout has {n_samples} samples and {n_coils} coils; wanted at least one of each")
    return shape
