"""A PACS and how it is reached: associations, what it accepts, why it refuses."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from koosh_gadgets.dicom.gate import steady

SIZE = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
TAGS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# result source and reason of a permanent rejection (PS3.8, table 9-21)
REASONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not support the application context",
    (1, 3): "it does not know our AE title: register it there, or name another with --calling",
    (1, 7): "the called AE title is not its own: check --called",
    (2, 1): "it gives no reason",
    (2, 2): "it does not support the protocol version",
}


class Unreachable(OSError):
    """The archive isn't there, is busy or went away: trying again may help."""


class Refused(ValueError):
    """The archive answered and does not want it: trying again is no use before somebody changes something."""


@dataclass(frozen=True)
class Archive:
    """A PACS.

    called, calling   AE titles, at most 16 characters
    lanes             associations at a time: many archives take a fixed time for each object, whatever its size
    tls_ca            certificate authority of a PACS that speaks TLS
    timeout_s         wait for an answer
    """

    host: str
    port: int
    called: str
    calling: str = "KOOSH"
    lanes: int = 4
    tls_ca: Path | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536 or not self.host:
            raise ValueError(f"{self.host}:{self.port} is no address; wanted HOST:PORT")
        for title in (self.called, self.calling):
            if not title.strip() or len(title) > 16 or not title.isascii() or "\\" in title or not title.isprintable():
                raise ValueError(f"AE title {title!r}: wanted 1 to 16 printable ASCII characters without backslash")
        if self.lanes < 1 or self.timeout_s <= 0:
            raise ValueError(f"lanes {self.lanes} and timeout {self.timeout_s} s must be positive")

    @property
    def name(self) -> str:
        """For messages and journals."""
        return f"{self.called}@{self.host}:{self.port}"


def address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPv6]:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is no address; wanted HOST:PORT, such as 127.0.0.1:4242")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Item:
    """A file to send, and its names."""

    path: Path
    sop_class: str
    uid: str
    series: str
    study: str
    syntax: str


def item(path: Path) -> Item:
    """The names inside a DICOM file; a file that is none, or cut, is a ValueError."""
    try:
        data = pydicom.dcmread(path, specific_tags=[*TAGS, *SIZE, "PixelData"])
        values = [str(data[keyword].value) for keyword in TAGS]
        syntax = UID(str(data.file_meta.TransferSyntaxUID))
        wanted = math.prod(int(data.get(keyword) or 1) for keyword in SIZE) // 8 if "Rows" in data else 0
        if not syntax.is_compressed and len(data.get("PixelData", b"")) < wanted:
            raise EOFError(f"{len(data.get('PixelData', b''))} of {wanted} bytes of pixels")
    except (pydicom.errors.InvalidDicomError, KeyError, AttributeError, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is no whole DICOM file ({error}): write it again, or take it away") from error
    return Item(path, values[0], values[1], values[2], values[3], str(syntax))


@contextlib.contextmanager
def association(archive: Archive, contexts: Sequence[tuple[str, str]]) -> Iterator[Association]:
    """An open association for (SOP class, transfer syntax) pairs; released at the end, aborted on an error."""
    entity = AE(ae_title=archive.calling)
    for sop_class, syntax in dict.fromkeys(contexts):
        entity.add_requested_context(sop_class, syntax)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = archive.timeout_s
    entity.connection_timeout = min(10.0, archive.timeout_s)
    _config.STORE_SEND_CHUNKED_DATASET = True  # files go out byte for byte, and none is held in memory as a whole
    opened = entity.associate(
        archive.host,
        archive.port,
        ae_title=archive.called,
        max_pdu=0,
        tls_args=_tls(archive),
        evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
    )
    if not opened.is_established:
        raise _why(opened, archive)
    try:
        yield steady(opened)
    except BaseException:
        opened.abort()
        raise
    opened.release()


def _tls(archive: Archive) -> tuple[ssl.SSLContext, str] | None:
    if archive.tls_ca is None:
        return None
    return ssl.create_default_context(cafile=str(archive.tls_ca)), archive.host


def _without_delay(event: evt.Event) -> None:
    """Small commands go out at once, not when the answer to the last one has been acknowledged."""
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _why(opened: Association, archive: Archive) -> Unreachable | Refused:
    """The error that tells how the association failed."""
    answer = opened.acceptor.primitive
    if opened.is_rejected and answer is not None:
        source, reason = answer.result_source, answer.diagnostic
        if answer.result == 1:
            return Refused(f"{archive.name} rejects us: {REASONS.get((source, reason), f'reason {source}/{reason}')}")
        return Unreachable(f"{archive.name} is busy: it rejects the association for now ({source}/{reason})")
    if opened.rejected_contexts:
        return Refused(
            f"{archive.name} accepts none of {sorted({c.abstract_syntax.name for c in opened.rejected_contexts})}"
        )
    return Unreachable(f"{archive.name} can't be reached: {_knock(archive)}")


def _knock(archive: Archive) -> str:
    """Why not: the result of an association that failed doesn't tell."""
    try:
        socket.create_connection((archive.host, archive.port), min(10.0, archive.timeout_s)).close()
    except OSError as error:
        return f"{error.strerror or error}; is it running, and are host and port right?"
    return "it takes connections but answers no association; is it a DICOM port, and does it speak TLS or not?"
