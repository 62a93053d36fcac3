"""What is made of a scan block by block: coil maps and kernel from the first block, the right-hand side from each.

The blocks depend on the trajectory alone, never on what has arrived when, and their sums are taken in one order: so the
image is the same to the bit whether they are formed while the scan runs or after it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.calibration.maps import CoilMaps
    from koosh_models.physics.toeplitz import Toeplitz
    from koosh_models.scan import Scan
    from koosh_models.support import Box

SHARES = (0.75, 0.9, 0.97, 1.0)  # of the readouts at which a block ends
EPS = 1e-4  # the accuracy of `non_cartesian`
CENTRE, BINS = 16, 6  # cells of k-space on either side of 0 that coil maps are made of, and boxes across them
FILLED, LACKING = 0.5, 0.03  # share of a box's samples that serves for maps, and how much of that may be wanting


@dataclass(frozen=True, eq=False)
class Plan:
    """A trajectory that is known before the scan, cut into blocks.

    matrix   (z, y, x) or (y, x)
    omega    (axis, sample) rad/voxel
    samples  in a readout
    ends     samples at which the blocks end; coil maps come from the first, the last ends with the scan
    """

    matrix: tuple[int, ...]
    omega: Tensor
    samples: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, matrix: tuple[int, ...], omega: Tensor, samples: int) -> Plan:
        """The first block is as short as coil maps allow."""
        n = int(omega.shape[1]) // samples
        ends = sorted({max(1, int(share * n)) * samples for share in SHARES})
        while len(ends) > 1 and not serves(omega, matrix, ends[0]):
            ends.pop(0)
        return cls(matrix, omega, samples, tuple(ends))

    def blocks(self) -> Iterator[slice]:
        """The samples of each block."""
        return (slice(a, b) for a, b in zip((0, *self.ends[:-1]), self.ends, strict=True))

    def matches(self, scan: Scan) -> bool:
        """Whether the scan has this trajectory, to the bit."""
        same = scan.geometry.matrix == self.matrix and scan.omega.shape == self.omega.shape and scan.weights is None
        return same and bool((scan.omega == self.omega).all())


def serves(omega: Tensor, matrix: tuple[int, ...], n: int) -> bool:
    """Whether the first `n` samples fill the centre of k-space nearly as evenly as all of them do."""
    import torch

    sizes = torch.tensor(matrix, dtype=omega.dtype)[:, None]
    half = (sizes / 2).clamp_max(CENTRE)
    place = (omega * sizes / (2 * math.pi) + half) / (2 * half) * BINS
    near = ((place >= 0) & (place < BINS)).all(0)
    strides = torch.tensor([BINS**axis for axis in range(len(matrix))])[:, None]
    boxes = (place[:, near].long() * strides).sum(0)
    whole = FILLED * torch.bincount(boxes, minlength=BINS ** len(matrix))
    first = torch.bincount(boxes[near.nonzero().flatten() < n], minlength=BINS ** len(matrix))
    return bool((whole - first).clamp_min(0).sum() <= LACKING * whole.sum())


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the first block gives.

    maps    coil maps
    box     of the object
    kernel  Toeplitz form of the normal operator inside the box, None where the explicit pair is cheaper
    """

    maps: CoilMaps
    box: Box
    kernel: Toeplitz | None


@dataclass(frozen=True, eq=False)
class Block:
    """One block's part of `A^H W y` inside the box, and the digest of the k-space that it was made of."""

    digest: bytes
    b: Tensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """A whole scan's calibration with its right-hand side `A^H W y` inside the box."""

    calibration: Calibration
    b: Tensor


def calibration(plan: Plan, weights: Tensor, kspace: Tensor) -> tuple[CoilMaps, Box]:
    """Maps and box from the first block's (coil, sample) k-space."""
    from koosh_models.reconstruction import calibrate
    from koosh_models.support import box_around

    maps = calibrate(part(plan, weights, kspace, slice(0, plan.ends[0])))
    return maps, box_around(maps.mask)


def kernel(plan: Plan, weights: Tensor, box: Box) -> Toeplitz | None:
    """The Toeplitz form of the normal operator inside the box, where it is the cheaper one."""
    from koosh_models.physics import toeplitz
    from koosh_models.physics.nufft import Nufft

    if not prefers_kernel(plan.omega, box.size):
        return None
    share = math.prod(box.size) / math.prod(box.matrix)
    whole = weights if box.size == box.matrix else weights * share
    return toeplitz.build(Nufft(plan.omega, box.size, EPS), whole)


def block(plan: Plan, weights: Tensor, kspace: Tensor, at: slice, found: Calibration) -> Block:
    """The part of a block's (coil, sample) k-space in the right-hand side."""
    from koosh_models.physics.nufft import Nufft
    from koosh_models.physics.sense import Sense
    from koosh_models.support import boxed_maps, boxed_scan

    inside = boxed_scan(part(plan, weights, kspace, at), found.box)
    assert inside.weights is not None
    sense = Sense(boxed_maps(found.maps.maps, found.box), Nufft(inside.omega, found.box.size, EPS), 4)
    return Block(digest(kspace), sense.adjoint(inside.kspace * inside.weights))


def part(plan: Plan, weights: Tensor, kspace: Tensor, at: slice) -> Scan:
    """A block as a scan of its own, in no particular place."""
    from koosh_models.scan import Geometry, Scan

    place = Geometry(plan.matrix, tuple(float(m) for m in plan.matrix))
    return Scan(kspace, plan.omega[:, at].contiguous(), place, plan.samples, weights[at])


def digest(kspace: Tensor) -> bytes:
    """What tells (coil, sample) data from any others."""
    found = hashlib.blake2b(str(tuple(kspace.shape)).encode(), digest_size=16)
    for row in kspace:
        found.update(row.contiguous().numpy())
    return found.digest()


def prefers_kernel(omega: Tensor, matrix: tuple[int, ...]) -> bool:
    """The fixed rule of `koosh_models.physics.mri.use_pair`, before there is a scan."""
    from koosh_models.physics.mri import PAIR_BELOW

    return bool(omega.device.type != "cpu" or omega.shape[-1] / math.prod(matrix) >= PAIR_BELOW[len(matrix)])
