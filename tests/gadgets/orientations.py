"""Twelve orientations of a scan, with voxels that differ along every axis."""

import numpy as np

from koosh_models.scan import Geometry, Vector

NAMES = (
    "axial", "axial_turned", "axial_feet_first", "coronal", "coronal_turned", "sagittal", "sagittal_turned",
    "oblique", "double_oblique", "triple_oblique", "left_handed_axial", "left_handed_oblique",
)  # fmt: skip


def turn(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    m = np.eye(3)
    m[i, i], m[i, j], m[j, i], m[j, j] = c, -s, s, c
    return m


def axes(name: str) -> np.ndarray:
    """(3, 3), columns read, phase, slice in LPS."""
    return {
        "axial": np.eye(3),
        "axial_turned": np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1.0]]).T,
        "axial_feet_first": np.diag([-1.0, 1, -1]),
        "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1.0, 0]]).T,
        "coronal_turned": np.array([[0, 0, -1], [1, 0, 0], [0, -1.0, 0]]).T,
        "sagittal": np.array([[0, 1, 0], [0, 0, -1], [-1.0, 0, 0]]).T,
        "sagittal_turned": np.array([[0, 0, -1], [0, 1, 0], [1.0, 0, 0]]).T,
        "oblique": turn("x", 25),
        "double_oblique": turn("x", -32) @ turn("z", 17.3),
        "triple_oblique": turn("x", 41) @ turn("y", -13.7) @ turn("z", 71),
        "left_handed_axial": np.diag([1.0, 1, -1]),
        "left_handed_oblique": turn("y", 19) @ turn("z", -8) @ np.diag([1.0, -1, 1]),
    }[name]


def vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z


def geometry(name: str, matrix: tuple[int, int, int] = (7, 10, 13)) -> Geometry:
    read, phase, through = axes(name).T
    fov = tuple(n * v for n, v in zip(matrix, (3.3, 1.7, 0.9), strict=True))
    return Geometry(matrix, fov, (12.3456789, -45.678912, 78.912345), vector(read), vector(phase), vector(through))


def world(geometry: Geometry, index: np.ndarray) -> np.ndarray:
    """LPS mm of voxel index (n, 3) = (x, y, z), by definition: centre plus whole voxels along each axis."""
    dz, dy, dx = geometry.voxel_mm
    nz, ny, nx = geometry.matrix
    away = (index - np.array([nx // 2, ny // 2, nz // 2])) * np.array([dx, dy, dz])
    return np.array(geometry.position_mm) + away @ np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir])
