"""Where an image deserves less trust: what it leaves of the data, and how far parts of the data disagree with it.

Neither map is the error: what the data cannot see stays dark in the first, and what all parts of the data get wrong
alike (a bias of the method, wrong coil maps) in the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.physics.problem import LinearProblem
from koosh_models.scan import Scan

PARTS = 2
SMOOTH = 1.0  # voxels, of the Gaussian that makes a spread over few images steady


@torch.no_grad()
def unexplained(problem: LinearProblem, image: Tensor) -> Tensor:
    """Real image `|b - a N x|`: what the image x leaves of the density-weighted data, in the image's own units.

    image  complex, of the problem's shape; a is the one number that fits the data best, since methods differ in scale
    """
    if tuple(image.shape) != problem.shape:
        raise ValueError(f"the image has shape {tuple(image.shape)}, its problem {problem.shape}")
    seen = problem.normal(image)
    energy = torch.vdot(image.flatten(), seen.flatten()).real  # |W^1/2 A x|^2
    along = torch.vdot(image.flatten(), problem.b.flatten())  # <A x, W y>
    gain = along / energy if float(energy) > 0 else torch.zeros_like(along)
    return torch.addcmul(problem.b, seen, -gain).abs() / (float(gain.abs()) or 1.0)


def parts(scan: Scan, count: int = PARTS, seed: int = 0) -> Iterator[Scan]:
    """Scans of disjoint shares of the readouts, together all of them; density weights are scaled up to the whole.

    Of every `count` neighbours each share gets one, drawn at random, so that no order in which a sequence plays its
    partitions or angles falls on one share.
    """
    if scan.weights is None or scan.n_frames is not None:
        raise ValueError("wanted a single volume with density weights: scan = with_weights(scan) first")
    if scan.n_readouts < count:
        raise ValueError(f"{scan.n_readouts} readouts can't be shared among {count}")
    rows = -(-scan.n_readouts // count)
    rng = np.random.default_rng([seed, scan.n_readouts, count])
    order = rng.permuted(np.tile(np.arange(count), (rows, 1)), axis=1).ravel()[: scan.n_readouts]
    for share in range(count):
        yield taken(scan, torch.from_numpy(np.flatnonzero(order == share)))


def taken(scan: Scan, which: Tensor) -> Scan:
    """The scan of some readouts, its density weights those of the whole scan times the share that is left out."""
    part = scan.only(which)
    assert part.weights is not None
    return replace(part, weights=part.weights * (scan.n_readouts / part.n_readouts))


def disagreement(image: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Real image: the root mean square distance of other complex images from this one, smoothed over a voxel or two.

    Around this image and not around their own mean: halves of a scan may err alike where the whole does not (more
    streaks, more blur), and where more data still change the image it is less to be trusted.
    """
    if not others or any(other.shape != image.shape for other in others):
        raise ValueError(f"wanted images of shape {tuple(image.shape)}, got {[tuple(o.shape) for o in others]}")
    power = torch.zeros_like(image.real)
    for other in others:
        power += (other - image).abs().square()
    return smoothed(power / len(others)).clamp_min(0).sqrt()


def smoothed(image: Tensor, sigma: float = SMOOTH) -> Tensor:
    """The real image (z, y, x) or (y, x) behind a Gaussian; beyond the border lie zeros."""
    radius = math.ceil(3 * sigma)
    t = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-t.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(image.ndim):
        rows = image.movedim(axis, -1)
        flat = functional.conv1d(rows.reshape(-1, 1, rows.shape[-1]), kernel[None, None], padding=radius)
        image = flat.reshape(rows.shape).movedim(-1, axis)
    return image.contiguous()
