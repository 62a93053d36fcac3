"""One conversation: the opening, the items, the answers, and an end that the peer is told about."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut, Malformed, TimedOut, WireError
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.parameters import from_text
from koosh_gadgets.wire.readouts import Filler, Readouts, next_shape
from koosh_gadgets.wire.source import Recorder, SocketReceiver, Source, watch

log = logging.getLogger(__name__)
GADGETRON, MRD = "gadgetron", "mrd"
TRUNCATED = "koosh-truncated"  # the key with which our own relay says that the scan ended early
Parts = Sequence[bytes | memoryview]
Listener = Callable[[bytes | memoryview], None]


@dataclass
class Opening:
    """What a peer says before the first readout.

    dialect     `gadgetron`: Gadgetron's <external>;  `mrd`: MRD clients and FIRE
    config      name of a configuration (mrd), or ""
    parameters  names and values, all strings; an MRD client may add some as JSON text after the header
    header      the ISMRMRD header as it came
    """

    dialect: str
    config: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    header: bytes = b""


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


def open_stream(source: Source, limits: Limits) -> Opening | None:
    """Configuration and header; None where the peer closes before a header (a dependency query)."""
    number = _number(source)
    if number == ids.CLOSE:
        return None
    opening = read_config(number, source, limits)
    while (number := _number(source)) in (ids.TEXT, ids.QUERY, ids.DEPENDENCY_QUERY):
        messages.read_item(number, source, limits)
    if number == ids.CLOSE:
        return None
    if number != ids.HEADER:
        raise Malformed(f"message {number} where the header (3) was expected")
    opening.header = bytes(messages.sized(source, "the header", messages.U32, limits.header))
    return opening


def read_config(number: int, source: Source, limits: Limits) -> Opening:
    """The first message, which also tells the dialect."""
    if number == ids.CONFIG_FILE:
        raw = bytes(source.read(1024))
        if b"\0" not in raw:
            raise Malformed("the configuration name has no end within its 1024 bytes")
        return Opening(MRD, messages.decode(raw.split(b"\0", 1)[0], "the configuration name"))
    if number != ids.CONFIG_TEXT:
        raise Malformed(f"the first message is {number}; wanted a configuration (1 or 2)")
    text = messages.decode(messages.sized(source, "the configuration", messages.U32, limits.config), "configuration")
    gadgetron = not text.strip() or text.lstrip().startswith("<")
    config, parameters = from_text(text)
    return Opening(GADGETRON if gadgetron else MRD, config, parameters)


def _number(source: Source) -> int:
    return int(messages.U16.unpack(source.take(2))[0])


class Connection:
    """A conversation that has been opened.

    listener  is given every message after the opening as it came, before anything is made of it
    closes    whether the close message is ours to send; a launcher sends its own
    """

    closes = True

    def __init__(
        self, opening: Opening, source: Source, output: Output, limits: Limits, listener: Listener | None = None
    ) -> None:
        self.opening = opening
        self.listener = listener
        self.output = output
        self._source = source
        self._limits = limits
        self._reading = threading.Lock()
        self.ended = False
        self.truncated = ""

    def items(self) -> Iterator[object]:
        """Blocks of readouts and other items, up to the close message; a stream that just stops raises `Cut`."""
        inner = self._items()
        while True:
            with self._reading:  # so that another thread can take over to drain
                item = next(inner, None)
            if item is None:
                return
            yield item

    def _items(self) -> Iterator[object]:
        filler: Filler | None = None
        try:
            while not self.ended:
                # nearly always: one more readout like the last one, already received
                if filler is not None and filler.takes(self._source.held(filler.message_size)):
                    self._add(filler)
                    continue
                number = messages.U16.unpack(self._source.peek(2))[0]
                if number == ids.ACQUISITION:
                    shape = next_shape(self._source, self._limits)
                    if filler is not None and (shape != filler.shape or filler.n == filler.capacity):
                        yield filler.block()
                        filler = None
                    filler = filler or Filler(shape)
                    self._add(filler)
                    continue
                if filler is not None and number not in (ids.TEXT, ids.QUERY):
                    yield filler.block()
                    filler = None
                yield from self._other(number)
        except WireError:
            self.ended = True
            if filler is not None:
                yield filler.block()
            raise

    def _add(self, filler: Filler) -> None:
        raw = self._source.take(filler.message_size)
        if self.listener is not None:
            self.listener(raw)
        filler.add(raw)

    def _other(self, number: int) -> Iterator[object]:
        recorder = Recorder(self._source)
        recorder.read(2)
        item = None if number == ids.CLOSE else messages.read_item(number, recorder, self._limits)
        if self.listener is not None:
            self.listener(b"".join(recorder.parts))
        if number == ids.CLOSE:
            self.ended = True
        elif isinstance(item, messages.Query):
            self.output.send(messages.response(item, answer(item.text)))
        elif isinstance(item, messages.Text) and item.kind == ids.TEXT:
            self._text(item.text)
        else:
            yield item

    def _text(self, text: str) -> None:
        """A JSON object carries parameters (and may name a configuration); any other text means nothing here."""
        if text.lstrip().startswith("{"):
            config, found = from_text(text)
            self.opening.config = config or self.opening.config
            self.truncated = found.pop(TRUNCATED, self.truncated)
            self.opening.parameters.update(found)
        else:
            log.info("the peer sent a text of %d characters", len(text))  # it may name the patient

    def send(self, item: object) -> None:
        """Send one item."""
        self.output.send(messages.serialise(item))

    def tell(self, text: str) -> None:
        """A note to the peer; Gadgetron has no message for that, so there it is only logged."""
        log.info("%s", text)
        if self.opening.dialect == MRD:
            self.output.send(messages.text(ids.TEXT, text))

    def fail(self, text: str) -> None:
        """Report a failure and read the input to its end, without which the report would be lost; then close."""
        with contextlib.suppress(WireError):
            self.output.send(messages.text(ids.TEXT if self.opening.dialect == MRD else ids.ERROR, text))
            self.drain()

    def drain(self) -> None:
        """Read what the peer still sends, within bounds of time and size."""
        if not self._reading.acquire(timeout=self._limits.drain_s):
            return
        try:
            if not self.ended:
                self.ended = True
                drain(self._source, self._limits)
        finally:
            self._reading.release()

    def close(self) -> None:
        """The last message."""
        with contextlib.suppress(WireError):
            if self.closes:
                self.output.send([messages.CLOSE])

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.close()


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


def answer(question: str) -> str:
    """What a peer that asks is told."""
    return json.dumps({"name": "koosh"}) if "info" in question else "unsupported"


def connect(sock: socket.socket, limits: Limits) -> Connection | None:
    """Open a conversation on a connected socket; None where the peer only asked and closed."""
    watch(sock)
    receiver = SocketReceiver(sock, limits.idle_s)
    receiver.expect_within(limits.header_s)
    source, output = Source(receiver), SocketOutput(sock, limits.send_s)
    # the dialect is not known before the opening: error(8), which Gadgetron and its client read
    try:
        opening = open_stream(source, limits)
    except WireError as error:
        with contextlib.suppress(WireError):
            output.send(messages.text(ids.ERROR, str(error)))
        with contextlib.suppress(WireError):
            drain(source, limits)
        output.close()
        raise
    receiver.expect_within(None)
    connection = None if opening is None else Connection(opening, source, output, limits)
    if connection is None:
        output.close()
    return connection


__all__ = ["GADGETRON", "MRD", "Connection", "Opening", "Readouts", "connect", "drain", "frames", "open_stream"]
