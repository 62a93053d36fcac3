"""Small scans of a recipe: how much of the matrix its objects fill, how many samples, how long a step takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.physics.problem import LinearProblem
from koosh_models.simulation.trajectories import trajectory
from koosh_models.support import MARGIN, MULTIPLE, box_around
from koosh_models.training.cases import Case, draw, scene, sources
from koosh_models.training.plan import Misfit, Part, parts
from koosh_models.training.recipe import Recipe
from koosh_models.training.tables import Data
from koosh_models.training.warmstart import EDGE

SMALL = 24  # voxels along the longest axis of a trial: large enough for a U-Net of two levels
BLUR = 0.25  # of the matrix: how much wider than the object the support of estimated maps is, both sides together
SEEN = 40  # voxels along the longest axis where the objects' extent is taken
DRAWN, COILS = 4, 3  # objects that the extent is taken from, coils of the scan that steps are timed on


@dataclass(frozen=True, eq=False)
class Trial:
    """What a recipe scans, on a small matrix.

    objects  (z, y, x) bool, where the first objects are
    seen     (z, y, x) bool, of them what is bright enough to be trained on by a warm start
    case     one scan of a few coils, to time steps on
    """

    objects: list[Tensor]
    seen: list[Tensor]
    case: Case

    @property
    def described(self) -> str:
        """Its matrix."""
        return "x".join(map(str, self.case.maps.shape[1:]))

    def tight(self, matrix: tuple[int, ...]) -> tuple[int, ...]:
        """The largest object's own extent on a matrix."""
        found = [box_around(mask, margin=0, multiple=1).size for mask in self.seen]
        extent = max(found, key=math.prod)
        return tuple(math.ceil(e / s * n) for e, s, n in zip(extent, self.objects[0].shape, matrix, strict=True))

    def box(self, matrix: tuple[int, ...], largest: bool) -> tuple[int, ...]:
        """The object's box on a matrix: the largest of the trial's objects, or one of their mean size."""
        if self.case.on_grid:
            return matrix
        boxes = [box_of(mask, matrix) for mask in self.objects]
        if largest:
            return max(boxes, key=math.prod)
        return tuple(round(sum(sizes) / len(boxes)) for sizes in zip(*boxes, strict=True))


def box_of(mask: Tensor, matrix: tuple[int, ...]) -> tuple[int, ...]:
    """The box that an object would have on another matrix."""
    tight = box_around(mask, margin=0, multiple=1).size
    shares = [t / s + BLUR for t, s in zip(tight, mask.shape, strict=True)]
    wide = [math.ceil(share * n) + 2 * MARGIN for share, n in zip(shares, matrix, strict=True)]
    return tuple(min(n, -(-w // MULTIPLE) * MULTIPLE) for w, n in zip(wide, matrix, strict=True))


def reduced(data: Data, side: int, reach: tuple[int, ...]) -> Data:
    """The same scans on a matrix of at most `side` voxels along its longest axis, with nothing that takes long.

    reach  of the network's regularizers, which the matrix has to exceed
    """
    matrix = max(data.matrix, key=math.prod)
    scale = min(1.0, max(side, *(r + 2 for r in reach)) / max(matrix))
    least = [max(8, r + 2) for r in reach[-len(matrix) :]]
    size = tuple(min(n, max(low, 2 * round(n * scale / 2))) for n, low in zip(matrix, least, strict=True))
    clean = dict.fromkeys(("off_resonance_hz", "delays", "motion_voxels", "motion_degrees"), (0.0, 0.0))
    frames = min(data.frames, max(4, reach[0] + 1))
    small = {"matrix": (size,) * len(data.matrix), "frames": frames, "iterates": 0, "maps": "true"}
    return data.model_copy(update={**clean, **small})


def trial(recipe: Recipe) -> Trial:
    """The first objects of a recipe and a scan, small."""
    with torch.device("meta"):
        reach = build(recipe.network).stage(0).regularizer.radius
    data, wide = (reduced(recipe.data, side, reach) for side in (SMALL, SEEN))
    count = min(DRAWN, recipe.data.cases or DRAWN)
    known = sources(data)
    case = draw(data.model_copy(update={"coils": (COILS, COILS)}), "training", 0, known)
    images = [scene(wide, "training", index, known).image for index in range(count)]
    objects, seen = [p.mask for p in images], [p.image.abs() > EDGE * p.image.abs().max() for p in images]
    if case.scan.n_frames is not None:
        objects, seen = [m.any(0) for m in objects], [m.any(0) for m in seen]
    return Trial(objects, seen, case)


def samples_per_voxel(data: Data, acceleration: float) -> float:
    """Of a frame, for the family that takes most."""
    size = tuple(min(n, 48) for n in max(data.matrix, key=math.prod))
    found = [trajectory(family, size, acceleration, 0, 2).omega.shape[-1] for family in data.trajectory]
    return max(found) / math.prod(size)


@dataclass(frozen=True)
class Pace:
    """Seconds of one step of a part: with a measurement that is new, and with one that was seen before."""

    fresh: float
    again: float


@dataclass
class Timed:
    """A problem whose normal operator is timed, apart from the network."""

    seconds: float = 0.0

    def of(self, problem: LinearProblem) -> LinearProblem:
        """The same problem."""
        inside = problem.normal

        def normal(x: Tensor) -> Tensor:
            begun = time.perf_counter()
            out = inside(x)
            self.seconds += time.perf_counter() - begun
            return out

        return replace(problem, normal=normal)


def pace(recipe: Recipe, small: Trial, device: torch.device) -> list[Pace | None]:
    """Seconds of a step of each part on the largest scan, from steps on the small one.

    What the normal operator takes grows with voxels and coils, what the network takes with voxels; halos of tiles are
    not counted. None for parts that need ranks.
    """
    misfit = Misfit()
    network, plan = build(recipe.network).to(device), parts(recipe, misfit)
    found: dict[str, Pace] = {}
    for part in plan:
        if part.phase.strategy not in found and not part.apart:
            found[part.phase.strategy] = part_pace(recipe, part, misfit, network, small, device)
    return [found.get(part.phase.strategy) for part in plan]


def part_pace(
    recipe: Recipe, part: Part, misfit: Misfit, network: Unrolled, small: Trial, device: torch.device
) -> Pace:
    """Seconds of a step of one part."""
    case = small.case
    whole = small.box(max(recipe.data.matrix, key=math.prod), largest=True)
    frames = (recipe.data.frames, case.scan.n_frames) if case.scan.n_frames else (1, 1)
    grown = math.prod(whole) * frames[0] / frames[1] / math.prod(case.maps.shape[1:])
    coils = sum(recipe.data.coils) / 2 / case.scan.n_coils
    strategy, timed, out = part.enter(), Timed(), []
    strategy.phases(network)
    problem = timed.of(case.problem(device))
    misfit.compared = timed.of(case.problem(device)) if recipe.data.split else None
    for _ in range(2 if part.stage is not None else 1):  # those that train stage by stage keep the stages' inputs
        network.zero_grad()
        begun, timed.seconds = time.perf_counter(), 0.0
        strategy.step(network, problem, case.goal(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        total = time.perf_counter() - begun
        out.append(grown * (timed.seconds * coils + total - timed.seconds))
    return Pace(out[0], out[-1])
