"""Joseph's interpolation along parallel rays, as points and as sparse matrices (Joseph, IEEE TMI 1982)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """Where rays cross the pixel grid: two neighbouring pixels a crossing, only those that weigh something.

    view, bin  the ray
    column     flat pixel index, y * n_x + x
    weight     mm of ray times interpolation weight
    along      distance from the foot of the perpendicular, mm, signed
    """

    view: Tensor
    bin: Tensor
    column: Tensor
    weight: Tensor
    along: Tensor


def crossings(matrix: tuple[int, int], voxel_mm: tuple[float, float], angles: Tensor, s_mm: Tensor) -> Points:
    """Crossings of every ray `s = x cos + y sin` with the pixel grid (matrix and voxel: y, x).

    The axis of the scanner runs through the geometric centre of the grid.
    """
    steep = (angles.cos().abs() / voxel_mm[0]) >= (angles.sin().abs() / voxel_mm[1])
    parts = []
    for along_y in (True, False):
        views = torch.nonzero(steep == along_y).flatten()
        if len(views):
            parts.append(_march(matrix, voxel_mm, angles[views], s_mm, views, along_y))
    return Points(*(torch.cat(p) for p in zip(*parts, strict=True)))


def _march(
    matrix: tuple[int, int], voxel_mm: tuple[float, float], angles: Tensor, s_mm: Tensor, views: Tensor, along_y: bool
) -> tuple[Tensor, ...]:
    """Fields of `Points` for views whose rays are stepped row by row (`along_y`) or column by column."""
    lead, across = (0, 1) if along_y else (1, 0)
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    slow, fast = (cos, sin) if along_y else (sin, cos)
    step = torch.arange(matrix[lead])
    here = (step.to(s_mm) - (matrix[lead] - 1) / 2) * voxel_mm[lead]
    there = (s_mm[None, :, None] - here * fast) / slow
    x, y = (there, here) if along_y else (here, there)
    along = y * cos - x * sin
    index = there / voxel_mm[across] + (matrix[across] - 1) / 2
    stride = (matrix[1], 1)
    parts = []
    for offset in (0, 1):
        pixel = index.floor().long() + offset
        weight = (1 - (index - pixel).abs()) * (voxel_mm[lead] / slow.abs())
        keep = torch.nonzero((pixel >= 0) & (pixel < matrix[across]) & (weight > 1e-12), as_tuple=True)
        column = keep[2] * stride[lead] + pixel[keep] * stride[across]
        parts.append((views[keep[0]], keep[1], column, weight[keep], along[keep]))
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


@dataclass(frozen=True, eq=False)
class Matched:
    """A sparse matrix and its transpose, both in compressed rows: whichever way, the product reads memory in order."""

    matrix: Tensor
    transpose: Tensor

    @staticmethod
    def build(row: Tensor, column: Tensor, weight: Tensor, shape: tuple[int, int], at: Tensor) -> Matched:
        """The pair from its entries, with the type and device of `at`."""
        return Matched(
            _compressed(row, column, weight, shape, at), _compressed(column, row, weight, (shape[1], shape[0]), at)
        )


def _compressed(row: Tensor, column: Tensor, weight: Tensor, shape: tuple[int, int], at: Tensor) -> Tensor:
    """CSR matrix; indices are int32, which MKL and cuSPARSE take without a copy."""
    order = torch.argsort(row * shape[1] + column)
    counts = torch.bincount(row, minlength=shape[0])
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            starts.int(),
            column[order].int(),
            weight[order].to(at.dtype),
            shape,
            device=at.device,
            check_invariants=False,
        )
