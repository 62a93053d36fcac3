"""What a reconstruction is going to take, stage by stage, and how it is cut to fit the memory there is.

The numbers of volumes below are measured peaks (`python -m benchmarks.reliability --only plan`), rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.encoding import Encoding
from koosh_gadgets.stages.grid import grid
from koosh_gadgets.stages.trajectory import APART
from koosh_gadgets.wire.readouts import Readouts
from koosh_models.memory import sized

if TYPE_CHECKING:
    from koosh_models.scan import Scan
    from koosh_models.support import Box

SOLVER = {
    "gridding": 0,
    "cg": 8,
    "l1": 16,
    "llr": 24,
    "unrolled": 14,
}  # complex volumes beside maps, kernel and one coil group
DENSE, COIL = 0.15, 5  # samples a voxel from which the kernel serves in any case; volumes of one coil in it
TRANSFORM = 10  # volumes of one non-uniform transform, its finer grid included
KERNEL, KERNEL_16, KERNEL_BUILD = 4, 2, 16  # volumes of the Toeplitz kernel, in 16 bit, and while it is made
SMALLEST_TILE = 64 << 20  # bytes for one tile of a network, at the very least
CREDIBLE = 10_000_000  # readouts, hours of scanning: a header that promises more is wrong, and what comes counts
FEWEST = 6  # complex volumes that gridding holds at a time, at the very least


@dataclass(frozen=True)
class Size:
    """What memory depends on: voxels of the whole matrix and of the object's box, coils, samples of one coil."""

    voxels: int
    inside: int
    coils: int
    samples: int


@dataclass(frozen=True)
class Cut:
    """How the work is divided: coils at a time, and whether the kernel is kept in 16 bit."""

    group: int = 4
    lean: bool = False


WHOLE, SMALLEST = Cut(), Cut(1, True)
CUTS = (WHOLE, Cut(2), Cut(1), SMALLEST)  # from fast to small


def size_of(scan: Scan, box: Box | None = None) -> Size:
    """The size of a scan, and of the box that is reconstructed."""
    voxels = math.prod(scan.geometry.matrix)
    return Size(voxels, math.prod(box.size) if box is not None else voxels, scan.n_coils, int(scan.omega.shape[-1]))


def needs(size: Size, method: str, cut: Cut = WHOLE) -> dict[str, int]:
    """Bytes at the peak of each stage, beside the readouts themselves; what stays from earlier stages counts."""
    whole, inside, data, way = 8 * size.voxels, 8 * size.inside, 8 * size.coils * size.samples, 16 * size.samples
    maps = 4 * whole  # smooth ones, made coil by coil where they are needed
    adjoint = maps + (TRANSFORM + 2 * cut.group) * inside + 2 * data + 2 * way
    found = {
        "density weights": 8 * whole + 4 * way,
        "coil maps": (size.coils + 12) * whole + 2 * way,
        "problem": adjoint,
    }
    if method != "gridding":
        kernel = KERNEL_16 if cut.lean else KERNEL
        found["problem"] = max(adjoint, maps + KERNEL_BUILD * inside + 2 * way)
        group = 2 * cut.group + TRANSFORM // 2
        if method == "unrolled":  # its tile beside that
            group = COIL if size.samples >= DENSE * size.inside else group
            found["solve unrolled"] = 2 * whole + (kernel + SOLVER[method] + group) * inside + data + SMALLEST_TILE
        else:
            found[f"solve {method}"] = maps + (kernel + SOLVER[method] + group) * inside + data
    return found


def peak(size: Size, method: str, cut: Cut = WHOLE) -> int:
    """Bytes at the highest of all stages."""
    return max(needs(size, method, cut).values())


def beside_parts(size: Size) -> int:
    """Bytes that stay while parts of a scan are reconstructed: the scan, its kernel, the image, those of the parts."""
    return 8 * size.coils * size.samples + 8 * KERNEL * size.inside + 4 * 8 * size.voxels


def doubt(size: Size, kind: str, method: str, cut: Cut = WHOLE) -> int:
    """Bytes at the peak of making a map of where an image by `method` is doubtful: residual or disagreement."""
    if kind == "residual":
        return needs(size, "cg", cut)["solve cg"] + 3 * 8 * size.voxels
    stages = needs(size, method, cut)
    return beside_parts(size) + max(stages["problem"], stages[f"solve {method}"])


def cut_for(size: Size, method: str, budget: int) -> Cut | None:
    """The fastest division of the work that fits into `budget` bytes (0: any); None where none does."""
    return next((cut for cut in CUTS if not budget or peak(size, method, cut) <= budget), None)


def check_matrix(matrix: tuple[int, ...], memory: int) -> None:
    """Refuse a matrix that even the simplest method could not hold, and say which one would do."""
    needed = 8 * FEWEST * math.prod(matrix) >> 20
    if needed > memory:
        most = int(((memory << 20) / (8 * FEWEST)) ** (1 / len(matrix)))
        raise ValueError(
            f"the matrix {'x'.join(map(str, matrix))} needs at least {needed} MiB, {memory} MiB are "
            f"allowed: choose a `matrix` of at most {most}, raise `memory`, or correct the header's matrixSize"
        )


def check_readouts(n: int | None, coils: int, samples: int, memory: int) -> None:
    """Refuse, at the first readout, a scan that promises more readouts than memory holds, and say how many it does.

    n  readouts the header promises, None where it does not
    """
    each = 8 * coils * samples + 12 * samples + 340
    if n is not None and n <= CREDIBLE and n * each > memory << 20:
        raise ValueError(
            f"the header promises {n} readouts of {coils} coils x {samples} samples: {sized(n * each)}, more than the "
            f"memory budget of {memory} MiB, which holds {(memory << 20) // each}; raise `memory`, or compress the "
            "coils before they are sent"
        )


def foreseen(items: Iterable[object], spaces: Sequence[Encoding], settings: Settings) -> Iterator[object]:
    """The same items; a scan that can't fit into memory is refused at its first readout."""
    seen: set[int] = set()
    for item in items:
        if isinstance(item, Readouts) and len(item) and not item.flagged(*APART).any():
            number = int(item.heads["encoding_space_ref"][0])
            if number not in seen and number < len(spaces):
                seen.add(number)
                space, (_, coils, samples) = spaces[number], item.data.shape
                check_matrix(tuple(int(n) for n in grid(space, settings.matrix).matrix), settings.memory)
                check_readouts(space.readouts, coils, samples, settings.memory)
        yield item
