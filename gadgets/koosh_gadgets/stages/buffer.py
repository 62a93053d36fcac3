"""Readouts in, whole volumes out: sorted, without duplicates, and with what is missing counted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import ismrmrd
import numpy as np

from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.trajectory import APART
from koosh_gadgets.wire.arrays import Bucket
from koosh_gadgets.wire.readouts import HEAD, Readouts

KEY = ("slice", "contrast", "phase", "repetition", "set")
Key = tuple[int, ...]  # encoding space, then the counters of KEY
LAST = (
    ismrmrd.ACQ_LAST_IN_REPETITION,
    ismrmrd.ACQ_LAST_IN_MEASUREMENT,
    ismrmrd.ACQ_LAST_IN_SLICE,
    ismrmrd.ACQ_LAST_IN_CONTRAST,
    ismrmrd.ACQ_LAST_IN_PHASE,
    ismrmrd.ACQ_LAST_IN_SET,
)

LARGEST = 1e15


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


class Buffer:
    """Collects groups, and tells when one is whole."""

    def __init__(self, spaces: Sequence[Encoding], journal: Journal, coils: int = 0, memory: int = 0) -> None:
        self.spaces, self.journal, self.coils, self.memory = spaces, journal, coils, memory
        self.shown: dict[Key, int] = {}
        self.groups: dict[Key, Group] = {}
        self.done: dict[Key, int] = {}
        self.held = 0

    def feed(self, block: Readouts) -> Iterator[Volume]:
        """Take a block; the volumes that it completes."""
        for key, part in split(block):
            group = self.groups.get(key)
            if group is None:
                group = self.groups[key] = self._open(key)
            self.held += group.add(part)
            if self.coils and self.coils < part.data.shape[1]:
                correlate(group, part)
            self._check_memory(part)
            for other in self.groups.values():
                other.idle += 0 if other is group else len(part)
        yield from self._whole()

    def _open(self, key: Key) -> Group:
        if key in self.done:
            self.journal.note(f"volume {label(key)}: readouts came after it was complete; they make a further volume")
        return Group(key, self.spaces[min(key[0], len(self.spaces) - 1)])

    def _check_memory(self, block: Readouts) -> None:
        if self.memory and self.held > self.memory:
            raise ValueError(
                f"readout {block.heads['scan_counter'][0]}: the scan's readouts take more than the memory budget of "
                f"{self.memory >> 20} MiB; raise `memory`, or compress with `coils`"
            )

    def _whole(self) -> Iterator[Volume]:
        """Volumes that can't grow any more: as many readouts as promised, or flagged last and overtaken by others."""
        for key, group in list(self.groups.items()):
            expected = group.encoding.readouts
            overtaken = group.last_seen and group.idle > 0 and (expected is None or group.idle > expected)
            if (expected is not None and group.n >= expected * averages(group)) or overtaken:
                yield self._close(key)

    def previews(self) -> Iterator[Volume]:
        """Volumes so far, each time a quarter of the promised readouts (or twice as many as before) has come."""
        for key, group in self.groups.items():
            expected = group.encoding.readouts
            step = max(64, expected // 4) if expected else max(256, self.shown.get(key, 0))
            if group.n >= self.shown.get(key, 0) + step:
                self.shown[key] = group.n
                copy = replace(group, blocks=list(group.blocks))
                yield replace(assembled(copy, self.coils, None), preview=True)

    def finish(self) -> Iterator[Volume]:
        """What is left at the end of the stream."""
        for key in sorted(self.groups):
            if self.groups[key].n:
                yield self._close(key)

    def _close(self, key: Key) -> Volume:
        group = self.groups.pop(key)
        self.held -= group.n_bytes
        self.done[key] = group.n
        with self.journal.timed("buffer"):
            return assembled(group, self.coils, self.journal)


def buffer(
    items: Iterable[object],
    spaces: Sequence[Encoding],
    journal: Journal,
    coils: int = 0,
    memory: int = 0,
    preview: bool = False,
) -> Iterator[Volume]:
    """Volumes of imaging readouts; navigators, waveforms and other items end here.

    coils   virtual coils to compress each volume to, 0: all
    memory  bytes that readouts waiting for their volume may take, 0: no limit
    """
    store = Buffer(spaces, journal, coils, memory)
    n_apart = n_seen = 0
    for item in items:
        if not isinstance(item, Readouts):
            continue
        apart = item.flagged(*APART)
        n_apart, n_seen = n_apart + int(apart.sum()), n_seen + int((~apart).sum())
        if not apart.all():
            with journal.timed("buffer"):
                whole = list(store.feed(item if not apart.any() else item[~apart]))
                whole += store.previews() if preview else []
            yield from whole
    journal.ended = True
    if n_apart:
        journal.note(f"{n_apart} navigator or other readouts without image were left out", logging.INFO)
    if not n_seen:
        raise ValueError(
            f"no imaging readout in the stream ({n_apart} others): is the noise or navigator flag set on every readout?"
        )
    rest = list(store.groups.values())
    if not store.done and rest and not any(g.n for g in rest):
        raise ValueError(f"all {sum(g.broken for g in rest)} imaging readouts contain NaN or Inf: nothing is left")
    yield from store.finish()


def split(block: Readouts) -> Iterator[tuple[Key, Readouts]]:
    """The block's parts by volume, in the order in which they appear."""
    idx = block.heads["idx"]
    keys = np.stack([block.heads["encoding_space_ref"], *(idx[name] for name in KEY)], axis=1).astype(np.int64)
    if (keys == keys[0]).all():
        yield tuple(keys[0].tolist()), block
        return
    found, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    for number in np.argsort(first):
        yield tuple(found[number].tolist()), block[which.reshape(-1) == number]


def label(key: Key) -> str:
    """A volume's indices for a message: only those that are not zero."""
    parts = [f"{name} {value}" for name, value in zip(("encoding", *KEY), key, strict=True) if value]
    return ", ".join(parts) or "0"


def averages(group: Group) -> int:
    """Averages seen so far."""
    return max(1, len(np.unique(np.concatenate([b.heads["idx"]["average"] for b in group.blocks]))))


def correlate(group: Group, block: Readouts) -> None:
    """Add the block to the correlation of coils; per readout and in double, so that the order changes nothing."""
    good = block.data[finite(block.data)]
    part = np.matmul(good, good.conj().transpose(0, 2, 1)).sum(0, dtype=np.complex128)
    group.correlation = part if group.correlation is None else group.correlation + part


def order(group: Group) -> np.ndarray:
    """Positions of the readouts: by average and scan_counter where those name each readout, else by arrival."""
    heads = np.concatenate([b.heads for b in group.blocks])
    counters, average = heads["scan_counter"].astype(np.int64), heads["idx"]["average"].astype(np.int64)
    if len(np.unique(np.stack([average, counters], 1), axis=0)) < len(heads):
        return np.arange(len(heads))
    return np.lexsort((counters, average))


def assembled(group: Group, coils: int, journal: Journal | None) -> Volume:
    """The volume; each block is let go as soon as it is copied. Without a journal nothing is said about it."""
    matrix = None
    if coils and group.correlation is not None:
        matrix = compression_matrix(group.correlation, coils, journal)
    at = order(group)
    rank = np.empty(len(at), np.int64)
    rank[at] = np.arange(len(at))
    first = group.blocks[0]
    lo = max(int(b.heads["discard_pre"].max()) for b in group.blocks)
    hi = first.data.shape[2] - max(int(b.heads["discard_post"].max()) for b in group.blocks)
    if lo >= hi:
        raise ValueError(
            f"readout {first.heads['scan_counter'][0]}: discard_pre {lo} and discard_post {first.data.shape[2] - hi} "
            f"leave nothing of {first.data.shape[2]} samples"
        )
    n_coils = first.data.shape[1] if matrix is None else len(matrix)
    heads = np.empty(group.n, HEAD)
    data = np.empty((n_coils, group.n, hi - lo), np.complex64)
    trajectory = np.empty((group.n, hi - lo, first.trajectory.shape[2]), np.float32)
    start = 0
    while group.blocks:
        block = group.blocks.pop(0)
        to = rank[start : start + len(block)]
        start += len(block)
        samples = block.data[:, :, lo:hi]
        samples = samples if matrix is None else np.matmul(matrix, samples)
        data[:, to] = samples.transpose(1, 0, 2)
        heads[to], trajectory[to] = block.heads, block.trajectory[:, lo:hi]
    volume = Volume(group.key, group.encoding, heads, *averaged(heads, data, trajectory))
    return volume if journal is None else counted(volume, group, journal)


def compression_matrix(correlation: np.ndarray, coils: int, journal: Journal | None) -> np.ndarray:
    """(virtual, coil) from the correlation of coils."""
    import torch

    from koosh_models.calibration.compress import compression

    found = compression(torch.from_numpy(correlation), min(coils, len(correlation)))
    if journal is not None:
        journal.facts["koosh_coil_energy_kept"] = f"{found.kept:.6f}"
        text = f"{len(correlation)} coils compressed to {len(found.matrix)}, {found.kept:.2%} of the signal kept"
        journal.note(text, logging.INFO)
    return np.asarray(found.matrix.numpy())


def averaged(heads: np.ndarray, data: np.ndarray, trajectory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Data and trajectory with averages of one trajectory added up; unlike ones stay side by side as more samples."""
    values = np.unique(heads["idx"]["average"])
    n = len(values)
    if n == 1 or len(heads) % n:
        return data, trajectory
    parts = trajectory.reshape(n, -1, *trajectory.shape[1:])
    if not (parts == parts[0]).all():
        return data, trajectory
    return data.reshape(len(data), n, -1, data.shape[2]).mean(1), parts[0].copy()


def counted(volume: Volume, group: Group, journal: Journal) -> Volume:
    """The volume with what is missing, said in the journal."""
    name, n = label(volume.key), volume.data.shape[1]
    if group.broken:
        journal.note(f"volume {name}: {group.broken} readouts with NaN or Inf were dropped")
    if group.duplicates:
        journal.note(f"volume {name}: {group.duplicates} readouts came twice and count once")
    expected = volume.encoding.readouts
    if expected is None and volume.encoding.limited is not None and volume.encoding.limited >= n:
        expected = volume.encoding.limited
    counters = np.unique(volume.heads["scan_counter"])
    gaps = int(counters[-1]) - int(counters[0]) + 1 - len(counters) if len(counters) == len(volume.heads) else 0
    missing = max(0, expected - n) if expected is not None else (gaps if len(group.seen) == group.n else 0)
    if missing:
        wanted = f" of {expected}" if expected is not None else ""
        journal.note(f"volume {name}: incomplete, {n}{wanted} readouts arrived ({missing} missing)")
    if group.encoding.readouts is None and group.encoding.limited is not None and group.encoding.limited < n:
        journal.note(f"volume {name}: the header's limits promise {group.encoding.limited} readouts, {n} came",
                     logging.INFO)  # fmt: skip
    return Volume(volume.key, volume.encoding, volume.heads, volume.data, volume.trajectory, expected, missing)


def as_bucket(volume: Volume) -> Bucket:
    """The volume's readouts as Gadgetron's bucket."""
    heads = volume.heads.copy()
    heads["active_channels"] = heads["available_channels"] = len(volume.data)
    heads["number_of_samples"], heads["trajectory_dimensions"] = volume.data.shape[2], volume.trajectory.shape[2]
    heads["center_sample"] = np.maximum(heads["center_sample"].astype(int) - heads["discard_pre"], 0)
    heads["discard_pre"] = heads["discard_post"] = 0
    block = Readouts(heads[: volume.data.shape[1]], volume.trajectory, volume.data.transpose(1, 0, 2))
    return Bucket(list(block.acquisitions()), [])
