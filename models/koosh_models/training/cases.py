"""One training case: a scan with its maps and its target, made from nothing but a seed and a number."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from koosh_models.losses import Target
from koosh_models.physics.cartesian import gridded
from koosh_models.physics.mri import cartesian, cartesian_series, dynamic, non_cartesian
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.solve import conjugate_gradient
from koosh_models.reconstruction import calibrate, with_weights
from koosh_models.scan import Geometry, Scan
from koosh_models.simulation.imperfections import Imperfections
from koosh_models.simulation.phantoms import Phantom
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import Trajectory, trajectory
from koosh_models.support import box_around, boxed_scan
from koosh_models.training.tables import Data
from koosh_models.training.volumes import Source, anatomy, check_splits, rotation, sources_of

TURNED = {"radial3d": 3, "ute3d": 3, "cones": 3, "spiral3d": 3, "stack_of_stars": 2, "radial2d": 2, "spiral2d": 2}
"""Families whose trajectory may be turned, and about how many axes."""
Alter = Callable[[Phantom, int], Phantom]


@dataclass(frozen=True, eq=False)
class Case:
    """What one step of training needs.

    scan    with density weights
    maps    (coil, z, y, x) complex64
    target  what the network should give, (z, y, x) complex64
    mask    where quality is judged, bool
    facts   acceleration, noise, coils, and where it comes from
    iterates  (stage, z, y, x) what the first stages should give, where that is not the target; None: it is
    """

    name: str
    scan: Scan
    maps: Tensor
    target: Tensor
    mask: Tensor
    facts: dict[str, float | str]
    iterates: Tensor | None = None

    def goal(self, device: torch.device) -> Target:
        """What the strategy trains towards."""
        target, iterates = self.target.to(device), self.iterates
        if iterates is None:
            return target
        return lambda k: iterates[k - 1].to(device) if k <= len(iterates) else target

    def problem(self, device: torch.device | str = "cpu") -> LinearProblem:
        """The measurement as networks and baselines see it."""
        scan, maps = self.scan.to(device), self.maps.to(device)
        return replace(self._linear(scan, maps), name=self.name)

    def _linear(self, scan: Scan, maps: Tensor) -> LinearProblem:
        if not self.on_grid:
            return dynamic(scan, maps) if scan.n_frames is not None else non_cartesian(scan, maps)
        if scan.n_frames is not None:  # weighted as online, where a line's place need not be on the grid
            return cartesian_series(*gridded(scan), maps)
        return cartesian(*gridded(replace(scan, weights=None)), maps)

    @property
    def on_grid(self) -> bool:
        """Whether the samples lie on the image's own grid of k-space."""
        return str(self.facts["family"]).endswith(("cartesian", "cartesian3d"))

    def parted(self, share: float, seed: int) -> tuple[Case, Case]:
        """Two cases of the same scan: most readouts to reconstruct from, and `share` of them to compare with.

        Self-supervision by splitting the data (Yaman et al. 2020): no truth is needed.
        """
        count = self.scan.n_readouts
        held = round(share * count)
        if not 0 < held < count or self.scan.n_frames is not None:
            raise ValueError(f"{share:g} of {count} readouts leaves nothing on one side, or the scan is a series")
        order = torch.from_numpy(np.random.default_rng([seed, count]).permutation(count))
        kept, compared = order[held:].sort().values, order[:held].sort().values
        return replace(self, scan=readouts(self.scan, kept)), replace(self, scan=readouts(self.scan, compared))

    def share(self, rank: int, world: int) -> Case:
        """The same case with every `world`-th coil, for a rank that shares a volume with others."""
        if world > self.scan.n_coils:
            raise ValueError(f"{self.scan.n_coils} coils can't be split over {world} ranks; use fewer ranks")
        kspace = self.scan.kspace[..., rank::world, :].contiguous()
        return replace(self, scan=replace(self.scan, kspace=kspace), maps=self.maps[rank::world].contiguous())

    def bare(self) -> Case:
        """The same case without samples and maps, which are most of its memory: one readout stands for them."""
        one = replace(
            self.scan, kspace=self.scan.kspace[..., : self.scan.readout].clone(),
            omega=self.scan.omega[..., : self.scan.readout].clone(), weights=None,
        )  # fmt: skip
        return replace(self, scan=one, maps=self.maps[:0])

    def inside(self) -> Case:
        """The same case in the bounding box of its object, as scans are reconstructed."""
        if self.on_grid:  # a box would leave the grid, and a transform of the whole is cheap there
            return self
        box = box_around(self.maps.abs().amax(0) > 0)
        return replace(
            self,
            scan=boxed_scan(self.scan, box),
            maps=box.cut(self.maps),
            target=box.cut(self.target),
            mask=box.cut(self.mask),
            iterates=None if self.iterates is None else box.cut(self.iterates),
        )


def readouts(scan: Scan, which: Tensor) -> Scan:
    """The scan of some of its readouts, with density weights of its own.

    which  (readout) indices; of a series (frame, readout), others in each frame
    """
    if scan.n_frames is not None:
        parts = [readouts(scan.frame(k), chosen) for k, chosen in enumerate(which)]
        weights = torch.stack([part.weights for part in parts if part.weights is not None])
        kspace, omega = torch.stack([p.kspace for p in parts]), torch.stack([p.omega for p in parts])
        return replace(scan, kspace=kspace, omega=omega, weights=weights)
    return with_weights(replace(scan, weights=None).only(which))


def first_iterates(problem: LinearProblem, count: int) -> Tensor:
    """(count, *shape) the first iterates of CG-SENSE, the last one again where it has converged before."""
    found: list[Tensor] = []
    conjugate_gradient(
        problem.normal, problem.b, iterations=count, tolerance=1e-4, progress=lambda x: found.append(x.clone())
    )
    return torch.stack((found or [problem.b]) + [found[-1] if found else problem.b] * (count - max(1, len(found))))


def sources(data: Data) -> list[Source]:
    """Every volume and phantom of a recipe, each in one split."""
    found = sources_of(data.volumes, data.validation) if data.volumes else []
    check_splits(found)
    found += [Source(name, f"phantom-{name}", "training") for name in data.phantoms]
    if not any(s.split == "validation" for s in found):
        # a phantom's seed is its subject: validation draws from seeds that training never uses
        found += [Source(s.name, f"{s.subject}-held-out", "validation") for s in found if s.path is None]
    for split in ("training", "validation"):
        if not any(s.split == split for s in found):
            raise ValueError(f"no subject is left for {split}: add volumes, or name fewer in data.validation")
    return found


@dataclass(frozen=True, eq=False)
class Scene:
    """What is scanned in a case, and how: all that is drawn before anything is simulated.

    seed  of coils and noise; `rng` goes on from there
    """

    source: Source
    family: str
    matrix: tuple[int, ...]
    speed: float
    noise: float
    coils: int
    path: Trajectory
    image: Phantom
    seed: int
    rng: np.random.Generator


def scene(data: Data, split: str, index: int, known: list[Source] | None = None) -> Scene:
    """The scene of case number `index` of a split."""
    rng = np.random.default_rng([data.seed, 0 if split == "training" else 1, index])
    usable = [s for s in (known or sources(data)) if s.split == split]
    source = chosen(usable, data.phantom_share if split == "training" else 0.0, rng, index, split)
    matrix = data.matrix[int(rng.integers(len(data.matrix)))]
    fixed = split == "validation" and data.validation_acceleration is not None
    low, high = data.acceleration
    speed = data.validation_acceleration if fixed else math.exp(rng.uniform(math.log(low), math.log(high)))
    noise = data.validation_noise if fixed else float(rng.uniform(*data.noise))
    coils = data.validation_coils if fixed else int(rng.integers(data.coils[0], data.coils[1] + 1))
    assert speed is not None
    family = data.trajectory[int(rng.integers(len(data.trajectory)))]
    path = turned(trajectory(family, matrix, speed, int(rng.integers(2**31)), data.frames), rng, data.rotate)
    image = anatomy(source, matrix, rng, data.frames)
    return Scene(source, family, matrix, speed, noise, coils, path, image, int(rng.integers(2**31)), rng)


def draw(data: Data, split: str, index: int, known: list[Source] | None = None, alter: Alter | None = None) -> Case:
    """Case number `index` of a split: the same arguments give the same bits, on any worker and any rank.

    alter  what is changed in the anatomy, by the number of the case
    """
    what = scene(data, split, index, known)
    image, coils, fov = what.image, what.coils, tuple(data.fov_mm * n / max(what.matrix) for n in what.matrix)
    image = image if alter is None else alter(image, index)
    made = simulate(
        image.image, what.path, mask=image.mask, n_coils=coils, noise=what.noise, seed=what.seed,
        geometry=Geometry(what.matrix, fov), imperfections=imperfections(data, what.rng),
    )  # fmt: skip
    scan = with_weights(made.scan)
    maps, target = made.maps, made.truth
    if data.maps == "estimated":
        # what these maps can show of the truth; equal to it where they are right
        maps = calibrate(scan).maps.coils(0, coils)
        target = (maps.conj() * made.maps).sum(0) * made.truth
    facts: dict[str, float | str] = {
        "source": what.source.name, "subject": what.source.subject, "acceleration": float(what.speed),
        "noise": what.noise, "coils": float(coils), "sigma": made.sigma, "family": what.family,
    }  # fmt: skip
    case = Case(f"{what.source.name}-{index}", scan, maps, target.contiguous(), made.mask, facts)
    if not data.iterates or split != "training":
        return case
    full = trajectory(what.family, what.matrix, 1.0, what.seed, data.frames)
    clean = simulate(image.image, full, mask=image.mask, maps=made.maps, noise=0.0, seed=what.seed)
    whole = replace(case, scan=replace(with_weights(clean.scan), geometry=scan.geometry))
    return replace(case, iterates=first_iterates(whole.problem(), data.iterates))


def imperfections(data: Data, rng: np.random.Generator) -> Imperfections:
    """What goes wrong in this scan, drawn from the recipe's ranges."""
    delays = rng.uniform(*data.delays, 3)
    return Imperfections(
        off_resonance_hz=float(rng.uniform(*data.off_resonance_hz)),
        dwell_us=data.dwell_us,
        delays=(float(delays[0]), float(delays[1]), float(delays[2])),
        motion_voxels=float(rng.uniform(*data.motion_voxels)),
        motion_degrees=float(rng.uniform(*data.motion_degrees)),
    )


def chosen(usable: list[Source], share: float, rng: np.random.Generator, index: int, split: str) -> Source:
    """Validation takes its subjects in turn; training draws, phantoms with the share that was asked for."""
    if split == "validation":
        return usable[index % len(usable)]
    phantoms, files = [s for s in usable if s.path is None], [s for s in usable if s.path is not None]
    pool = phantoms if phantoms and (not files or rng.random() < share) else files
    return pool[int(rng.integers(len(pool)))]


def turned(path: Trajectory, rng: np.random.Generator, rotate: bool) -> Trajectory:
    """The trajectory turned at random, where its family allows."""
    axes = TURNED.get(path.family, 0) if rotate else 0
    if not axes:
        return path
    angles = rng.uniform(-math.pi, math.pi, 3)
    if axes == 2:
        angles[1:] = 0
    turn = rotation(angles)[-path.omega.shape[-2] :, -path.omega.shape[-2] :]
    return replace(path, omega=(turn @ path.omega).clamp(-math.pi, math.pi))


def write_case(path: Path, case: Case) -> None:
    """A case as safetensors, whole or not at all."""
    assert case.scan.weights is not None
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part")  # ranks may make the same case at once
    tensors = {
        "kspace": case.scan.kspace, "omega": case.scan.omega, "weights": case.scan.weights, "maps": case.maps,
        "target": case.target, "mask": case.mask,
    }  # fmt: skip
    if case.iterates is not None:
        tensors["iterates"] = case.iterates
    head = {"name": case.name, "facts": case.facts, "readout": case.scan.readout, "fov_mm": case.scan.geometry.fov_mm}
    try:
        save_file({k: t.contiguous() for k, t in tensors.items()}, part, metadata={"case": json.dumps(head)})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_case(path: Path) -> Case:
    """The case that `write_case` wrote."""
    with safe_open(str(path), framework="pt") as file:
        head = json.loads(file.metadata()["case"])
        t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    geometry = Geometry(tuple(t["maps"].shape[1:]), tuple(head["fov_mm"]))
    scan = Scan(t["kspace"], t["omega"], geometry, head["readout"], t["weights"])
    return Case(head["name"], scan, t["maps"], t["target"], t["mask"], head["facts"], t.get("iterates"))
