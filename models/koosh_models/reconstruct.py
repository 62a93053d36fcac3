"""From a scan to an image in one call: weights, maps, problem, method."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from koosh_models.baselines import classical
from koosh_models.calibration import density
from koosh_models.calibration.maps import CoilMaps, low_frequency
from koosh_models.physics.mri import non_cartesian
from koosh_models.physics.problem import LinearProblem
from koosh_models.scan import Scan

log = logging.getLogger(__name__)
METHODS = ("gridding", "cg", "l1")


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """An image and what is known of it.

    volume   (z, y, x) complex64, or (frame, z, y, x)
    maps     the coil maps that were used
    method   what made it
    seconds  time of each part: weights, maps, problem, solve
    facts    numbers worth keeping with the image
    """

    volume: Tensor
    maps: CoilMaps
    method: str
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)


def with_weights(scan: Scan) -> Scan:
    """The scan with density weights; those it has are kept."""
    if scan.weights is not None:
        return scan
    matrix = scan.geometry.matrix
    if scan.n_frames is None:
        return replace(scan, weights=density.pipe_menon(scan.omega, matrix))
    return replace(scan, weights=torch.stack([density.pipe_menon(omega, matrix) for omega in scan.omega]))


def calibrate(scan: Scan) -> CoilMaps:
    """Coil maps of a scan; all frames of a series together."""
    assert scan.weights is not None
    matrix = scan.geometry.matrix
    if scan.n_frames is None:
        return low_frequency(scan.kspace, scan.omega, scan.weights, matrix)
    samples = scan.kspace.movedim(0, 1).flatten(1)
    return low_frequency(samples, scan.omega.movedim(0, 1).flatten(1), scan.weights.flatten(), matrix)


def solve(problem: LinearProblem, method: str) -> classical.Result:
    """The image of a problem by one of the classical methods at its defaults."""
    if method == "gridding":
        return classical.gridding(problem)
    if method == "cg":
        return classical.cg_sense(problem)
    if method == "l1":
        return classical.l1_wavelet(problem)
    raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def reconstruct(scan: Scan, method: str = "l1", maps: CoilMaps | None = None) -> Reconstruction:
    """The image of a scan; a series is reconstructed frame by frame with common maps."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "weights"):
        scan = with_weights(scan)
    with _timed(seconds, "maps"):
        maps = maps or calibrate(scan)
    images, facts = [], {}
    frames = [scan] if scan.n_frames is None else [scan.frame(k) for k in range(scan.n_frames)]
    for one in frames:
        with _timed(seconds, "problem"):
            problem = non_cartesian(one, maps.maps)
        with _timed(seconds, "solve"), torch.no_grad():
            result = solve(problem, method)
        images.append(result.image)
        facts = {"iterations": float(result.iterations), "scale": problem.scale}
        if result.residual is not None:
            facts["residual"] = result.residual
    volume = images[0] if scan.n_frames is None else torch.stack(images)
    log.info("%s: %s in %.2f s", method, "x".join(map(str, volume.shape)), sum(seconds.values()))
    return Reconstruction(volume, maps, method, seconds, facts)


class _timed:
    """Adds the time of a `with` block to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] = self.seconds.get(self.part, 0.0) + time.perf_counter() - self.start
