"""One volume's readouts, and how it is named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.wire.arrays import Bucket
from koosh_gadgets.wire.readouts import Readouts

KEY = ("slice", "contrast", "phase", "repetition", "set")
Key = tuple[int, ...]  # encoding space, then the counters of KEY


@dataclass(frozen=True, eq=False)
class Volume:
    """All readouts of one volume, ordered by scan_counter where it numbers them, else as they came.

    key         encoding space, slice, contrast, phase, repetition, set
    heads       (readout) headers
    data        (coil, readout, sample) complex64
    trajectory  (readout, sample, axis) cycles per voxel of the encoded matrix
    expected    readouts the header promised, None where it does not say
    missing     numbers that never came
    preview     a first look: the scan goes on
    """

    key: Key
    encoding: Encoding
    heads: np.ndarray
    data: np.ndarray
    trajectory: np.ndarray
    expected: int | None = None
    missing: int = 0
    preview: bool = False


def label(key: Key) -> str:
    """A volume's indices for a message: only those that are not zero."""
    parts = [f"{name} {value}" for name, value in zip(("encoding", *KEY), key, strict=True) if value]
    return ", ".join(parts) or "0"


def as_bucket(volume: Volume) -> Bucket:
    """The volume's readouts as Gadgetron's bucket."""
    heads = volume.heads.copy()
    heads["active_channels"] = heads["available_channels"] = len(volume.data)
    heads["number_of_samples"], heads["trajectory_dimensions"] = volume.data.shape[2], volume.trajectory.shape[2]
    heads["center_sample"] = np.maximum(heads["center_sample"].astype(int) - heads["discard_pre"], 0)
    heads["discard_pre"] = heads["discard_post"] = 0
    block = Readouts(heads[: volume.data.shape[1]], volume.trajectory, volume.data.transpose(1, 0, 2))
    return Bucket(list(block.acquisitions()), [])
