"""The one problem that speed and quality are measured on: golden-means 3D radial, 8 coils, 2 % noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.calibration import density
from koosh_models.scan import Scan
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory


@dataclass(frozen=True, eq=False)
class Case:
    """A weighted scan, its truth, true coil maps and the object's mask."""

    scan: Scan
    truth: Tensor
    maps: Tensor
    mask: Tensor


def radial(
    size: int = 96, acceleration: float = 12, coils: int = 8, noise: float = 0.02, seed: int = 0, body: str = "head"
) -> Case:
    """The phantom of this seed, scanned."""
    matrix = (size, size, size)
    anatomy = phantom(body, matrix, seed)
    spokes = trajectory("radial3d", matrix, acceleration)
    made = simulate(anatomy.image, spokes, mask=anatomy.mask, n_coils=coils, noise=noise, seed=seed)
    scan = replace(made.scan, weights=density.pipe_menon(made.scan.omega, matrix))
    return Case(scan, made.truth, made.maps, made.mask)


def cpu_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Fewest CPU seconds of several runs after one to warm up; other work on the machine counts little."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def one_thread() -> None:
    """Measure on one core."""
    torch.set_num_threads(1)
