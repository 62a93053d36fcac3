"""The unrolled network for a scan: by name or by card, loaded once and kept, or the reason why there is none."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.journal import Journal
from koosh_models.memory import ran_out

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.networks.unrolled import Unrolled
    from koosh_models.physics.problem import LinearProblem
    from koosh_models.scan import Scan
    from koosh_models.weights import Card

log = logging.getLogger(__name__)
TILE_BYTES = 2 << 30
SMALLEST = 64 << 20


class Unable(Exception):
    """Why a method can't run on this scan."""


@functools.lru_cache(maxsize=4)
def loaded(path: Path, device: str, _changed: int) -> tuple[Unrolled, Card]:
    """The network and card of a weights file, verified; read again only when the file has changed."""
    from koosh_models.weights import load

    return load(path, device)


def chosen(scan: Scan, settings: Settings) -> tuple[Unrolled, Card]:
    """The network named in the settings, or the newest that takes the scan."""
    from koosh_models.weights import choose, path_of

    try:
        name = settings.weights or choose(scan).name
        if name is None:
            raise Unable("; ".join(choose(scan).reasons))
        path = path_of(name)
        network, card = loaded(path, str(scan.kspace.device), path.stat().st_mtime_ns)
    except (ValueError, OSError) as error:
        raise Unable(str(error)) from error
    if (why := card.refuses(scan)) is not None:
        raise Unable(f"{card.name} does not take this scan: {why}")
    return network, card


def tile_bytes(scan: Scan, settings: Settings) -> int:
    """Memory for the activations of one tile: what the budget leaves beside images and kernel."""
    from koosh_gadgets.stages.budget import SMALLEST as LEAN
    from koosh_gadgets.stages.budget import peak, size_of

    if not settings.memory:
        return TILE_BYTES
    left = (settings.memory << 20) - peak(size_of(scan), "unrolled", LEAN)
    return min(TILE_BYTES, max(SMALLEST, left))


def solve(scan: Scan, problem: LinearProblem, settings: Settings, journal: Journal) -> Tensor:
    """The network's image; where memory runs out, on smaller and smaller tiles."""
    from koosh_models.reconstruction import unrolled

    network, card = chosen(scan, settings)
    memory = tile_bytes(scan, settings)
    while True:
        try:
            image = unrolled(problem, network, memory).image
            break
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error) or memory // 2 < SMALLEST:
                raise
            memory //= 2
            journal.note(f"memory ran out; the network goes on in tiles of {memory >> 20} MiB")
    journal.facts["koosh_weights"] = card.name
    journal.facts["koosh_weights_sha256"] = card.sha256
    return image
