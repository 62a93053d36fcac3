"""What a peer says before its first readout, and which dialect that makes it speak."""

from __future__ import annotations

from dataclasses import dataclass, field

from koosh_gadgets.wire import ids, messages
from koosh_gadgets.wire.errors import Malformed
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.parameters import from_text
from koosh_gadgets.wire.source import Source

GADGETRON, MRD = "gadgetron", "mrd"


@dataclass
class Opening:
    """What a peer says before the first readout.

    dialect     `gadgetron`: Gadgetron's <external>;  `mrd`: MRD clients and FIRE
    config      name of a configuration (mrd), or ""
    parameters  names and values, all strings; an MRD client may add some as JSON text after the header
    header      the ISMRMRD header as it came
    """

    dialect: str
    config: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    header: bytes = b""


def open_stream(source: Source, limits: Limits) -> Opening | None:
    """Configuration and header; None where the peer closes before a header (a dependency query)."""
    number = _number(source)
    if number == ids.CLOSE:
        return None
    opening = read_config(number, source, limits)
    while (number := _number(source)) in (ids.TEXT, ids.QUERY, ids.DEPENDENCY_QUERY):
        messages.read_item(number, source, limits)
    if number == ids.CLOSE:
        return None
    if number != ids.HEADER:
        raise Malformed(f"message {number} where the header (3) was expected")
    opening.header = bytes(messages.sized(source, "the header", messages.U32, limits.header))
    return opening


def read_config(number: int, source: Source, limits: Limits) -> Opening:
    """The first message, which also tells the dialect."""
    if number == ids.CONFIG_FILE:
        raw = bytes(source.read(1024))
        if b"\0" not in raw:
            raise Malformed("the configuration name has no end within its 1024 bytes")
        return Opening(MRD, messages.decode(raw.split(b"\0", 1)[0], "the configuration name"))
    if number != ids.CONFIG_TEXT:
        raise Malformed(f"the first message is {number}; wanted a configuration (1 or 2)")
    text = messages.decode(messages.sized(source, "the configuration", messages.U32, limits.config), "configuration")
    gadgetron = not text.strip() or text.lstrip().startswith("<")
    config, parameters = from_text(text)
    return Opening(GADGETRON if gadgetron else MRD, config, parameters)


def _number(source: Source) -> int:
    return int(messages.U16.unpack(source.take(2))[0])
