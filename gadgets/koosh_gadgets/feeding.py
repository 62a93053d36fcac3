"""The server's side of a scan at the worker: messages in from a queue, answers out to a client or a list."""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import threading
from dataclasses import dataclass, field
from typing import Protocol

import ismrmrd

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut, WireError
from koosh_gadgets.wire.framing import SocketOutput, frames
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import SocketReceiver, Source
from koosh_gadgets.workers import Worker

HELD = 512 << 20  # bytes that wait for the worker, for each client


class Sink(Protocol):
    """Where a worker's answers go."""

    n_images: int

    def take(self, number: int, raw: memoryview) -> None:
        """One message of the worker, as it came."""


@dataclass(eq=False)
class ToClient:
    """Answers go on to the client as they come.

    muted  nothing more goes to this client
    """

    output: SocketOutput
    n_images: int = 0
    failed: bool = False
    muted: bool = False

    def take(self, number: int, raw: memoryview) -> None:
        """Forward everything but the close message, which is the server's to send."""
        if number == ids.CLOSE or self.muted:
            return
        self.output.send([raw])
        self.n_images += number == ids.IMAGE
        self.failed |= number == ids.ERROR


@dataclass(eq=False)
class ToList:
    """Answers are kept, for a scan whose client is gone."""

    images: list[ismrmrd.Image] = field(default_factory=list)
    failure: str = ""
    n_images: int = 0

    def take(self, number: int, raw: memoryview) -> None:
        """Keep images and failures."""
        if number not in (ids.IMAGE, ids.ERROR, ids.TEXT):
            return
        source = Source(io.BytesIO(raw[2:]).readinto)
        item = messages.read_item(number, source, Limits())
        if isinstance(item, messages.Text):
            self.failure = item.text
        else:
            self.images.append(item)
            self.n_images += 1


class Died(WireError):
    """The worker process ended before the scan did."""


class Answers:
    """A thread that reads one worker socket to its close message and passes everything to a sink."""

    def __init__(self, sock: socket.socket, sink: Sink) -> None:
        self.error: WireError | None = None
        self._sock, self._sink = sock, sink
        self._thread = threading.Thread(target=self._run, name="koosh-answers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        answers = frames(Source(SocketReceiver(self._sock, 86400.0)), Limits())
        try:
            while (answer := next(answers, None)) is not None:
                try:
                    self._sink.take(*answer)
                except WireError as error:  # the client's end, not the worker's
                    self.error = error
                    return
        except Cut:  # by its end or by a reset, where it had not read all that it was sent
            self.error = Died("the reconstruction process died")
        except WireError as error:
            self.error = error

    def join(self) -> None:
        """Wait for the close message; an early end means that the worker died, or that the client left."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def drop(self) -> None:
        """Read no further: what was to be asked can't be."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()


class Feeder:
    """Sends messages to the worker from a queue, so that neither its start nor its load holds a client up.

    A client waits only where `HELD` bytes are queued: the process that owns the sockets must not run out of memory.
    """

    def __init__(self, worker: Worker, scan: str, sink: Sink, since: float = 0.0) -> None:
        self._since = since
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._worker, self._scan, self._sink = worker, scan, sink
        self._error: Exception | None = None
        self._held, self._room = 0, threading.Condition()
        self._thread = threading.Thread(target=self._run, name="koosh-feed", daemon=True)
        self._thread.start()

    def put(self, raw: bytes | memoryview) -> None:
        """One message; it is copied, since the client's buffer goes on to the next."""
        with self._room:
            while self._held > HELD and self._thread.is_alive():
                self._room.wait(0.5)
            self._held += len(raw)
        self._messages.put(bytes(raw))

    def _sent(self, n: int) -> None:
        with self._room:
            self._held -= n
            self._room.notify()

    def _run(self) -> None:
        try:
            with self._worker.open(self._scan, self._since) as sock:
                answers = Answers(sock, self._sink)
                with contextlib.suppress(OSError):  # a worker that is gone is noticed by its answers
                    while (raw := self._messages.get()) is not None:
                        sock.sendall(raw)
                        self._sent(len(raw))
                    sock.shutdown(socket.SHUT_WR)
                answers.join()
        except (WireError, RuntimeError) as error:
            self._error = error

    def abandon(self) -> None:
        """No more messages, and nobody waits: the worker sees a scan that was cut off and makes no image."""
        self._messages.put(None)

    def finish(self) -> None:
        """No more messages: wait for the worker's close message. Without a close message of ours it makes no image."""
        self._messages.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
