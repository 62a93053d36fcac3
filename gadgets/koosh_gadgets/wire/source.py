"""Exactly as many bytes as asked for, from a socket or a file, or one of our own errors."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol

import numpy as np

from koosh_gadgets.wire.errors import Cut, TimedOut

Bytes = bytearray | memoryview
BUFFER = 1 << 20
Receive = Callable[[memoryview], int]


class Reader(Protocol):
    """Anything that gives exactly `n` bytes."""

    def read(self, n: int) -> Bytes:
        """The next `n` bytes."""


class Source:
    """A buffered reader: small pieces come from one reused buffer, large ones go straight to their place."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._buffer = memoryview(bytearray(BUFFER))
        self._start = self._end = 0

    def _fill(self, n: int) -> None:
        """Make the buffer hold at least `n` (<= BUFFER) bytes."""
        if self._start + n > BUFFER:
            held = self._end - self._start
            self._buffer[:held] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, held
        while self._end - self._start < n:
            got = self._receive(self._buffer[self._end :])
            if not got:
                raise Cut(f"the stream ended {n - (self._end - self._start)} bytes short of a message of {n} bytes")
            self._end += got

    def peek(self, n: int) -> memoryview:
        """The next `n` (<= BUFFER) bytes without taking them; valid until the next call."""
        if self._end - self._start < n:
            if self._start == self._end:
                self._start = self._end = 0
            self._fill(n)
        return self._buffer[self._start : self._start + n]

    def held(self, n: int) -> memoryview | None:
        """The next `n` bytes without taking them, if they have been received already."""
        return self._buffer[self._start : self._start + n] if self._end - self._start >= n else None

    def take(self, n: int) -> memoryview:
        """The next `n` bytes; valid until the next call."""
        if n > BUFFER:
            return memoryview(self.read(n))
        view = self.peek(n)
        self._start += n
        return view

    def read(self, n: int) -> Bytes:
        """The next `n` bytes, the caller's own; memory is touched only as the bytes arrive."""
        out = bytearray(n) if n <= BUFFER else np.empty(n, np.uint8).data
        self.read_into(memoryview(out))
        return out

    def read_into(self, out: memoryview) -> None:
        """Fill `out` (flat bytes)."""
        size = len(out)
        done = min(size, self._end - self._start)
        out[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        while size - done >= BUFFER // 4:
            got = self._receive(out[done:])
            if not got:
                raise Cut(f"the stream ended {size - done} bytes short of {size} bytes of data")
            done += got
        if done < size:
            out[done:] = self.take(size - done)

    def skip(self) -> int:
        """Drop what has been received; how many bytes that was."""
        dropped, self._start = self._end - self._start, self._end
        return dropped

    def at_end(self) -> bool:
        """Whether the stream has ended (waits for the next byte)."""
        if self._start < self._end:
            return False
        self._start = 0
        self._end = self._receive(self._buffer)
        return self._end == 0


class Recorder:
    """Passes reads on and keeps the bytes, so that a message can be handed on as it came."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self.parts: list[Bytes] = []

    def read(self, n: int) -> Bytes:
        """The next `n` bytes, kept as well."""
        self.parts.append(self._source.read(n))
        return self.parts[-1]


class SocketReceiver:
    """Receives from a socket: silence beyond `idle_s`, or beyond the deadline while one is set, is an error."""

    def __init__(self, sock: socket.socket, idle_s: float) -> None:
        self._sock = sock
        self._idle_s = idle_s
        self._deadline: float | None = None
        self._end: tuple[float, float] | None = None
        sock.settimeout(idle_s)

    def expect_within(self, seconds: float | None) -> None:
        """Everything up to the next call must come within `seconds`; None: only silence counts."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._sock.settimeout(self._idle_s)

    def finish_within(self, seconds: float) -> None:
        """The whole rest must come within `seconds`, even where no pause is long."""
        self._end = (time.monotonic() + seconds, seconds)

    def _check_end(self) -> None:
        if self._end is not None and self._deadline is None and time.monotonic() >= self._end[0]:
            raise TimedOut(f"the scan took longer than the {self._end[1]:g} s that are allowed")

    def __call__(self, out: memoryview) -> int:
        """Bytes received into `out`, 0 at the end of the stream."""
        if self._deadline is not None:
            self._sock.settimeout(max(0.001, self._deadline - time.monotonic()))
        elif self._end is not None:
            self._check_end()
            self._sock.settimeout(min(self._idle_s, max(0.001, self._end[0] - time.monotonic())))
        try:
            return self._sock.recv_into(out)
        except TimeoutError as error:
            self._check_end()
            waited = "the deadline for the header" if self._deadline is not None else f"{self._idle_s:g} s"
            raise TimedOut(f"the peer sent nothing more within {waited}") from error
        except OSError as error:
            raise Cut(f"the peer is gone: {error}") from error


def from_file(file: BinaryIO) -> Source:
    """A source that reads an open binary file or pipe."""

    def receive(out: memoryview) -> int:
        return file.readinto(out) or 0  # type: ignore[attr-defined]

    return Source(receive)


def watch(sock: socket.socket) -> None:
    """Let the kernel find a dead peer within about a minute, and send small messages at once."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 60_000)):
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
