"""Caps on every length and time of a connection."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Largest lengths in bytes, longest waits in seconds.

    header_s  from the connection to the complete header    idle_s  silence while the scan runs
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
    send_s: float = 120.0
    drain_s: float = 30.0
    drain: int = 64 * 1024 * MIB
