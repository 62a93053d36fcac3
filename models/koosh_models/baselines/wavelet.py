"""An orthonormal Daubechies-4 wavelet transform of any number of axes, periodic."""

from __future__ import annotations

import torch
from torch import Tensor

# Daubechies 1988, four taps: (1 + r3, 3 + r3, 3 - r3, 1 - r3) / (4 r2)
LOW = (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037)
HIGH = (LOW[3], -LOW[2], LOW[1], -LOW[0])
SMALLEST = 8  # an axis shorter than twice this is not halved again


def levels(matrix: tuple[int, ...], most: int = 4) -> int:
    """How often the longest axis may be halved."""
    count, size = 0, max(matrix)
    while size >= 2 * SMALLEST and count < most:
        size, count = size // 2, count + 1
    return max(1, count) if max(matrix) > 1 else 0


def padded(matrix: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The matrix rounded up so that every axis that is halved stays even at each level."""
    return tuple(n if n < 2 else -(-n // 2 ** halvings(n, count)) * 2 ** halvings(n, count) for n in matrix)


def halvings(n: int, count: int) -> int:
    """How often an axis of n voxels is halved in `count` levels."""
    k = 0
    while k < count and n >= 4 and (n >= 2 * SMALLEST or k == 0):
        n, k = -(-n // 2), k + 1
    return k


def forward(x: Tensor, count: int) -> Tensor:
    """Wavelet coefficients of `x`, in place of the voxels: the coarsest in the corner of index 0."""
    out, halved = x.clone(), [halvings(n, count) for n in x.shape]
    for level in range(count):
        corner = tuple(slice(0, n >> min(level, h)) for n, h in zip(x.shape, halved, strict=True))
        part = out[corner]
        for axis, h in enumerate(halved):
            if level < h:
                part = _split(part, axis)
        out[corner] = part
    return out


def inverse(c: Tensor, count: int) -> Tensor:
    """The image of wavelet coefficients."""
    out, halved = c.clone(), [halvings(n, count) for n in c.shape]
    for level in reversed(range(count)):
        corner = tuple(slice(0, n >> min(level, h)) for n, h in zip(c.shape, halved, strict=True))
        part = out[corner]
        for axis, h in reversed(list(enumerate(halved))):
            if level < h:
                part = _merge(part, axis)
        out[corner] = part
    return out


def _split(x: Tensor, axis: int) -> Tensor:
    """Low band, then high band, along one axis of even length."""
    even, odd = _every_other(x, axis)
    next_even, next_odd = even.roll(-1, axis), odd.roll(-1, axis)
    bands = [h[0] * even + h[1] * odd + h[2] * next_even + h[3] * next_odd for h in (LOW, HIGH)]
    return torch.cat(bands, axis)


def _merge(c: Tensor, axis: int) -> Tensor:
    """The transpose of `_split`, which is its inverse."""
    low, high = c.chunk(2, axis)
    last_low, last_high = low.roll(1, axis), high.roll(1, axis)
    even = LOW[0] * low + HIGH[0] * high + LOW[2] * last_low + HIGH[2] * last_high
    odd = LOW[1] * low + HIGH[1] * high + LOW[3] * last_low + HIGH[3] * last_high
    return torch.stack((even, odd), axis + 1).flatten(axis, axis + 1)


def _every_other(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)


def shrink(c: Tensor, threshold: float) -> Tensor:
    """Complex soft threshold: magnitudes lessened by `threshold`, phases kept."""
    magnitude = c.abs()
    return c * ((magnitude - threshold).clamp_min(0) / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny))
