"""Gadgetron's side of <execute> and <connect>: starts or reaches an external gadget and behaves as version 4 does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field

from koosh_gadgets.client import Answer
from koosh_gadgets.workers import environment
from tests.fakes.site import listen


@dataclass
class Execution:
    """What an executed gadget sent, and how its process ended."""

    answer: Answer = field(default_factory=Answer)
    code: int | None = None
    log: str = ""


def execute(target: str, stream: list[bytes], drop: bool = False, wait: float = 90.0, **env: str) -> Execution:
    """`python -m gadgetron PORT koosh_gadgets.entry TARGET`, as Gadgetron starts it for one scan.

    drop  the parent dies after the last message instead of reading on
    """
    found = Execution()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(wait)
        command = [sys.executable, "-m", "gadgetron", str(server.getsockname()[1]), "koosh_gadgets.entry", target]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**environment(), **env}, text=True)
        sock, _ = server.accept()
    with process, sock:
        reader = threading.Thread(target=listen, args=(sock, found.answer, wait))
        if not drop:
            reader.start()
        sender = threading.Thread(target=lambda: [sock.sendall(raw) for raw in stream])
        sender.start()
        sender.join(wait)
        if drop:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            reader.join(wait)
        assert process.stderr is not None
        found.log = process.stderr.read()
        found.code = process.wait(wait)
    return found


def home(tmp_path) -> dict[str, str]:
    """An environment without the user's own configuration."""
    return {"XDG_CONFIG_HOME": str(tmp_path), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
