"""A client for any Gadgetron or MRD server: steady rate, patience for the images, clear words for failures."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut, PeerError, TimedOut, WireError
from koosh_gadgets.wire.framing import SocketOutput
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.readouts import Readouts
from koosh_gadgets.wire.source import SocketReceiver, Source, watch

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Answer:
    """What a server sent back."""

    images: list[ismrmrd.Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dicom: list[messages.Named] = field(default_factory=list)
    closed: bool = False


@dataclass(frozen=True)
class Request:
    """Where a scan is sent, and how.

    config   name of a configuration there, or the path of a file whose text is sent
    rate     readouts a second, 0: as fast as they are taken
    wait_s   longest silence of the server after the scan
    retry_s  how long a server that does not listen yet is waited for
    """

    host: str
    port: int
    config: str
    rate: float = 0.0
    wait_s: float = 3600.0
    retry_s: float = 5.0


def send_scan(request: Request, header: bytes, items: Iterable[object], parameters: str = "") -> Answer:
    """Stream the scan and collect the answer; a server that reports an error or breaks off raises `PeerError`.

    parameters  JSON text that MRD servers read after the header
    """
    sock = reach(request)
    with sock, contextlib.closing(SocketOutput(sock, request.wait_s)) as output:
        watch(sock)
        answer = Answer()
        failure: list[WireError] = []
        reader = threading.Thread(target=_collect, args=(sock, request.wait_s, answer, failure), daemon=True)
        reader.start()
        try:
            _stream(request, output, header, items, parameters, answer)
        except WireError as error:  # what the server said about it comes first
            failure.append(error)
            reader.join(5.0)
        reader.join()
    if answer.errors:
        raise PeerError(f"the server reports: {'; '.join(answer.errors)}")
    if failure and not answer.closed:
        raise PeerError(f"the server broke off after {len(answer.images)} images: {failure[0]}")
    if not answer.images and not answer.dicom:
        said = f": {'; '.join(answer.texts)}" if answer.texts else " and without a word; see its log"
        raise PeerError(f"the server closed without an image{said}")
    return answer


def reach(request: Request) -> socket.socket:
    """A connection, tried again for a while where nobody listens yet."""
    until = time.monotonic() + request.retry_s
    while True:
        try:
            return socket.create_connection((request.host, request.port), timeout=10.0)
        except OSError as error:
            if time.monotonic() > until:
                raise PeerError(f"no server answers at {request.host} port {request.port}: {error}") from error
            time.sleep(0.2)


def _stream(
    request: Request, output: SocketOutput, header: bytes, items: Iterable[object], parameters: str, answer: Answer
) -> None:
    """Configuration, header, parameters, items at the wanted rate, close."""
    path = Path(request.config)
    if path.suffix in (".xml", ".json") and path.is_file():
        output.send([messages.script(ids.CONFIG_TEXT, path.read_bytes())])
    else:
        output.send([messages.config_file(request.config)])
    output.send([messages.script(ids.HEADER, header)])
    if parameters:
        output.send(messages.text(ids.TEXT, parameters))
    started = time.monotonic()
    for n, item in enumerate(singly(items)):
        if answer.errors:
            break
        if request.rate:
            time.sleep(max(0.0, started + n / request.rate - time.monotonic()))
        output.send(messages.serialise(item))
    output.send([messages.CLOSE])


def singly(items: Iterable[object]) -> Iterator[object]:
    """Blocks of readouts one readout at a time, everything else as it is."""
    for item in items:
        if isinstance(item, Readouts):
            yield from item.acquisitions()
        else:
            yield item


def _collect(sock: socket.socket, wait_s: float, answer: Answer, failure: list[WireError]) -> None:
    """Read to the close message."""
    source, limits = Source(SocketReceiver(sock, wait_s)), Limits()
    try:
        while not answer.closed:
            number = messages.U16.unpack(source.read(2))[0]
            if number == ids.CLOSE:
                answer.closed = True
            else:
                _keep(messages.read_item(number, source, limits), answer)
    except (Cut, TimedOut, WireError) as error:
        failure.append(error)


def _keep(item: object, answer: Answer) -> None:
    if isinstance(item, ismrmrd.Image):
        answer.images.append(item)
    elif isinstance(item, messages.Named):
        answer.dicom.append(item)
    elif isinstance(item, messages.Text):
        log.info("the server says: %s", item.text)
        (answer.errors if item.kind == ids.ERROR else answer.texts).append(item.text)
