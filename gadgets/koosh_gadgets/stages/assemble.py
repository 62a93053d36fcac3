"""A collected group as a volume: ordered, compressed, averaged, and with what is missing counted."""

from __future__ import annotations

import logging

import numpy as np

from koosh_gadgets.stages.group import Group
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.volume import Volume, label
from koosh_gadgets.wire.readouts import HEAD


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

    from koosh_models.physics.compress import compression

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
    journal.count(used=n, dropped=group.broken, doubled=group.duplicates)
    expected = volume.encoding.readouts
    if expected is None and volume.encoding.limited is not None and volume.encoding.limited >= n:
        expected = volume.encoding.limited
    counters = np.unique(volume.heads["scan_counter"])
    gaps = int(counters[-1]) - int(counters[0]) + 1 - len(counters) if len(counters) == len(volume.heads) else 0
    missing = max(0, expected - n) if expected is not None else (gaps if len(group.seen) == group.n else 0)
    journal.count(missing=missing)
    if missing:
        wanted = f" of {expected}" if expected is not None else ""
        journal.note(f"volume {name}: incomplete, {n}{wanted} readouts arrived ({missing} missing)")
    if group.encoding.readouts is None and group.encoding.limited is not None and group.encoding.limited < n:
        journal.note(f"volume {name}: the header's limits promise {group.encoding.limited} readouts, {n} came",
                     logging.INFO)  # fmt: skip
    return Volume(volume.key, volume.encoding, volume.heads, volume.data, volume.trajectory, expected, missing)
