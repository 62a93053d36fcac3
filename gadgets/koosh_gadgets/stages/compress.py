"""Coil compression: many coils in, fewer virtual ones out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire.readouts import Readouts

if TYPE_CHECKING:
    from koosh_models.physics.compress import Compression

CALIBRATION = 1024


def compress(items: Iterable[object], journal: Journal, coils: int, after: int = CALIBRATION) -> Iterator[object]:
    """The readouts in `coils` virtual coils; the first `after` readouts are held back to derive them.

    coils  0 leaves everything as it is
    """
    held: list[Readouts] = []
    matrix: np.ndarray | None = None
    source = iter(items)
    for item in source:
        if not isinstance(item, Readouts) or not coils:
            yield item
            continue
        if matrix is not None:
            yield applied(item, matrix, journal)
            continue
        held.append(item)
        if sum(map(len, held)) >= after:
            matrix = derived(held, coils, journal)
            yield from (applied(b, matrix, journal) for b in drained(held))
    if held:
        matrix = derived(held, coils, journal)
        yield from (applied(b, matrix, journal) for b in drained(held))


def drained(held: list[Readouts]) -> Iterator[Readouts]:
    """The blocks, each forgotten as it is given."""
    while held:
        yield held.pop(0)


def derived(held: list[Readouts], coils: int, journal: Journal) -> np.ndarray:
    """(virtual, coil) matrix from the blocks held back."""
    with journal.timed("compress"):
        return compression_of(chain.from_iterable(b.data for b in held), coils, journal).matrix.numpy()


def compression_of(readouts: Iterable[np.ndarray], coils: int, journal: Journal) -> Compression:
    """The compression to at most `coils` virtual coils for (coil, sample) arrays."""
    import torch

    from koosh_models.physics.compress import compression, gram

    correlation: torch.Tensor | None = None
    for readout in readouts:
        part = gram(torch.from_numpy(np.ascontiguousarray(readout)))
        correlation = part if correlation is None else correlation + part
    if correlation is None:
        raise ValueError("no readout to derive the coil compression from")
    found = compression(correlation, min(coils, len(correlation)))
    journal.facts["koosh_coil_energy_kept"] = f"{found.kept:.6f}"
    journal.note(f"{len(correlation)} coils compressed to {len(found.matrix)}, {found.kept:.2%} of the signal kept",
                 logging.INFO)  # fmt: skip
    return found


def applied(block: Readouts, matrix: np.ndarray, journal: Journal) -> Readouts:
    """The block in virtual coils."""
    if block.data.shape[1] != matrix.shape[1]:
        raise ValueError(
            f"readout {block.heads['scan_counter'][0]}: active_channels is {block.data.shape[1]}, it was "
            f"{matrix.shape[1]} before; the number of coils must not change within a scan"
        )
    with journal.timed("compress"):
        return block.with_data(np.matmul(matrix, block.data))
