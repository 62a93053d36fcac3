"""`koosh serve`: owns the sockets and the spool; listens at once, and never does arithmetic itself."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType

from koosh_gadgets.config import Configuration
from koosh_gadgets.feeding import Died, Feeder, ToClient
from koosh_gadgets.observe import Counters, Exporter, absorb
from koosh_gadgets.peers import allowed, is_loopback
from koosh_gadgets.relay import Client, deliver_later, pump, reconstruct_recording, truncation_message
from koosh_gadgets.spool import Recording, new_name
from koosh_gadgets.wire import messages
from koosh_gadgets.wire.errors import WireError
from koosh_gadgets.workers import Worker
from koosh_models import memory

log = logging.getLogger(__name__)
PATIENCE_S = 1.0


class Server:
    """Takes connections, records scans, feeds the worker, and reconstructs later what it could not take at once."""

    def __init__(self, configuration: Configuration, path: Path | None = None) -> None:
        limits = configuration.limits.within(memory.available())
        self.configuration = configuration = dataclasses.replace(configuration, limits=limits)
        self.counters = Counters()
        self.worker = Worker(path, configuration.settings, configuration.device)
        self.worker.told = functools.partial(absorb, self.counters)
        self.worker.died = functools.partial(self.counters.add, "koosh_worker_deaths_total")
        self._listener = socket.create_server((configuration.address, configuration.port), backlog=64)
        self._listener.settimeout(0.2)
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._live: dict[str, Client | None] = {}  # None: a recording whose client is gone
        self._later: list[tuple[Path, str]] = []
        self._wake = threading.Event()
        self.stopping = threading.Event()
        self._watch()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def _watch(self) -> None:
        """What is counted by looking."""
        counters = self.counters
        counters.watch("koosh_clients", lambda: len(self._clients))
        counters.watch("koosh_scans_live", lambda: len(self._live))
        counters.watch("koosh_scans_waiting", lambda: len(self._later))
        counters.watch("koosh_resident_bytes", memory.resident)
        counters.watch("koosh_worker_ready", lambda: self.worker.ready)

    def run(self) -> None:
        """Serve until `stopping` is set; then let scans finish, within bounds."""
        address, allow, port = self.configuration.address, self.configuration.allow, self.configuration.metrics
        log.info("listening on %s port %d", address, self.port)
        if not is_loopback(address):
            who = f"peers of {', '.join(map(str, allow))}" if allow else "anybody who reaches it"
            log.warning("%s is wider than this machine: %s may send scans, unencrypted; see SECURITY.md", address, who)
        with contextlib.ExitStack() as stack:
            if port >= 0:
                self.exporter = Exporter(self.counters, port, lambda: self.worker.ready)
                stack.callback(self.exporter.close)
            self._run()

    def _run(self) -> None:
        self.worker.start()
        later = threading.Thread(target=self._work_off, name="koosh-later", daemon=True)
        if self.configuration.spool is not None:
            self._later = [(path, "") for path in self.configuration.spool.unfinished()]
            for path, _ in self._later:
                log.warning("scan %s was not finished; it is reconstructed from the spool", path.stem)
        later.start()
        with self._listener:
            while not self.stopping.is_set():
                self._accept_one()
        self._stop()

    def _accept_one(self) -> None:
        """Wait a moment for a peer; no fault of one, nor a lack of descriptors, ends the server."""
        try:
            sock, (host, *_) = self._listener.accept()
        except TimeoutError:
            return
        except OSError as error:
            log.error("a connection could not be taken: %s", error)
            time.sleep(0.1)
            return
        if not allowed(host, self.configuration.allow):
            log.warning("a peer outside the allowed networks was refused")
            self.counters.add("koosh_connections_total", outcome="stranger")
            sock.close()
            return
        try:
            self._accept(sock)
        except (OSError, RuntimeError) as error:  # gone already, or no thread to be had
            log.error("a connection could not be served: %s", error)
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        """A thread for the peer, or a quick refusal."""
        with self._lock:
            full = len(self._clients) >= self.configuration.connections
            client = Client(sock, self.configuration.limits)
            name = new_name()
            if not full:
                self._clients[name] = client
        self.counters.add("koosh_connections_total", outcome="busy" if full else "taken")
        target = self._refuse if full else self._serve
        threading.Thread(target=target, args=(client, name), name=f"koosh-{name}", daemon=True).start()

    def _refuse(self, client: Client, _name: str) -> None:
        client.limits = dataclasses.replace(client.limits, drain_s=2.0)
        client.receiver.expect_within(2.0)
        client.fail(f"koosh: busy, all {self.configuration.connections} connections are taken; try again later")
        client.release()

    def _serve(self, client: Client, name: str) -> None:
        """One connection from its first byte to its last; nothing of it reaches another."""
        try:
            if client.open():
                self._scan(client, name)
            client.end()
        except WireError as error:
            log.error("scan %s: %s", name, error)
            self.counters.add("koosh_scans_total", outcome="broken")
            client.fail(f"koosh {name}: {error}")
        except Exception as error:  # a fault of ours ends this connection only
            log.exception("scan %s", name)
            self.counters.add("koosh_scans_total", outcome="failed")
            client.fail(f"koosh {name}: {type(error).__name__}: {error}")
        finally:
            self.counters.add("koosh_messages_total", client.n_messages)
            self.counters.add("koosh_received_bytes_total", client.n_bytes)
            client.release()
            with self._lock:
                self._clients.pop(name, None)

    def _scan(self, client: Client, name: str) -> None:
        """Record and reconstruct, at once where there is room, else later."""
        recording = self.configuration.spool.begin(name) if self.configuration.spool is not None else None
        if recording is not None:
            for raw in client.first:
                recording.message(raw)
        live = self._admit(client, name)
        try:
            if live:
                self._at_once(client, name, recording)
            else:
                self._queue(client, name, recording)
        finally:
            with self._lock:
                self._live.pop(name, None)
            self._wake.set()
            if recording is not None:
                recording.close()

    def _room(self) -> bool:
        """Whether a further scan may be reconstructed; those that hardly send anything take no place."""
        return sum(client is None or client.busy() for client in self._live.values()) < self.configuration.scans

    def _admit(self, client: Client, name: str) -> bool:
        """Whether the scan is reconstructed as it comes; a place that is just being left is waited for."""
        until = time.monotonic() + PATIENCE_S
        while True:
            with self._lock:
                if self._room():
                    self._live[name] = client
                    return True
            if time.monotonic() > until:
                return False
            time.sleep(0.02)

    def _at_once(self, client: Client, name: str, recording: Recording | None) -> None:
        """Stream to the worker while the client sends; images go back as they come."""
        sink = ToClient(client.output)
        feeder = Feeder(self.worker, name, sink, client.since)
        for raw in client.first:
            feeder.put(raw)
        if recording is not None and recording.warning:
            client.tell(f"koosh {name}: {recording.warning}", failure=False)
        try:
            reason = pump(client, recording, feeder.put)
        except WireError:
            self._ended(recording, complete=False, reason="the peer left or broke the protocol")
            sink.muted = True  # the peer hears of it from us, and only once
            feeder.abandon()
            raise
        self._ended(recording, complete=not reason, reason=reason)
        if reason:
            feeder.put(truncation_message(reason))
        feeder.put(messages.CLOSE)
        try:
            feeder.finish()
        except Died as died:
            self._again(sink, recording, reason, died)
        self.counters.add("koosh_images_total", sink.n_images)
        well = sink.n_images > 0 and not sink.failed
        self.counters.add("koosh_scans_total", outcome="truncated" if reason else "delivered" if well else "failed")
        if recording is None:
            return
        if recording.warning:
            self.counters.add("koosh_spool_failures_total")
        if well:
            recording.delivered(sink.n_images)
        elif not recording.warning:
            client.tell(f"koosh {name}: the scan is kept in the spool under this name", failure=False)

    @staticmethod
    def _ended(recording: Recording | None, complete: bool, reason: str) -> None:
        if recording is not None:
            recording.end(complete, reason)

    def _again(self, sink: ToClient, recording: Recording | None, reason: str, died: Died) -> None:
        """The worker died: once more from the recording, if there is one and no image has gone out."""
        if self.stopping.is_set() or sink.n_images or recording is None or recording.path is None or recording.warning:
            kept = "" if recording is None or recording.warning else f"; the scan is kept as {recording.name}"
            raise Died(f"{died}{kept}")
        reconstruct_recording(recording.path, self.worker, sink, reason)

    def _queue(self, client: Client, name: str, recording: Recording | None) -> None:
        """All reconstructions are taken: keep the scan and tell the peer."""
        if recording is None or recording.path is None:
            raise WireError(f"busy with {self.configuration.scans} scans, and there is no spool to keep this one in")
        reason = pump(client, recording, lambda raw: None)
        recording.end(not reason, reason)
        recording.close()
        if recording.warning:
            raise WireError(f"busy with {self.configuration.scans} scans, and the spool failed: {recording.warning}")
        with self._lock:
            self._later.append((recording.path, reason))
        self.counters.add("koosh_scans_total", outcome="queued")
        client.tell(f"koosh: queued as {name}; its images will be in the spool as {name}.h5")

    def _work_off(self) -> None:
        """Reconstruct recordings whose clients are gone, whenever there is room."""
        while not self.stopping.is_set():
            self._wake.wait(0.5)
            self._wake.clear()
            with self._lock:
                job = self._later.pop(0) if self._later and self._room() else None
                if job is not None:
                    self._live[job[0].stem] = None
            if job is None:
                continue
            try:
                deliver_later(job[0], self.worker, job[1])
            except Exception:  # it stays in the spool for the next start
                log.exception("scan %s could not be reconstructed from the spool", job[0].stem)
            finally:
                with self._lock:
                    self._live.pop(job[0].stem, None)
                self._wake.set()

    def _stop(self) -> None:
        """Let running scans finish; those that don't stay in the spool and their peers are told."""
        until = time.monotonic() + self.configuration.stop_s
        while time.monotonic() < until and (self._clients or self._live):
            time.sleep(0.1)
        with self._lock:
            left = dict(self._clients)
        for name, client in left.items():
            client.tell(f"koosh {name}: the server is stopping; the scan so far is kept in the spool")
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)
        self.worker.stop()
        log.info("stopped; %d scans were left to the spool", len(left))


def serve(configuration: Configuration, path: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    server = Server(configuration, path)

    def stop(number: int, _frame: FrameType | None) -> None:
        log.info("signal %d: no new connections", number)
        server.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.run()
