"""Anatomies that ship as code: textured, with vessels and a smooth phase, different for every seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from koosh_models.simulation import anatomy
from koosh_models.simulation.shapes import OBJECT, Array, Canvas, band_limited


@dataclass(frozen=True, eq=False)
class Phantom:
    """An image whose truth is known.

    image  (z, y, x), (y, x) or (frame, y, x), complex64; 99 % of the object's voxels are below about 1
    mask   same shape, bool: the object
    """

    image: Tensor
    mask: Tensor


STILL: dict[str, Callable[[Canvas], None]] = {
    "head": anatomy.head,
    "knee": anatomy.knee,
    "chest": anatomy.chest,
    "abdomen": anatomy.abdomen,
    "vessels": anatomy.vessels,
}
ANATOMIES = (*STILL, "cine")


def phantom(name: str, matrix: tuple[int, ...], seed: int = 0, n_frames: int = 16) -> Phantom:
    """The anatomy of that name on a matrix (z, y, x), or its central plane on (y, x); cine is (frame, y, x)."""
    if len(matrix) not in (2, 3) or min(matrix) < 4:
        raise ValueError(f"a phantom needs two or three axes of at least four voxels; the matrix is {matrix}")
    if name == "cine":
        return cine(matrix, seed, n_frames)
    if name not in STILL:
        raise ValueError(f"unknown anatomy {name!r}; known: {', '.join(ANATOMIES)}")
    canvas = Canvas(volume_shape(matrix), np.random.default_rng([seed, 1]))
    STILL[name](canvas)
    image = canvas.image * slab(matrix[0])[:, None, None] if len(matrix) == 3 else canvas.image
    return finished(image.reshape(matrix), np.random.default_rng([seed, 2]))


def slab(n: int, edge: float = 0.12) -> Array:
    """(z) excitation profile: 1, falling smoothly to 0 at both ends of the field of view."""
    place = np.abs((np.arange(n) - n // 2 + (n % 2 == 0) / 2) / (n / 2))
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((place - 1 + edge) / edge, 0, 1))).astype(np.float32)


def volume_shape(matrix: tuple[int, ...]) -> tuple[int, int, int]:
    """The matrix with a z axis of one where it has none."""
    z, y, x = (1, *matrix) if len(matrix) == 2 else matrix
    return z, y, x


def cine(matrix: tuple[int, ...], seed: int, n_frames: int) -> Phantom:
    """A beating heart in short axis, (frame, y, x); one heart beat over the frames, breathing held."""
    if len(matrix) != 2:
        raise ValueError(f"the cine anatomy is 2D and moving; the matrix is {matrix}, give two sizes")
    if n_frames < 1:
        raise ValueError(f"a series needs at least one frame, asked for {n_frames}")
    canvas, frames = Canvas(volume_shape(matrix), np.random.default_rng([seed, 1])), []
    start = canvas.rng.bit_generator.state
    for index in range(n_frames):
        canvas.rng.bit_generator.state = start
        canvas.image[:] = 0
        anatomy.short_axis(canvas, beat=index / n_frames)
        frames.append(canvas.image[0].copy())
    return finished(np.stack(frames), np.random.default_rng([seed, 2]))


def finished(magnitude: Array, rng: np.random.Generator) -> Phantom:
    """The painted magnitude, scaled by its 99th percentile, with its mask and a smooth phase."""
    magnitude = np.maximum(magnitude, 0)
    inside = magnitude > OBJECT
    magnitude = magnitude / np.percentile(magnitude[inside], 99)
    phase = smooth_phase(magnitude.shape[-3:] if magnitude.ndim == 3 else (1, *magnitude.shape), rng)
    image = torch.from_numpy(magnitude) * torch.polar(torch.ones(()), torch.from_numpy(phase).reshape(magnitude.shape))
    return Phantom(image.to(torch.complex64), torch.from_numpy(inside))


def smooth_phase(shape: tuple[int, ...], rng: np.random.Generator, amount: float = 0.6) -> Array:
    """Radians: a constant, a slope and slow undulations of deviation `amount`."""
    slow = amount * band_limited(shape, rng, 0.7)
    slope = sum(
        rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, n).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, n in enumerate(shape)
    )
    return (slow + slope + rng.uniform(-math.pi, math.pi)).astype(np.float32)
