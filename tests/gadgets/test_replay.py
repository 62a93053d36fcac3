"""`koosh replay`: files, spooled scans, streams and other servers, all with the same image."""

import io
import struct
import sys
import threading
from types import SimpleNamespace

import pytest

from koosh_gadgets import cli
from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.files import read_images
from koosh_gadgets.spool import Spool
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import PeerError
from tests.fakes.pipes import source_of
from tests.fakes.runs import run
from tests.fakes.streams import header_xml, message, point_file, point_scan, scan_stream


@pytest.fixture
def scan(tmp_path):
    """An ISMRMRD file of a point."""
    return point_file(tmp_path / "scan.h5")


def pixels(images):
    return [im.data.tobytes() for im in images]


WANT = pixels(run(point_scan())[0])


def test_a_file_becomes_images_of_its_own_and_a_report(scan, tmp_path):
    out, page = tmp_path / "out.h5", tmp_path / "page.html"
    arguments = ["replay", str(scan), "-o", str(out), "--method", "gridding", "--report", str(page)]
    assert cli.main(arguments) == 0
    assert pixels(read_images(out)) == WANT
    assert "not for diagnosis" in page.read_text().lower()


def test_a_spooled_scan_gives_the_same_image_and_a_cut_one_says_so(tmp_path):
    recording = Spool(tmp_path / "spool").begin()
    for raw in scan_stream(config='{"method": "gridding"}'):
        recording.message(raw)
    recording.close()
    out = tmp_path / "out.h5"
    assert cli.main(["replay", str(recording.path), "-o", str(out)]) == 0  # the method its peer asked for
    assert pixels(read_images(out)) == WANT
    recording.path.write_bytes(recording.path.read_bytes()[:-900])
    assert cli.main(["replay", str(recording.path), "-o", str(out), "--method", "gridding"]) == 0
    assert "recording ends" in read_images(out)[0].meta["koosh_truncated"]


@pytest.mark.parametrize("skip", [0, 1], ids=["with configuration", "header first"])
def test_a_stream_goes_in_and_a_stream_comes_out(skip, monkeypatch):
    stream = scan_stream(config='<configuration><property name="method" value="gridding"/></configuration>')
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(stream[skip:]))))
    put = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(put, write_through=True))
    assert cli.main(["replay", "-", "-o", "-", "--method", "gridding"]) == 0
    source, images = source_of(put.getvalue()), []
    from koosh_gadgets.wire.limits import Limits

    while (number := messages.U16.unpack(source.read(2))[0]) != ids.CLOSE:
        images.append(messages.read_item(number, source, Limits()))
    assert pixels(images) == WANT


def test_the_options_of_gadgetrons_client_mean_the_same(scan, tmp_path):
    import h5py

    out = tmp_path / "out.h5"
    given = ["replay", "-f", str(scan), "-g", "dataset", "-o", str(out), "-G", "/mine", "--method", "gridding"]
    assert cli.main([*given, "--device", "cpu"]) == 0
    assert pixels(read_images(out)) == WANT
    with h5py.File(out) as file:
        assert list(file) == ["mine"]
    assert cli.main(["replay", "-o", str(out)]) == 2
    assert cli.main(["replay", str(scan), "-f", str(scan), "-o", str(out)]) == 2
    assert cli.main(["replay", str(scan), "-g", "other", "-o", str(out)]) == 2


@pytest.mark.parametrize("scan_from", ["file", "stdin"])
def test_a_device_that_is_not_there_is_an_error_for_files_and_streams_alike(scan_from, scan, tmp_path, monkeypatch):
    stream = b"".join(scan_stream(config='{"method": "gridding"}'))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stream)))
    chosen = []
    from koosh_gadgets import pipeline

    real = pipeline.device_of
    monkeypatch.setattr(pipeline, "device_of", lambda name: chosen.append(name) or real("cpu"))
    name = "-" if scan_from == "stdin" else str(scan)
    given = ["replay", name, "-o", str(tmp_path / "o.h5"), "--method", "gridding"]
    assert cli.main([*given, "--device", "cuda:7"]) == 0
    assert set(chosen) == {"cuda:7"}
    assert cli.main([*given, "--device", "tpu"]) == 2


def test_a_local_configuration_is_sent_as_text_and_a_stream_is_sent_on(tmp_path, monkeypatch):
    (tmp_path / "own.xml").write_text("<configuration/>")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(scan_stream(name="koosh")))))
    remote = Remote(image_bytes() + messages.CLOSE)
    with remote as request:
        where = ["-a", request.host, "-p", str(request.port), "-C", str(tmp_path / "own.xml")]
        assert cli.main(["replay", "-", "-o", str(tmp_path / "o.h5"), *where]) == 0
    assert bytes(remote.got) == b"".join(scan_stream(config="<configuration/>"))
    assert cli.main(["replay", "-", "-o", str(tmp_path / "o.h5"), "-a", "x", "-C", str(tmp_path / "none.xml")]) == 2


def test_a_stream_cannot_locate_files(monkeypatch, tmp_path):
    stream = scan_stream(config='{"trajectory_file": "/etc/passwd"}')
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(stream))))
    assert cli.main(["replay", "-", "-o", str(tmp_path / "o.h5")]) == 2


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x89HDF\r\n\x1a\n" + b"x" * 100])
def test_what_is_no_scan_is_bad_input_and_leaves_no_file(content, tmp_path):
    (tmp_path / "scan.h5").write_bytes(content)
    assert cli.main(["replay", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "out.h5")]) == 2
    assert cli.main(["replay", str(tmp_path / "none.h5"), "-o", str(tmp_path / "out.h5")]) == 2
    assert not (tmp_path / "out.h5").exists()


class Remote:
    """A server that reads a scan and answers as it is told."""

    def __init__(self, answer, read=True):
        import socket

        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answer, self.read, self.got = answer, read, bytearray()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        sock, _ = self.listener.accept()
        with sock:
            while self.read and not self.got.endswith(messages.CLOSE):
                part = sock.recv(1 << 20)
                if not part:
                    break
                self.got += part
            sock.sendall(self.answer)

    def __enter__(self):
        self.thread.start()
        return Request("127.0.0.1", self.listener.getsockname()[1], "far.xml", wait_s=10.0)

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()


def image_bytes():
    return message(run(point_scan())[0][0])


def test_a_server_gets_the_scan_as_any_client_sends_it():
    remote = Remote(image_bytes() + messages.CLOSE)
    with remote as request:
        answer = send_scan(request, header_xml().encode(), point_scan())
    assert pixels(answer.images) == WANT[:1]
    assert bytes(remote.got) == b"".join(scan_stream(name="far.xml"))


FAILURES = {
    "error": (b"".join(messages.text(ids.ERROR, "out of luck")) + messages.CLOSE, "reports: out of luck"),
    "silence": (messages.CLOSE, "closed without an image and without a word"),
    "a word": (b"".join(messages.text(ids.TEXT, "no gadget")) + messages.CLOSE, "without an image: no gadget"),
    "cut": (image_bytes()[:100], "broke off after 0 images"),
    "after one": (image_bytes(), "broke off after 1 images"),
    "nonsense": (struct.pack("<H", 4242), "broke off"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_server_that_fails_is_quoted(name):
    answer, text = FAILURES[name]
    with Remote(answer) as request, pytest.raises(PeerError, match=text):
        send_scan(request, header_xml().encode(), point_scan())


def test_dicom_objects_of_a_server_are_kept_under_harmless_names(scan, tmp_path):
    name = b"../evil/name"
    raw = struct.pack("<HI", ids.DICOM_NAMED, 4) + b"DICM" + struct.pack("<Q", len(name)) + name + bytes(8)
    with Remote(raw + messages.CLOSE) as request:
        where = ["-a", request.host, "-p", str(request.port)]
        code = cli.main(["replay", str(scan), "-o", str(tmp_path / "o.h5"), *where])
    assert code == 0
    assert (tmp_path / "_evil_name.dcm").read_bytes() == b"DICM"


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PeerError, match=r"no server answers at 127\.0\.0\.1 port 1"):
        send_scan(Request("127.0.0.1", 1, "x", retry_s=0.0), b"", [])


def test_the_rate_is_kept():
    import time

    started = time.monotonic()
    with Remote(image_bytes() + messages.CLOSE) as request:
        from dataclasses import replace

        send_scan(replace(request, rate=200.0), header_xml().encode(), point_scan())
    assert time.monotonic() - started >= 63 / 200
