"""A conversation whose peer is a string of bytes."""

from __future__ import annotations

import io

from koosh_gadgets.wire.connection import Connection
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import open_stream
from koosh_gadgets.wire.source import Source, from_file


class Kept:
    """An output that keeps what was sent."""

    def __init__(self) -> None:
        self.raw = bytearray()

    def send(self, parts) -> None:
        for part in parts:
            self.raw += part

    def close(self) -> None:
        pass


def source_of(raw: bytes) -> Source:
    return from_file(io.BytesIO(raw))


def connection_of(raw: bytes, limits: Limits | None = None) -> Connection | None:
    """An opened conversation over bytes; `connection.output.raw` is what we said."""
    limits = limits or Limits()
    source = source_of(raw)
    opening = open_stream(source, limits)
    return None if opening is None else Connection(opening, source, Kept(), limits)
