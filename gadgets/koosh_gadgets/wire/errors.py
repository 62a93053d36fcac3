"""What can go wrong on the wire: every fault of a peer is one of these, and nothing else leaves this package."""


class WireError(ValueError):
    """A peer broke the protocol, or left."""


class Cut(WireError):
    """The stream ended before the close message."""


class TimedOut(WireError):
    """The peer sent nothing (or took nothing) for longer than the limit."""


class TooLarge(WireError):
    """A length on the wire exceeds its cap; nothing was allocated."""


class Malformed(WireError):
    """Bytes that mean nothing: an unknown message, a broken header, a text that is not text."""


class PeerError(WireError):
    """The peer itself reported a failure."""
