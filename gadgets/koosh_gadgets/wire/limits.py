"""Caps on every length and time of a connection."""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Largest lengths in bytes, longest waits in seconds.

    header_s  from the connection to the complete header    idle_s  silence while the scan runs
    total_s   from the header to the end of the scan, however steadily it drips
    send_s    a peer that takes no bytes
    drain_s, drain  how long and how much is read after an error
    """

    config: int = MIB
    header: int = MIB
    text: int = 16 * MIB
    meta: int = 4 * MIB
    acquisition: int = 128 * MIB
    waveform: int = 64 * MIB
    image: int = 4096 * MIB
    array: int = 4096 * MIB
    header_s: float = 30.0
    idle_s: float = 1800.0
    total_s: float = 6 * 3600.0
    send_s: float = 120.0
    drain_s: float = 30.0
    drain: int = 64 * 1024 * MIB

    def within(self, free: int | None) -> Limits:
        """The same, its largest lengths at most a quarter of the memory that is free."""
        if free is None:
            return self
        most = max(MIB, free // 4)
        return replace(self, image=min(self.image, most), array=min(self.array, most))
