"""Receive coils: loops of wire around the object, by Biot-Savart, their root sum of squares scaled to one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SEGMENTS = 48
NODES = 28


def loop_maps(matrix: tuple[int, ...], n_coils: int, seed: int = 0) -> Tensor:
    """(coil, z, y, x) or (coil, y, x) complex64 sensitivities whose sum of squares over the coils is one everywhere.

    The loops lie on one to three rings about z, at a distance that keeps the whole field of view off the wire. The
    field is computed at Chebyshev nodes and interpolated, which is exact to about 1e-4 since it is analytic inside.
    """
    if n_coils < 1:
        raise ValueError(f"asked for {n_coils} coils; at least one is needed")
    nodes = torch.cos(math.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)
    axes = [nodes if n > NODES else voxels(n) for n in volume(matrix)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    fields = torch.stack([loop_field(points, *loop) for loop in loops(n_coils, seed)])
    fields = fields.reshape(n_coils, *(len(a) for a in axes)).to(torch.complex64)
    for axis, n in enumerate(volume(matrix)):
        fields = interpolated(fields, axis + 1, n) if n > NODES else fields
    maps = fields / fields.abs().square().sum(0).sqrt()
    return maps.reshape(n_coils, *matrix)


def voxels(n: int) -> Tensor:
    """Coordinates of the voxels of one axis, -1 to 1 over the field of view."""
    return 2 * (torch.arange(n, dtype=torch.float64) - n // 2) / n


def volume(matrix: tuple[int, ...]) -> tuple[int, ...]:
    """The matrix with a z axis of one where it has none."""
    return (1, *matrix) if len(matrix) == 2 else matrix


def loops(n_coils: int, seed: int) -> list[tuple[Tensor, Tensor, float]]:
    """Centre, normal and radius of every loop, axes z, y, x, in units of half the field of view."""
    rng = torch.Generator().manual_seed(seed)
    n_rings = 1 if n_coils <= 4 else 2 if n_coils <= 16 else 3
    out = []
    for ring in range(n_rings):
        count = n_coils // n_rings + (ring < n_coils % n_rings)
        z = 1.1 * (ring - (n_rings - 1) / 2)
        for index in range(count):
            jitter = 0.1 * (torch.rand(2, generator=rng, dtype=torch.float64) - 0.5)
            angle = 2 * math.pi * (index + 0.5 * (ring % 2)) / count + float(jitter[0])
            way = torch.tensor([0.0, math.sin(angle), math.cos(angle)], dtype=torch.float64)
            center = 1.75 * way + torch.tensor([z + float(jitter[1]), 0.0, 0.0], dtype=torch.float64)
            out.append((center, way, min(0.85, math.pi * 1.75 / max(count, 3))))
    return out


def loop_field(points: Tensor, center: Tensor, normal: Tensor, radius: float) -> Tensor:
    """(point) complex receive field Bx - i By of a round loop at `points` (point, zyx); B0 is along z."""
    z_axis = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    side = torch.linalg.cross(normal, z_axis)
    angle = 2 * math.pi * torch.arange(SEGMENTS, dtype=torch.float64)[:, None] / SEGMENTS
    wire = center + radius * (angle.cos() * side + angle.sin() * z_axis)
    current = angle.cos() * z_axis - angle.sin() * side
    apart = points[:, None] - wire
    force = torch.linalg.cross(current.expand_as(apart), apart) / apart.norm(dim=-1, keepdim=True) ** 3
    field = force.sum(1)
    return torch.complex(field[:, 2], -field[:, 1])


def interpolated(fields: Tensor, axis: int, n: int) -> Tensor:
    """The fields with one axis taken from Chebyshev nodes to the `n` voxels of that axis."""
    n_nodes = fields.shape[axis]
    order = torch.arange(n_nodes, dtype=torch.float64)
    node = math.pi * (order + 0.5) / n_nodes
    place = voxels(n).acos()
    series = 2 / n_nodes * torch.cos(order[:, None] * node)
    series[0] /= 2
    matrix = (torch.cos(place[:, None] * order) @ series).to(fields.dtype)
    return torch.tensordot(matrix, fields, dims=([1], [axis])).movedim(0, axis)
