"""Cardiac phases of a slice as one series: common coil maps, common scale, networks over space and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings, ladder
from koosh_gadgets.stages.budget import peak, size_of
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.network import Unable, chosen
from koosh_gadgets.stages.reconstruct import Outcome, sentence
from koosh_gadgets.stages.volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.scan import Scan

PHASE = 3  # place of the phase in a volume's key


def joined(volumes: Iterable[Volume], solid: bool = False) -> Iterator[tuple[Volume, ...]]:
    """Volumes one by one, the phases of a slice together once all have come (or the scan has ended).

    solid  the phases of 3D volumes as well, which takes as many times the memory
    """
    waiting: dict[tuple[int, ...], list[Volume]] = {}
    for volume in volumes:
        phases = volume.encoding.phases
        if volume.preview or phases < 2 or (volume.encoding.n_axes != 2 and not solid):
            yield (volume,)
            continue
        rest = (*volume.key[:PHASE], *volume.key[PHASE + 1 :])
        group = waiting.setdefault(rest, [])
        group.append(volume)
        if len(group) == phases:
            yield from together(waiting.pop(rest))
    for group in waiting.values():
        yield from together(group)


def together(group: list[Volume]) -> Iterator[tuple[Volume, ...]]:
    """One series in the order of its phases; frames of unlike size stay apart."""
    ordered = sorted(group, key=lambda v: v.key[PHASE])
    if len({v.data.shape for v in ordered}) == 1:
        yield tuple(ordered)
    else:
        yield from ((v,) for v in ordered)


def stacked(scans: list[Scan]) -> Scan:
    """The scan of a series from those of its frames."""
    import torch

    from koosh_models.scan import Scan

    first = scans[0]
    return Scan(
        torch.stack([s.kspace for s in scans]), torch.stack([s.omega for s in scans]), first.geometry, first.readout
    )


def reconstruct_series(scan: Scan, settings: Settings, journal: Journal) -> Outcome:
    """(frame, y, x) or (frame, z, y, x) by the first method of the ladder that succeeds."""
    import torch

    from koosh_models.reconstruction import calibrate, with_weights

    with journal.timed("density weights"):
        scan = with_weights(scan)
    with journal.timed("coil maps"):
        maps = calibrate(scan)
    reasons: list[str] = []
    for method in ladder(settings.method, series=True):
        try:
            with journal.timed(f"solve {method}"), torch.no_grad():
                volume = solved(scan, maps, method, settings, journal)
            if not bool(torch.isfinite(torch.view_as_real(volume)).all()):
                raise Unable("its image is not finite")
        except (Unable, MemoryError, ArithmeticError, RuntimeError) as error:
            reasons.append(f"{method}: {sentence(error)}")
            continue
        if reasons:
            journal.note(f"{method} stands in for {settings.method} ({'; '.join(reasons)})")
        return Outcome(volume, method, "; ".join(reasons))
    raise RuntimeError(f"no method could reconstruct the series: {'; '.join(reasons)}")


def solved(scan: Scan, maps: CoilMaps, method: str, settings: Settings, journal: Journal) -> Tensor:
    """The series by one method: a network and `llr` see all frames at once, the others one by one."""
    from koosh_models.physics.mri import dynamic
    from koosh_models.reconstruction import reconstruct, unrolled
    from koosh_models.support import box_around, boxed_maps, boxed_scan

    together = (scan.n_frames or 1) if method in ("unrolled", "llr") else 1
    needed = together * peak(size_of(scan.frame(0)), "l1")
    if settings.memory and needed > settings.memory << 20:
        raise Unable(f"{needed >> 20} MiB of memory needed, {settings.memory} MiB allowed")
    if method != "unrolled":
        return reconstruct(scan, method, maps).volume
    network, card = chosen(scan, settings)
    box = box_around(maps.mask)
    problem = dynamic(boxed_scan(scan, box), boxed_maps(maps.maps, box))
    journal.facts["koosh_weights"], journal.facts["koosh_weights_sha256"] = card.name, card.sha256
    return box.embed(unrolled(problem, network).image)
