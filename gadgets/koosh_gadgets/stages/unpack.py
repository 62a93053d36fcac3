"""Gadgetron's composite items as plain readouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ismrmrd
import numpy as np

from koosh_gadgets.wire.arrays import Bucket, ReconBuffer, ReconData
from koosh_gadgets.wire.readouts import blocks


def unpacked(items: Iterable[object]) -> Iterator[object]:
    """The same stream with single acquisitions, buckets and reconstruction data turned into blocks of readouts."""
    return blocks(_plain(items))


def _plain(items: Iterable[object]) -> Iterator[object]:
    for item in items:
        if isinstance(item, Bucket):
            yield from item.data
            yield from item.waveforms
        elif isinstance(item, ReconData):
            for data, _ in item.bits:
                yield from from_buffer(data)
        else:
            yield item


def from_buffer(buffer: ReconBuffer) -> Iterator[ismrmrd.Acquisition]:
    """The readouts [E0, :, CHA] of a buffer whose header says that they were measured."""
    heads = buffer.headers  # [E1, E2, N, S, LOC]
    if heads.ndim != 5 or buffer.data.ndim != 7 or buffer.data.shape[:1] + heads.shape == ():
        raise ValueError(
            f"reconstruction data have shape {buffer.data.shape} and headers {heads.shape}; wanted 7 and 5 axes"
        )
    for at in np.ndindex(*heads.shape):
        head = ismrmrd.AcquisitionHeader.from_buffer_copy(heads[at].tobytes())
        if not head.number_of_samples:
            continue
        e1, e2, n, s, loc = at
        data = np.ascontiguousarray(buffer.data[:, e1, e2, :, n, s, loc].T)
        trajectory = np.zeros((len(buffer.data), 0), np.float32)
        if buffer.trajectory is not None and buffer.trajectory.size:
            trajectory = np.ascontiguousarray(buffer.trajectory[:, :, e1, e2, n, s, loc].T)
        head.active_channels, head.number_of_samples = data.shape
        head.trajectory_dimensions = trajectory.shape[1]
        head.discard_pre = head.discard_post = 0
        yield ismrmrd.Acquisition(
            head, data, np.zeros((data.shape[1], 0), np.float32) if trajectory is None else trajectory
        )
