"""Smooth-edged bodies painted onto a grid: superquadrics, tubes, branching vessels, band-limited fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
MODES = 81
"""Fourier modes along each axis of the finest patterns."""
OBJECT = 0.02
"""Painted brightness above which there is tissue and not air."""


def band_limited(shape: tuple[int, ...], rng: np.random.Generator, period: float, spread: float = 0.5) -> Array:
    """Smooth noise of zero mean and unit deviation whose structures are about `period` (a share of the field of view).

    It is drawn on a fixed number of Fourier modes, so the same seed gives the same pattern on every matrix; modes that
    a matrix can't hold are left out. (1, y, x) is the cut at z = 0.
    """
    modes = min(2 * math.ceil(2.5 / period) + 1, MODES)
    white = torch.from_numpy(rng.standard_normal((modes,) * 3, dtype=np.float32))
    k = torch.arange(modes) - modes // 2
    radius = torch.stack(torch.meshgrid(k, k, k, indexing="ij")).float().norm(dim=0)
    band = torch.exp(-0.5 * ((radius * period - 1) / spread) ** 2) * (radius > 0)
    spectrum = torch.fft.fftshift(torch.fft.fftn(white)) * band
    spectrum = spectrum / spectrum.norm()
    for n in shape:
        held = k.abs() <= n / 2 if n > 1 else k == k
        place = (torch.arange(n) - n // 2) / n
        basis = torch.exp(2j * math.pi * place[:, None] * k[held])
        # the first axis goes to the end each time: after three turns the order is z, y, x again
        spectrum = torch.tensordot(spectrum[held], basis, dims=([0], [1]))
    field: Array = spectrum.real.numpy()
    return field


@dataclass(frozen=True)
class Body:
    """A superquadric: `sum |x_i / radius_i|^power <= 1`, in units of half the field of view, axes z, y, x.

    value    what it is painted with
    turn     radians about z
    wobble   how far the surface follows a smooth field, as a share of the radius
    grain    amplitude of the texture inside, as a share of the value
    """

    center: Point
    radii: Point
    value: float
    turn: float = 0.0
    power: float = 2.0
    wobble: float = 0.0
    grain: float = 0.0


@dataclass
class Canvas:
    """An image being painted; coordinates run from -1 to 1 over the field of view, axes z, y, x.

    A 2D canvas is (1, y, x), the plane z = 0. The edge of a body spreads over about one voxel.
    """

    shape: tuple[int, int, int]
    rng: np.random.Generator
    image: Array = field(init=False)
    folds: Array = field(init=False)
    texture: Array = field(init=False)
    axes: tuple[Array, Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.image = np.zeros(self.shape, np.float32)
        self.folds = band_limited(self.shape, self.rng, 0.12)
        grains = [band_limited(self.shape, self.rng, period) for period in (0.03, 0.08, 0.2)]
        self.texture = np.sum(grains, axis=0) / np.float32(math.sqrt(len(grains)))
        z, y, x = ((2 * (np.arange(n) - n // 2) / n).astype(np.float32) for n in self.shape)
        self.axes = (z, y, x)

    @property
    def voxel(self) -> float:
        """The in-plane size of a voxel."""
        return 2.0 / min(self.shape[1:])

    def window(self, center: Sequence[float], reach: Sequence[float]) -> tuple[slice, slice, slice]:
        """The voxels within `reach` of `center`, axis by axis."""
        parts = []
        for axis, c, r in zip(self.axes, center, reach, strict=True):
            low, high = np.searchsorted(axis, [c - r, c + r + 1e-6])
            parts.append(slice(int(low), int(high)))
        return parts[0], parts[1], parts[2]

    def grid(self, window: tuple[slice, slice, slice], center: Sequence[float]) -> tuple[Array, Array, Array]:
        """Coordinates z, y, x from `center`, broadcastable over the window."""
        z, y, x = (axis[part] - np.float32(c) for axis, part, c in zip(self.axes, window, center, strict=True))
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def cover(self, body: Body) -> tuple[tuple[slice, slice, slice], Array]:
        """Where the body may be, and how much of every voxel there it fills, 0 to 1."""
        reach = [1.3 * max(body.radii)] * 3 if body.turn else [1.3 * r for r in body.radii]
        window = self.window(body.center, reach)
        z, y, x = self.grid(window, body.center)
        if body.turn:
            sin, cos = np.float32(math.sin(body.turn)), np.float32(math.cos(body.turn))
            y, x = cos * y + sin * x, cos * x - sin * y
        level, size = superquadric((z, y, x), body.radii, body.power)
        if body.wobble:
            level = level - np.float32(body.wobble) * self.folds[window]
        return window, soft(level * size, self.voxel)

    def paint(self, body: Body) -> None:
        """Replace what is there by the body."""
        window, share = self.cover(body)
        grain = np.float32(body.value * body.grain) * self.texture[window]
        self.image[window] += share * (np.float32(body.value) + grain - self.image[window])

    def tube(self, points: NDArray[np.float64], radii: NDArray[np.float64], value: float) -> None:
        """Replace what is there by a tube along `points` (point, zyx) with the radius at each; air stays air."""
        for (a, b), (ra, rb) in zip(pairwise(points), pairwise(radii), strict=True):
            middle, along = (a + b) / 2, b - a
            r = max(ra, rb)
            window = self.window(middle, np.abs(along) / 2 + r + 2 * self.voxel)
            z, y, x = self.grid(window, a)
            if z.size * y.size * x.size == 0:
                continue
            length = float(along @ along) + 1e-12
            t = np.clip((z * along[0] + y * along[1] + x * along[2]) / length, 0, 1).astype(np.float32)
            apart = np.sqrt((z - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (x - t * along[2]) ** 2)
            share = soft(apart - (ra + t * (rb - ra)), self.voxel)
            # a tube thinner than a voxel fills only its share of it
            share *= np.float32(min(1.0, (r / (0.5 * self.voxel)) ** 2))
            share *= self.image[window] > OBJECT
            self.image[window] += share * (value - self.image[window])

    def tree(self, root: Point, heading: Point, radius: float, length: float, value: float, depth: int = 5) -> None:
        """Replace what is there by a vessel that winds and divides `depth` times (Murray's law of radii)."""
        stack = [(np.array(root, float), np.array(heading, float), radius, length, depth)]
        while stack:
            at, way, r, reach, left = stack.pop()
            points, way = self.wind(at, way, reach)
            child = r * 2 ** (-1 / 3)
            self.tube(points, np.linspace(r, child, len(points)), value)
            if left > 0:
                for _ in range(2):
                    branch = way + 0.55 * self.rng.standard_normal(3)
                    stack.append((points[-1], branch / np.linalg.norm(branch), child, 0.82 * reach, left - 1))

    def wind(self, at: NDArray[np.float64], way: NDArray[np.float64], reach: float) -> tuple[NDArray[np.float64], ...]:
        """Points of a gently winding path from `at`, and its heading at the end."""
        points = [at]
        way = way / np.linalg.norm(way)
        for _ in range(5):
            way = way + 0.18 * self.rng.standard_normal(3)
            way = way / np.linalg.norm(way)
            points.append(points[-1] + way * reach / 5)
        return np.stack(points), way


def superquadric(at: tuple[Array, Array, Array], radii: Point, power: float) -> tuple[Array, Array | float]:
    """0 on the surface, -1 at the centre; and the factor that makes a distance of it near the surface."""
    shares = [np.abs(c / np.float32(r)) for c, r in zip(at, radii, strict=True)]
    norm = np.asarray(sum(u ** np.float32(power) for u in shares), np.float32) ** np.float32(1 / power)
    if max(radii) < 2 * min(radii):
        return norm - 1, min(radii)
    # the length of the gradient differs from axis to axis; without it thin bodies blur along their long sides
    steep = sum((u ** np.float32(power - 1) / np.float32(r)) ** 2 for u, r in zip(shares, radii, strict=True))
    steep = np.sqrt(steep) / np.maximum(norm, np.float32(1e-3)) ** np.float32(power - 1)
    return norm - 1, 1 / np.maximum(steep, np.float32(1 / max(radii)))


def soft(level: Array, voxel: float) -> Array:
    """1 inside (level < 0), 0 outside, a smooth edge one voxel wide."""
    return (1 / (1 + np.exp(np.clip(level * np.float32(5.0 / voxel), -30, 30)))).astype(np.float32)
