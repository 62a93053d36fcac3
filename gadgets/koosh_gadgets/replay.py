"""A recorded scan through the same stages as at the scanner, here or on a server: what `koosh replay` does."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import ismrmrd

from koosh_gadgets import settings as parameters
from koosh_gadgets.atomic import write_atomic
from koosh_gadgets.client import Request, send_scan
from koosh_gadgets.config import load
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_gadgets.spool import Recorded, is_recording
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.connection import Connection
from koosh_gadgets.wire.errors import WireError
from koosh_gadgets.wire.framing import Parts
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.opening import MRD, Opening, open_stream
from koosh_gadgets.wire.source import from_file

log = logging.getLogger(__name__)
Opened = tuple[bytes, Iterator[object], Journal, Settings]  # header, items, what is said, what was asked for


def reconstruct(arguments: argparse.Namespace) -> int:
    """Images, made here or elsewhere, where they are wanted."""
    if arguments.address:
        return elsewhere(arguments)
    with opened(arguments) as (header, items, journal, asked):
        job = Job(header, parameters.from_arguments(arguments, asked), journal, device=arguments.device)
        return deliver(arguments.out, header, job.images(items, depth=1), arguments.out_group) or failed(job)


def opened(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Opened]:
    """The scan that was named, wherever it comes from."""
    if arguments.scan == "-":
        return contextlib.nullcontext(open_stdin(sys.stdin.buffer))
    return open_recorded(Path(arguments.scan), arguments.in_group)


def failed(job: Job) -> int:
    """1 where the DICOM files that were asked for could not be written, which the log has explained."""
    return int(job.delivery is not None and bool(job.delivery.problem))


@contextlib.contextmanager
def open_recorded(path: Path, group: str | None = None) -> Iterator[Opened]:
    """(header, items, journal, settings) of an ISMRMRD file, or of a spooled scan with what its peer asked for."""
    journal = Journal(path.name)
    if path.is_file() and is_recording(path):
        connection = recorded_connection(path)
        items = recorded_items(connection, journal)
        first = list(itertools.islice(items, 1))  # parameters may come after the header, before the first readout
        asked = load().service().settings(connection.opening.config, connection.opening.parameters)
        yield connection.opening.header, itertools.chain(first, items), journal, asked
        return
    from koosh_gadgets.supervised import scan_in_child

    with scan_in_child(path, group) as (header, read):
        yield header, read, journal, Settings()


def recorded_connection(path: Path) -> Connection:
    """A spooled scan as a conversation that nobody answers."""
    source = Recorded(path).source()
    try:
        opening = open_stream(source, Limits())
    except WireError as error:
        raise ValueError(f"{path.name} ends before its header: {error}") from error
    if opening is None:
        raise ValueError(f"{path.name} holds no scan: the peer only asked and closed")
    return Connection(opening, source, Silent(), Limits())


def recorded_items(connection: Connection, journal: Journal) -> Iterator[object]:
    """The items up to where the recording ends, which the journal is told if that is not the scan's end."""
    try:
        yield from connection.items()
    except WireError as error:
        journal.truncated = f"the recording ends before the end of the scan ({error})"
        journal.note(journal.truncated)


class Silent:
    """An output for nobody."""

    def send(self, parts: Parts) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def deliver(out: str, header: bytes, images: Iterable[ismrmrd.Image], group: str = "dataset") -> int:
    """Images to a file, whole or absent, or as an MRD stream to stdout."""
    if out == "-":
        put = sys.stdout.buffer
        for image in images:
            put.writelines(messages.serialise(image))
        put.write(messages.CLOSE)
        put.flush()
        return 0
    from koosh_gadgets.files import write_images

    n = write_images(Path(out), images, header, group)
    sys.stdout.write(f"{n} images written to {out}\n")
    return 0


def open_stdin(raw: BinaryIO) -> Opened:
    """An MRD stream, with or without a configuration before the header; options given go before its parameters."""
    source, journal = from_file(raw), Journal("stdin")
    number = messages.U16.unpack(source.peek(2))[0]
    if number == ids.HEADER:
        source.take(2)
        header = bytes(messages.sized(source, "the header", messages.U32, Limits().header))
        opening: Opening | None = Opening(MRD, header=header)
    else:
        opening = open_stream(source, Limits())
    if opening is None:
        raise ValueError("the stream on stdin ends before a header")
    items = Connection(opening, source, Silent(), Limits()).items()
    first = list(itertools.islice(items, 1))  # parameters may come after the header, before the first readout
    asked = parameters.from_wire(opening.parameters, Settings(), load().folders)
    return opening.header, itertools.chain(first, items), journal, asked


def elsewhere(arguments: argparse.Namespace) -> int:
    """Send the scan to a server and keep what it answers."""
    given = {n: getattr(arguments, n) for n in parameters.names() if getattr(arguments, n, None) is not None}
    config = arguments.config_local or arguments.config
    request = Request(arguments.address, arguments.port, config, arguments.rate, arguments.wait)
    if arguments.config_local and not Path(config).is_file():
        raise ValueError(f"the configuration file {config} does not exist")
    with opened(arguments) as (header, items, *_):
        answer = send_scan(request, header, items, json.dumps(given) if given else "")
    for named in answer.dicom:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", named.name).removesuffix(".dcm").strip(".")[-100:] or "image"
        write_atomic(Path(arguments.out).with_name(f"{name}.dcm"), named.content)
    if not answer.images:
        sys.stdout.write(f"{len(answer.dicom)} DICOM objects written beside {arguments.out}\n")
        return 0
    return deliver(arguments.out, header, answer.images, arguments.out_group)
