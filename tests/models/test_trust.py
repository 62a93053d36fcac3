"""Maps of where an image is doubtful: dark where all agrees, bright where something is wrong."""

import pytest
import torch

from koosh_models import phantom, simulate, trajectory, with_weights
from koosh_models.baselines import classical
from koosh_models.physics.mri import non_cartesian
from koosh_models.trust import disagreement, parts, unexplained


def scanned(noise: float = 0.0, matrix=(24, 20), family="radial2d", acceleration=1.0):
    anatomy = phantom("head", matrix)
    path = trajectory(family, matrix, acceleration)
    found = simulate(anatomy.image * anatomy.mask, path, mask=anatomy.mask, n_coils=4, noise=noise)
    scan = with_weights(found.scan)
    return scan, found, non_cartesian(scan, found.maps)


@pytest.mark.parametrize("gain", [1.0, 7.0, 0.01j])
def test_the_truth_of_consistent_data_leaves_nothing_whatever_its_scale(gain):
    _, found, problem = scanned()
    left = unexplained(problem, gain * found.truth)
    assert float(left.max()) < 2e-3 * abs(gain) * float(found.truth.abs().max())


def test_a_map_of_the_residual_scales_with_its_image():
    _, found, problem = scanned(0.1)
    one, other = unexplained(problem, found.truth), unexplained(problem, 7 * found.truth)
    assert torch.allclose(other, 7 * one, rtol=1e-3, atol=1e-4 * float(other.max()))


def test_what_is_missing_from_an_image_shows_where_it_is_missing():
    _, found, problem = scanned()
    image = found.truth.clone()
    spot = tuple(int(i) for i in (image.abs() * found.mask).flatten().argmax().unsqueeze(0)), image.shape
    z, x = divmod(spot[0][0], image.shape[1])
    image[z, x] = 0
    left = unexplained(problem, image)
    assert divmod(int(left.argmax()), image.shape[1]) == (z, x)


def test_an_image_of_nothing_leaves_the_gridded_data():
    _, found, problem = scanned()
    assert torch.allclose(unexplained(problem, torch.zeros_like(found.truth)), problem.b.abs())


def test_an_image_of_another_shape_is_refused():
    _, _, problem = scanned()
    with pytest.raises(ValueError, match=r"\(8, 8\), its problem \(24, 20\)"):
        unexplained(problem, torch.zeros(8, 8, dtype=torch.complex64))


@pytest.mark.parametrize(("family", "matrix"), [("radial2d", (24, 20)), ("stack_of_stars", (6, 16, 12))])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_share_out_every_readout_once_and_keep_the_weight_of_the_whole(family, matrix, count):
    scan, _, _ = scanned(0.02, matrix, family)
    shares = list(parts(scan, count))
    assert sum(s.n_readouts for s in shares) == scan.n_readouts
    assert max(s.n_readouts for s in shares) - min(s.n_readouts for s in shares) <= 1
    rows = lambda s: {tuple(r) for r in s.kspace[0].reshape(-1, s.readout)[:, :4].tolist()}  # noqa: E731
    assert set.union(*map(rows, shares)) == rows(scan)
    total = sum(s.weights.sum() * s.n_readouts / scan.n_readouts for s in shares)
    assert float(total) == pytest.approx(float(scan.weights.sum()), rel=1e-4)


def test_no_part_misses_a_partition_of_a_stack_whose_readouts_come_in_any_order():
    scan, _, _ = scanned(0.0, (6, 16, 12), "stack_of_stars")
    heights = scan.omega[0].reshape(-1, scan.readout)[:, 0]
    for order in (heights.argsort(stable=True), torch.arange(len(heights))):
        kspace = scan.kspace.reshape(scan.n_coils, -1, scan.readout)[:, order].flatten(1)
        omega = scan.omega.reshape(3, -1, scan.readout)[:, order].flatten(1)
        played = type(scan)(kspace, omega, scan.geometry, scan.readout, scan.weights)
        for share in parts(played):
            assert len(set(share.omega[0].reshape(-1, share.readout)[:, 0].tolist())) == 6


def test_parts_are_drawn_alike_every_time():
    scan, _, _ = scanned(0.02)
    for a, b in zip(parts(scan), parts(scan), strict=True):
        assert torch.equal(a.kspace, b.kspace)


def test_equal_images_do_not_disagree_and_a_difference_shows_where_it_is():
    image = torch.randn(12, 10, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert float(disagreement(image, [image, image]).max()) < 1e-6
    other = image.clone()
    other[6, 5, 4] += 3
    found = disagreement(image, [image, other])
    assert int(found.argmax()) == int((other - image).abs().argmax())
    assert float(found[0, 0, 0]) < 1e-6
    # the Gaussian spreads the energy and keeps it
    assert float(found.square().sum()) == pytest.approx(4.5, rel=1e-4)


def test_halves_of_noisy_data_disagree_more_than_halves_of_clean_ones():
    found = {}
    for noise in (0.0, 0.2):
        scan, made, _ = scanned(noise)
        image = classical.cg_sense(non_cartesian(scan, made.maps)).image
        images = [classical.cg_sense(non_cartesian(share, made.maps)).image for share in parts(scan)]
        found[noise] = float(disagreement(image, images)[made.mask].square().mean().sqrt())
    assert found[0.2] > 2 * found[0.0]


def test_what_cannot_be_compared_or_halved_is_refused():
    scan, _, _ = scanned()
    image = torch.zeros(4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"wanted images of shape \(4, 4\), got \[\]"):
        disagreement(image, [])
    with pytest.raises(ValueError, match=r"got \[\(2, 8\)\]"):
        disagreement(image, [image.reshape(2, 8)])
    with pytest.raises(ValueError, match="can't be shared among"):
        list(parts(scan, scan.n_readouts + 1))
    with pytest.raises(ValueError, match="density weights"):
        list(parts(type(scan)(scan.kspace, scan.omega, scan.geometry, scan.readout)))
