"""A server that is killed or stopped loses nothing that has reached it."""

import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from koosh_gadgets.client import Answer
from koosh_gadgets.files import read_images
from koosh_gadgets.spool import Recorded
from koosh_gadgets.workers import environment
from tests.fakes.gadgetron import home
from tests.fakes.runs import run
from tests.fakes.site import exchange, listen, until
from tests.fakes.streams import point_scan, scan_stream

pytestmark = pytest.mark.slow
STREAM = scan_stream(name="koosh_gridding")


@pytest.fixture
def start():
    """Starts `koosh serve` processes, and ends them whatever happens."""
    started = []

    def launch(tmp_path):
        started.append(serving(tmp_path))
        return started[-1]

    yield launch
    for process, _ in started:
        end(process)


def serving(tmp_path):
    """`koosh serve` in a process of its own: (process, port), once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "koosh_gadgets.cli", "serve", "-p", str(port), "--spool", str(tmp_path / "spool")]
    process = subprocess.Popen(command, env={**environment(), **home(tmp_path)}, stderr=subprocess.DEVNULL)
    if not until(lambda: reachable(port)):
        end(process)
        raise AssertionError("the server does not listen")
    return process, port


def reachable(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end(process):
    process.kill()
    process.wait()


def test_it_listens_before_anything_heavy_is_loaded(start, tmp_path):
    _process, port = start(tmp_path)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for raw in STREAM[:30]:
            sock.sendall(raw)
        assert until(lambda: recorded_messages(tmp_path) == STREAM[:30])


def recorded_messages(tmp_path):
    found = [p for p in (tmp_path / "spool").glob("*.scan") if p.stat().st_size > 8]
    return list(Recorded(found[0]).messages()) if found else []


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_server_finds_every_readout_it_had_received(seed, start, tmp_path):
    process, port = start(tmp_path)
    sent = 2 + random.Random(seed).randrange(64)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for raw in STREAM[:sent]:
            sock.sendall(raw)
        time.sleep(0.9)
        end(process)
    assert recorded_messages(tmp_path) == STREAM[:sent]
    if seed:
        return
    process, port = start(tmp_path)
    assert until(lambda: list((tmp_path / "spool").glob("*.h5")))
    (path,) = (tmp_path / "spool").glob("*.h5")
    found = read_images(path)
    assert found[0].meta["koosh_readouts"] == f"{sent - 2} of 64"
    assert found[0].meta["koosh_complete"] == "false"


def test_a_server_killed_after_the_last_readout_makes_the_same_image_later(start, tmp_path):
    process, port = start(tmp_path)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for raw in STREAM:
            sock.sendall(raw)
        assert until(lambda: recorded_messages(tmp_path) == STREAM)
        end(process)
    process, port = start(tmp_path)
    assert until(lambda: list((tmp_path / "spool").glob("*.h5")))
    (path,) = (tmp_path / "spool").glob("*.h5")
    want, _ = run(point_scan())
    assert [im.data.tobytes() for im in read_images(path)] == [im.data.tobytes() for im in want]


def test_a_stopping_server_finishes_its_scan_and_takes_no_more(start, tmp_path):
    process, port = start(tmp_path)
    assert len(exchange(port, STREAM).images) == 16  # the worker is up: what counts is the scan, not its start
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for raw in STREAM[:40]:
            sock.sendall(raw)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert until(lambda: not reachable(port))
        for raw in STREAM[40:]:
            sock.sendall(raw)
        answer = Answer()
        reader = threading.Thread(target=listen, args=(sock, answer, 60.0))
        reader.start()
        reader.join(240)
    assert len(answer.images) == 16
    assert process.wait(120) == 0
