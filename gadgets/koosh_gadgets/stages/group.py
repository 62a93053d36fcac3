"""A volume being collected: readouts that are good and new, and their correlation over coils."""

from __future__ import annotations

from dataclasses import dataclass, field

import ismrmrd
import numpy as np

from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.volume import Key
from koosh_gadgets.wire.readouts import Readouts

LAST = (
    ismrmrd.ACQ_LAST_IN_REPETITION,
    ismrmrd.ACQ_LAST_IN_MEASUREMENT,
    ismrmrd.ACQ_LAST_IN_SLICE,
    ismrmrd.ACQ_LAST_IN_CONTRAST,
    ismrmrd.ACQ_LAST_IN_PHASE,
    ismrmrd.ACQ_LAST_IN_SET,
)
LARGEST = 1e15


@dataclass(eq=False)
class Group:
    """A volume being collected."""

    key: Key
    encoding: Encoding
    blocks: list[Readouts] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    n: int = 0
    n_bytes: int = 0
    last_seen: bool = False
    idle: int = 0
    duplicates: int = 0
    broken: int = 0
    correlation: np.ndarray | None = None

    def add(self, block: Readouts) -> int:
        """Keep the good, new readouts of a block; the bytes they take."""
        self.idle = 0
        if block.flagged(*LAST).any():
            self.last_seen = True
        self._check_shape(block)
        keep = self._finite(block) & self._new(block)
        block = block if keep.all() else block[keep]
        if not len(block):
            return 0
        self.blocks.append(block)
        self.n += len(block)
        size = block.data.nbytes + block.trajectory.nbytes + block.heads.nbytes
        self.n_bytes += size
        return size

    def _check_shape(self, block: Readouts) -> None:
        if not self.blocks:
            return
        first, number = self.blocks[0], block.heads["scan_counter"][0]
        for name, axis in (("active_channels", 1), ("number_of_samples", 2)):
            seen, wanted = block.data.shape[axis], first.data.shape[axis]
            if seen != wanted:
                raise ValueError(
                    f"readout {number}: {name} is {seen}, it was {wanted} before; it must not change within a volume"
                )

    def _finite(self, block: Readouts) -> np.ndarray:
        good = finite(block.data) & finite(block.trajectory)
        self.broken += int((~good).sum())
        return np.asarray(good)

    def _new(self, block: Readouts) -> np.ndarray:
        """Readouts whose number, indices and first samples have not come before."""
        n = len(block)
        heads, first = block.heads, np.ascontiguousarray(block.data[:, 0, :8])
        parts = [np.ascontiguousarray(part).view(np.uint8).reshape(n, -1) for part in (
            heads["scan_counter"], heads["idx"], first)]  # fmt: skip
        raw = np.concatenate(parts, axis=1)
        width, flat = raw.shape[1], raw.tobytes()
        fresh = np.ones(n, bool)
        for i in range(n):
            name = flat[i * width : (i + 1) * width]
            if name in self.seen:
                fresh[i] = False
            else:
                self.seen.add(name)
        self.duplicates += int((~fresh).sum())
        return fresh


def finite(values: np.ndarray) -> np.ndarray:
    """(readout) bool: all of (readout, ...) is a number, and none so large that its square is none."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.float32)
    return np.asarray((np.abs(flat) < LARGEST).all(1))  # NaN compares false


def averages(group: Group) -> int:
    """Averages seen so far."""
    return max(1, len(np.unique(np.concatenate([b.heads["idx"]["average"] for b in group.blocks]))))


def correlate(group: Group, block: Readouts) -> None:
    """Add the block to the correlation of coils; per readout and in double, so that the order changes nothing."""
    good = block.data[finite(block.data)]
    part = np.matmul(good, good.conj().transpose(0, 2, 1)).sum(0, dtype=np.complex128)
    group.correlation = part if group.correlation is None else group.correlation + part
