"""Peers and bytes that mean harm, for tests and for `python -m benchmarks.reliability`."""

from __future__ import annotations

import random
import socket
import struct
import threading

import ismrmrd

from koosh_gadgets.wire import ids
from koosh_gadgets.wire.header import read_header
from koosh_gadgets.wire.limits import Limits
from tests.fakes.pipes import connection_of
from tests.fakes.streams import header_xml, noise_readout, point_scan, readout, scan_stream

NAMES = (
    "../../x", "/etc/passwd", "os.path", "koosh_gadgets.cli", "a\0b", "..", ".", "~", "%2e%2e/x",
    "koosh_3d.xml/../../x", "\\\\host\\share", "x" * 1023, "__import__('os')", "$HOME", "file:///etc/passwd",
)  # fmt: skip

GIANTS = {
    "text": struct.pack("<HI", ids.TEXT, 0xFFFFFFF0),
    "error": struct.pack("<HQ", ids.ERROR, 1 << 40),
    "array": struct.pack("<HQ", ids.RECON_DATA, 1) + struct.pack("<QQ", 1, 1 << 40),
    "axes": struct.pack("<HQ", ids.RECON_DATA, 1) + struct.pack("<Q", 1 << 31),
    "overflow": struct.pack("<HQ", ids.IMAGE_ARRAY, 4) + struct.pack("<4Q", 1 << 63, 1 << 63, 0, 1),
    "bucket": struct.pack("<H13Q", ids.BUCKET, *[1 << 31] * 13),
}


def drip(port: int, stop: threading.Event) -> None:
    """A client at 10 bytes a second and less."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for byte in b"".join(scan_stream()):
            if stop.wait(0.1):
                return
            try:
                sock.send(bytes([byte]))
            except OSError:
                return


def disordered() -> tuple[list[ismrmrd.Acquisition], list[ismrmrd.Acquisition]]:
    """A scan of noise and 100 spokes, and the same shuffled after the noise with five spokes twice."""
    scan = [noise_readout(0), *point_scan(spokes=100, noise=0.01)]
    for number, a in enumerate(scan):
        a.scan_counter = number
    mixed = scan[1:] + copies(scan[40:45])
    random.Random(1).shuffle(mixed)
    return scan, [scan[0], *mixed]


def giant(name: str) -> bytes:
    """A message that claims gigabytes."""
    if name == "image":
        head = ismrmrd.ImageHeader()
        head.data_type, head.channels, head.matrix_size[:] = 7, 1, (65535, 65535, 64)
        return struct.pack("<H", ids.IMAGE) + bytes(head) + struct.pack("<Q", 0)
    return GIANTS[name]


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Flip, drop, insert or repeat a few bytes, or cut the end."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(out))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif kind == 2:
            del out[at : at + rng.randint(1, 400)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randint(1, 400)]
        else:
            out[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 31)])
    return bytes(out[: rng.randrange(len(out))] if rng.random() < 0.2 else out)


def consume(raw: bytes, limits: Limits) -> None:
    """Read a whole stream as a conversation would; only our own errors may come out."""
    connection = connection_of(raw, limits)
    if connection is not None:
        read_header(connection.opening.header)
        for _ in connection.items():
            pass


def copies(items: list[ismrmrd.Acquisition]) -> list[ismrmrd.Acquisition]:
    """The same readouts, to be changed."""
    return [ismrmrd.Acquisition(a.getHead(), a.data.copy(), a.traj.copy()) for a in items]


WRONG = {
    "no trajectory": (lambda s: [readout(3, s[3].data)], "readout 3: trajectory_dimensions is 0"),
    "2D": (lambda s: [readout(3, s[3].data, s[3].traj[:, :2])], "readout 3: trajectory_dimensions is 2"),
    "range": (lambda s: [*s[:4], readout(4, s[4].data, s[4].traj * 3)], "readout 4: its trajectory reaches"),
    "coils": (lambda s: [*s[:4], readout(4, s[4].data[:2], s[4].traj)], "readout 4: active_channels is 2"),
    "samples": (
        lambda s: [*s[:4], readout(4, s[4].data[:, :9], s[4].traj[:9])],
        "readout 4: number_of_samples is 9",
    ),
    "unit": (lambda s: [readout(3, s[3].data, s[3].traj / 7)], "readout 3: .*trajectory_unit"),
    "encoding": (
        lambda s: [readout(3, s[3].data, s[3].traj, encoding_space_ref=4)],
        "readout 3: encoding_space_ref is 4",
    ),
    "discard": (
        lambda s: [readout(3, s[3].data, s[3].traj, discard_pre=9, discard_post=9)],
        "readout 3: discard_pre 9",
    ),
    "noise coils": (lambda s: [noise_readout(0, coils=2), *s], "readout 0: active_channels is 3"),
    "only noise": (lambda s: [noise_readout(0)], "no imaging readout in the stream"),
    "nothing": (lambda s: [], "no imaging readout in the stream"),
}


def wrong(name: str) -> tuple[list[ismrmrd.Acquisition], str, dict[str, str]]:
    """(readouts, what must be said, settings) of a scan with something wrong in it."""
    make, message = WRONG[name]
    return make(point_scan()), message, {"trajectory_unit": "cycles/voxel"} if name == "range" else {}


CANARY = "Doe^Canary4711"


def canary_header() -> str:
    """A header whose every free text is the same name, which must turn up nowhere."""
    who = f"<patientName>{CANARY}</patientName><patientID>{CANARY}</patientID>"
    study = f"<studyInformation><studyInstanceUID>{CANARY}</studyInstanceUID></studyInformation>"
    subject = f"<subjectInformation>{who}</subjectInformation>{study}"
    more = (
        f"<userParameters><userParameterString><name>{CANARY}</name><value>{CANARY}</value></userParameterString>"
        "</userParameters>"
    )
    xml = header_xml(extra=more).replace("<measurementInformation>", f"{subject}<measurementInformation>")
    return xml.replace("<measurementID>scan-1<", f"<measurementID>{CANARY}<").replace(
        "</patientPosition>", f"</patientPosition><protocolName>{CANARY}</protocolName>"
    )
