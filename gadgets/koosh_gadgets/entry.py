"""Targets of Gadgetron's <execute>: `python -m gadgetron PORT koosh_gadgets.entry TARGET` calls one of these."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ismrmrd

from koosh_gadgets.settings import Folders, Settings, from_wire
from koosh_gadgets.wire import ids
from koosh_gadgets.wire.connection import Connection
from koosh_gadgets.wire.framing import SocketOutput
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.messages import script
from koosh_gadgets.wire.opening import GADGETRON, Opening
from koosh_gadgets.wire.parameters import from_text
from koosh_gadgets.wire.readouts import Readouts
from koosh_gadgets.wire.source import SocketReceiver, Source, watch

log = logging.getLogger(__name__)
Stage = Callable[[Iterable[object], Settings, bytes], Iterator[object]]


def take_over(launched: Any) -> Connection:
    """Our own conversation on the launcher's socket, from which configuration and header have been read, no more.

    The launcher (the `gadgetron` package) sends the close message itself when its target returns.
    """
    sock, limits = launched.socket.socket, Limits()
    watch(sock)
    config, header = bytes(launched.raw_bytes.config or b""), bytes(launched.raw_bytes.header)
    opening = Opening(GADGETRON, "", from_text(config.decode("utf-8", "replace"))[1], header)
    source = Source(SocketReceiver(sock, limits.idle_s))
    connection = Connection(opening, source, SocketOutput(sock, limits.send_s), limits)
    connection.closes = False
    return connection


def koosh(launched: Any) -> None:
    """The whole reconstruction: readouts in, images out; spooled where the site's configuration names a spool."""
    from koosh_gadgets.config import load
    from koosh_gadgets.session import converse
    from koosh_gadgets.spool import new_name
    from koosh_gadgets.stages.journal import Journal
    from koosh_models import memory

    configuration, name = load(), new_name()
    memory.volunteer()  # of this process and the Gadgetron that started it, this is the one to lose
    with take_over(launched) as connection:
        if configuration.spool is None:
            converse(connection, configuration.service(), Journal(name))
            return
        recording = configuration.spool.begin(name)
        recording.message(script(ids.CONFIG_TEXT, ""))
        recording.message(script(ids.HEADER, connection.opening.header))
        connection.listener = recording.message
        try:
            n = converse(connection, configuration.service(), Journal(name))
            recording.end(True)
            recording.delivered(n)
        finally:
            recording.close()


def whiten(launched: Any) -> None:
    """Readouts in, white readouts out."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.pipeline import noise_bandwidth
        from koosh_gadgets.stages.journal import Journal
        from koosh_gadgets.stages.whiten import whiten as run
        from koosh_gadgets.wire.header import read_header

        return run(items, Journal(), settings.noise_adjusted, noise_bandwidth(read_header(header)))

    gadget(launched, stage)


def compress(launched: Any) -> None:
    """Readouts in, readouts in fewer virtual coils out (parameter `coils`)."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.stages.compress import compress as run
        from koosh_gadgets.stages.journal import Journal

        return run(items, Journal(), settings.coils)

    gadget(launched, stage)


def trajectory(launched: Any) -> None:
    """Readouts in, readouts with their trajectory in cycles per voxel out."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.stages.encoding import encodings
        from koosh_gadgets.stages.journal import Journal
        from koosh_gadgets.stages.trajectory import with_trajectory
        from koosh_gadgets.wire.header import read_header

        return with_trajectory(items, encodings(read_header(header)), settings, Journal())

    gadget(launched, stage)


def buffer(launched: Any) -> None:
    """Readouts in, one bucket per volume out: sorted, each readout once, with its trajectory."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.pipeline import Job
        from koosh_gadgets.stages.volume import as_bucket

        plain = dataclasses.replace(settings, preview=False, noise_adjusted=True)
        return map(as_bucket, Job(header, plain).volumes(items))

    gadget(launched, stage)


def reconstruct(launched: Any) -> None:
    """Readouts or buckets in, complex volumes out, for gadgets that go on with them."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.pipeline import Job
        from koosh_gadgets.stages.image import Format

        job = Job(header, dataclasses.replace(settings, complex=True), form=Format("gadgetron"), device="auto")
        return (image for image in job.images(items) if image.image_type == ismrmrd.IMTYPE_COMPLEX)

    gadget(launched, stage)


def images(launched: Any) -> None:
    """Complex images in, scaled magnitude (and phase, complex) images out."""

    def stage(items: Iterable[object], settings: Settings, header: bytes) -> Iterator[object]:
        from koosh_gadgets.stages.image import rescaled

        kinds = ("magnitude", *(k for k in ("phase", "complex") if getattr(settings, k)))
        for item in items:
            if isinstance(item, ismrmrd.Image):
                yield from rescaled(item, kinds)
            else:
                yield item

    gadget(launched, stage)


def gadget(launched: Any, stage: Stage) -> None:
    """Run one stage between the launcher's input and output; failures reach Gadgetron before they are raised."""
    from koosh_gadgets.config import load
    from koosh_gadgets.session import describe

    with take_over(launched) as connection:
        try:
            configuration = load()
            settings = from_wire(connection.opening.parameters, configuration.settings, Folders())
            for item in stage(connection.items(), settings, connection.opening.header):
                for part in item.acquisitions() if isinstance(item, Readouts) else (item,):
                    connection.send(part)
        except Exception as error:
            connection.fail(f"koosh {stage.__qualname__.split('.')[0]}: {describe(error)}")
            raise
