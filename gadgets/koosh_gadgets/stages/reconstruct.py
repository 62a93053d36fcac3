"""A calibrated scan in, a complex volume out: by the method asked for, or by the best one that can run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings, ladder
from koosh_gadgets.stages.budget import SMALLEST, WHOLE, Cut, cut_for, peak, size_of
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.network import Unable
from koosh_gadgets.stages.prepared import EPS, Prepared
from koosh_models.memory import ran_out, sized

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from koosh_gadgets.stages.trust import Basis
    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.physics.problem import LinearProblem
    from koosh_models.scan import Scan
    from koosh_models.support import Box

log = logging.getLogger(__name__)
# of the normal operator, for time estimates
APPLICATIONS = {"unrolled": 60, "llr": 55, "l1": 38, "cg": 10, "gridding": 0}


@dataclass(frozen=True, eq=False)
class Outcome:
    """A volume, and how it came about.

    reason  why `method` is not the one that was asked for, or ""
    facts   further keys for the image's meta
    basis   of the maps of where it is doubtful that are to follow
    """

    volume: Tensor
    method: str
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    basis: Basis | None = None


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A scan with what was found out about it; the problem is that of the object's bounding box.

    problem  None where there are no maps, or where only gridding is wanted
    b        the right-hand side inside the box, where it was formed while the scan ran
    cut      how the work is divided to fit into memory
    short    why there is no problem, where that is for want of memory
    """

    scan: Scan
    maps: CoilMaps | None
    problem: LinearProblem | None = None
    box: Box | None = None
    b: Tensor | None = None
    cut: Cut = WHOLE
    short: str = ""


def calibrated(
    scan: Scan,
    maps: CoilMaps | None,
    settings: Settings,
    journal: Journal,
    prepared: Prepared | None = None,
    cut: Cut | None = None,
) -> Calibrated:
    """The scan with its normal equations, where a method needs them and they fit into memory.

    cut  division of the work; None: the fastest that fits into the settings' memory
    """
    from koosh_models.support import box_around

    if maps is None:
        return Calibrated(scan, None)
    box, b = (box_around(maps.mask), None) if prepared is None else (prepared.calibration.box, prepared.b)
    size, budget = size_of(scan, box), settings.memory << 20
    if settings.method == "gridding":
        return Calibrated(scan, maps, None, box, b, cut or cut_for(size, "gridding", budget) or SMALLEST)
    cut = cut or cut_for(size, "cg", budget)
    if cut is None:
        needed = sized(peak(size, "cg", SMALLEST))
        journal.note(f"the iterative methods can't run: {needed} needed, {settings.memory} MiB allowed")
        return Calibrated(scan, maps, None, box, b, SMALLEST)
    journal.facts["koosh_group"] = str(cut.group)
    journal.facts["koosh_foreseen"] = f"{sized(peak(size, settings.method, cut))} of {settings.memory} MiB foreseen"
    try:
        with journal.timed("problem"):
            return Calibrated(scan, maps, problem_of(scan, maps, box, prepared, cut), box, b, cut)
    except (MemoryError, RuntimeError) as error:
        short = sentence(error) if ran_out(error) else ""
        journal.note(f"the iterative methods can't run: {sentence(error)}")
        return Calibrated(scan, maps, None, box, b, cut, short)


def problem_of(scan: Scan, maps: CoilMaps, box: Box, prepared: Prepared | None, cut: Cut) -> LinearProblem:
    """The density-weighted normal equations inside the box; prepared ones are only put together."""
    from koosh_models.physics.mri import non_cartesian, normal_of, of_operator
    from koosh_models.physics.nufft import Nufft
    from koosh_models.physics.sense import Sense, SenseNormal
    from koosh_models.support import boxed_maps, boxed_scan

    inside_maps = boxed_maps(maps.maps, box)
    if prepared is None:
        return non_cartesian(boxed_scan(scan, box), inside_maps, EPS, cut.group, cut.lean)
    if prepared.calibration.kernel is not None:
        return of_operator(SenseNormal(inside_maps, prepared.calibration.kernel), prepared.b)
    inside = boxed_scan(scan, box)
    operator = normal_of(inside, Sense(inside_maps, Nufft(inside.omega, box.size, EPS), cut.group), cut.lean)
    return of_operator(operator, prepared.b)


def reconstruct(ready: Calibrated, settings: Settings, journal: Journal) -> Outcome:
    """The volume by the first method of the ladder, from the one asked for down to gridding, that succeeds.

    Where memory runs out, a method is tried again on fewer coils at a time, then on the CPU, before the next one is.
    """
    reasons: list[str] = []
    starved = False
    for method in ladder(settings.method):
        smaller: Calibrated | None = ready
        while smaller is not None:
            ready = smaller
            try:
                return told(attempt(ready, method, settings, journal), method, reasons, settings, journal)
            except (Unable, MemoryError, ArithmeticError, RuntimeError) as error:  # RuntimeError: torch's out-of-memory
                reasons.append(f"{method}: {sentence(error)}")
                starved |= ran_out(error)
                smaller = leaner(ready, settings, journal) if ran_out(error) else None
    text = f"no method could reconstruct the scan: {'; '.join(dict.fromkeys(reasons))}"
    raise MemoryError(text) if starved else RuntimeError(text)


def told(volume: Tensor, method: str, reasons: list[str], settings: Settings, journal: Journal) -> Outcome:
    """The outcome, with the reasons for a method that nobody asked for."""
    if method == settings.method:
        return Outcome(volume, method)
    reason = "; ".join(dict.fromkeys(reasons))
    journal.count(fallbacks=1)
    journal.note(f"{method} stands in for {settings.method} ({reason})")
    return Outcome(volume, method, reason)


def with_residual(outcome: Outcome, ready: Calibrated, journal: Journal) -> Outcome:
    """The outcome with its distance from the data, by distance from the centre of k-space."""
    from koosh_models.residual import residual

    if ready.maps is None or ready.scan.weights is None:
        return outcome
    with journal.timed("residual"):
        found = residual(ready.scan, ready.maps, outcome.volume.to(ready.scan.kspace.device))
    facts = {"koosh_residual": f"{found.total:.4g}", "koosh_residual_shells": numbers(found.shells)}
    if "koosh_noise_samples" in journal.facts:
        facts["koosh_residual_noise"] = numbers(found.noise)
    return replace(outcome, facts={**outcome.facts, **facts})


def numbers(values: Iterable[float]) -> str:
    """Numbers in one text."""
    return " ".join(f"{value:.4g}" for value in values)


def leaner(ready: Calibrated, settings: Settings, journal: Journal) -> Calibrated | None:
    """The same scan prepared for less memory: one coil at a time, then on the CPU; None where nothing is left."""
    scan, maps = ready.scan, ready.maps
    if maps is None:
        return None
    if ready.cut != SMALLEST:
        journal.note("memory ran out: reconstructed one coil at a time")
        if settings.method == "gridding":
            return replace(ready, cut=SMALLEST)
        return calibrated(scan, maps, settings, journal, None, SMALLEST)
    if scan.kspace.device.type == "cpu":
        return None
    journal.note("the device's memory ran out: reconstructed on the CPU")
    at_home = replace(maps, maps=maps.maps.to("cpu"), mask=maps.mask.cpu())
    return calibrated(scan.to("cpu"), at_home, settings, journal)


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def attempt(ready: Calibrated, method: str, settings: Settings, journal: Journal) -> Tensor:
    """The volume by one method, finite, or a reason why not."""
    import torch

    with journal.timed(f"solve {method}"), torch.no_grad():
        if ready.short and method != "gridding":
            raise MemoryError(f"out of memory: {ready.short}")
        if ready.problem is None and method != "gridding":
            raise Unable("there are no coil maps" if ready.maps is None else "its problem was not set up")
        if method == "llr":
            raise Unable("it needs the phases of a series, and this is a single volume")
        if ready.problem is None:
            volume = gridded(ready)
        else:
            check_memory(ready, method, settings)
            check_time(ready.problem, method, settings)
            volume = solved(ready, ready.problem, method, settings, journal)
    if not bool(torch.isfinite(torch.view_as_real(volume)).all()):
        raise Unable("its image is not finite")
    return volume


def solved(ready: Calibrated, problem: LinearProblem, method: str, settings: Settings, journal: Journal) -> Tensor:
    """The volume of the problem's box in the whole matrix."""
    from koosh_gadgets.stages import network
    from koosh_models.reconstruction import solve

    assert ready.box is not None
    if method == "unrolled":
        return ready.box.embed(network.solve(ready.scan, problem, settings, journal))
    return ready.box.embed(solve(problem, method).image)


def check_memory(ready: Calibrated, method: str, settings: Settings) -> None:
    """Refuse a method that would take more than the settings allow."""
    needed = peak(size_of(ready.scan, ready.box), method, ready.cut)
    if method != "gridding" and settings.memory and needed > settings.memory << 20:
        raise Unable(f"{sized(needed)} needed, {settings.memory} MiB allowed")


def check_time(problem: LinearProblem, method: str, settings: Settings) -> None:
    """Refuse a method whose applications of the normal operator alone would pass the time limit."""
    if not settings.time_limit:
        return
    started = time.perf_counter()
    problem.normal(problem.b)
    needed = (time.perf_counter() - started) * APPLICATIONS[method]
    if needed > settings.time_limit:
        raise Unable(f"it would take about {needed:.1f} s, beyond the time limit of {settings.time_limit:g} s")


def gridded(ready: Calibrated) -> Tensor:
    """The density-weighted adjoint; without maps the coils are joined by root sum of squares."""
    import torch

    from koosh_models.physics.nufft import Nufft
    from koosh_models.physics.sense import Sense
    from koosh_models.support import boxed_maps, boxed_scan

    scan, maps, box = ready.scan, ready.maps, ready.box
    assert scan.weights is not None
    if box is not None and ready.b is not None:
        return box.embed(ready.b)
    if maps is not None and box is not None:
        inside = boxed_scan(scan, box)
        assert inside.weights is not None
        sense = Sense(boxed_maps(maps.maps, box), Nufft(scan.omega, box.size, EPS), ready.cut.group)
        return box.embed(sense.adjoint(inside.kspace * inside.weights))
    nufft = Nufft(scan.omega, scan.geometry.matrix)
    power = torch.zeros(scan.geometry.matrix, device=scan.kspace.device)
    for coil in scan.kspace:
        power += nufft.adjoint(coil[None] * scan.weights)[0].abs().square()
    return power.sqrt().to(torch.complex64)


def device_of(name: str) -> torch.device:
    """The device that `auto` (or a name) means."""
    import torch

    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
