"""What a row of the table has found, and small helpers that rows share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from koosh_gadgets.workers import environment
from tests.fakes.site import until
from tests.fakes.streams import scan_stream

GRIDDING = scan_stream(name="koosh_gridding")


@dataclass(frozen=True)
class Found:
    """The outcome of a row.

    sound     everything that must hold on any machine
    timely    the parts of the bar that are times; a busy machine may miss them
    measured  figures, in words
    """

    sound: bool
    measured: str
    timely: bool = True

    @property
    def passed(self) -> bool:
        """Both."""
        return self.sound and self.timely


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="koosh-") as name:
        yield Path(name)


@dataclass
class Launched:
    """`koosh serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    spool: Path
    log: Path

    def end(self) -> None:
        """Kill it and what it has started."""
        for pid in [*children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()


@contextlib.contextmanager
def launched(home: Path, *options: str, prepare: str = "") -> Iterator[Launched]:
    """A server on a free port; its spool and log lie in `home`.

    prepare  shell words that run it, such as `cgexec`
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    spool, log = home / "spool", home / "server.log"
    words = [sys.executable, "-m", "koosh_gadgets.cli", "-v", "serve", "-p", str(port), "--spool", str(spool)]
    env = {**environment(), "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        process = subprocess.Popen([*prepare.split(), *words, *options], env=env, stderr=out)
    found = Launched(process, port, spool, log)
    try:
        if not until(lambda: reachable(port), 120):
            raise RuntimeError(f"the server does not listen: {log.read_text()[-500:]}")
        yield found
    finally:
        found.end()


def reachable(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def pixels(images: list) -> list[bytes]:
    """What images show."""
    return [image.data.tobytes() for image in images]


@contextlib.contextmanager
def small_disk() -> Iterator[Path | None]:
    """A folder on a disk of 2 MiB, None where this user can't mount one."""
    with folder() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield place
        finally:
            time.sleep(0.1)
            subprocess.run(["umount", "-l", str(place)], check=True)
