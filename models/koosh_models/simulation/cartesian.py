"""Which lines a Cartesian scan takes: Poisson-disc in (z, y) for volumes, k-t variable density for series."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def lines_to_omega(steps: Tensor, matrix: tuple[int, ...]) -> Tensor:
    """(axis, sample) of full lines along x at the phase-encoding indices `steps` (line, axis), axes z, y (2D: y)."""
    n_x = matrix[-1]
    sizes = torch.tensor(matrix[:-1], dtype=torch.float64)
    k = 2 * math.pi * (steps.double() - sizes.long() // 2) / sizes
    kx = 2 * math.pi * (torch.arange(n_x, dtype=torch.float64) - n_x // 2) / n_x
    rows = [*k.T.repeat_interleave(n_x, dim=1), kx.repeat(len(steps))]
    return torch.stack(rows).float()


def poisson_disc(n_z: int, n_y: int, acceleration: float, seed: int = 0, calibration: int | None = None) -> Tensor:
    """(z, y) bool: an ellipse of variable-density Poisson-disc samples and a full centre, 1/R of the ellipse in all.

    The distance between samples grows linearly from the centre to the edge; its scale is found by bisection.
    """
    side = max(2, min(n_z, n_y) // 8) if calibration is None else calibration
    z, y = np.meshgrid(np.arange(n_z) - n_z // 2, np.arange(n_y) - n_y // 2, indexing="ij")
    radius = np.hypot(2 * z / n_z, 2 * y / n_y)
    centre = (np.abs(z) <= side // 2) & (np.abs(y) <= side // 2)
    inside = radius <= 1
    want = max(1, round(inside.sum() / acceleration))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(inside))
    if acceleration <= 1:
        return torch.from_numpy(inside | centre)
    low, high = 0.0, 4 * math.sqrt(acceleration)
    best = centre
    for _ in range(10):
        scale = (low + high) / 2
        mask = centre | darts(order, scale * (0.3 + radius))
        low, high = (scale, high) if mask.sum() > want else (low, scale)
        best = mask if abs(int(mask.sum()) - want) <= abs(int(best.sum()) - want) else best
    return torch.from_numpy(best)


def darts(order: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(z, y) bool: the places in `order` that keep their `distance` (z, y) in samples from all before them."""
    n_z, n_y = distance.shape
    taken, blocked = np.zeros((n_z, n_y), bool), np.zeros((n_z, n_y), bool)
    reach = math.ceil(float(distance.max()))
    dz, dy = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    apart = dz * dz + dy * dy
    for z, y in zip(*np.unravel_index(order, distance.shape), strict=True):
        if blocked[z, y]:
            continue
        taken[z, y] = True
        r = min(reach, math.ceil(distance[z, y]))
        z0, z1, y0, y1 = max(z - r, 0), min(z + r + 1, n_z), max(y - r, 0), min(y + r + 1, n_y)
        stamp = apart[z0 - z + reach : z1 - z + reach, y0 - y + reach : y1 - y + reach] < distance[z, y] ** 2
        blocked[z0:z1, y0:y1] |= stamp
    return taken


def kt_lines(n_y: int, acceleration: float, n_frames: int, seed: int = 0) -> Tensor:
    """(frame, line) sorted line indices: the centre lines always, the others by a density that falls off from there.

    Lines that earlier frames took often are less likely, so that the frames together cover k-space.
    """
    n_lines = max(4, min(n_y, round(n_y / acceleration)))
    rng = np.random.default_rng(seed)
    place = np.arange(n_y) - n_y // 2
    centre = np.argsort(np.abs(place), kind="stable")[: min(4, n_lines)]
    density = np.exp(-0.5 * (place / (0.2 * n_y)) ** 2) + 0.05
    taken = np.zeros(n_y)
    frames = []
    for _ in range(n_frames):
        chance = density / (1 + taken)
        chance[centre] = 0
        others = rng.choice(n_y, n_lines - len(centre), replace=False, p=chance / chance.sum())
        lines = np.sort(np.concatenate([centre, others]))
        taken[lines] += 1
        frames.append(lines)
    return torch.from_numpy(np.stack(frames))
