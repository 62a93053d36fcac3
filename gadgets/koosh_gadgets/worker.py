"""The process that reconstructs: warm, one queue per device, and replaceable without losing a connection.

It is started by the server with one end of a socket pair; each scan comes as a further socket over that pair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from koosh_gadgets.config import load
from koosh_gadgets.observe import LOG, log_as_json
from koosh_gadgets.session import Service, converse
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire.connection import connect
from koosh_gadgets.wire.limits import Limits
from koosh_models import memory

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
LIMITS = Limits(header_s=60.0, idle_s=86400.0, drain_s=5.0)  # the server is trusted and does the waiting


class Turns:
    """First come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for one's turn; it ends with the block."""
        ticket = object()
        with self._lock:
            self._waiting.append(ticket)
            self._lock.wait_for(lambda: self._waiting[0] is ticket)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.popleft()
                self._lock.notify_all()


def warm_up(name: str) -> str:
    """Load what the first scan would have to wait for; the device that `name` means."""
    import torch

    from koosh_gadgets.stages import network
    from koosh_gadgets.stages.reconstruct import device_of
    from koosh_models import reconstruction, weights
    from koosh_models.physics import engines

    device = device_of(name)
    warm_transform(device)
    for known in weights.names():
        try:
            path = weights.path_of(known)
            network.loaded(path, str(device), path.stat().st_mtime_ns)
        except (ValueError, OSError) as error:
            log.warning("the weights %s can't be used: %s", known, error)
    log.info("ready on %s: torch %s, %s, %s", device, torch.__version__, engines.choose(device), reconstruction.METHODS)
    return str(device)


def warm_transform(device: torch.device) -> None:
    """Load the libraries of a small transform: one that is first wanted when memory is short can't be loaded."""
    import torch

    from koosh_models.physics import toeplitz
    from koosh_models.physics.nufft import Nufft

    nufft = Nufft(torch.zeros(3, 8, device=device), (8, 8, 8))
    toeplitz.build(nufft, torch.ones(8, device=device)).normal(
        torch.ones(8, 8, 8, dtype=torch.complex64, device=device)
    )


def handle(sock: socket.socket, service: Service, scan: str, since: float, control: socket.socket) -> None:
    """One scan on its own socket; what it took is reported over `control`."""
    journal = Journal(scan)
    with sock:
        try:
            connection = connect(sock, LIMITS)
            if connection is not None:
                if service.device == "cpu":
                    memory.confine()
                with connection:
                    converse(connection, service, journal, since)
        except Exception:  # converse has told the peer; the worker goes on
            log.debug("scan %s ended with an error", scan, exc_info=True)
    with contextlib.suppress(OSError):  # the server is gone
        control.send(json.dumps(journal.report()).encode()[: 1 << 16])


def receive(control: socket.socket) -> tuple[dict[str, str], socket.socket] | None:
    """The next scan's facts and socket; None when the server is gone."""
    raw, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
    if not raw or not descriptors:
        for fd in descriptors:
            os.close(fd)
        return None
    return json.loads(raw), socket.socket(fileno=descriptors[0])


def main(argv: list[str]) -> int:
    """`python -m koosh_gadgets.worker FD CONFIG SETTINGS DEVICE`: serve scans until the server closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server stops its worker itself
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s worker: %(message)s")
    if os.environ.get(LOG) == "json":
        log_as_json()
    memory.volunteer()
    control = socket.socket(fileno=int(argv[0]))
    configuration = load(Path(argv[1])) if argv[1] else load()
    base = Settings(**json.loads(argv[2]))
    service = dataclasses.replace(configuration.service(), base=base, turn=Turns(), device=warm_up(argv[3]))
    with control, contextlib.ExitStack() as stack:
        if service.outbox is not None:
            stack.enter_context(service.outbox.sending())
        control.send(b"ready")
        while (job := receive(control)) is not None:
            facts, sock = job
            arguments = (sock, service, str(facts["scan"]), float(facts["since"]), control)
            threading.Thread(target=handle, args=arguments, daemon=True).start()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(code)  # scans still running belong to a server that is gone
