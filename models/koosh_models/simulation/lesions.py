"""Pathology with a known place: bright and dark spots, put into any anatomy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koosh_models.simulation.phantoms import Phantom, volume_shape
from koosh_models.simulation.shapes import Body, Canvas


def with_lesions(
    anatomy: Phantom, seed: int = 0, count: int = 5, radius_voxels: tuple[float, float] = (1.5, 4.0)
) -> tuple[Phantom, Tensor]:
    """The anatomy with `count` irregular spots inside its mask, and (spot, z, y, x) bool where each one is.

    A spot multiplies the signal by 0.3 to 0.7 or by 1.4 to 2; the phase is kept. Spots don't overlap, so that none
    hides another. Deterministic by seed.
    """
    if anatomy.image.ndim not in (2, 3) or not bool(anatomy.mask.any()):
        raise ValueError(f"lesions need an image with an object in it; it has shape {tuple(anatomy.image.shape)}")
    matrix = tuple(anatomy.image.shape)
    rng = np.random.default_rng([seed, 21])
    canvas = Canvas(volume_shape(matrix), rng)
    free = anatomy.mask.reshape(canvas.shape).numpy().copy()
    gain = torch.ones(canvas.shape)
    masks = torch.zeros(count, *canvas.shape, dtype=torch.bool)
    for spot in range(count):
        body = placed(canvas, free, radius_voxels, spot)
        window, share = canvas.cover(body)
        factor = float(rng.uniform(0.3, 0.7) if rng.random() < 0.5 else rng.uniform(1.4, 2.0))
        gain[window] *= 1 + torch.from_numpy(share) * (factor - 1)
        masks[spot][window] = torch.from_numpy(share > 0.5)
    image = anatomy.image * gain.reshape(matrix)
    return Phantom(image, anatomy.mask), masks.reshape(count, *matrix) & anatomy.mask


def placed(canvas: Canvas, free: NDArray[np.bool_], radius_voxels: tuple[float, float], spot: int) -> Body:
    """A body around a voxel that is still `free` (z, y, x); what no later centre may take is crossed out."""
    places = np.argwhere(free)
    if not len(places):
        raise ValueError(f"there is no room for more than {spot} lesions; ask for fewer or smaller ones")
    index = places[canvas.rng.integers(len(places))]
    z, y, x = (float(axis[i]) for axis, i in zip(canvas.axes, index, strict=True))
    r = canvas.rng.uniform(*radius_voxels) * canvas.voxel * canvas.rng.uniform(0.8, 1.25, 3)
    # this one's reach and the largest one's, with their irregular edges
    apart = 1.3 * (float(r.max()) + 1.25 * radius_voxels[1] * canvas.voxel) + 2 * canvas.voxel
    free[canvas.window((z, y, x), (apart, apart, apart))] = False
    return Body((z, y, x), (float(r[0]), float(r[1]), float(r[2])), 1.0, wobble=0.15)


def with_spheres(
    anatomy: Phantom, seed: int, count: int, diameter: float, contrast: tuple[float, float]
) -> tuple[Phantom, Tensor]:
    """The anatomy with up to `count` small spheres in its brighter tissue, and (sphere, z, y, x) bool of their voxels.

    A sphere is darker or brighter than what was there by a share within `contrast`; its edge is softened over one
    voxel. Centres are three diameters apart, and a diameter away from the border of the object. Deterministic by seed.
    """
    magnitude = anatomy.image.abs()
    if magnitude.ndim != 3 or not bool(anatomy.mask.any()):
        raise ValueError(f"spheres need a volume with an object in it; it has shape {tuple(magnitude.shape)}")
    rng = np.random.default_rng([seed, 22])
    side = 2 * round(diameter) + 1
    outside = torch.nn.functional.max_pool3d((~anatomy.mask).float()[None], side, 1, side // 2)[0] > 0
    free = ~outside & (magnitude > 0.3 * torch.quantile(magnitude[anatomy.mask][:1_000_000], 0.99))
    grid = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in magnitude.shape), indexing="ij"))
    gain, voxels = torch.ones_like(magnitude), list[Tensor]()
    while len(voxels) < count and bool(free.any()):
        places = free.nonzero()
        centre = places[int(rng.integers(len(places)))].float() + torch.from_numpy(rng.uniform(-0.5, 0.5, 3)).float()
        away = (grid - centre[:, None, None, None]).norm(dim=0)
        share = float(rng.uniform(*contrast)) * (1 if rng.random() < 0.5 else -1)
        gain = gain * (1 + share * (diameter / 2 + 0.5 - away).clamp(0, 1))
        voxels.append(away <= diameter / 2)
        free &= away > 3 * diameter
    made = torch.stack(voxels) if voxels else torch.zeros(0, *magnitude.shape, dtype=torch.bool)
    return Phantom(anatomy.image * gain, anatomy.mask), made
