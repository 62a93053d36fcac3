"""From a scan to an image in one call: weights, maps, problem, method."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from koosh_models.baselines import classical
from koosh_models.baselines.locally_low_rank import locally_low_rank
from koosh_models.calibration import density
from koosh_models.calibration.espirit import espirit
from koosh_models.calibration.joint import joint
from koosh_models.calibration.maps import CoilMaps, low_frequency
from koosh_models.networks import tiles
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.mri import dynamic, non_cartesian
from koosh_models.physics.problem import LinearProblem
from koosh_models.scan import Scan
from koosh_models.support import box_around, boxed_maps, boxed_scan
from koosh_models.weights import choose, load

log = logging.getLogger(__name__)
MAPS = {"joint": joint, "espirit": espirit, "low-frequency": low_frequency}
METHODS = ("gridding", "cg", "l1", "llr", "unrolled")
MEMORY = {"cpu": 300 << 20, "cuda": 2 << 30}  # bytes for one tile of a network where nothing else is said
# bytes at the peak for each number that autograd would save: radial3d's U-Net holds 279 a voxel, of 106 numbers
HELD = {"fp32": 6, "bf16": 3, "fp16": 3}


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """An image and what is known of it.

    volume   (z, y, x) complex64, or (frame, z, y, x)
    maps     the coil maps that were used
    method   what made it
    seconds  time of each part: weights, maps, problem, solve
    facts    numbers worth keeping with the image
    weights  name and sha256 of the network's weights, empty for other methods
    """

    volume: Tensor
    maps: CoilMaps
    method: str
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    weights: str = ""


def with_weights(scan: Scan) -> Scan:
    """The scan with density weights; those it has are kept."""
    if scan.weights is not None:
        return scan
    matrix = scan.geometry.matrix
    if scan.n_frames is None:
        return replace(scan, weights=density.pipe_menon(scan.omega, matrix))
    return replace(scan, weights=torch.stack([density.pipe_menon(omega, matrix) for omega in scan.omega]))


def calibrate(scan: Scan, method: str = "joint") -> CoilMaps:
    """Coil maps of a scan; all frames of a series together.

    method  of `MAPS`; "joint" is the most exact and as fast as the others
    """
    if method not in MAPS:
        raise ValueError(f"unknown method of coil maps {method!r}; known: {', '.join(MAPS)}")
    if scan.weights is None:
        raise ValueError("the scan has no density weights: scan = with_weights(scan) first")
    matrix, estimate = scan.geometry.matrix, MAPS[method]
    if scan.n_frames is None:
        return estimate(scan.kspace, scan.omega, scan.weights, matrix)
    samples = scan.kspace.movedim(0, 1).flatten(1)
    omega = scan.omega.movedim(0, 1).flatten(1)
    # weights of the frames together: those of one frame count lines twice that several frames share
    return estimate(samples, omega, density.pipe_menon(omega, matrix), matrix)


def solve(problem: LinearProblem, method: str) -> classical.Result:
    """The image of a problem by one of the classical methods at its defaults."""
    if method == "gridding":
        return classical.gridding(problem)
    if method == "cg":
        return classical.cg_sense(problem)
    if method == "l1":
        return classical.l1_wavelet(problem)
    if method == "llr":
        return locally_low_rank(problem)
    classics = [name for name in METHODS if name != "unrolled"]
    raise ValueError(f"unknown method {method!r}; known: {', '.join(classics)}, and unrolled with a network")


def unrolled(problem: LinearProblem, network: Unrolled, memory: int = 0) -> classical.Result:
    """The network's image, its regularizers on tiles that fit into `memory` bytes; 0: what is usual for the device."""
    memory = memory or MEMORY.get(problem.device.type, MEMORY["cuda"])
    side = tiles.side_for(problem.shape, network.stage(0).regularizer, memory, HELD[network.dims.precision])
    image = network(problem, tile=side)
    if not bool(torch.isfinite(torch.view_as_real(image)).all()):
        raise ArithmeticError("the network's image contains NaN or Inf; its weights don't suit this scan, use l1 or cg")
    dims = network.dims
    steps = dims.start_steps * (dims.start in ("cg", "llr")) + sum(dims.solver_steps)
    return classical.Result(image, steps)


def network_for(scan: Scan, weights: str | None) -> tuple[Unrolled, str]:
    """The network and what identifies it: the one named, or the newest that takes the scan."""
    name = weights or choose(scan).name
    if name is None:
        raise ValueError(f"no network takes this scan ({'; '.join(choose(scan).reasons)}); use l1 or cg")
    network, card = load(name, scan.kspace.device)
    if (why := card.refuses(scan)) is not None:
        raise ValueError(f"the network {card.name} does not take this scan: {why}; use l1 or cg")
    return network, f"{card.name} {card.sha256}"


def reconstruct(
    scan: Scan,
    method: str = "l1",
    maps: CoilMaps | None = None,
    weights: str | None = None,
    memory: int = 0,
) -> Reconstruction:
    """The image of a scan; "llr" and networks take a series as a whole, the others frame by frame with common maps.

    weights  of "unrolled": name or path; None for the newest that takes the scan
    memory   bytes for one tile of a network; 0: what is usual for the device
    """
    seconds: dict[str, float] = {}
    network, identity = network_for(scan, weights) if method == "unrolled" else (None, "")
    with _timed(seconds, "weights"):
        scan = with_weights(scan)
    with _timed(seconds, "maps"):
        maps = maps or calibrate(scan)
    images, facts = [], {}
    whole = scan.n_frames is None or method in ("llr", "unrolled")  # a network for single images refuses a series
    parts = [scan] if whole else [scan.frame(k) for k in range(scan.n_frames or 0)]
    box = box_around(maps.mask)
    inside = boxed_maps(maps.maps, box)
    for one in parts:
        with _timed(seconds, "problem"):
            problem = (non_cartesian if one.n_frames is None else dynamic)(boxed_scan(one, box), inside)
        with _timed(seconds, "solve"), torch.no_grad():
            result = solve(problem, method) if network is None else unrolled(problem, network, memory)
        images.append(box.embed(result.image))
        facts = {"iterations": float(result.iterations), "scale": problem.scale}
        if result.residual is not None:
            facts["residual"] = result.residual
    volume = images[0] if whole else torch.stack(images)
    log.info("%s: %s in %.2f s", method, "x".join(map(str, volume.shape)), sum(seconds.values()))
    return Reconstruction(volume, maps, method, seconds, facts, identity)


class _timed:
    """Adds the time of a `with` block to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] = self.seconds.get(self.part, 0.0) + time.perf_counter() - self.start
