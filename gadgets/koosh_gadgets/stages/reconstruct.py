"""A calibrated scan in, a complex volume out: by the method asked for, or by the best one that can run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings, ladder
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.network import Unable
from koosh_gadgets.stages.prepared import EPS, Prepared

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.physics.operator import Apply
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
    """

    volume: Tensor
    method: str
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A scan with what was found out about it; the problem is that of the object's bounding box.

    problem  None where there are no maps, or where only gridding is wanted
    b        the right-hand side inside the box, where it was formed while the scan ran
    """

    scan: Scan
    maps: CoilMaps | None
    problem: LinearProblem | None = None
    box: Box | None = None
    b: Tensor | None = None


def calibrated(
    scan: Scan, maps: CoilMaps | None, settings: Settings, journal: Journal, prepared: Prepared | None = None
) -> Calibrated:
    """The scan with its normal equations, where a method needs them and they fit into memory."""
    from koosh_models.support import box_around

    if maps is None:
        return Calibrated(scan, None)
    box, b = (box_around(maps.mask), None) if prepared is None else (prepared.calibration.box, prepared.b)
    if settings.method == "gridding":
        return Calibrated(scan, maps, None, box, b)
    needed, budget = bytes_needed(scan, "cg"), settings.memory << 20
    try:
        if budget and needed > budget:
            raise Unable(f"{needed >> 20} MiB needed, {settings.memory} MiB allowed")
        with journal.timed("problem"):
            return Calibrated(scan, maps, problem_of(scan, maps, box, prepared), box, b)
    except (Unable, MemoryError, RuntimeError) as error:
        journal.note(f"the iterative methods can't run: {sentence(error)}")
        return Calibrated(scan, maps, None, box, b)


def problem_of(scan: Scan, maps: CoilMaps, box: Box, prepared: Prepared | None) -> LinearProblem:
    """The density-weighted normal equations inside the box; prepared ones are only put together."""
    from koosh_models.physics.mri import non_cartesian, normal_of, robust_scale
    from koosh_models.physics.nufft import Nufft
    from koosh_models.physics.problem import LinearProblem
    from koosh_models.physics.sense import Sense, SenseNormal
    from koosh_models.support import boxed_maps, boxed_scan

    inside_maps = boxed_maps(maps.maps, box)
    if prepared is None:
        return non_cartesian(boxed_scan(scan, box), inside_maps)
    normal: Apply
    if prepared.calibration.kernel is not None:
        normal = SenseNormal(inside_maps, prepared.calibration.kernel).normal
    else:
        inside = boxed_scan(scan, box)
        normal = normal_of(inside, Sense(inside_maps, Nufft(inside.omega, box.size, EPS), 4))
    return LinearProblem(normal, prepared.b, robust_scale(prepared.b))


def reconstruct(ready: Calibrated, settings: Settings, journal: Journal) -> Outcome:
    """The volume by the first method of the ladder, from the one asked for down to gridding, that succeeds."""
    reasons: list[str] = []
    on_gpu = ready.scan.kspace.device.type != "cpu"
    for method, on_cpu in product(ladder(settings.method), (False, True) if on_gpu else (False,)):
        try:
            if on_cpu and ready.scan.kspace.device.type != "cpu":
                if not out_of_memory(reasons):
                    continue  # what fails for other reasons fails there as well
                ready = brought_home(ready, settings, journal)
            volume = attempt(ready, method, settings, journal)
        except (Unable, MemoryError, ArithmeticError, RuntimeError) as error:  # RuntimeError: torch's out-of-memory
            reasons.append(f"{method}: {sentence(error)}")
            continue
        reason = "; ".join(reasons)
        if reason:
            journal.note(f"{method} stands in for {settings.method} ({reason})")
        return Outcome(volume, method, reason)
    raise RuntimeError(f"no method could reconstruct the scan: {'; '.join(reasons)}")


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


def out_of_memory(reasons: list[str]) -> bool:
    """Whether the last attempt failed for want of memory."""
    return bool(reasons) and "memory" in reasons[-1].lower()


def brought_home(ready: Calibrated, settings: Settings, journal: Journal) -> Calibrated:
    """The same problem on the CPU, for a GPU that is too small."""
    assert ready.maps is not None
    journal.note("the device's memory ran out: reconstructed on the CPU")
    maps = replace(ready.maps, maps=ready.maps.maps.to("cpu"), mask=ready.maps.mask.cpu())
    return calibrated(ready.scan.to("cpu"), maps, settings, journal)


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def attempt(ready: Calibrated, method: str, settings: Settings, journal: Journal) -> Tensor:
    """The volume by one method, finite, or a reason why not."""
    import torch

    with journal.timed(f"solve {method}"), torch.no_grad():
        if ready.problem is None and method != "gridding":
            raise Unable("there are no coil maps" if ready.maps is None else "its problem was not set up")
        if method == "llr":
            raise Unable("it needs the phases of a series, and this is a single volume")
        if ready.problem is None:
            volume = gridded(ready)
        else:
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
        sense = Sense(boxed_maps(maps.maps, box), Nufft(scan.omega, box.size, EPS), 4)
        return box.embed(sense.adjoint(inside.kspace * inside.weights))
    nufft = Nufft(scan.omega, scan.geometry.matrix)
    power = torch.zeros(scan.geometry.matrix, device=scan.kspace.device)
    for coil in scan.kspace:
        power += nufft.adjoint(coil[None] * scan.weights)[0].abs().square()
    return power.sqrt().to(torch.complex64)


def bytes_needed(scan: Scan, method: str) -> int:
    """A rough upper bound of what a method allocates beside the readouts."""
    voxels = 1
    for n in scan.geometry.matrix:
        voxels *= n
    samples = int(scan.omega.shape[-1])
    volumes = {"gridding": 8, "cg": 24, "l1": 32, "llr": 32, "unrolled": 64}[method]
    return 8 * (volumes * voxels + 6 * samples)


def device_of(name: str) -> torch.device:
    """The device that `auto` (or a name) means."""
    import torch

    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
