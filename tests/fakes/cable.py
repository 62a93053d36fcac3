"""A peer on a network of its own whose cable is pulled: no FIN, no reset, nothing. Needs root and iproute2's `ip`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from koosh_gadgets.spool import Recorded
from koosh_gadgets.wire.source import watch
from tests.fakes.site import exchange, running, until
from tests.fakes.streams import scan_stream

SCAN = scan_stream(name="koosh_gridding")
SENT = 40  # messages before the cut
HERE, THERE = "198.18.77.1", "198.18.77.2"  # addresses for tests of networks (RFC 2544)
LONGEST_S = 120.0
PEER = """
import socket, sys
print("here", flush=True)
ports = sys.stdin.buffer.readline().split()
raw = sys.stdin.buffer.read()
socks = [socket.create_connection((sys.argv[1], int(port)), timeout=60) for port in ports]
socks[0].sendall(raw)
print("sent", flush=True)
socks[0].settimeout(None)
socks[0].recv(1)
"""


@dataclass(frozen=True)
class Noticed:
    """What a server made of a cut cable.

    silent_s, busy_s  until it found that a peer is gone: of a silent scan, of a connection with data under way
    others            images of a scan of another peer meanwhile
    kept              whether every message before the cut is in the spool
    alive             whether the peer was still there: what was found is the cable
    """

    silent_s: float
    busy_s: float
    others: int
    kept: bool
    alive: bool


def ip(*words: str, inside: int = 0) -> None:
    """Change the network, of this machine or of a process."""
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def cabled() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process with a network of its own and the name of its end of the cable, which nothing else is connected to.

    It reads ports in a line, then bytes, connects to all of them at `HERE` and sends the bytes to the first.
    """
    ours, theirs = f"kv{os.getpid()}a", f"kv{os.getpid()}b"
    command = ["unshare", "--net", sys.executable, "-c", PEER, HERE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        try:
            assert peer.stdout is not None
            assert peer.stdout.readline() == b"here\n"
            ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            ip("link", "set", theirs, "netns", str(peer.pid))
            ip("addr", "add", f"{HERE}/30", "dev", ours)
            ip("link", "set", ours, "up")
            ip("addr", "add", f"{THERE}/30", "dev", theirs, inside=peer.pid)
            ip("link", "set", theirs, "up", inside=peer.pid)
            yield peer, theirs
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("link", "del", ours)
            peer.kill()


def cut_cable(home: Path) -> Noticed:
    """Pull the cable of a peer in the middle of its scan, and of one to which data are on their way."""
    with (
        cabled() as (peer, cable),
        running(home, address=HERE) as server,
        socket.create_server((HERE, 0)) as other,
    ):
        assert peer.stdin is not None
        assert peer.stdout is not None
        until(lambda: server.worker.ready, LONGEST_S)
        ports = f"{server.port} {other.getsockname()[1]}\n"
        peer.stdin.write(ports.encode() + b"".join(SCAN[:SENT]))
        peer.stdin.close()
        assert peer.stdout.readline() == b"sent\n"
        assert until(lambda: any(c.n_messages == SENT - len(c.first) for c in server._clients.values()), LONGEST_S)
        sock, _ = other.accept()
        watch(sock)
        found: list[float] = []
        waiting = threading.Thread(target=gone, args=(sock, found))
        waiting.start()
        ip("link", "set", cable, "down", inside=peer.pid)
        cut = time.monotonic()
        sock.sendall(b"images on their way")
        images = exchange(server.port, SCAN, host=HERE).images
        until(lambda: not server._clients, LONGEST_S)
        silent = time.monotonic() - cut
        waiting.join(LONGEST_S)
        alive = peer.poll() is None
        (path,) = server.configuration.spool.unfinished()
        kept = list(Recorded(path).messages()) == SCAN[:SENT]
    return Noticed(silent, found[0] - cut if found else float("inf"), len(images), kept, alive)


def gone(sock: socket.socket, found: list[float]) -> None:
    """When the kernel says that the peer of a connection is gone."""
    with sock:
        sock.settimeout(2 * LONGEST_S)
        with contextlib.suppress(OSError):
            sock.recv(1)
        found.append(time.monotonic())
