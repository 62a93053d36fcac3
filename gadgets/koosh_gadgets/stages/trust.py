"""Further series of a volume that show where it is doubtful, made once its images are on their way.

What keeps a map from being made (memory, time, a method that fails on parts of the data) is said, and costs no image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.budget import CUTS, beside_parts, doubt, size_of
from koosh_gadgets.stages.calibrate import evened
from koosh_gadgets.stages.grid import Grid, cropped
from koosh_gadgets.stages.image import Result, brightness
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.network import Unable
from koosh_gadgets.stages.reconstruct import Calibrated, Outcome, problem_of, sentence, solved
from koosh_models.memory import sized

if TYPE_CHECKING:
    from torch import Tensor

SERIES = {"residual": 40, "disagreement": 60}
KINDS = {"none": (), "residual": ("residual",), "disagreement": ("disagreement",), "both": tuple(SERIES)}
SHOWS = {
    "residual": "what the image leaves unexplained of the measured data, seen as an image (|A^H W (y - A x)|)",
    "disagreement": "how far images by the same method from either half of the readouts lie from this one (rms)",
}
UNIT = "on the scale of the image beside it, whose bright end is 16384; white is a tenth of that"
WHITE = 0.1  # of the image's bright end: fixed, so that maps of different scans compare
SHARE = 0.25  # of the memory budget that scans may fill which wait for their disagreement map
Turn = Callable[[], AbstractContextManager[object]]


@dataclass(eq=False)
class Basis:
    """What the maps of one image are made of.

    volume  as reconstructed, (z, y, x) or (y, x)
    kinds   of the maps that are wanted and fit
    shading what was divided out of the image that is sent, None: nothing
    """

    ready: Calibrated
    volume: Tensor
    method: str
    kinds: tuple[str, ...] = ()
    shading: Tensor | None = None

    @property
    def held(self) -> int:
        """Bytes of the scan that waits."""
        return int(self.ready.scan.kspace.nbytes + self.ready.scan.omega.nbytes + 2 * self.volume.nbytes)


@dataclass(frozen=True, eq=False)
class Doubted:
    """An image that has been sent, `result`, and what its maps are made of."""

    basis: Basis
    result: Result
    place: Grid


def announced(outcome: Outcome, ready: Calibrated, settings: Settings, journal: Journal, waiting: int) -> Outcome:
    """The outcome that says which maps follow, with what they are made of.

    waiting  bytes of other scans that wait for their maps
    """
    basis, told = Basis(ready, outcome.volume, outcome.method), []
    for kind in KINDS[settings.trust]:
        why = refusal(kind, basis, settings, journal, waiting)
        if why:
            journal.note(f"no {kind} map: {why}")
        else:
            basis.kinds += (kind,)
        told.append(f"{kind}: {f'none, {why}' if why else f'series {SERIES[kind]}'}")
    if told:
        outcome = replace(outcome, facts={**outcome.facts, "koosh_trust": "; ".join(told)})
    return replace(outcome, basis=basis) if basis.kinds else outcome


def waiting(doubted: Iterable[Doubted]) -> list[Doubted]:
    """Those whose disagreement is still to be found, at the end of the scan, without the kernels that it takes not."""
    found = [one for one in doubted if "disagreement" in one.basis.kinds]
    for one in found:
        one.basis.ready = replace(one.basis.ready, problem=None)
    return found


def refusal(kind: str, basis: Basis, settings: Settings, journal: Journal, waiting: int) -> str:
    """Why a map can't be made, "" where it can."""
    from koosh_models.trust import PARTS

    ready, budget = basis.ready, settings.memory << 20
    if ready.problem is None or basis.method == "gridding":
        return f"{basis.method} sets up no normal equations"
    needed = doubt(size_of(ready.scan, ready.box), kind, basis.method, CUTS[-1] if kind != "residual" else ready.cut)
    if budget and needed > budget:
        return f"{sized(needed)} needed, {settings.memory} MiB allowed"
    if kind == "residual":
        return ""
    if budget and waiting and waiting + basis.held > SHARE * budget:
        return f"{sized(waiting)} of scans wait for theirs already"
    if ready.scan.n_readouts < PARTS:
        return f"{ready.scan.n_readouts} readouts can't be halved"
    seconds = PARTS * (journal.after.get(f"solve {basis.method}", 0.0) + journal.after.get("problem", 0.0))
    if settings.time_limit and seconds > settings.time_limit:
        return f"it would take about {seconds:.1f} s, beyond the time limit of {settings.time_limit:g} s"
    return ""


def mapped(doubted: Doubted, kind: str, settings: Settings, journal: Journal, turn: Turn) -> Iterator[Result]:
    """The map of one kind on its way out, on the scale of its image; nothing where it is not wanted or fails."""
    basis, beside = doubted.basis, doubted.result
    if kind not in basis.kinds:
        return
    found = made(basis, kind, settings, journal, turn)
    if found is None:
        return
    if basis.shading is not None:
        found = evened(found, basis.shading)
    top = beside.top or brightness(np.abs(beside.volume))
    facts = {"koosh_map": kind, "koosh_map_shows": SHOWS[kind], "koosh_map_unit": UNIT}
    facts |= {"koosh_map_top": repr(top), "koosh_map_white": repr(WHITE)}
    yield replace(
        beside, volume=cropped(found.cpu().numpy(), doubted.place), series=SERIES[kind] + beside.series - 1,
        name=f"{settings.series} {basis.method} {kind}", meta={**beside.meta, **facts}, top=top, white=WHITE,
    )  # fmt: skip


def made(basis: Basis, kind: str, settings: Settings, journal: Journal, turn: Turn) -> Tensor | None:
    """The map, (z, y, x) or (y, x) complex with no phase; None where it fails, which is noted."""
    import torch

    try:
        with turn(), journal.timed(f"trust {kind}"), torch.no_grad():
            found = unexplained(basis) if kind == "residual" else disagreeing(basis, settings, journal)
            if not bool(torch.isfinite(found).all()):
                raise Unable("it is not finite")
    except (Unable, MemoryError, ArithmeticError, RuntimeError, ValueError) as error:
        journal.note(f"no {kind} map: {sentence(error)}")
        return None
    return found.to(torch.complex64)


def unexplained(basis: Basis) -> Tensor:
    """What the image leaves of the data."""
    from koosh_models.trust import unexplained as unexplained_by

    ready = basis.ready
    assert ready.problem is not None
    assert ready.box is not None
    found = unexplained_by(ready.problem, ready.box.cut(basis.volume.to(ready.problem.device)))
    return ready.box.embed(found)


def disagreeing(basis: Basis, settings: Settings, journal: Journal) -> Tensor:
    """How far images of parts of the readouts lie from the image, all by one method."""
    from koosh_models.trust import disagreement, parts

    ready = basis.ready
    assert ready.maps is not None
    assert ready.box is not None
    size, whole = size_of(ready.scan, ready.box), settings.memory << 20
    fitting = [cut for cut in CUTS[CUTS.index(ready.cut) :] if doubt(size, "disagreement", basis.method, cut) <= whole]
    cut = fitting[0] if fitting else CUTS[-1]
    left = max(1, settings.memory - (beside_parts(size) >> 20))
    own = replace(settings, memory=left) if settings.memory else settings
    images = []
    for share in parts(ready.scan):
        problem = problem_of(share, ready.maps, ready.box, None, cut)
        images.append(ready.box.cut(solved(ready, problem, basis.method, own, journal)))
        del problem
    image = ready.box.cut(basis.volume.to(ready.scan.kspace.device))
    return ready.box.embed(disagreement(image, images))
