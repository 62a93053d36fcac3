"""What slow and silent clients cost the others: last readout to last image of four scans at once."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ismrmrd

from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.files import open_scan
from koosh_gadgets.wire import ids, messages

CLIENTS = 4
SCAN_S = 3.0


def latencies(port: int, path: Path, config: str = "koosh_gridding", seconds: float = SCAN_S) -> list[float]:
    """Seconds from the last readout to the server's close message, for each of `CLIENTS` scans sent at once."""
    with open_scan(path) as file:
        header, readouts = file.xml, [a for block in file.blocks() for a in block.acquisitions()]
    found: list[float] = []

    def client() -> None:
        ended = [0.0]
        send_scan(Request("127.0.0.1", port, config), header, timed(readouts, seconds, ended))
        found.append(time.monotonic() - ended[0])

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) < CLIENTS:
        raise RuntimeError(f"only {len(found)} of {CLIENTS} scans were answered with images")
    return found


def timed(readouts: list[ismrmrd.Acquisition], seconds: float, ended: list[float]) -> Iterator[ismrmrd.Acquisition]:
    """The readouts, spread over the scan's time; when the last one was asked for is kept in `ended`."""
    started = time.monotonic()
    for n, readout in enumerate(readouts):
        time.sleep(max(0.0, started + n * seconds / len(readouts) - time.monotonic()))
        ended[0] = time.monotonic()
        yield readout


@contextlib.contextmanager
def nuisances(port: int, path: Path, n_slow: int = 1, n_silent: int = 1) -> Iterator[None]:
    """Clients of which some send a scan at one byte a second, and some nothing at all."""
    with open_scan(path) as file:
        header, first = file.xml, next(next(file.blocks()).acquisitions())
    opening = messages.config_file("koosh_gridding") + messages.script(ids.HEADER, header)
    whole = b"".join(bytes(part) for part in messages.serialise(first))
    stop = threading.Event()

    def drip(sock: socket.socket) -> None:
        for byte in whole:
            if stop.wait(1.0):
                return
            with contextlib.suppress(OSError):
                sock.send(bytes([byte]))

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(n_slow + n_silent)]
        threads = [threading.Thread(target=drip, args=(sock,)) for sock in socks[:n_slow]]
        for sock, thread in zip(socks, threads, strict=False):
            sock.sendall(opening)
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def compared(port: int, path: Path, rounds: int) -> tuple[float, float]:
    """Median latencies (without, with) a slow and a silent client, from rounds in turn; the first is not counted."""
    alone: list[float] = []
    beside: list[float] = []
    latencies(port, path, seconds=0.5)
    for _ in range(rounds):
        alone += latencies(port, path)
        with nuisances(port, path):
            time.sleep(6.0)  # by now the server knows the slow one for slow
            beside += latencies(port, path)
    return statistics.median(alone), statistics.median(beside)
