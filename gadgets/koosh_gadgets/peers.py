"""Who may connect."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks of an allow-list: addresses or prefixes such as 10.0.0.0/8."""
    try:
        return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts)
    except ValueError as error:
        raise ValueError(
            f"the allow-list holds no network: {error}; wanted addresses or prefixes like 10.0.0.0/8"
        ) from None


def allowed(address: str, known: tuple[Network, ...]) -> bool:
    """Whether a peer's address is on the list; loopback always is, and everybody where there is no list."""
    peer = ipaddress.ip_address(address.partition("%")[0])
    peer = getattr(peer, "ipv4_mapped", None) or peer
    return not known or peer.is_loopback or any(peer in network for network in known)


def is_loopback(address: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
