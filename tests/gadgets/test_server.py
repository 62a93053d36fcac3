"""`koosh serve` against peers of every kind: each fault ends in a message, and the next scan is served."""

import random
import socket
import struct
import threading
import time

import pytest

from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.config import Configuration
from koosh_gadgets.spool import Recorded, Spool
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import PeerError
from koosh_gadgets.wire.limits import Limits
from tests.fakes.hostile import drip, mutate
from tests.fakes.runs import run
from tests.fakes.site import exchange, reset, running, until
from tests.fakes.streams import header_xml, noise_readout, opening, point_scan, readout, scan_stream

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    limits = Limits(header_s=3.0, idle_s=2.0, drain_s=3.0)
    with running(tmp_path_factory.mktemp("site"), limits=limits) as found:
        yield found


def pixels(images):
    return [im.data.tobytes() for im in images]


def served(server):
    """The next scan works."""
    answer = exchange(server.port, scan_stream(name="koosh_gridding"))
    assert (len(answer.images), answer.closed, answer.errors, answer.texts) == (16, True, [], [])
    return True


def test_an_mrd_client_gets_the_images_of_a_replay(server):
    answer = exchange(server.port, scan_stream(name="koosh_gridding.xml"))
    want, _ = run(point_scan())
    assert pixels(answer.images) == pixels(want)
    assert answer.closed


def test_gadgetron_gets_float_images_of_the_same_grey_levels(server):
    answer = exchange(
        server.port, scan_stream(config='<configuration><property name="method" value="gridding"/></configuration>')
    )
    want, _ = run(point_scan(), dialect="gadgetron")
    assert pixels(answer.images) == pixels(want)
    assert answer.images[0].data.dtype == "float32"


def test_our_client_streams_a_scan_and_its_parameters(server):
    request = Request("127.0.0.1", server.port, "koosh")
    answer = send_scan(request, header_xml().encode(), point_scan(), '{"method": "gridding", "layout": "volume"}')
    assert [im.data.shape for im in answer.images] == [(1, 16, 16, 16)]


def test_a_delivered_scan_is_marked_in_the_spool(server):
    assert served(server)
    assert until(lambda: len(server.configuration.spool.delivered()) > 0)


def test_a_dependency_query_is_survived(server):
    answer = exchange(server.port, [messages.config_file("koosh"), messages.CLOSE])
    assert answer.closed
    assert not answer.errors


def test_a_question_is_answered_while_the_scan_runs(server):
    stream = scan_stream(name="koosh_gridding")
    stream.insert(20, struct.pack("<HQQQ", ids.QUERY, 0, 7, 15) + b"gadgetron::info")
    answer = exchange(server.port, stream)
    assert answer.texts == ['{"name": "koosh"}']
    assert len(answer.images) == 16


FAULTS = {
    "unknown configuration": (scan_stream(name="../../etc/passwd"), "no configuration"),
    "absolute configuration": (scan_stream(name="/etc/passwd"), "no configuration"),
    "a module": (scan_stream(name="os.path"), "no configuration"),
    "endless name": ([b"\1\0" + b"x" * 1024, *scan_stream()[1:]], "no end within its 1024 bytes"),
    "unknown parameter": (scan_stream(config='{"colour": "red"}'), "unknown parameters 'colour'; known: method"),
    "a path": (scan_stream(config='{"trajectory_file": "../x.npz"}'), "bare name"),
    "no folder": (scan_stream(config='{"dicom": "out"}'), "configuration gives no folder"),
    "no readouts": (scan_stream([], name="koosh"), "no imaging readout"),
    "only noise": (scan_stream([noise_readout(0)], name="koosh"), "no imaging readout"),
    "2D trajectory": (
        scan_stream([readout(3, point_scan()[3].data, point_scan()[3].traj[:, :2])], name="koosh"),
        "readout 3: trajectory_dimensions is 2",
    ),
    "broken header": (scan_stream(header=header_xml()[:300], name="koosh"), "header"),
    "unknown message": ([*scan_stream(name="koosh")[:9], b"\x17\x17", b"x" * 5000], "message 5911 is unknown"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_to_the_peer_and_the_next_scan_is_served(server, name):
    stream, message = FAULTS[name]
    answer = exchange(server.port, stream, half_close=True)
    assert any(message in text for text in answer.texts + answer.errors)
    assert not answer.images
    assert served(server)


def test_mutated_streams_leave_the_server_serving(server):
    rng, whole = random.Random(3), b"".join(scan_stream(name="koosh_gridding"))
    for _ in range(25):
        exchange(server.port, [mutate(whole, rng)], half_close=True)
    assert served(server)


def test_gadgetron_is_told_by_an_error_message(server):
    answer = exchange(server.port, scan_stream([noise_readout(0)]))
    assert "no imaging readout" in answer.errors[0]
    assert answer.closed


def test_a_peer_that_vanishes_leaves_no_image_and_the_next_scan_is_served(server):
    stream = scan_stream(name="koosh_gridding")
    whole, rng = b"".join(stream), random.Random(0)
    cuts = [sum(map(len, stream[:k])) for k in (1, 2, 3, 20, 66)] + [rng.randrange(len(whole)) for _ in range(12)]
    for at in cuts:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(whole[:at])
        reset(sock)
    assert served(server)
    assert until(lambda: not server._clients)


def test_a_peer_that_stops_sending_is_told_within_a_second(server):
    started = time.monotonic()
    answer = exchange(server.port, scan_stream(name="koosh")[:40], half_close=True)
    assert time.monotonic() - started < 1.5
    assert any("ended" in text for text in answer.texts + answer.errors)
    assert not answer.images


def test_silence_ends_a_scan_and_its_image_says_so(server):
    answer = exchange(server.port, scan_stream(name="koosh_gridding")[:40])
    assert len(answer.images) == 16
    assert answer.images[0].meta["koosh_complete"] == "false"
    assert "sent nothing more" in answer.images[0].meta["koosh_truncated"]


def test_slow_and_silent_peers_hold_up_nobody(server):
    stop = threading.Event()
    silent = socket.create_connection(("127.0.0.1", server.port))
    thread = threading.Thread(target=drip, args=(server.port, stop))
    thread.start()
    results = []
    scans = [threading.Thread(target=lambda: results.append(served(server))) for _ in range(4)]
    for scan in scans:
        scan.start()
    for scan in scans:
        scan.join(60)
    stop.set()
    thread.join()
    silent.close()
    assert results == [True] * 4


def test_a_scan_that_stands_still_takes_no_place_of_one_that_moves(tmp_path, monkeypatch):
    monkeypatch.setattr("koosh_gadgets.relay.QUIET_S", 0.2)
    with running(tmp_path, scans=1) as server, socket.create_connection(("127.0.0.1", server.port)) as still:
        stream = scan_stream(name="koosh_gridding")
        for raw in stream[:20]:
            still.sendall(raw)
        assert until(lambda: len(server._live) == 1)
        time.sleep(0.3)
        assert served(server)
        for raw in stream[20:]:
            still.sendall(raw)
        from koosh_gadgets.client import Answer
        from tests.fakes.site import listen

        answer = Answer()
        listen(still, answer, 60.0)
        assert len(answer.images) == 16


def test_a_worker_that_is_killed_is_replaced_and_the_scan_is_done_again(server):
    stream = scan_stream(name="koosh_gridding")
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        for raw in stream[:30]:
            sock.sendall(raw)
        time.sleep(0.3)
        server.worker._process.kill()
        time.sleep(0.3)
        for raw in stream[30:]:
            sock.sendall(raw)
        from koosh_gadgets.client import Answer
        from tests.fakes.site import listen

        answer = Answer()
        listen(sock, answer, 200.0)
    want, _ = run(point_scan())
    assert pixels(answer.images) == pixels(want)


def test_a_scan_beyond_the_queue_is_kept_and_done_later_and_more_connections_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("koosh_gadgets.relay.QUIET_S", 60.0)
    with running(tmp_path, scans=1, connections=3) as server:
        assert served(server)
        first = socket.create_connection(("127.0.0.1", server.port))
        for raw in scan_stream(name="koosh_gridding")[:20]:
            first.sendall(raw)
        assert until(lambda: len(server._live) == 1)
        answer = exchange(server.port, scan_stream(name="koosh_gridding"))
        assert "queued as" in answer.texts[0]
        name = answer.texts[0].split("queued as ")[1].split(";")[0]
        others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        assert until(lambda: len(server._clients) == 3)
        with pytest.raises(PeerError, match="busy"):
            send_scan(Request("127.0.0.1", server.port, "koosh"), header_xml().encode(), point_scan())
        for sock in others:
            sock.close()
        for raw in scan_stream(name="koosh_gridding")[20:]:
            first.sendall(raw)
        later = tmp_path / "spool" / f"{name}.h5"
        assert until(later.exists)
        first.close()
        from koosh_gadgets.files import read_images

        want, _ = run(point_scan())
        assert pixels(read_images(later)) == pixels(want)


def test_unfinished_scans_are_found_at_the_start(tmp_path):
    spool = Spool(tmp_path / "spool")
    whole, cut = spool.begin("a"), spool.begin("b")
    config = '<configuration><property name="method" value="gridding"/></configuration>'
    for raw in scan_stream(config=config):  # from Gadgetron, yet the file is for anyone
        whole.message(raw)
    for raw in scan_stream(name="koosh_gridding")[:50]:
        cut.message(raw)
    whole.close()
    cut.close()
    from koosh_gadgets.files import read_images

    with running(tmp_path):
        assert until(lambda: (tmp_path / "spool" / "b.h5").exists(), 200)
    want, _ = run(point_scan())
    assert pixels(read_images(tmp_path / "spool" / "a.h5")) == pixels(want)
    found = read_images(tmp_path / "spool" / "b.h5")
    assert found[0].meta["koosh_readouts"] == "48 of 64"
    assert "recording ends" in found[0].meta["koosh_truncated"]
    assert len(spool.delivered()) == 2


def test_a_full_spool_is_said_and_the_scan_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with running(tmp_path, spool=Spool(tmp_path / "file" / "x")) as server:
        answer = exchange(server.port, scan_stream(name="koosh_gridding"))
    assert len(answer.images) == 16
    assert any("not spooled" in text for text in answer.texts)


def test_an_opening_is_never_recorded_as_a_scan_without_a_header(server):
    before = len(list(server.configuration.spool.folder.iterdir()))
    exchange(server.port, opening(header_xml())[:1], half_close=True)
    assert len(list(server.configuration.spool.folder.iterdir())) == before


def test_recordings_hold_what_was_sent(server):
    exchange(server.port, scan_stream(name="koosh_gridding"))
    path = max(server.configuration.spool.delivered(), key=lambda p: p.stat().st_mtime)
    assert b"".join(Recorded(path).messages()) == b"".join(scan_stream(name="koosh_gridding"))


def test_connections_that_fail_while_being_taken_do_not_end_the_server(server, monkeypatch):
    from koosh_gadgets import relay

    real, failures = relay.watch, [OSError(22, "Invalid argument"), OSError(24, "Too many open files")]

    def watch(sock):
        if failures:
            raise failures.pop()
        real(sock)

    monkeypatch.setattr(relay, "watch", watch)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            assert sock.recv(1) == b""
    assert served(server)


def test_the_default_configuration_listens_on_loopback_only():
    assert Configuration().address == "127.0.0.1"
    assert ids.CLOSE == 4
