"""A server with its worker, and peers of every kind."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from koosh_gadgets.client import Answer
from koosh_gadgets.config import Configuration
from koosh_gadgets.server import Server
from koosh_gadgets.settings import Settings
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import WireError
from koosh_gadgets.wire.framing import frames
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import SocketReceiver, Source


@contextlib.contextmanager
def running(tmp_path, **changes):
    """A server on a free port of loopback; the spool lies in `tmp_path`."""
    from koosh_gadgets.spool import Spool

    given = {"port": 0, "settings": Settings(method="gridding"), "spool": Spool(tmp_path / "spool"), "stop_s": 5.0}
    server = Server(Configuration(**{**given, **changes}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        thread.join(120)
        assert not thread.is_alive()


def reset(sock: socket.socket) -> None:
    """Vanish: the kernel sends a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def exchange(
    port: int, stream: list[bytes], half_close: bool = False, wait: float = 240.0, host: str = "127.0.0.1"
) -> Answer:
    """Send everything, read everything up to close or the end of the stream."""
    with socket.create_connection((host, port), timeout=wait) as sock:
        answer = Answer()
        reader = threading.Thread(target=listen, args=(sock, answer, wait))
        reader.start()
        with contextlib.suppress(OSError):
            for raw in stream:
                sock.sendall(raw)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        reader.join(wait)
        assert not reader.is_alive()
        return answer


def listen(sock: socket.socket, answer: Answer, wait: float) -> None:
    """Keep what a server says."""
    source = Source(SocketReceiver(sock, wait))
    with contextlib.suppress(WireError):
        for number, raw in frames(source, Limits()):
            keep(number, raw, answer)


def keep(number: int, raw: memoryview, answer: Answer) -> None:
    """One message of a server."""
    if number == ids.CLOSE:
        answer.closed = True
        return
    from tests.fakes.pipes import source_of

    item = messages.read_item(number, source_of(bytes(raw[2:])), Limits())
    if isinstance(item, messages.Text):
        (answer.errors if item.kind == ids.ERROR else answer.texts).append(item.text)
    else:
        answer.images.append(item)


def until(condition, seconds: float = 120.0) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
