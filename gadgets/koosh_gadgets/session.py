"""One conversation from its first item to its end: settings, pipeline, answers, errors."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from koosh_gadgets.pipeline import Job, Turn
from koosh_gadgets.settings import Folders, Settings, from_wire
from koosh_gadgets.stages.image import Format
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.wire.connection import Connection
from koosh_gadgets.wire.errors import Cut, TimedOut, WireError
from koosh_gadgets.wire.opening import GADGETRON

if TYPE_CHECKING:
    from koosh_gadgets.dicom.outbox import Outbox

log = logging.getLogger(__name__)
PRESETS: dict[str, dict[str, str]] = {
    "koosh": {},
    "koosh_3d": {},
    "koosh_l1": {"method": "l1"},
    "koosh_cg": {"method": "cg"},
    "koosh_gridding": {"method": "gridding"},
    "default": {},
    "openrecon": {},
}


@dataclass(frozen=True)
class Service:
    """What a server (or a launched gadget) gives every conversation.

    base     settings that a peer may change
    folders  where names from the wire are looked up
    presets  configurations that a peer may name, each with its own settings
    outbox   of the server's PACS; no peer can name one
    device   where reconstructions run
    """

    base: Settings = field(default_factory=Settings)
    folders: Folders = field(default_factory=Folders)
    presets: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: dict(PRESETS))
    turn: Turn = contextlib.nullcontext
    outbox: Outbox | None = None
    device: str = "auto"

    def settings(self, config: str, parameters: Mapping[str, str]) -> Settings:
        """The settings a peer asks for: a preset by name, then its own parameters."""
        name = config.removesuffix(".xml")
        if name and name not in self.presets:
            raise ValueError(f"no configuration {config[:64]!r}; known: {', '.join(sorted(self.presets))}")
        chosen = dict(self.presets.get(name, {}))
        return from_wire({**chosen, **parameters}, self.base, self.folders)


def converse(connection: Connection, service: Service, journal: Journal, since: float = 0.0) -> int:
    """Reconstruct what the peer sends; the number of images sent back. Every failure reaches the peer first.

    since  monotonic time at which the peer connected, 0 where that is not known
    """
    n, scan = 0, journal.scan
    try:
        items = connection.items()
        first = next(items, None)  # parameters may come after the header, before the first readout
        if since:
            journal.facts["koosh_first_item_ms"] = f"{1000 * (time.monotonic() - since):.1f}"
        settings = service.settings(connection.opening.config, connection.opening.parameters)
        form = Format("gadgetron" if connection.opening.dialect == GADGETRON else "mrd")
        job = Job(connection.opening.header, settings, journal, form, service.turn, service.outbox, service.device)
        stream = watched(itertools.chain([] if first is None else [first], items), connection, journal)
        with contextlib.closing(job.images(stream)) as images:
            for n, image in enumerate(images, 1):  # noqa: B007
                connection.send(image)
        connection.drain()
        connection.close()
        journal.outcome = "truncated" if journal.truncated else "reconstructed"
    except Exception as error:
        journal.outcome = "failed"
        log.error("%s: %s", scan, describe(error))
        connection.fail(f"koosh {scan}: {describe(error)}")
        connection.close()
        raise
    finally:
        journal.counts["images"] = n
        log.info("%s: %s", scan, journal.outcome, extra={"facts": journal.report()})
    return n


def watched(items: Iterable[object], connection: Connection, journal: Journal) -> Iterator[object]:
    """The items; silence ends the scan, which is reconstructed as far as it came and marked."""
    try:
        yield from items
    except TimedOut as error:
        journal.truncated = str(error)
    journal.truncated = journal.truncated or connection.truncated
    if journal.truncated:
        journal.note(f"the scan is truncated: {journal.truncated}")


def describe(error: BaseException) -> str:
    """An error as a sentence: our own words for bad input, the class as well for anything else."""
    text = " ".join(str(error).split())[:2000]
    if isinstance(error, Cut):
        return f"the peer left before the end of the scan ({text})"
    if isinstance(error, WireError | ValueError):
        return text
    return f"{type(error).__name__}: {text}"
