"""Image quality against a truth: PSNR, SSIM, NRMSE and HFEN, defined once.

All are taken on magnitudes inside the object mask, after the best real scalar: the image is multiplied by the one
number that brings it closest to the truth there, so a scanner's gain never counts as an error. `mask` None means
every voxel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SIGMA = 1.5  # of the Laplacian of Gaussian, voxels
WINDOW = 7  # side of the SSIM window, voxels


def fitted(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitudes of image and truth and the mask, all checked; the image scaled to the truth inside the mask."""
    if image.shape != truth.shape:
        raise ValueError(f"image {tuple(image.shape)} and truth {tuple(truth.shape)} differ in shape")
    inside = torch.ones(truth.shape, dtype=torch.bool, device=truth.device) if mask is None else mask.bool()
    if inside.shape != truth.shape:
        raise ValueError(f"mask has shape {tuple(inside.shape)}, wanted that of the image: {tuple(truth.shape)}")
    if not bool(inside.any()):
        raise ValueError("the mask is empty: no voxel is left to compare")
    seen, wanted = _magnitude(image), _magnitude(truth)
    if not bool(torch.isfinite(seen).all()):
        raise ValueError("the image contains NaN or Inf")
    energy = float(seen[inside].square().sum())
    gain = float((seen[inside] * wanted[inside]).sum()) / energy if energy > 0 else 1.0
    return seen * gain, wanted, inside


def _magnitude(image: Tensor) -> Tensor:
    return image.detach().abs().double()


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the largest magnitude of the truth in the mask."""
    seen, wanted, inside = fitted(image, truth, mask)
    error = float((seen - wanted)[inside].square().mean())
    peak = float(wanted[inside].max())
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)


def nrmse(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """`|error| / |truth|` inside the mask."""
    seen, wanted, inside = fitted(image, truth, mask)
    return float((seen - wanted)[inside].norm() / wanted[inside].norm())


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean structural similarity over the mask's bounding box (Wang et al. 2004), uniform windows of 7 voxels a side.

    The range is the peak of the truth in the mask. The window spans every axis of the image (frames too) and shrinks to
    the largest odd side that fits a thin box; windows lie entirely within the box.
    """
    seen, wanted, inside = fitted(image, truth, mask)
    box = bounding_box(inside)
    return float(similarity(seen[box], wanted[box], float(wanted[inside].max())).mean())


def hfen(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """High-frequency error norm `|LoG(image) - LoG(truth)| / |LoG(truth)|` inside the mask.

    The Laplacian of Gaussian has sigma 1.5 voxels along every axis (Ravishankar and Bresler 2011).
    """
    seen, wanted, inside = fitted(image, truth, mask)
    edges = laplacian_of_gaussian(wanted)[inside]
    return float((laplacian_of_gaussian(seen)[inside] - edges).norm() / edges.norm())


def evaluate(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> dict[str, float]:
    """All four: `psnr` (dB), `ssim`, `nrmse`, `hfen`."""
    return {
        "psnr": psnr(image, truth, mask),
        "ssim": ssim(image, truth, mask),
        "nrmse": nrmse(image, truth, mask),
        "hfen": hfen(image, truth, mask),
    }


def bounding_box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of the mask."""
    where = mask.nonzero()
    low, high = where.amin(0).tolist(), where.amax(0).tolist()
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))


def similarity(image: Tensor, truth: Tensor, peak: float) -> Tensor:
    """Structural similarity at every window position, differentiable; `peak` is the range of the truth."""
    sides = [min(WINDOW, n if n % 2 else n - 1) for n in image.shape]
    count = math.prod(sides)
    unbias = count / (count - 1) if count > 1 else 1.0
    u, v = _box_mean(image, sides), _box_mean(truth, sides)
    uu, vv = _box_mean(image * image, sides) - u * u, _box_mean(truth * truth, sides) - v * v
    uv = _box_mean(image * truth, sides) - u * v
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    light = (2 * u * v + c1) / (u * u + v * v + c1)
    return light * (2 * unbias * uv + c2) / (unbias * (uu + vv) + c2)


def _box_mean(image: Tensor, sides: list[int]) -> Tensor:
    """Mean over windows that fit, axis by axis."""
    for axis, side in enumerate(sides):
        image = _along(image, image.new_full((side,), 1 / side), axis)
    return image


def laplacian_of_gaussian(image: Tensor, sigma: float = SIGMA) -> Tensor:
    """Sum of second derivatives of the image blurred by a Gaussian; borders repeat the outermost voxel."""
    radius = math.ceil(4 * sigma)
    t = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    blur = torch.exp(-t.square() / (2 * sigma**2))
    blur = blur / blur.sum()
    curve = blur * (t.square() / sigma**4 - 1 / sigma**2)
    total = torch.zeros_like(image)
    for second in range(image.ndim):
        part = image
        for axis in range(image.ndim):
            part = _along(_extend(part, axis, radius), curve if axis == second else blur, axis)
        total = total + part
    return total


def _extend(image: Tensor, axis: int, radius: int) -> Tensor:
    first, last = image.narrow(axis, 0, 1), image.narrow(axis, image.shape[axis] - 1, 1)
    return torch.cat([*[first] * radius, image, *[last] * radius], axis)


def _along(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Correlation with a kernel along one axis, positions where it fits."""
    rows = image.movedim(axis, -1)
    flat = functional.conv1d(rows.reshape(-1, 1, rows.shape[-1]), kernel[None, None])
    return flat.reshape(*rows.shape[:-1], -1).movedim(-1, axis)
