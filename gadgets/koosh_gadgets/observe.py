"""What a server tells of itself: log lines as text or JSON, counters for Prometheus; nothing that a header holds."""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)
LOG = "KOOSH_LOG"  # environment variable by which a server tells its worker that the log is JSON
HELP = {
    "koosh_connections_total": "connections: taken, busy (over the limit), stranger (not on the allow-list)",
    "koosh_scans_total": "scans by how they ended: delivered, failed, broken (the peer left), queued, truncated",
    "koosh_messages_total": "messages received in scans",
    "koosh_received_bytes_total": "bytes received in scans",
    "koosh_images_total": "images sent or written",
    "koosh_readouts_total": "readouts by what became of them: used, dropped (not finite), doubled, missing",
    "koosh_fallbacks_total": "volumes made by another method than the one asked for",
    "koosh_worker_deaths_total": "reconstruction processes that died and were replaced",
    "koosh_spool_failures_total": "scans that could not be recorded whole",
    "koosh_stage_seconds_total": "time of each stage after the last readout",
    "koosh_stage_peak_bytes": "highest resident memory of the worker in each stage of the last scan",
    "koosh_clients": "connections that are open",
    "koosh_scans_live": "scans being received or reconstructed",
    "koosh_scans_waiting": "recorded scans that wait for their reconstruction",
    "koosh_resident_bytes": "resident memory of the process that owns the sockets",
    "koosh_worker_ready": "1 where the reconstruction process is up",
}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, where, message, and facts where the record has some."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        found: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "from": record.name.removeprefix("koosh_gadgets."),
            "process": record.process,
            "message": record.getMessage(),
        }
        if (facts := getattr(record, "facts", None)) is not None:
            found["facts"] = facts
        if record.exc_info:
            found["trace"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False)


def log_as_json() -> None:
    """Switch this process's log to JSON lines."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())


class Counters:
    """Numbers that only this process changes, by name and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], float] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count."""
        with self._lock:
            key = (name, marks(labels))
            self._values[key] = self._values.get(key, 0) + value

    def put(self, name: str, value: float, **labels: str) -> None:
        """Set."""
        with self._lock:
            self._values[name, marks(labels)] = value

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Ask `value` whenever somebody looks."""
        self._gauges[name] = value

    def value(self, name: str, **labels: str) -> float:
        """What has been counted so far."""
        with self._lock:
            return self._values.get((name, marks(labels)), 0.0)

    def text(self) -> str:
        """All of them in Prometheus's text format."""
        with self._lock:
            found = dict(self._values)
        found.update({(name, ""): float(value()) for name, value in self._gauges.items()})
        lines, last = [], ""
        for (name, labels), value in sorted(found.items()):
            if name != last:
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]
                last = name
            lines.append(f"{name}{labels} {value:.10g}")
        return "\n".join(lines) + "\n"


def marks(labels: Mapping[str, str]) -> str:
    """Labels in Prometheus's notation; our own words only, never a peer's."""
    inner = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{{{inner}}}" if inner else ""


def absorb(counters: Counters, report: Mapping[str, object]) -> None:
    """Count what the worker tells of a scan that it has ended."""
    for name, numbers in (("koosh_stage_seconds_total", "seconds"), ("koosh_stage_peak_bytes", "peaks")):
        table = report.get(numbers)
        for stage, value in table.items() if isinstance(table, dict) else ():
            (counters.put if numbers == "peaks" else counters.add)(name, float(value), stage=str(stage))
    counts = report.get("counts")
    for kind, value in counts.items() if isinstance(counts, dict) else ():
        if kind == "fallbacks":
            counters.add("koosh_fallbacks_total", float(value))
        elif kind != "images":
            counters.add("koosh_readouts_total", float(value), kind=str(kind))


class Exporter:
    """Counters over HTTP on loopback: /metrics, and /health, which is 503 until the worker is up."""

    def __init__(self, counters: Counters, port: int, healthy: Callable[[], bool]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5.0

            def do_GET(self) -> None:
                """Answer one request."""
                if self.path == "/metrics":
                    self._say(200, counters.text())
                elif self.path == "/health":
                    self._say(*((200, "ok\n") if healthy() else (503, "the reconstruction process is not up\n")))
                else:
                    self._say(404, "known: /metrics, /health\n")

            def _say(self, code: int, text: str) -> None:
                raw = text.encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Requests are not logged: their lines are the peer's words."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="koosh-metrics", daemon=True).start()
        log.info("metrics on 127.0.0.1 port %d", self.port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
