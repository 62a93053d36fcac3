"""Corners of the wire that well-behaved peers seldom reach."""

import socket
import struct
import threading

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.wire import arrays, ids, messages
from koosh_gadgets.wire.connection import answer, connect
from koosh_gadgets.wire.errors import Cut, Malformed, TimedOut, TooLarge
from koosh_gadgets.wire.framing import SocketOutput, drain, frames
from koosh_gadgets.wire.header import read_header
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import open_stream
from koosh_gadgets.wire.readouts import blocks, gather
from koosh_gadgets.wire.source import BUFFER, SocketReceiver, Source, watch
from tests.fakes.pipes import connection_of, source_of
from tests.fakes.streams import header_xml, message, noise_readout, opening, point_scan, scan_stream

WAVE = ismrmrd.Waveform.from_array(np.arange(4, dtype=np.uint32).reshape(1, 4))


def test_a_listener_hears_every_message_and_questions_are_answered():
    stream = scan_stream([noise_readout(0), WAVE], name="koosh")
    stream.insert(3, struct.pack("<HQQQ", ids.QUERY, 0, 7, 4) + b"info")
    stream.insert(4, b"".join(messages.text(ids.TEXT, "hello")))
    connection, heard = connection_of(b"".join(stream)), []
    connection.listener = lambda raw: heard.append(bytes(raw))
    assert len(list(connection.items())) == 2
    assert heard == stream[2:]
    assert bytes(connection.output.raw) == b"".join(messages.response(messages.Query(7, "info"), answer("info")))
    assert answer("what?") == "unsupported"


def test_notes_and_failures_are_told_in_the_peers_dialect():
    for name, kind in (("koosh", ids.TEXT), (None, ids.ERROR)):
        connection = connection_of(b"".join(scan_stream(point_scan()[:3], name=name)))
        connection.tell("queued")
        connection.fail("no")
        connection.drain()  # a second time there is nothing left
        connection.closes = False
        connection.close()
        told = messages.text(ids.TEXT, "queued") if name else []
        assert bytes(connection.output.raw) == b"".join([*told, *messages.text(kind, "no")])


def test_a_reader_in_another_thread_is_not_drained_from_under_its_hands():
    connection = connection_of(b"".join(scan_stream(point_scan()[:3])), Limits(drain_s=0.05))
    with connection._reading:
        connection.drain()
    assert not connection.ended


def test_draining_ends_at_its_bounds():
    many = b"".join(scan_stream(point_scan())[2:])
    source = source_of(many)
    drain(source, Limits(drain=1))
    assert not source.at_end()
    source = source_of(b"\x17\x17" + bytes(3_000_000))
    drain(source, Limits(drain=100))
    assert not source.at_end()
    source = source_of(many[:-2])
    drain(source, Limits())
    assert source.at_end()


def test_frames_keep_openings_whole():
    stream = [*opening(header_xml(), name="koosh"), *opening(header_xml()), messages.CLOSE]
    assert [bytes(raw) for _, raw in frames(source_of(b"".join(stream)), Limits())] == stream


def test_the_stream_may_close_or_ask_before_its_header():
    assert open_stream(source_of(messages.CLOSE), Limits()) is None
    question = struct.pack("<HQQQ", ids.QUERY, 0, 7, 4) + b"info"
    found = open_stream(
        source_of(b"".join([messages.config_file("koosh"), question, opening(header_xml())[1]])), Limits()
    )
    assert found.config == "koosh"
    with pytest.raises(Malformed, match="first message is 3"):
        open_stream(source_of(opening(header_xml())[1]), Limits())
    with pytest.raises(Malformed, match="where the header"):
        open_stream(source_of(messages.config_file("koosh") + message(WAVE)), Limits())


def test_a_dependency_query_over_a_socket_is_no_conversation():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(messages.config_file("koosh") + messages.CLOSE)
        assert connect(ours, Limits()) is None


def test_large_and_small_pieces_arrive_in_order_and_a_peer_that_takes_nothing_is_given_up():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output, parts, got = SocketOutput(ours, 5.0), [b"a", b"b" * 200_000, b"c"], bytearray()

        def read() -> None:
            while len(got) < 200_002:
                got.extend(theirs.recv(1 << 16))

        reader = threading.Thread(target=read)
        reader.start()
        output.send(parts)
        reader.join(10)
        assert bytes(got) == b"".join(parts)
        output.close()
        slow = SocketOutput(ours, 0.05)
        with pytest.raises(TimedOut, match="took no data"):
            slow.send([bytes(50_000_000)])
        theirs.close()
        with pytest.raises(Cut, match="gone"):
            slow.send([b"x" * 100_000])
        slow.close()


def test_messages_across_the_end_of_the_buffer_are_whole():
    many = [message(a) for a in point_scan(n=64, spokes=700)]
    source = source_of(b"".join(many))
    assert sum(map(len, many)) > 2 * BUFFER // 2
    for raw in many:
        assert bytes(source.take(len(raw))) == raw


def test_a_large_message_takes_what_is_buffered_first_and_the_rest_directly():
    raw = np.random.default_rng(0).bytes(3 * BUFFER)
    source = source_of(raw)
    source.peek(10)
    assert bytes(source.take(2 * BUFFER)) == raw[: 2 * BUFFER]
    with pytest.raises(Cut, match="short of"):
        source.read(2 * BUFFER)


def test_a_reset_is_a_cut():
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours:
        watch(ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with pytest.raises(Cut, match="gone"):
            Source(SocketReceiver(ours, 5.0)).read(4)


def test_a_single_acquisition_an_integer_image_and_an_answer_are_read():
    one = point_scan()[0]
    assert messages.read_acquisition(source_of(message(one)[2:]), Limits()) == one
    head = ismrmrd.ImageHeader()
    head.data_type, head.channels, head.matrix_size[:] = 4, 1, (2, 1, 1)
    raw = bytes(head) + struct.pack("<Q", 0) + struct.pack("<2i", -5, 7)
    assert messages.read_image(source_of(raw), Limits()).data.ravel().tolist() == [-5, 7]
    head.data_type = 99
    with pytest.raises(Malformed, match="data type 99"):
        messages.read_image(source_of(bytes(head) + bytes(8)), Limits())
    raw = struct.pack("<QQ", 1, 2) + b"ok"
    assert messages.read_response(source_of(raw), Limits()) == messages.Text(ids.RESPONSE, "ok")
    assert b"".join(messages.serialise(messages.Text(ids.TEXT, "a"))) == b"".join(messages.text(ids.TEXT, "a"))
    with pytest.raises(Malformed, match="meta XML"):
        messages.read_meta("<a><b></a>")


def test_names_too_long_and_things_without_a_message_are_refused():
    with pytest.raises(ValueError, match="1024 bytes, at most 1023"):
        messages.config_file("x" * 1024)
    with pytest.raises(TypeError, match="int has no message"):
        arrays.write(3, bytearray().extend)


def test_lengths_inside_composite_items_are_capped():
    small = Limits(waveform=8, meta=3, array=4000)
    with pytest.raises(TooLarge, match="waveform"):
        arrays.read_waveform_body(source_of(b""), WAVE.getHead(), small)
    images = arrays.ImageArray(
        np.ones((1,) * 7, np.complex64), np.zeros((1, 1, 1), np.dtype(ismrmrd.ImageHeader)), ["<abc/>"]
    )
    with pytest.raises(TooLarge, match="attributes"):
        arrays.read_image_array(source_of(message(images)[2:]), small)
    with pytest.raises(TooLarge, match="bucket"):
        arrays.read_bucket(source_of(message(arrays.Bucket(point_scan(), []))[2:]), small)
    with pytest.raises(TooLarge, match="bucket"):
        arrays.read_acquisitions(source_of(b"".join(bytes(a.getHead()) for a in point_scan())), 64, small)


def test_blocks_change_their_data_coils_and_trajectory():
    block = gather(point_scan()[:5])
    fewer = block[:2].with_data(block.data[:2, :1])
    assert fewer.heads["active_channels"].tolist() == [1, 1]
    assert block.with_data(2 * block.data).heads is block.heads
    assert block.with_trajectory(block.trajectory[..., :2]).heads["trajectory_dimensions"].tolist() == [2] * 5
    assert [len(b) for b in blocks([*point_scan()[:3], WAVE]) if b is not WAVE] == [3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<encoding>", "<!--", "no XML"),
        ("<matrixSize><x>16</x><y>16</y><z>16</z></matrixSize>", "", "matrix size|no valid"),
    ],
)
def test_headers_without_their_essentials_are_refused(old, new, message):
    with pytest.raises(Malformed, match=message):
        read_header(header_xml().replace(old, new, 1))


def test_a_header_without_encoding_or_with_a_hundred_is_refused():
    xml = header_xml()
    start, end = xml.index("<encoding>"), xml.index("</encoding>") + len("</encoding>")
    with pytest.raises(Malformed, match=r"no encoding|no valid"):
        read_header(xml[:start] + xml[end:])
    with pytest.raises(Malformed, match="100 encodings"):
        read_header(xml[:start] + 100 * xml[start:end] + xml[end:])
