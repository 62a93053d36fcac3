"""The groups of the benchmark: what held-out subjects are scanned like, and what is changed in them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from koosh_models import private
from koosh_models.simulation.lesions import with_lesions, with_spheres
from koosh_models.simulation.phantoms import Phantom
from koosh_models.training.cases import Alter, Case, draw, read_case, sources, write_case
from koosh_models.training.findings import DIAMETER, FAINTEST
from koosh_models.training.tables import Data
from koosh_models.training.volumes import Source

ACCELERATIONS = (4, 8, 12, 16, 20)
MAIN, SERIES = 12, 8
"""The acceleration that all cases are made at, of volumes and of series."""
BODY = ("knee", "chest", "abdomen", "vessels")
SPHERES = 20  # a case
FREE = "lesion-free phantoms"


@dataclass(frozen=True)
class Group:
    """Cases of one kind.

    title    as printed
    data     how they are simulated
    numbers  of the cases
    known    sources they are drawn from; None: the held-out subjects
    alter    what is changed in the anatomy
    inserts  what is put into the anatomy and looked for afterwards
    l1       "l1" with a weight tuned for each case, or "l1-default" with the one weight tuned on heads once
    """

    title: str
    data: Data
    numbers: range
    known: tuple[Source, ...] | None = None
    alter: Alter | None = None
    inserts: Alter | None = None
    l1: str = "l1"


def groups(data: Data, cases: int) -> list[Group]:
    """Of volumes R = 12 with all `cases`, a fifth of them at every other acceleration and in each group out of domain.

    Seven tenths of them with spheres, and five times as many phantoms without a lesion: for 20 cases more than 200
    spheres, and 100 phantoms in which nothing may be invented.
    """
    few = range(max(1, cases // 5))
    data = at(data, trajectory=data.trajectory[:1])  # of several families the main one; others have groups
    if data.dynamic:
        return of_series(data, range(cases), few)
    out = [
        Group(f"R = {speed}", at(data, acceleration=float(speed)), range(cases) if speed == MAIN else few)
        for speed in ACCELERATIONS
    ]
    data = at(data, acceleration=float(MAIN))
    return [*out, *with_insertions(data, cases), *elsewhere(data, few)]


def of_series(data: Data, every: range, few: range) -> list[Group]:
    """R = 8 with all cases, the others with a fifth of them."""
    speeds = [
        Group(f"R = {speed}", at(data, acceleration=float(speed)), every if speed == SERIES else few)
        for speed in (4, SERIES, 12)
    ]
    data = at(data, acceleration=float(SERIES))
    return [
        *speeds,
        *(Group(f"{n} coils", at(data, coils=n), few) for n in (4, 16)),
        *(Group(f"{n} frames", at(data, frames=n), few) for n in (data.frames // 2, 2 * data.frames)),
        Group("noise 6 %", at(data, noise=0.06), few),
        Group("no noise", at(data, noise=0.0), few),
    ]


def with_insertions(data: Data, cases: int) -> list[Group]:
    """Is a small lesion kept, is one invented."""
    few, free = range(max(1, cases // 5)), held_out("head", *BODY)
    return [
        Group("spheres inserted", data, range(100, 100 + max(1, round(0.7 * cases))), inserts=spheres),
        Group("lesions inserted", data, range(200, 200 + len(few)), inserts=lesions),
        Group(FREE, data, range(300, 300 + 5 * cases), free, l1="l1-default"),
    ]


def elsewhere(data: Data, few: range) -> list[Group]:
    """What the networks have not been trained on, or are not made for."""
    return [
        Group("body, knee, vessels", data, few, held_out(*BODY)),
        Group("contrast inverted", data, few, alter=inverted),
        Group("contrast of a CT", data, few, alter=bony),
        Group("half spokes (UTE)", at(data, trajectory=("ute3d",)), few),
        Group("cones", at(data, trajectory=("cones",)), few),
        Group("stack of stars", at(data, trajectory=("stack_of_stars",)), few),
        Group("4 coils", at(data, coils=4), few),
        Group("16 coils", at(data, coils=16), few),
        Group("noise 6 %", at(data, noise=0.06), few),
        Group("no noise", at(data, noise=0.0), few),
        Group("off-resonance 60 Hz", at(data, off_resonance_hz=(60.0, 60.0)), few),
        Group("motion 1 voxel, 1 degree", at(data, motion_voxels=(1.0, 1.0), motion_degrees=(1.0, 1.0)), few),
    ]


def held_out(*names: str) -> tuple[Source, ...]:
    """Phantoms of seeds that training never draws."""
    return tuple(Source(name, f"phantom-{name}-held-out", "validation") for name in names)


def at(data: Data, **changes: object) -> Data:
    """The data with other validation conditions; R = 12, 8 coils and 2 % noise where not given."""
    named = {name: f"validation_{name}" for name in ("acceleration", "noise", "coils")}
    return Data.model_validate({**data.model_dump(), **{named.get(k, k): v for k, v in changes.items()}})


def spheres(body: Phantom, number: int) -> Phantom:
    """The anatomy with small spheres in it, by the number of the case."""
    return with_spheres(body, number, SPHERES, DIAMETER, (FAINTEST, 0.5))[0]


def lesions(body: Phantom, number: int) -> Phantom:
    """The anatomy with irregular spots 3 to 8 voxels across, much darker or brighter than what was there."""
    return with_lesions(body, number)[0]


def inverted(body: Phantom, _number: int) -> Phantom:
    """The anatomy with what was bright dark and what was dark bright; air stays dark, phases stay."""
    return recoloured(body, lambda share: 1.05 - share)


def bony(body: Phantom, _number: int) -> Phantom:
    """Soft tissue nearly flat at a third of the range, what was darkest inside the body bright as bone is in a CT."""
    return recoloured(body, lambda share: torch.where(share < 0.12, 1.0 - 2 * share, 0.33 + 0.08 * share))


def recoloured(body: Phantom, curve: Callable[[Tensor], Tensor]) -> Phantom:
    """The magnitude inside the object by a curve over its share of the 99th percentile, 0 to 1; phases stay."""
    magnitude, inside = body.image.abs(), body.mask.bool()
    peak = float(torch.quantile(magnitude[inside][:1_000_000], 0.99)) or 1.0
    share = (magnitude / peak).clamp(0, 1)
    unit = body.image / magnitude.clamp_min(1e-6 * peak)
    return Phantom(torch.where(inside, curve(share) * peak * unit, body.image), body.mask)


def cases_of(
    group: Group, cache: Path | None, finished: Container[str] = ()
) -> Iterator[tuple[str, Case, Case | None]]:
    """Name, case in its object's box, and the same case before anything was inserted into it.

    finished  names of those that are not wanted
    """
    known = list(group.known) if group.known is not None else sources(group.data)
    usable = [source for source in known if source.split == "validation"]
    for number in group.numbers:
        if f"{group.title}, {usable[number % len(usable)].name}-{number}" in finished:
            continue
        case = stored(group, number, known, group.inserts or group.alter, "", cache)
        plain = stored(group, number, known, None, "-plain", cache) if group.inserts is not None else None
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
