from dataclasses import replace

import pytest
import torch
from skimage.transform import radon

from koosh_models.physics.pet.emission import Response, attenuation, multiplicity, responses, whole
from koosh_models.physics.pet.projector import Projector, ordered_subsets
from koosh_models.physics.pet.psf import Gaussian
from koosh_models.physics.pet.scanner import Scanner, TimeOfFlight, natural
from koosh_models.scan import Geometry
from tests.properties import assert_adjoint, assert_double_backward, assert_gradient

DOUBLE = torch.empty(0, dtype=torch.float64)
FLAT = Scanner(9, 14, 4.0)
RINGS = Scanner(7, 12, 5.0, n_rings=5, ring_mm=8.0, max_difference=3, diameter_mm=120.0)
SCANNERS = {
    "2d": FLAT,
    "2d_tof": replace(FLAT, tof=TimeOfFlight(5, 12.0, 15.0)),
    "3d": RINGS,
    "3d_span3": replace(RINGS, span=3),
    "3d_tof": replace(RINGS, tof=TimeOfFlight(3, 20.0, 25.0)),
}


def rand(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid(scanner: Scanner) -> Geometry:
    """An odd, unequal grid on which the scanner can be seen."""
    if scanner.n_rings == 1:
        return Geometry((11, 8), (44.0, 40.0))
    n_z = 2 * scanner.n_rings - 1
    return Geometry((n_z, 11, 8), (n_z * scanner.ring_mm / 2, 44.0, 40.0))


@pytest.mark.parametrize("name", SCANNERS)
def test_each_subset_is_a_matched_differentiable_pair(name: str) -> None:
    scanner = SCANNERS[name]
    for projector in ordered_subsets(scanner, grid(scanner), 2, DOUBLE):
        blur = Gaussian((6.0,) * len(projector.geometry.matrix), projector.geometry.voxel_mm)
        response = Response(projector, blur, rand(projector.shape, 3))
        x, y = rand(projector.geometry.matrix, 1), rand(projector.shape, 2)
        assert_adjoint(response, x, y, 1e-12)
        assert_gradient(response, x, y, 1e-10)
        assert_double_backward(response, x, 1e-10)


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_the_pair_is_matched_in_single_precision(name: str) -> None:
    scanner = SCANNERS[name]
    (projector,) = ordered_subsets(scanner, grid(scanner), 1)
    assert_adjoint(projector, rand(projector.geometry.matrix).float(), rand(projector.shape, 1).float(), 1e-6)


def test_blur_is_its_own_adjoint_at_the_border_and_keeps_inner_activity() -> None:
    blur = Gaussian((7.0, 0.0, 3.0), (4.0, 2.0, 2.0))
    x, y = rand((9, 4, 31)), rand((9, 4, 31), 1)
    assert_adjoint(blur, x, y, 1e-13)
    point = torch.zeros(9, 4, 31, dtype=torch.float64)
    point[4, 2, 15] = 1
    assert abs(float(blur.forward(point).sum()) - 1) < 1e-4


def test_a_discs_projection_is_its_chord_length() -> None:
    scanner = Scanner(24, 80, 1.0)
    geometry = natural(scanner, 160)
    (projector,) = ordered_subsets(scanner, geometry, 1, DOUBLE)
    place = (torch.arange(160, dtype=torch.float64) - 79.5) * 0.5
    disc = ((place[:, None].square() + place.square()) < 25.0**2).double()
    want = 2 * (625 - scanner.s_mm.square()).clamp_min(0).sqrt()
    error = (projector.forward(disc) - want).abs()
    assert float(error[:, want > 20].max()) < 1.0  # two half-millimetre voxels, one at each end
    assert float(error.mean()) < 0.25


def test_a_point_lands_at_its_place_in_every_view() -> None:
    scanner = Scanner(16, 64, 1.0)
    (projector,) = ordered_subsets(scanner, natural(scanner, 64), 1, DOUBLE)
    image = torch.zeros(64, 64, dtype=torch.float64)
    image[20, 45] = 1.0
    y_mm, x_mm = 20 - 31.5, 45 - 31.5
    sinogram = projector.forward(image)
    centre = (sinogram * scanner.s_mm).sum(1) / sinogram.sum(1)
    want = x_mm * scanner.angles().cos() + y_mm * scanner.angles().sin()
    assert float((centre - want).abs().max()) < 0.35


def test_projections_agree_with_scikit_image() -> None:
    scanner = Scanner(20, 65, 1.0)
    (projector,) = ordered_subsets(scanner, natural(scanner, 65), 1, DOUBLE)
    place = torch.arange(65, dtype=torch.float64) - 32
    blob = torch.exp(-((place[:, None] - 6).square() + (place + 9).square() * 0.6) / 60)
    blob = torch.where(place[:, None].square() + place.square() < 30**2, blob, 0)
    # radon's angle turns the other way: its rows count downwards
    want = torch.from_numpy(radon(blob.numpy(), theta=-torch.rad2deg(scanner.angles()).numpy(), circle=True).T.copy())
    got = projector.forward(blob)
    assert float((got - want).norm() / want.norm()) < 0.01


def test_an_oblique_line_through_a_uniform_cylinder_is_longer_by_its_slope() -> None:
    scanner = replace(RINGS, n_rings=9, max_difference=4, n_views=4, n_bins=6, bin_mm=2.0)
    geometry = Geometry((17, 30, 30), (17 * 4.0, 60.0, 60.0))
    (projector,) = ordered_subsets(scanner, geometry, 1, DOUBLE)
    place = (torch.arange(30, dtype=torch.float64) - 14.5) * 2
    disc = ((place[:, None].square() + place.square()) < 20.0**2).double()
    sinogram = projector.forward(disc.expand(17, 30, 30).contiguous())
    for block, part in zip(
        scanner.segments, sinogram.split([len(s.planes) for s in scanner.segments], -1), strict=True
    ):
        middle = part[..., part.shape[-1] // 2]
        slope = block.difference * 8.0 / (2 * (60.0**2 - scanner.s_mm.square()).sqrt())
        torch.testing.assert_close(middle, sinogram[..., 4] * (1 + slope.square()).sqrt().expand_as(middle))


@pytest.mark.parametrize("span", [1, 3])
def test_a_point_on_the_axis_is_seen_by_the_planes_of_its_slice(span: int) -> None:
    scanner = replace(RINGS, n_bins=13, span=span)
    geometry = Geometry((9, 11, 11), (36.0, 44.0, 44.0))
    (projector,) = ordered_subsets(scanner, geometry, 1, DOUBLE)
    image = torch.zeros(9, 11, 11, dtype=torch.float64)
    image[6, 5, 5] = 1.0
    parts = projector.forward(image).split([len(s.planes) for s in scanner.segments], -1)
    for segment, part in zip(scanner.segments, parts, strict=True):
        hit = {m for m, seen in zip(segment.planes, (part.sum((0, 1)) > 0.2), strict=True) if seen}
        assert hit == {m for m in segment.planes if m == 6}


def test_a_line_that_leans_the_other_way_sees_the_mirrored_volume() -> None:
    geometry = grid(RINGS)
    (projector,) = ordered_subsets(RINGS, geometry, 1, DOUBLE)
    image = rand(geometry.matrix)
    split = [len(s.planes) for s in RINGS.segments]
    parts, mirrored = projector.forward(image).split(split, -1), projector.forward(image.flip(0)).split(split, -1)
    torch.testing.assert_close(parts[1], mirrored[2].flip(-1))


def test_subsets_that_do_not_divide_the_views_put_together_are_the_whole() -> None:
    geometry = grid(FLAT)
    (one,) = ordered_subsets(FLAT, geometry, 1, DOUBLE)
    some = ordered_subsets(FLAT, geometry, 4, DOUBLE)
    assert sorted(v for p in some for v in p.views) == list(range(9))
    image = rand(geometry.matrix)
    torch.testing.assert_close(whole(some, tuple(p.forward(image) for p in some)), one.forward(image))


def test_time_of_flight_bins_add_up_to_the_plain_projection() -> None:
    scanner = replace(FLAT, tof=TimeOfFlight(15, 10.0, 12.0))
    geometry = grid(scanner)
    (timed,), (plain,) = ordered_subsets(scanner, geometry, 1, DOUBLE), ordered_subsets(FLAT, geometry, 1, DOUBLE)
    image = rand(geometry.matrix)
    torch.testing.assert_close(timed.forward(image).sum(1), plain.forward(image), rtol=2e-3, atol=1e-3)


def test_planes_of_a_span_hold_every_ring_pair_once() -> None:
    for span in (1, 3, 5):
        segments = replace(RINGS, span=span).segments
        pairs = sum(1 for a in range(5) for b in range(5) if abs(a - b) <= 3)
        assert sum(sum(s.multiplicity) for s in segments) == pairs
        assert len(multiplicity(replace(RINGS, span=span), DOUBLE)) == replace(RINGS, span=span).n_planes


def test_attenuation_of_water_is_the_exponential_of_its_thickness() -> None:
    scanner = Scanner(6, 21, 2.0)
    geometry = Geometry((40, 40), (80.0, 80.0))
    projectors = ordered_subsets(scanner, geometry, 3, DOUBLE)
    mu = torch.zeros(40, 40, dtype=torch.float64)
    mu[10:30] = 0.0096
    factor = attenuation(projectors, mu)
    torch.testing.assert_close(factor[0], torch.full((21,), float(torch.exp(torch.tensor(-0.0096 * 40)))).double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_bins": 0}, "positive"),
        ({"max_difference": 5}, r"wanted 0\.\.4"),
        ({"span": 2}, "odd"),
        ({"diameter_mm": 40.0}, "wider than the ring"),
    ],
)
def test_a_scanner_that_cannot_be_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RINGS, **change)


def test_geometry_that_does_not_match_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="don't match"):
        Projector(FLAT, grid(RINGS), (0,))
    with pytest.raises(ValueError, match="half the ring pitch"):
        Projector(RINGS, Geometry((9, 11, 8), (9 * 5.0, 44.0, 40.0)), (0,))
    with pytest.raises(ValueError, match=r"wanted 1\.\.9"):
        ordered_subsets(FLAT, grid(FLAT), 10)
    (projector,) = ordered_subsets(FLAT, grid(FLAT), 1)
    with pytest.raises(ValueError, match="projector's grid"):
        projector.forward(torch.zeros(8, 11))
    with pytest.raises(ValueError, match="shape"):
        responses((projector,), factor=torch.ones(9, 13))
    with pytest.raises(ValueError, match="1/cm"):
        attenuation((projector,), torch.ones(11, 8))


@pytest.mark.gpu
def test_the_device_gives_the_same_projection() -> None:
    projector = Projector(RINGS, grid(RINGS), (0, 2, 5))
    image = rand(projector.geometry.matrix).float()
    there = projector.to("cuda")
    torch.testing.assert_close(there.forward(image.cuda()).cpu(), projector.forward(image), rtol=1e-5, atol=1e-4)
    data = rand(projector.shape).float()
    torch.testing.assert_close(there.adjoint(data.cuda()).cpu(), projector.adjoint(data), rtol=1e-5, atol=1e-3)
