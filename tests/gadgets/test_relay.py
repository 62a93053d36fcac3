"""The way of a scan from its client to the worker and back, where one of the three fails."""

import io
import logging
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from koosh_gadgets import feeding, observe, workers
from koosh_gadgets.feeding import Answers, Died, Feeder, ToList
from koosh_gadgets.files import read_images
from koosh_gadgets.settings import Settings
from koosh_gadgets.spool import Spool
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Cut, WireError
from koosh_gadgets.workers import Worker
from tests.fakes.site import exchange, running, until
from tests.fakes.streams import noise_readout, scan_stream

SCAN = scan_stream(name="koosh_gridding")


class Leaving:
    """A client that is gone when the second answer comes."""

    n_images = 0

    def take(self, number, raw):
        self.n_images += 1
        if self.n_images == 2:
            raise Cut("the peer is gone")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def text(words):
    return b"".join(messages.text(ids.TEXT, words))


def test_a_worker_that_ends_before_its_close_message_has_died(pair):
    ours, theirs = pair
    theirs.sendall(text("half") + text("a message")[:5])
    theirs.close()
    with pytest.raises(Died, match="the reconstruction process died"):
        Answers(ours, ToList()).join()


def test_a_worker_that_ends_with_data_unread_has_died_too(pair):
    ours, theirs = pair
    ours.sendall(bytes(100))  # which makes its end a reset
    theirs.close()
    with pytest.raises(Died, match="the reconstruction process died"):
        Answers(ours, ToList()).join()


def test_a_client_that_leaves_is_no_death_of_the_worker(pair):
    ours, theirs = pair
    theirs.sendall(text("one") + text("two") + text("three"))
    with pytest.raises(Cut, match="the peer is gone"):
        Answers(ours, Leaving()).join()


def test_a_worker_that_says_what_means_nothing_is_no_death_either(pair):
    ours, theirs = pair
    theirs.sendall(b"\x17\x17" + bytes(1000))
    with pytest.raises(WireError) as seen:
        Answers(ours, ToList()).join()
    assert not isinstance(seen.value, Died)


def test_of_what_is_answered_later_images_and_failures_are_kept(pair):
    ours, theirs = pair
    kept = ToList()
    theirs.sendall(struct.pack("<HQQ", ids.RESPONSE, 1, 2) + b"ok" + text("no image") + messages.CLOSE)
    Answers(ours, kept).join()
    assert (kept.failure, kept.images) == ("no image", [])


def test_a_client_waits_where_too_much_of_it_is_held(pair, monkeypatch):
    monkeypatch.setattr(feeding, "HELD", 1 << 20)
    ours, theirs = pair

    class Slow:
        def open(self, scan, since):
            return ours

    feeder, passed = Feeder(Slow(), "a", ToList()), []

    def send():
        for number in range(12):
            feeder.put(bytes(1 << 20))
            passed.append(number)
        feeder.put(messages.CLOSE)

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.5)
    assert len(passed) < 12
    theirs.sendall(messages.CLOSE)
    left = (12 << 20) + len(messages.CLOSE)
    while left:
        left -= len(theirs.recv(1 << 20))
    thread.join(60)
    feeder.finish()
    assert len(passed) == 12


def test_a_worker_that_cannot_start_is_tried_again_and_scans_are_told(monkeypatch, caplog):
    monkeypatch.setattr(workers, "START_S", 1.0)
    worker, deaths = Worker(Path("/nowhere/koosh.toml"), Settings()), []
    worker.died = lambda: deaths.append(1)
    worker.start()
    try:
        with pytest.raises(RuntimeError, match="does not start"):
            worker.open("a")
        assert until(lambda: len(deaths) > 0)
        assert not worker.ready
    finally:
        worker.stop()
    assert "the worker ended (exit code 1); starting another" in caplog.text


def test_log_lines_of_a_fault_carry_its_trace():
    root, handler = logging.getLogger(), logging.StreamHandler(out := io.StringIO())
    root.addHandler(handler)
    formatters = {one: one.formatter for one in root.handlers}
    try:
        observe.log_as_json()
        try:
            {}["key"]
        except KeyError:
            logging.getLogger("koosh_gadgets.server").exception("scan %s", "a")
    finally:
        for one, formatter in formatters.items():
            one.setFormatter(formatter)
        root.removeHandler(handler)
    assert '"message": "scan a"' in out.getvalue()
    assert "KeyError: 'key'" in out.getvalue()


@pytest.mark.slow
def test_a_peer_that_reports_a_failure_of_its_own_gets_no_image(tmp_path):
    stream = [*SCAN[:30], b"".join(messages.text(ids.ERROR, "gradient fault")), *SCAN[30:]]
    with running(tmp_path) as server:
        answer = exchange(server.port, stream)
    assert not answer.images
    assert "the peer reports a failure of its own" in " ".join(answer.texts + answer.errors)


def recorded(folder, name, stream):
    recording = Spool(folder).begin(name)
    for raw in stream:
        recording.message(raw)
    recording.close()


@pytest.mark.slow
def test_a_recording_without_an_image_is_set_aside(tmp_path, caplog):
    recorded(tmp_path / "spool", "a", scan_stream([noise_readout(0)], name="koosh_gridding"))
    with running(tmp_path):
        assert until((tmp_path / "spool" / "a.failed").exists)
    assert "scan a: no image could be made: koosh a: no imaging readout" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "left"), [(1, ["a.done", "a.h5"]), (2, ["a.scan"])])
def test_a_recording_over_which_the_worker_dies_is_done_by_gridding_and_then_kept(
    tmp_path, caplog, monkeypatch, kills, left
):
    recorded(tmp_path / "spool", "a", scan_stream(name="koosh_cg"))
    given, real = [], Worker.open

    def opened(worker, scan, since=0.0):
        sock = real(worker, scan, since)
        given.append(worker.pid)
        return sock

    monkeypatch.setattr(Worker, "open", opened)
    with running(tmp_path) as server:
        for k in range(kills):
            assert until(lambda n=k: len(given) > n)
            os.kill(given[k], signal.SIGKILL)
        if kills == 1:
            assert until((tmp_path / "spool" / "a.done").exists)
        else:
            assert until(lambda: "died twice over scan a; it is kept in the spool" in caplog.text)
            server.stopping.set()
    assert sorted(p.name for p in (tmp_path / "spool").iterdir()) == left
    if kills == 1:
        assert {im.meta["koosh_method"] for im in read_images(tmp_path / "spool" / "a.h5")} == {"gridding"}
