"""Networks beside the classical methods on held-out subjects: groups of cases, paired differences, lesions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from koosh_models import metrics, private
from koosh_models.networks.unrolled import Unrolled
from koosh_models.simulation.lesions import with_spheres
from koosh_models.simulation.phantoms import Phantom
from koosh_models.training.cases import Alter, Case, draw, read_case, sources, write_case
from koosh_models.training.tables import Data
from koosh_models.training.validate import classic, tuned
from koosh_models.training.volumes import Source

ACCELERATIONS = (4, 8, 12, 16, 20)
MAIN = 12
METHODS = ("gridding", "cg", "l1")
BODY = ("knee", "chest", "abdomen", "vessels")
DIAMETER = 4.0  # voxels, of the inserted spheres and of the blobs that count as invented
SPHERES = 20  # a case
FAINTEST = 0.2  # contrast of the faintest inserted sphere
SMALLEST = 8  # voxels that an inserted sphere changed at least
TISSUE = 0.25  # of the 99th percentile: what lies below is too dark to judge a blob's contrast in


@dataclass(frozen=True)
class Group:
    """Cases of one kind.

    title    as printed
    data     how they are simulated
    numbers  of the cases
    known    sources they are drawn from; None: the held-out subjects
    alter    what is changed in the anatomy
    """

    title: str
    data: Data
    numbers: range
    known: tuple[Source, ...] | None = None
    alter: Alter | None = None


def groups(data: Data, cases: int) -> list[Group]:
    """R = 12 with all `cases`, a fifth of them at every other acceleration and in each group out of domain."""
    few = range(max(1, cases // 5))
    out = [
        Group(f"R = {speed}", at(data, acceleration=float(speed)), range(cases) if speed == MAIN else few)
        for speed in ACCELERATIONS
    ]
    data = at(data, acceleration=float(MAIN))
    bodies = tuple(Source(name, f"phantom-{name}-held-out", "validation") for name in BODY)
    out += [
        Group("spheres inserted", data, range(100, 100 + len(few)), alter=spheres),
        Group("body, knee, vessels", data, few, bodies),
        Group("half spokes (UTE)", at(data, trajectory=("ute3d",)), few),
        Group("4 coils", at(data, coils=4), few),
        Group("16 coils", at(data, coils=16), few),
        Group("noise 6 %", at(data, noise=0.06), few),
        Group("no noise", at(data, noise=0.0), few),
        Group("off-resonance 60 Hz", at(data, off_resonance_hz=(60.0, 60.0)), few),
        Group("motion 1 voxel, 1 degree", at(data, motion_voxels=(1.0, 1.0), motion_degrees=(1.0, 1.0)), few),
    ]
    return out


def at(data: Data, **changes: object) -> Data:
    """The data with other validation conditions; R = 12, 8 coils and 2 % noise where not given."""
    named = {name: f"validation_{name}" for name in ("acceleration", "noise", "coils")}
    return Data.model_validate({**data.model_dump(), **{named.get(k, k): v for k, v in changes.items()}})


def spheres(body: Phantom, number: int) -> Phantom:
    """The anatomy with small spheres in it, by the number of the case."""
    return with_spheres(body, number, SPHERES, DIAMETER, (FAINTEST, 0.5))[0]


def cases_of(group: Group, cache: Path | None) -> Iterator[tuple[str, Case, Case | None]]:
    """Name, case in its object's box, and the same case before anything was inserted into it."""
    known = list(group.known) if group.known is not None else sources(group.data)
    for number in group.numbers:
        case = stored(group, number, known, group.alter, "", cache)
        plain = None
        if group.alter is not None:
            plain = stored(group, number, known, None, "-plain", cache)
        yield f"{group.title}, {case.name}", case, plain


def stored(
    group: Group, number: int, known: list[Source], alter: Alter | None, suffix: str, cache: Path | None
) -> Case:
    """A case from the cache, or made and put there."""
    if cache is None:
        return draw(group.data, "validation", number, known, alter).inside()
    kind = "".join(c if c.isalnum() else "-" for c in group.title)
    size = "x".join(map(str, group.data.matrix[0]))
    path = cache / f"{kind}-{size}-{number:03d}{suffix}.safetensors"
    if not path.is_file():
        private.folder(cache)
        write_case(path, draw(group.data, "validation", number, known, alter))
    return read_case(path).inside()


@dataclass(frozen=True)
class Row:
    """One method on one case.

    values    psnr (dB), ssim, nrmse, hfen; `invented` blobs; `kept` share of the spheres' contrast where there are any
    seconds   of CPU, once maps and operator are made; of L1-wavelet for one weight
    spheres   kept share of each inserted sphere
    """

    group: str
    case: str
    method: str
    values: dict[str, float]
    seconds: float
    spheres: tuple[float, ...] = ()
    conditions: dict[str, float | str] = field(default_factory=dict)


@torch.no_grad()
def row(group: str, name: str, case: Case, plain: Case | None, method: str, network: Unrolled | None) -> Row:
    """The numbers of one method on one case."""
    problem = case.problem()
    begun, tries = time.process_time(), 1
    if method == "l1":
        image, tries = tuned(problem, case)
    else:
        image = network(problem) if network is not None else classic(case, problem, method)
    seconds = (time.process_time() - begun) / tries
    values = metrics.evaluate(image, case.target, case.mask)
    seen: tuple[float, ...] = ()
    if plain is None:
        values["invented"] = float(invented(image, case.target, case.mask))
    else:
        seen = tuple(kept(image, case.target, plain.target, case.mask))
        values["kept"] = math.fsum(seen) / len(seen) if seen else math.nan
    return Row(group, name, method, values, seconds, seen, case.facts)


def kept(image: Tensor, target: Tensor, plain: Tensor, mask: Tensor) -> list[float]:
    """For each inserted sphere the share of its contrast that the image shows: 1 is all, 0 is none.

    The share that explains `|image| - |plain|` best by `|target| - |plain|` in each sphere, both limited to the ball
    of k-space that is measured.
    """
    seen, wanted, _ = metrics.fitted(image, target, mask)
    before = plain.abs().double()
    change = in_ball(wanted - before)
    error = in_ball(seen - before)
    places = blobs((wanted - before).abs() > 0.05 * float(wanted.max()) * FAINTEST)
    out = []
    for place in places:
        energy = float(change[place].square().sum())
        if energy > 0 and len(place[0]) >= SMALLEST:
            out.append(float((error[place] * change[place]).sum()) / energy)
    return out


def in_ball(image: Tensor) -> Tensor:
    """The image without the corners of k-space that no radial scan measures."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in image.shape]
    radius = sum(a.reshape([-1 if i == k else 1 for i in range(image.ndim)]).square() for k, a in enumerate(axes))
    assert isinstance(radius, Tensor)
    return torch.fft.ifftn(torch.fft.fftn(image) * (radius <= 0.25)).real


def invented(image: Tensor, target: Tensor, mask: Tensor) -> int:
    """Blobs of four voxels whose mean error exceeds half the faintest inserted contrast of the tissue around."""
    seen, wanted, inside = metrics.fitted(image, target, mask)
    kernel = ball(DIAMETER).to(wanted)
    around = mean_over(wanted, kernel)
    error = mean_over(seen - wanted, kernel).abs()
    bright = inside & (
        around > TISSUE * float(torch.quantile(wanted[inside][:: max(1, int(inside.sum()) // 10**6)], 0.99))
    )
    return len(blobs(bright & (error > 0.5 * FAINTEST * around)))


def ball(diameter: float) -> Tensor:
    """(z, y, x) weights of a sphere around the middle voxel, sum 1."""
    side = math.ceil(diameter) // 2 * 2 + 1
    t = torch.arange(side, dtype=torch.float64) - side // 2
    inside = (t[:, None, None] ** 2 + t[:, None] ** 2 + t**2 <= (diameter / 2) ** 2).double()
    return inside / inside.sum()


def mean_over(image: Tensor, kernel: Tensor) -> Tensor:
    """The mean over the kernel around each voxel."""
    sides = [n // 2 for n in kernel.shape]
    return functional.conv3d(image[None, None], kernel[None, None], padding=tuple(sides))[0, 0]


def blobs(mask: Tensor) -> list[tuple[Tensor, ...]]:
    """Indices of the voxels of each connected part (faces, edges, corners)."""
    labels = torch.where(mask, torch.arange(1, mask.numel() + 1).reshape(mask.shape).double(), 0.0)
    while True:  # each voxel takes the largest number around it until nothing changes
        spread = torch.where(mask, functional.max_pool3d(labels[None], 3, 1, 1)[0], 0.0)
        if torch.equal(spread, labels):
            break
        labels = spread
    return [torch.nonzero(labels == number, as_tuple=True) for number in torch.unique(labels).tolist() if number]


@dataclass(frozen=True)
class Difference:
    """Network minus another method over the same cases: mean, 95 % interval (bootstrap over cases), the worst case."""

    measure: str
    mean: float
    low: float
    high: float
    worst: float
    case: str
    count: int


def differences(rows: Sequence[Row], group: str, method: str, other: str, measure: str) -> Difference | None:
    """Paired over the cases of a group; None where either was not run. Better is positive, whatever the measure."""
    sign = 1.0 if measure in ("psnr", "ssim") else -1.0
    mine = {r.case: r.values for r in rows if r.group == group and r.method == method}
    theirs = {r.case: r.values for r in rows if r.group == group and r.method == other}
    both = [name for name in mine if name in theirs and measure in mine[name]]
    if not both:
        return None
    found = np.array([sign * (mine[name][measure] - theirs[name][measure]) for name in both])
    draws = np.random.default_rng(0).integers(len(found), size=(10_000, len(found)))
    low, high = np.percentile(found[draws].mean(1), [2.5, 97.5])
    worst = int(found.argmin())
    return Difference(
        measure, float(found.mean()), float(low), float(high), float(found[worst]), both[worst], len(both)
    )


Told = Callable[[Row], None]


def run(
    chosen: Sequence[Group],
    against: Sequence[str],
    networks: dict[str, Unrolled],
    cache: Path | None,
    done: Sequence[Row] = (),
    told: Told | None = None,
) -> list[Row]:
    """Every method and network on every case; what is `done` already is not done again."""
    out = list(done)
    known = {(r.case, r.method) for r in done}
    for group in chosen:
        for name, case, plain in cases_of(group, cache):
            for method in (*against, *networks):
                if (name, method) in known:
                    continue
                out.append(row(group.title, name, case, plain, method, networks.get(method)))
                if told is not None:
                    told(out[-1])
    return out
