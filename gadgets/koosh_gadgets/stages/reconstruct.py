"""A calibrated scan in, a complex volume out: by the method asked for, or by the best one that can run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from koosh_gadgets.settings import METHODS, Settings
from koosh_gadgets.stages.journal import Journal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.physics.problem import LinearProblem
    from koosh_models.scan import Scan

log = logging.getLogger(__name__)
APPLICATIONS = {"unrolled": 60, "l1": 38, "cg": 10, "gridding": 0}  # of the normal operator, for time estimates


class Unable(Exception):
    """Why a method can't run on this scan."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A volume, and how it came about.

    reason  why `method` is not the one that was asked for, or ""
    """

    volume: Tensor
    method: str
    reason: str = ""


def reconstruct(
    scan: Scan, maps: CoilMaps | None, settings: Settings, journal: Journal, problem: LinearProblem | None = None
) -> Outcome:
    """The volume by the first method of the ladder, from the one asked for down to gridding, that succeeds."""
    reasons: list[str] = []
    for method in METHODS[METHODS.index(settings.method) :]:
        try:
            volume = attempt(scan, maps, problem, method, settings, journal)
        except (Unable, MemoryError, RuntimeError) as error:  # RuntimeError: torch's out-of-memory among others
            reasons.append(f"{method}: {sentence(error)}")
            log.warning("%s: %s can't run (%s)", journal.scan, method, sentence(error))
            continue
        reason = "; ".join(reasons)
        if reason:
            journal.note(f"{method} stands in for {settings.method} ({reason})")
        return Outcome(volume, method, reason)
    raise RuntimeError(f"no method could reconstruct the scan: {'; '.join(reasons)}")


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def attempt(
    scan: Scan, maps: CoilMaps | None, problem: LinearProblem | None, method: str, settings: Settings, journal: Journal
) -> Tensor:
    """The volume by one method, finite, or a reason why not."""
    import torch

    with journal.timed(f"solve {method}"), torch.no_grad():
        if method == "gridding":
            volume = problem.b if problem is not None else gridded(scan, maps)
        elif problem is None:
            raise Unable("there are no coil maps")
        else:
            check_time(problem, method, settings)
            volume = solver(method, settings, scan, journal)(problem)
    if not bool(torch.isfinite(torch.view_as_real(volume)).all()):
        raise Unable("its image is not finite")
    return volume


def solver(method: str, settings: Settings, scan: Scan, journal: Journal) -> Callable[[LinearProblem], Tensor]:
    """The function that solves a problem by a method."""
    if method == "unrolled":
        from koosh_gadgets.stages.network import network_for

        return network_for(scan, settings, journal)

    def classical(problem: LinearProblem) -> Tensor:
        from koosh_models.reconstruct import solve

        return solve(problem, method).image

    return classical


def check_time(problem: LinearProblem, method: str, settings: Settings) -> None:
    """Refuse a method whose applications of the normal operator alone would pass the time limit."""
    if not settings.time_limit:
        return
    started = time.perf_counter()
    problem.normal(problem.b)
    needed = (time.perf_counter() - started) * APPLICATIONS[method]
    if needed > settings.time_limit:
        raise Unable(f"it would take about {needed:.1f} s, beyond the time limit of {settings.time_limit:g} s")


def gridded(scan: Scan, maps: CoilMaps | None) -> Tensor:
    """The density-weighted adjoint; without maps the coils are joined by root sum of squares."""
    import torch

    from koosh_models.physics.nufft import Nufft
    from koosh_models.physics.sense import Sense

    assert scan.weights is not None
    nufft = Nufft(scan.omega, scan.geometry.matrix)
    if maps is not None:
        return Sense(maps.maps, nufft, 4).adjoint(scan.kspace * scan.weights)
    power = torch.zeros(scan.geometry.matrix)
    for coil in scan.kspace:
        power += nufft.adjoint(coil[None] * scan.weights)[0].abs().square()
    return power.sqrt().to(torch.complex64)


def bytes_needed(scan: Scan, method: str) -> int:
    """A rough upper bound of what a method allocates beside the readouts."""
    voxels = 1
    for n in scan.geometry.matrix:
        voxels *= n
    samples = int(scan.omega.shape[-1])
    volumes = {"gridding": 8, "cg": 24, "l1": 32, "unrolled": 64}[method]
    return 8 * (volumes * voxels + 6 * samples)


def device_of(name: str) -> torch.device:
    """The device that `auto` (or a name) means."""
    import torch

    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
