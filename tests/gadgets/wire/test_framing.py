"""Framing: what is sent arrives, and hostile bytes end in one of our own errors before anything is allocated."""

import contextlib
import random
import socket
import struct
import threading
import time
import tracemalloc

import ismrmrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koosh_gadgets.wire import arrays, ids, messages
from koosh_gadgets.wire.connection import connect
from koosh_gadgets.wire.errors import Cut, Malformed, TimedOut, TooLarge, WireError
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import open_stream
from koosh_gadgets.wire.readouts import Readouts, blocks
from tests.fakes.hostile import GIANTS, consume, giant, mutate
from tests.fakes.pipes import connection_of, source_of
from tests.fakes.streams import header_xml, message, noise_readout, opening, point_scan, readout, scan_stream


def readouts_of(items):
    return [a for item in items if isinstance(item, Readouts) for a in item.acquisitions()]


def test_a_scan_arrives_as_it_was_sent():
    sent = [noise_readout(0), *point_scan()]
    connection = connection_of(b"".join(scan_stream(sent)))
    got = readouts_of(connection.items())
    assert got == sent
    assert connection.ended


def test_blocks_from_the_wire_and_from_a_list_are_cut_alike():
    sent = [noise_readout(0), *point_scan(spokes=300), readout(400, np.ones((3, 8), np.complex64))]
    wire = [len(b) for b in connection_of(b"".join(scan_stream(sent))).items()]
    assert wire == [len(b) for b in blocks(sent)]
    assert max(wire) == 32


def collect(connect, got):
    """Keep every item up to the error that ends the stream."""
    with connect() as connection:
        for item in connection.items():
            got.append(item)


def image(dtype=np.float32):
    data = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4).astype(dtype)
    item = ismrmrd.Image(ismrmrd.ImageHeader(), data=data)
    item.image_type = ismrmrd.IMTYPE_MAGNITUDE
    item.meta = ismrmrd.Meta({"ImageComments": "a < b", "list": ["1", "2"]})
    return item


def structs(kind, shape):
    return np.zeros(shape, np.dtype(kind), order="F")


def buffer():
    sampling = tuple(float(i) for i in range(6)) + tuple(range(15))
    data = (np.arange(24) + 1j).astype(np.complex64).reshape(2, 3, 1, 2, 2, 1, 1)
    trajectory = np.arange(18, dtype=np.float32).reshape(3, 2, 3, 1, 1, 1, 1)
    return arrays.ReconBuffer(data, trajectory, None, structs(ismrmrd.AcquisitionHeader, (3, 1, 2, 1, 1)), sampling)


def wave():
    return ismrmrd.Waveform.from_array(np.arange(12, dtype=np.uint32).reshape(3, 4), waveform_id=1)


ITEMS = [
    *[image(d) for d in (np.uint16, np.int16, np.uint32, np.float32, np.float64, np.complex64, np.complex128)],
    wave(),
    arrays.ReconData([(buffer(), None), (buffer(), buffer())]),
    arrays.ImageArray(
        np.ones((4, 3, 2, 1, 2, 1, 1), np.complex64),
        structs(ismrmrd.ImageHeader, (2, 1, 1)),
        ["<a/>", "b"],
        [wave()],
        structs(ismrmrd.AcquisitionHeader, (2, 1, 1)),
    ),
    arrays.Bucket(point_scan(spokes=3), point_scan(spokes=2), [[np.arange(3, dtype=np.uint16)] * 9], [], [wave()]),
]


@pytest.mark.parametrize("item", ITEMS, ids=lambda i: f"{type(i).__name__}-{getattr(i, 'data_type', '')}")
def test_every_item_survives_the_wire(item):
    raw = message(item)
    source = source_of(raw)
    number = messages.U16.unpack(source.read(2))[0]
    back = messages.read_item(number, source, Limits())
    assert message(back) == raw
    assert source.at_end()


def test_texts_errors_queries_and_dicom_objects_are_read():
    raw = b"".join(b"".join(messages.text(kind, "grüße")) for kind in (ids.TEXT, ids.ERROR))
    raw += struct.pack("<HQQQ", ids.QUERY, 0, 7, 4) + b"info"
    raw += struct.pack("<HI", ids.DICOM_NAMED, 4) + b"DICM" + struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 0)
    source = source_of(raw)
    got = []
    while not source.at_end():
        got.append(messages.read_item(messages.U16.unpack(source.read(2))[0], source, Limits()))
    assert got == [
        messages.Text(ids.TEXT, "grüße"),
        messages.Text(ids.ERROR, "grüße"),
        messages.Query(7, "info"),
        messages.Named("a", b"DICM"),
    ]


def test_the_first_message_tells_the_dialect():
    xml = opening(header_xml(), '<configuration><property name="coils" value="4"/></configuration>')
    assert open_stream(source_of(b"".join(xml)), Limits()).dialect == "gadgetron"
    assert open_stream(source_of(b"".join(xml)), Limits()).parameters == {"coils": "4"}
    named = open_stream(source_of(b"".join(opening(header_xml(), name="koosh_3d.xml"))), Limits())
    assert (named.dialect, named.config) == ("mrd", "koosh_3d.xml")
    json = open_stream(source_of(b"".join(opening(header_xml(), '{"config": "koosh", "preview": true}'))), Limits())
    assert (json.dialect, json.config, json.parameters) == ("mrd", "koosh", {"preview": "true"})


def test_json_text_after_the_header_adds_parameters():
    stream = scan_stream(name="koosh")
    stream.insert(2, b"".join(messages.text(ids.TEXT, '{"parameters": {"matrix": 32}}')))
    connection = connection_of(b"".join(stream))
    assert len(readouts_of(connection.items())) == 64
    assert connection.opening.parameters == {"matrix": "32"}


def test_a_dependency_query_without_header_is_no_scan():
    assert connection_of(messages.config_file("koosh") + messages.CLOSE) is None


@pytest.mark.parametrize("at", [*range(1, 60, 7), -1, -2, -400])
def test_a_stream_cut_anywhere_raises_cut_and_keeps_what_arrived(at):
    whole = b"".join(scan_stream())
    raw = whole[: len(whole) * at // 100] if at > 0 else whole[:at]
    got = []
    with pytest.raises(Cut):
        collect(lambda: connection_of(raw), got)
    start = len(b"".join(opening(header_xml())))
    each = len(message(point_scan()[0]))
    assert sum(map(len, got)) == min(64, max(0, len(raw) - start) // each)


@pytest.mark.parametrize("name", [*sorted(GIANTS), "image"])
def test_giant_lengths_are_refused_before_allocation(name):
    connection = connection_of(b"".join(opening(header_xml())) + giant(name))
    tracemalloc.start()
    with pytest.raises((TooLarge, Malformed)):
        list(connection.items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


@pytest.mark.parametrize("size", [1 << 31, (1 << 32) - 16])
def test_a_giant_header_is_refused(size):
    raw = messages.script(ids.CONFIG_TEXT, "") + struct.pack("<HI", ids.HEADER, size)
    with pytest.raises(TooLarge, match="header"):
        connection_of(raw)


@pytest.mark.parametrize("n_samples", [0, 65535])
def test_empty_and_monstrous_readouts_are_refused(n_samples):
    head = ismrmrd.AcquisitionHeader()
    head.number_of_samples, head.active_channels = n_samples, 65535
    with pytest.raises((Malformed, TooLarge)):
        list(connection_of(b"".join(opening(header_xml())) + b"\xf0\x03" + bytes(head)).items())


@pytest.mark.parametrize("seed", range(4))
def test_mutated_streams_end_in_our_own_errors(seed):
    rng = random.Random(seed)
    items = [noise_readout(0), *point_scan(n=8, spokes=4, voxel=(4, 4, 4)), *ITEMS[:1], wave(), *ITEMS[-3:]]
    streams = [b"".join(scan_stream(items)), b"".join(scan_stream(items[:4], name="koosh"))]
    limits = Limits(image=1 << 24, array=1 << 24)
    for _ in range(100):
        started = time.monotonic()
        with contextlib.suppress(WireError):
            consume(mutate(rng.choice(streams), rng), limits)
        assert time.monotonic() - started < 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_noise_instead_of_a_stream_ends_in_our_own_errors(raw):
    try:
        connection = connection_of(raw)
        if connection is not None:
            list(connection.items())
    except WireError:
        pass


@pytest.mark.parametrize("name", [b"x" * 1024, b"\xff\xfe" + b"\0" * 1022])
def test_configuration_names_without_end_or_meaning_are_refused(name):
    with pytest.raises(Malformed):
        connection_of(struct.pack("<H", ids.CONFIG_FILE) + name + messages.script(ids.HEADER, header_xml()))


def serve(handle):
    """A connected pair; `handle(peer)` runs on a thread."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=handle, args=(theirs,), daemon=True)
    thread.start()
    return ours, thread


def test_a_peer_that_never_finishes_its_header_is_given_up():
    def drip(peer):
        with peer:
            for byte in messages.config_file("koosh"):
                try:
                    peer.send(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.02)

    ours, thread = serve(drip)
    started = time.monotonic()
    with ours, pytest.raises(TimedOut):
        connect(ours, Limits(header_s=0.3, drain_s=0.1, idle_s=0.1))
    assert time.monotonic() - started < 3
    thread.join()


def test_silence_in_a_scan_is_given_up_with_what_has_arrived():
    stop = threading.Event()

    def silent(peer):
        with peer:
            peer.sendall(b"".join(scan_stream(point_scan()[:10], close=False)))
            stop.wait(5)

    ours, thread = serve(silent)
    got = []
    with ours, pytest.raises(TimedOut):
        collect(lambda: connect(ours, Limits(idle_s=0.2)), got)
    stop.set()
    thread.join()
    assert sum(map(len, got)) == 10


def test_an_error_reaches_a_peer_that_is_still_sending():
    seen = {}

    def client(peer):
        with peer:
            sender = threading.Thread(
                target=lambda: [peer.sendall(m) for m in scan_stream(point_scan(n=64, spokes=400))]
            )
            sender.start()
            source = source_of_socket(peer)
            seen["number"] = messages.U16.unpack(source.read(2))[0]
            seen["text"] = messages.read_item(seen["number"], source, Limits())
            seen["close"] = bytes(source.read(2))
            sender.join()

    ours, thread = serve(client)
    with ours, connect(ours, Limits()) as connection:
        next(connection.items())
        connection.fail("readout 3: no")
        connection.close()
    thread.join(5)
    assert seen == {"number": ids.ERROR, "text": messages.Text(ids.ERROR, "readout 3: no"), "close": messages.CLOSE}


def source_of_socket(sock):
    from koosh_gadgets.wire.source import SocketReceiver, Source

    return Source(SocketReceiver(sock, 5.0))
