"""The same scan gives the same pixels by every way in, at its exact place."""

import io
import socket
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets import cli
from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.files import open_scan, read_images
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import write_scan
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory
from tests.fakes.gadgetron import execute, home
from tests.fakes.site import exchange, running
from tests.fakes.streams import message, opening
from tests.gadgets.orientations import geometry

pytestmark = pytest.mark.slow
N = 16
CHAINS = sorted((Path(__file__).parents[2] / "config_xml").glob("*.xml"))
CG = '<configuration><property name="method" value="cg"/></configuration>'


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A simulated 3D radial scan of an oblique slab: path, header, readouts, geometry."""
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    way, anatomy, place = trajectory("radial3d", (N,) * 3, 2.0), phantom("head", (N,) * 3), geometry("triple_oblique")
    place = type(place)(
        (N,) * 3, (40.0, 40.0, 40.0), place.position_mm, place.read_dir, place.phase_dir, place.slice_dir
    )
    write_scan(path, simulate(anatomy.image, way, mask=anatomy.mask, n_coils=4, noise=0.01, geometry=place), way)
    with open_scan(path) as file:
        return path, file.xml, [a for block in file.blocks() for a in block.acquisitions()], place


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture(scope="module")
def want(scan, tmp_path_factory):
    """The images of `koosh replay`."""
    out = tmp_path_factory.mktemp("out") / "out.h5"
    assert cli.main(["replay", str(scan[0]), "-o", str(out), "--method", "cg", "--device", "cpu"]) == 0
    return read_images(out)


def pixels(images):
    return np.stack([np.asarray(im.data, np.int16) for im in images])


def stream(scan, config=CG, **kw):
    return [*opening(scan[1], config, **kw), *map(message, scan[2]), b"\4\0"]


def test_slices_lie_where_the_readouts_say(scan, want):
    place = scan[3]
    for k, image in enumerate(want):
        centre = np.array(place.position_mm) + (k - N // 2) * 40.0 / N * np.array(place.slice_dir)
        assert np.allclose(image.position, centre, atol=1e-4)
        assert np.allclose(image.slice_dir, place.slice_dir, atol=1e-6)
        assert np.allclose(image.read_dir, place.read_dir, atol=1e-6)
        assert np.allclose(list(image.field_of_view), [40.0, 40.0, 40.0 / N], atol=1e-4)


def ordinary_client(port, name, header, readouts):
    """Images for a client that knows nothing of ours: ismrmrd's own words for every message."""
    images = []
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock, sock.makefile("rb") as back:
        sock.sendall(struct.pack("<H1024s", 1, name.encode()))
        text = header + b"\0"
        sock.sendall(struct.pack("<HI", 3, len(text)) + text)
        for a in readouts:
            sock.sendall(struct.pack("<H", 1008))
            a.serialize_into(sock.sendall)
        sock.sendall(struct.pack("<H", 4))
        while (number := struct.unpack("<H", back.read(2))[0]) != 4:
            assert number == 1022, back.read(400)
            images.append(ismrmrd.Image.deserialize_from(back.read))
    return images


def test_an_ordinary_client_gets_them(scan, want, server):
    found = ordinary_client(server.port, "koosh_cg", scan[1], scan[2])
    assert (pixels(found) == pixels(want)).all()
    assert [list(im.position) for im in found] == [list(im.position) for im in want]


def test_gadgetron_gets_them_by_connect_and_by_execute(scan, want, server, tmp_path):
    connected = exchange(server.port, stream(scan))
    executed = execute("koosh", stream(scan), **home(tmp_path))
    assert executed.code == 0, executed.log
    for answer in (connected, executed.answer):
        assert answer.closed
        assert not answer.errors
        assert {im.data.dtype.name for im in answer.images} == {"float32"}
        assert (pixels(answer.images) == pixels(want)).all()


def test_our_client_a_stream_and_the_spool_get_them(scan, want, server, tmp_path, monkeypatch):
    answer = send_scan(Request("127.0.0.1", server.port, "koosh_cg"), scan[1], scan[2])
    assert (pixels(answer.images) == pixels(want)).all()
    spooled = max(server.configuration.spool.delivered(), key=lambda p: p.stat().st_mtime)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(stream(scan, name="koosh")))))
    for source, out in ((str(spooled), tmp_path / "spooled.h5"), ("-", tmp_path / "stream.h5")):
        assert cli.main(["replay", source, "-o", str(out), "--method", "cg", "--device", "cpu"]) == 0
        assert (pixels(read_images(out)) == pixels(want)).all()


@pytest.mark.parametrize("chain", CHAINS, ids=lambda p: p.stem)
def test_every_chain_is_served(chain, scan, server, tmp_path):
    """Gadgetron hands the gadget's own <configuration> on; readouts, then images, then a close."""
    import xml.etree.ElementTree as plain

    external = plain.parse(chain).getroot().find(".//external")
    configuration = external.find("configuration")
    text = plain.tostring(configuration, "unicode") if configuration is not None else "<configuration/>"
    if external.find("execute") is not None:
        answer = execute(external.find("execute").get("target"), stream(scan, text), **home(tmp_path)).answer
    else:
        answer = exchange(server.port, stream(scan, text))
    assert answer.errors == []
    assert answer.closed
    layout = next((p.get("value") for p in external.iter("property") if p.get("name") == "layout"), "slices")
    assert len(answer.images) == {"slices": N, "both": N + 1}[layout]
    assert all(im.data.min() >= 0 and im.data.max() <= 32767 and np.isfinite(im.data).all() for im in answer.images)
