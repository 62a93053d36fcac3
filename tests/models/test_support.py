"""Reconstruction inside the object's bounding box."""

import pytest
import torch

from koosh_models.physics.mri import non_cartesian
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import Sense, SmoothMaps
from koosh_models.scan import Geometry, Scan
from koosh_models.support import Box, box_around, boxed_geometry, boxed_maps, boxed_scan
from tests.models.test_nufft import trajectory
from tests.properties import random_complex

CASES = [((12, 15, 20), (3, 2, 8), (6, 9, 11)), ((9, 14), (1, 0), (7, 13)), ((6, 8, 10), (0, 0, 0), (6, 8, 10))]


@pytest.mark.parametrize(("matrix", "first", "size"), CASES)
def test_the_boxed_scan_measures_the_same_object(matrix, first, size):
    box, omega = Box(first, size, matrix), trajectory(len(matrix))
    inside = random_complex(size)
    kspace = Nufft(omega, matrix, 1e-5).forward(box.embed(inside))[None]
    scan = boxed_scan(Scan(kspace, omega, Geometry(matrix, tuple(map(float, matrix))), 10), box)
    want = Nufft(omega, size, 1e-5).forward(inside)
    assert (scan.kspace[0] - want).norm() < 1e-4 * want.norm()


@pytest.mark.parametrize(("matrix", "first", "size"), CASES)
def test_the_boxed_problem_is_the_whole_problem_seen_through_the_box(matrix, first, size):
    box, omega = Box(first, size, matrix), trajectory(len(matrix))
    maps = box.embed(random_complex((3, *size), 2))
    scan = Scan(random_complex((3, 50)), omega, Geometry(matrix, tuple(map(float, matrix))), 10, torch.rand(50))
    whole, part = non_cartesian(scan, maps, 1e-5), non_cartesian(boxed_scan(scan, box), boxed_maps(maps, box), 1e-5)
    x = random_complex(size)
    want = whole.normal(box.embed(x))
    assert (box.embed(part.normal(x)) - want).norm() < 1e-3 * want.norm()
    assert (box.embed(part.b) - whole.b).norm() < 1e-3 * whole.b.norm()


def test_smooth_maps_in_a_box_are_the_maps_cut_to_it():
    maps, box = SmoothMaps(random_complex((3, 2, 3, 4)), torch.rand(6, 8, 9)), Box((1, 2, 3), (4, 5, 6), (6, 8, 9))
    got = boxed_maps(maps, box)
    assert got.shape == (3, 4, 5, 6)
    assert torch.allclose(got.coils(1, 3), box.cut(maps.coils(1, 3)), atol=1e-5)
    assert Sense(got, Nufft(trajectory(3), (4, 5, 6))).forward(random_complex((4, 5, 6))).shape == (3, 50)


@pytest.mark.parametrize("matrix", [(40, 33, 64), (30, 50)])
def test_the_box_holds_the_mask_with_its_margin(matrix):
    mask = torch.zeros(matrix, dtype=torch.bool)
    mask[tuple(slice(10, 15) for _ in matrix)] = True
    box = box_around(mask)
    assert bool(box.embed(box.cut(mask)).eq(mask).all())
    assert all(s % 8 == 0 and f <= 7 and f + s >= 18 for f, s in zip(box.first, box.size, strict=True))


def test_a_mask_at_the_border_or_an_empty_one_keeps_the_box_inside_the_matrix():
    mask = torch.zeros(13, 20, dtype=torch.bool)
    assert box_around(mask).size == (13, 20)
    mask[12, 19] = True
    box = box_around(mask)
    assert all(f >= 0 and f + s <= n for f, s, n in zip(box.first, box.size, box.matrix, strict=True))


def test_the_centre_of_the_box_is_where_its_central_voxel_was():
    geometry = Geometry((10, 20, 30), (20.0, 60.0, 30.0), (1.0, 2.0, 3.0), (0, 1, 0), (0, 0, 1), (1, 0, 0))
    box = Box((2, 4, 6), (6, 10, 16), (10, 20, 30))
    part = boxed_geometry(geometry, box)
    assert part.voxel_mm == geometry.voxel_mm
    # x: 6 + 8 - 15 = -1 voxel of 1 mm along read; y: 4 + 5 - 10 = -1 of 3 mm along phase; z: 2 + 3 - 5 = 0
    assert part.position_mm == (1.0, 1.0, 0.0)
