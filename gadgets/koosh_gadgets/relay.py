"""One client's scan on its way to the worker and back: recorded, forwarded, retried from the recording."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from koosh_gadgets.feeding import Answers, Died, Sink, ToList
from koosh_gadgets.spool import Recorded, Recording, mark_delivered
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.connection import TRUNCATED, answer
from koosh_gadgets.wire.errors import PeerError, TimedOut, WireError
from koosh_gadgets.wire.framing import SocketOutput, drain, frames
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import GADGETRON, MRD, Opening, open_stream, read_config
from koosh_gadgets.wire.source import SocketReceiver, Source, watch
from koosh_gadgets.workers import Worker

log = logging.getLogger(__name__)
QUIET_S = 5.0  # without a whole message: such a scan keeps nobody else from being reconstructed
RETRIES: tuple[dict[str, str], ...] = (
    {},
    {"method": "gridding", "trust": "none"},
)  # a worker that dies twice over a scan gets the simplest method


def parameters_message(values: dict[str, str]) -> bytes:
    """A text that changes parameters of the scan before its first readout."""
    return b"".join(messages.text(ids.TEXT, json.dumps({"parameters": values})))


def truncation_message(reason: str) -> bytes:
    """A text that tells the worker that no more will come, and why."""
    return b"".join(messages.text(ids.TEXT, json.dumps({TRUNCATED: reason})))


def feed(sock: socket.socket, stream: Iterable[bytes | memoryview]) -> None:
    """Send messages to a worker; one that is gone is noticed by whoever reads its answers."""
    with contextlib.suppress(OSError):
        for raw in stream:
            sock.sendall(raw)


def replayed(
    recorded: Recorded, parameters: dict[str, str], reason: str = "", to_file: bool = False
) -> Iterable[bytes]:
    """The messages of a recording with changed parameters, closed, marked where the recording has no end.

    to_file  the images are for a file: as an MRD client gets them, whoever has sent the scan
    """
    closed = False
    for place, raw in enumerate(recorded.messages()):
        if place == 0 and to_file:
            opening = read_config(messages.U16.unpack_from(raw)[0], Source(io.BytesIO(raw[2:]).readinto), Limits())
            raw = messages.script(ids.CONFIG_TEXT, json.dumps({**opening.parameters, "config": opening.config}))
        number = messages.U16.unpack_from(raw)[0]
        if number == ids.CLOSE:
            closed = True
            break
        yield raw
        if number == ids.HEADER and parameters:
            yield parameters_message(parameters)
    if not closed:
        yield truncation_message(reason or "the recording ends before the end of the scan")
    yield messages.CLOSE


def reconstruct_recording(path: Path, worker: Worker, sink: Sink, reason: str = "") -> None:
    """Send a recorded scan through the worker; where the worker dies over it, again with a simpler method."""
    recorded = Recorded(path)
    for parameters in RETRIES:
        before = sink.n_images
        with worker.open(path.stem) as sock:
            answers = Answers(sock, sink)
            try:
                feed(sock, replayed(recorded, parameters, reason, isinstance(sink, ToList)))
            except Exception:  # of the recording
                answers.drop()
                raise
            try:
                answers.join()
                return
            except Died:
                if sink.n_images > before:
                    raise
                log.error("scan %s: the worker died over it", path.stem)
    raise Died(f"the reconstruction process died twice over scan {path.stem}; it is kept in the spool")


def deliver_later(path: Path, worker: Worker, reason: str = "") -> None:
    """Reconstruct a recording into an image file beside it."""
    from koosh_gadgets.files import write_images

    sink = ToList()
    reconstruct_recording(path, worker, sink, reason)
    if not sink.images:
        log.error("scan %s: no image could be made: %s", path.stem, sink.failure)
        path.rename(path.with_suffix(".failed"))
        return
    header = open_stream(Recorded(path).source(), Limits())
    out = path.with_suffix(".h5")
    write_images(out, sink.images, header.header if header is not None else None)
    mark_delivered(path)
    log.info("scan %s: %d images written to %s", path.stem, sink.n_images, out.name)


class Client:
    """A connected peer, from the server's side."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self.sock, self.limits, self.since = sock, limits, time.monotonic()
        watch(sock)
        self.receiver = SocketReceiver(sock, limits.idle_s)
        self.receiver.expect_within(limits.header_s)
        self.source = Source(self.receiver)
        self.output = SocketOutput(sock, limits.send_s)
        self.opening: Opening | None = None
        self.first: list[bytes] = []
        self.moved, self.ended, self.closed = self.since, False, False
        self.n_messages = self.n_bytes = 0

    def open(self) -> bool:
        """Read up to the header; False where the peer only asked and closed."""
        for number, raw in frames(self.source, self.limits):
            self.first.append(bytes(raw))
            if number in (ids.HEADER, ids.CLOSE):
                break
        self.opening = open_stream(Source(io.BytesIO(b"".join(self.first)).readinto), self.limits)
        self.receiver.expect_within(None)
        self.receiver.finish_within(self.limits.total_s)
        return self.opening is not None

    def busy(self) -> bool:
        """Whether its scan is coming in, or has come in and is being reconstructed."""
        return self.ended or time.monotonic() - self.moved < QUIET_S

    @property
    def dialect(self) -> str:
        """Gadgetron's until the peer has shown another."""
        return self.opening.dialect if self.opening is not None else GADGETRON

    def tell(self, text: str, failure: bool = True) -> None:
        """A message in the peer's dialect; Gadgetron knows only failures."""
        kind = ids.TEXT if self.dialect == MRD else ids.ERROR
        if failure or kind == ids.TEXT:
            with contextlib.suppress(WireError):
                self.output.send(messages.text(kind, text))

    def fail(self, text: str) -> None:
        """Report a failure, read the rest of what the peer sends within bounds of time, close."""
        self.tell(text)
        if not self.closed:  # else it waits for our close message and sends nothing more
            if self.opening is not None:  # before that there is a deadline already
                self.receiver.expect_within(self.limits.drain_s)
            drain(self.source, self.limits)
        self.end()

    def end(self) -> None:
        """The close message."""
        with contextlib.suppress(WireError):
            self.output.send([messages.CLOSE])

    def release(self) -> None:
        """Let the sockets go."""
        self.output.close()
        self.sock.close()


def pump(client: Client, recording: Recording | None, forward: Callable[[memoryview], None]) -> str:
    """Every message of the client to the recording and onwards; why it ended early, or "" at its close message.

    A client that leaves or breaks the protocol is an error; one that falls silent has only ended its scan early.
    """
    try:
        for number, raw in frames(client.source, client.limits):
            client.moved = time.monotonic()
            client.n_messages, client.n_bytes = client.n_messages + 1, client.n_bytes + len(raw)
            if recording is not None:
                recording.message(raw)
            if number == ids.CLOSE:
                client.closed = True
                return ""
            if number == ids.QUERY:
                answer_query(client, raw)
                continue
            if number == ids.ERROR:
                raise PeerError("the peer reports a failure of its own")
            forward(raw)
    except TimedOut as error:
        return str(error)
    finally:
        client.ended = True
    return ""


def answer_query(client: Client, raw: memoryview) -> None:
    """Questions are answered at once, by the process that owns the socket."""
    query = messages.read_query(Source(io.BytesIO(raw[2:]).readinto), client.limits)
    client.output.send(messages.response(query, answer(query.text)))
