"""Readouts in, whole volumes out: sorted, without duplicates, and with what is missing counted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from koosh_gadgets.stages.assemble import assembled
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.group import Group, averages, correlate
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.trajectory import APART
from koosh_gadgets.stages.volume import KEY, Key, Volume, label
from koosh_gadgets.wire.readouts import Readouts


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
