"""One conversation: the opening, the items, the answers, and an end that the peer is told about."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import WireError
from koosh_gadgets.wire.framing import Output, SocketOutput, drain
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import MRD, Opening, open_stream
from koosh_gadgets.wire.parameters import from_text
from koosh_gadgets.wire.readouts import Filler, next_shape
from koosh_gadgets.wire.source import Recorder, SocketReceiver, Source, watch

log = logging.getLogger(__name__)
TRUNCATED = "koosh-truncated"  # the key with which our own relay says that the scan ended early
Listener = Callable[[bytes | memoryview], None]


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
