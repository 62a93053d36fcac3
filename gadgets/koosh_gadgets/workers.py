"""The server's side of its worker: started in the background, watched, started again when it dies."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from koosh_gadgets.settings import Settings

log = logging.getLogger(__name__)
START_S = 120.0


class Worker:
    """One worker process. Scans may be handed over as soon as it is up; until then they wait."""

    def __init__(self, config: Path | None, settings: Settings, device: str = "auto") -> None:
        self._arguments = [str(config or ""), json.dumps(dataclasses.asdict(settings)), device]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = threading.Event()
        self._stopped = False
        self.told: Callable[[dict[str, object]], None] = ignored
        self.died: Callable[[], None] = nothing

    def start(self) -> None:
        """Start the process and return at once; the server listens meanwhile."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "koosh_gadgets.worker", str(theirs.fileno()), *self._arguments]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment()
            )
        self._control = ours
        self._ready = ready = threading.Event()
        threading.Thread(target=self._watch, args=(self._process, ours, ready), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes], control: socket.socket, ready: threading.Event) -> None:
        """Wait for the process to be ready, take its reports until its end; a dead one is replaced."""
        with contextlib.suppress(OSError):
            if control.recv(16):
                ready.set()
            while raw := control.recv(1 << 16):
                with contextlib.suppress(ValueError):
                    self.told(json.loads(raw))
        code = process.wait()
        with self._lock:
            if self._stopped or process is not self._process:
                return
            control.close()
            log.error("the worker ended (%s); starting another", ending(code))
            self.died()
            if not ready.is_set():
                time.sleep(1.0)  # one that can't even start must not spin
            self.start()

    @property
    def ready(self) -> bool:
        """Whether it takes scans."""
        return self._ready.is_set() and self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the process that is running now."""
        return self._process.pid if self._process is not None else None

    def open(self, scan: str, since: float = 0.0) -> socket.socket:
        """A socket to the worker for one scan; `since` is the monotonic time at which its peer connected."""
        for _ in range(3):
            control, ready = self._control, self._ready
            if control is None or not ready.wait(START_S):
                break
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    socket.send_fds(control, [json.dumps({"scan": scan, "since": since}).encode()], [theirs.fileno()])
                    return ours
                except OSError:  # it died just now; the watcher starts another
                    ours.close()
                    time.sleep(0.5)
        raise RuntimeError("the reconstruction process does not start; see the server's log")

    def stop(self) -> None:
        """End the process, by force after a second."""
        with self._lock:
            self._stopped = True
            process, control = self._process, self._control
        if control is not None:
            control.close()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            if process.poll() is None:
                process.kill()
                process.wait()


def ignored(_report: dict[str, object]) -> None:
    """A report that nobody wants."""


def nothing() -> None:
    """Nothing to do."""


def environment() -> dict[str, str]:
    """This process's environment, in which the worker finds the same packages."""
    roots = [entry for entry in sys.path if entry and Path(entry).is_dir()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
