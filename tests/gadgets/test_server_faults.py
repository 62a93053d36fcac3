"""`koosh serve` where its own machine fails it: no descriptors, no disk, no spool, no worker, and told to stop."""

import contextlib
import os
import resource
import signal
import socket
import threading

import pytest

from koosh_gadgets.client import Answer
from koosh_gadgets.config import Configuration
from koosh_gadgets.server import serve
from koosh_gadgets.settings import Settings
from koosh_gadgets.spool import Recorded, Spool
from koosh_gadgets.wire.limits import Limits
from tests.fakes.site import exchange, listen, running, until
from tests.fakes.streams import scan_stream

pytestmark = pytest.mark.slow
SCAN = scan_stream(name="koosh_gridding")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """One scan at a time, no spool."""
    with running(tmp_path_factory.mktemp("bare"), spool=None, scans=1, limits=Limits(drain_s=3.0)) as server:
        assert until(lambda: server.worker.ready, 120)
        yield server


@pytest.fixture(scope="module")
def spooled(tmp_path_factory):
    """One scan at a time, the others kept."""
    with running(tmp_path_factory.mktemp("spooled"), scans=1, limits=Limits(drain_s=3.0)) as server:
        assert until(lambda: server.worker.ready, 120)
        yield server


@contextlib.contextmanager
def limited(what, soft):
    """A limit of this process, for a while."""
    before, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (before, hard))


@contextlib.contextmanager
def begun(server, n=30):
    """A peer that has sent the first `n` messages of a scan; what it is told comes with the block's end."""
    answer = Answer()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        reader = threading.Thread(target=listen, args=(sock, answer, 120.0))
        reader.start()
        for raw in SCAN[:n]:
            sock.sendall(raw)
        assert until(lambda: any(c is not None and c.n_messages >= n - 3 for c in server._live.values()))
        yield sock, answer
        reader.join(120)
        assert not reader.is_alive()


def said(answer):
    return " ".join(answer.texts + answer.errors)


def served(server):
    assert until(lambda: not server._clients)
    return len(exchange(server.port, SCAN, wait=200.0).images) == 16


def test_without_a_spool_scans_are_served_all_the_same(bare):
    assert served(bare)


def test_without_a_spool_a_scan_beyond_the_queue_is_refused(bare):
    with begun(bare) as (first, _):
        second = exchange(bare.port, SCAN)
        for raw in SCAN[30:]:
            first.sendall(raw)
    assert "busy with 1 scans, and there is no spool to keep this one in" in said(second)
    assert not second.images


def test_without_a_spool_a_dead_worker_is_told_and_replaced(bare):
    with begun(bare) as (sock, answer):
        os.kill(bare.worker.pid, signal.SIGKILL)
        for raw in SCAN[30:]:
            sock.sendall(raw)
    assert "the reconstruction process died" in said(answer)
    assert "kept" not in said(answer)
    assert served(bare)


def test_a_lack_of_descriptors_holds_a_connection_up_and_does_not_end_the_server(bare, caplog):
    with socket.socket() as sock:
        with limited(resource.RLIMIT_NOFILE, 3):
            sock.connect(("127.0.0.1", bare.port))
            assert until(lambda: "a connection could not be taken: [Errno 24]" in caplog.text)
        answer, taken = Answer(), bare.counters.value("koosh_connections_total", outcome="taken")
        assert until(lambda: bare.counters.value("koosh_connections_total", outcome="taken") > taken or bare._clients)
        for raw in SCAN:
            sock.sendall(raw)
        listen(sock, answer, 120.0)
    assert len(answer.images) == 16


def test_a_fault_of_our_own_ends_one_connection_and_keeps_its_scan(spooled, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("division by zero")

    with monkeypatch.context() as patch:
        patch.setattr("koosh_gadgets.server.pump", broken)
        answer = exchange(spooled.port, SCAN, half_close=True)
    assert "ZeroDivisionError: division by zero" in said(answer)
    assert "Traceback" not in said(answer)
    assert spooled.counters.value("koosh_scans_total", outcome="failed") == 1
    assert served(spooled)


def test_a_disk_that_fills_up_under_a_queued_scan_is_told_to_its_peer(spooled):
    known = set(spooled.configuration.spool.unfinished())
    with begun(spooled) as (first, _):
        with limited(resource.RLIMIT_FSIZE, 20_000):  # like a full disk: the write fails
            second = exchange(spooled.port, SCAN)
            kept = [p for p in set(spooled.configuration.spool.unfinished()) - known if p.stem not in spooled._live]
        for raw in SCAN[30:]:
            first.sendall(raw)
    assert "busy with 1 scans, and the spool failed: not spooled beyond" in said(second)
    assert "queued" not in said(second)
    messages = list(Recorded(kept[0]).messages())  # what fitted is whole
    assert 2 < len(messages) < len(SCAN)
    assert messages == SCAN[: len(messages)]
    assert served(spooled)


def test_a_recording_that_is_none_does_not_hold_up_the_others_and_stays(tmp_path, caplog):
    spool = Spool(tmp_path / "spool")
    good = spool.begin("b")
    for raw in SCAN:
        good.message(raw)
    good.close()
    (spool.folder / "a.scan").write_bytes(b"no recording")
    with running(tmp_path):
        assert until((spool.folder / "b.h5").exists, 120)
    assert "scan a could not be reconstructed from the spool" in caplog.text
    assert [path.name for path in spool.unfinished()] == ["a.scan"]


def test_a_scan_that_does_not_end_in_time_is_left_to_the_spool_and_its_peer_told(tmp_path, caplog):
    caplog.set_level("INFO")
    with running(tmp_path, stop_s=0.2, metrics=0) as server:
        assert until(lambda: server.worker.ready, 120)
        with begun(server) as (_, answer):
            server.stopping.set()
    assert "the server is stopping; the scan so far is kept in the spool" in said(answer)
    assert not answer.images
    assert "1 scans were left to the spool" in caplog.text
    (path,) = Spool(tmp_path / "spool").unfinished()
    assert list(Recorded(path).messages()) == SCAN[:30]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(tmp_path, caplog, number):
    caplog.set_level("INFO")
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    configuration = Configuration(port=0, settings=Settings(method="gridding"), stop_s=1.0, allow=())

    def send():
        assert until(lambda: "listening on" in caplog.text)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        serve(configuration)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
        sender.join()
    assert f"signal {number}: no new connections" in caplog.text
    assert "stopped; 0 scans were left" in caplog.text
