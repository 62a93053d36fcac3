"""What the images of a volume say about themselves beside their pixels, and whether they can be made at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.prepared import EPS
from koosh_gadgets.stages.reconstruct import Outcome, device_of
from koosh_gadgets.stages.volume import Volume, label
from koosh_gadgets.wire.readouts import BLOCK
from koosh_models.memory import peak

if TYPE_CHECKING:
    from koosh_models.scan import Scan

WEIGHTS = ("koosh_weights", "koosh_weights_sha256")  # facts of the network's own images only


def meta(volume: Volume, outcome: Outcome, scan: Scan, asked: str, device: str, journal: Journal) -> dict[str, str]:
    """Provenance: only what does not change from run to run belongs to the pixels, the rest is for readers."""
    n = volume.data.shape[1]
    found = {
        "koosh_method": outcome.method,
        "koosh_asked": asked,
        "koosh_volume": label(volume.key),
        "koosh_readouts": f"{n} of {volume.expected}" if volume.expected is not None else str(n),
        "koosh_complete": str(not (volume.missing or journal.truncated or volume.preview)).lower(),
        "koosh_notes": "; ".join(journal.notes),
        "koosh_seconds": journal.times(),
        "koosh_plan": plan(device, journal.facts.get("koosh_group", "4")),
        "koosh_acceleration": acceleration(scan),
        "koosh_memory": f"{peak_memory()} MiB at the process's peak",
        **outcome.facts,
        **{k: v for k, v in journal.facts.items() if outcome.method == "unrolled" or k not in WEIGHTS},
    }
    if outcome.reason:
        found["koosh_fallback"] = outcome.reason
    if journal.truncated:
        found["koosh_truncated"] = journal.truncated
    return found


def acceleration(scan: Scan) -> str:
    """R as a reader of the image wants it, in three digits."""
    from koosh_models.weights.describe import describe

    return f"{describe(scan).acceleration:.3g}"


def peak_memory() -> int:
    """MiB that this process has held at most."""
    return peak() >> 20


def plan(device: str, group: str) -> str:
    """What the bits of the image depend on beside data and settings."""
    import torch

    from koosh_models.physics import engines

    where = device_of(device)
    threads = torch.get_num_threads()
    work = f"coil groups of {group}, {threads} threads, blocks of {BLOCK}"
    return f"{where}, {engines.choose(where)}, eps {EPS:g}, {work}"
