"""Whole messages from a stream, and messages onto a socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut, TimedOut, WireError
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.readouts import next_shape
from koosh_gadgets.wire.source import Recorder, Source

Parts = Sequence[bytes | memoryview]


class Output(Protocol):
    """Where messages go."""

    def send(self, parts: Parts) -> None:
        """Send the pieces of one message."""

    def close(self) -> None:
        """Give back what sending needed; the peer may still send."""


class SocketOutput:
    """Sends over a socket; a peer that takes nothing for `seconds` is an error."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock.dup()  # a time limit of its own, while another thread reads
        self._seconds = seconds
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the duplicate; the socket itself stays open."""
        self._sock.close()

    def send(self, parts: Parts) -> None:
        """Small pieces go together, large ones without a copy; messages of several threads don't mix."""
        small: list[bytes | memoryview] = []
        with self._lock:
            for part in parts:
                if len(part) < 1 << 16:
                    small.append(part)
                else:
                    self._all(memoryview(b"".join(small)))
                    self._all(memoryview(part))
                    small = []
            self._all(memoryview(b"".join(small)))

    def _all(self, view: memoryview) -> None:
        try:
            while len(view):
                self._sock.settimeout(self._seconds)
                view = view[self._sock.send(view) :]
        except TimeoutError as error:
            raise TimedOut(f"the peer took no data for {self._seconds:g} s") from error
        except OSError as error:
            raise Cut(f"the peer is gone: {error}") from error


def drain(source: Source, limits: Limits) -> None:
    """Skip messages up to the close message; where they can't be told apart any more, skip bytes."""
    until, size = time.monotonic() + limits.drain_s, 0
    try:
        for number, raw in frames(source, limits):
            size += len(raw)
            if number == ids.CLOSE or size > limits.drain or time.monotonic() > until:
                return
    except (Cut, TimedOut):
        return
    except WireError:
        with contextlib.suppress(WireError):
            while time.monotonic() < until and size < limits.drain and not source.at_end():
                size += source.skip()


def frames(source: Source, limits: Limits) -> Iterator[tuple[int, memoryview]]:
    """(number, whole message) one after the other, close included; a view is valid until the next one."""
    while True:
        number = int(messages.U16.unpack(source.peek(2))[0])
        if number == ids.ACQUISITION:
            n_samples, n_coils, n_axes = next_shape(source, limits)
            yield number, source.take(342 + n_samples * (8 * n_coils + 4 * n_axes))
            continue
        yield number, memoryview(whole(number, source, limits))
        if number == ids.CLOSE:
            return


def whole(number: int, source: Source, limits: Limits) -> bytes:
    """The bytes of a message that is not an acquisition, checked by reading it."""
    recorder = Recorder(source)
    recorder.read(2)
    if number == ids.CONFIG_FILE:
        recorder.read(1024)
    elif number in (ids.CONFIG_TEXT, ids.HEADER):
        messages.sized(recorder, "configuration or header", messages.U32, max(limits.config, limits.header))
    elif number != ids.CLOSE:
        messages.read_item(number, recorder, limits)
    return b"".join(recorder.parts)
