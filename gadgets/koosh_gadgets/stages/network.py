"""The unrolled network for a scan: by name or by card, loaded once and kept, or the reason why there is none."""

from __future__ import annotations

import functools
import logging
import math
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


def tile_bytes(scan: Scan, problem: LinearProblem, settings: Settings) -> int:
    """Memory for the activations of one tile: what is usual, and no more than the budget leaves beside the rest."""
    from koosh_gadgets.stages.budget import SMALLEST_TILE, Size, needs
    from koosh_models.reconstruction import MEMORY

    usual = MEMORY.get(problem.device.type, MEMORY["cuda"])
    if not settings.memory:
        return usual
    size = Size(math.prod(scan.geometry.matrix), math.prod(problem.shape), scan.n_coils, int(scan.omega.shape[-1]))
    left = (settings.memory << 20) - needs(size, "unrolled")["solve unrolled"] + SMALLEST_TILE
    return min(usual, max(SMALLEST_TILE, left))


def solve(scan: Scan, problem: LinearProblem, settings: Settings, journal: Journal) -> Tensor:
    """The network's image; where memory runs out, on smaller and smaller tiles."""
    from koosh_gadgets.stages.budget import SMALLEST_TILE
    from koosh_models.reconstruction import unrolled

    network, card = chosen(scan, settings)
    memory = tile_bytes(scan, problem, settings)
    while True:
        try:
            image = unrolled(problem, network, memory).image
            break
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error) or memory // 2 < SMALLEST_TILE:
                raise
            memory //= 2
            journal.note(f"memory ran out; the network goes on in tiles of {memory >> 20} MiB")
    journal.facts["koosh_weights"] = card.name
    journal.facts["koosh_weights_sha256"] = card.sha256
    return image
