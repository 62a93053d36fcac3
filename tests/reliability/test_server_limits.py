"""Who may connect, for how long, and what the server tells of itself."""

import json
import logging
import socket
import time
import urllib.error
import urllib.request

import pytest

from koosh_gadgets.commands import doctor
from koosh_gadgets.config import from_tables, load
from koosh_gadgets.observe import Counters, Exporter, JsonLines, absorb
from koosh_gadgets.peers import allowed, is_loopback, networks
from koosh_gadgets.wire.errors import TimedOut
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import SocketReceiver
from tests.fakes.site import exchange, running, until
from tests.fakes.streams import scan_stream


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("fe80::1%eth0", False),
     ("127.0.0.1", True), ("::1", True)],
)  # fmt: skip
def test_only_peers_of_the_allow_list_and_loopback_may_connect(address, wanted):
    assert allowed(address, networks(["10.0.0.0/8", "fd00::/8"])) is wanted
    assert allowed(address, ())


def test_a_broken_allow_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no network"):
        networks(["ten"])
    with pytest.raises(ValueError, match="no list of networks"):
        from_tables({"server": {"allow": "10.0.0.0/8"}}, tmp_path)


def test_a_site_configures_allow_list_metrics_and_limits(tmp_path):
    (tmp_path / "k.toml").write_text('[server]\nallow = ["10.0.0.0/8"]\nmetrics = 9100\ntotal_s = 60\nidle_s = 5\n')
    found = load(tmp_path / "k.toml")
    assert (found.allow, found.metrics) == (networks(["10.0.0.0/8"]), 9100)
    assert (found.limits.total_s, found.limits.idle_s, found.limits.header_s) == (60.0, 5.0, Limits.header_s)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("scanner.example", False)],
)
def test_wider_than_loopback_is_known(address, wanted):
    assert is_loopback(address) is wanted


def test_lengths_are_capped_at_a_quarter_of_what_is_free():
    assert Limits().within(None) == Limits()
    assert Limits().within(1 << 30).image == Limits().within(1 << 30).array == 1 << 28
    assert Limits().within(0).image == 1 << 20
    assert Limits().within(1 << 40) == Limits()


def test_a_scan_without_end_is_ended_however_steadily_it_drips():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = SocketReceiver(ours, 5.0)
        receiver.finish_within(0.2)
        theirs.sendall(b"x")
        assert receiver(memoryview(bytearray(8))) == 1
        time.sleep(0.25)
        theirs.sendall(b"x")
        with pytest.raises(TimedOut, match=r"longer than the 0\.2 s"):
            receiver(memoryview(bytearray(8)))


def test_a_pause_that_runs_into_the_end_of_the_scan_is_told_as_its_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = SocketReceiver(ours, 5.0)
        receiver.finish_within(0.2)
        with pytest.raises(TimedOut, match=r"longer than the 0\.2 s"):
            receiver(memoryview(bytearray(8)))


def test_log_lines_are_objects():
    record = logging.LogRecord("koosh_gadgets.server", 20, "", 0, "scan %s: %s", ("a", "done"), None)
    record.facts = {"counts": {"used": 3}}
    found = json.loads(JsonLines().format(record))
    assert (found["level"], found["from"], found["message"]) == ("info", "server", "scan a: done")
    assert found["facts"] == {"counts": {"used": 3}}


def test_counters_are_told_as_prometheus_reads_them():
    counters = Counters()
    counters.add("koosh_scans_total", outcome="delivered")
    counters.add("koosh_scans_total", 2, outcome="delivered")
    counters.watch("koosh_clients", lambda: 4)
    absorb(counters, {"seconds": {"problem": 1.5}, "peaks": {"problem": 100},
                      "counts": {"used": 64, "fallbacks": 1, "images": 16}})  # fmt: skip
    lines = counters.text().splitlines()
    for line in ('koosh_scans_total{outcome="delivered"} 3', "koosh_clients 4", "koosh_fallbacks_total 1",
                 'koosh_readouts_total{kind="used"} 64', 'koosh_stage_seconds_total{stage="problem"} 1.5',
                 "# TYPE koosh_clients gauge", "# TYPE koosh_scans_total counter"):  # fmt: skip
        assert line in lines
    assert counters.value("koosh_scans_total", outcome="delivered") == 3


def fetched(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_is_told_over_http():
    well = [False]
    exporter = Exporter(Counters(), 0, lambda: well[0])
    try:
        assert fetched(exporter.port, "/health")[0] == 503
        well[0] = True
        assert fetched(exporter.port, "/health") == (200, "ok\n")
        assert fetched(exporter.port, "/etc/passwd")[0] == 404
    finally:
        exporter.close()


@pytest.mark.slow
def test_a_server_counts_refuses_strangers_and_answers_the_doctor(tmp_path, monkeypatch, caplog):
    with running(tmp_path, metrics=0, allow=networks(["10.0.0.0/8"])) as server:
        assert until(lambda: server.worker.ready, 120)
        assert len(exchange(server.port, scan_stream(name="koosh_gridding")).images) == 16
        assert doctor.server("127.0.0.1", server.port).state == "ok"
        assert until(lambda: 'kind="used"' in server.counters.text())
        text = fetched(server.exporter.port, "/metrics")[1]
        monkeypatch.setattr("koosh_gadgets.server.allowed", lambda host, known: False)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            assert sock.recv(1) == b""
        assert server.counters.value("koosh_connections_total", outcome="stranger") == 1
    assert 'koosh_scans_total{outcome="delivered"} 1' in text
    assert 'koosh_readouts_total{kind="used"} 64' in text
    assert "koosh_images_total 16" in text
    assert 'koosh_stage_peak_bytes{stage="images"}' in text


@pytest.mark.slow
def test_a_server_bound_wider_than_this_machine_says_so(tmp_path, caplog):
    with running(tmp_path, address="0.0.0.0") as server:
        assert until(lambda: server.worker.pid is not None)
    assert "0.0.0.0 is wider than this machine: anybody who reaches it" in caplog.text
