import pytest
import torch

from koosh_models.simulation import coils
from koosh_models.simulation.coils import loop_field, loop_maps
from koosh_models.simulation.phantoms import ANATOMIES, phantom, slab


@pytest.mark.parametrize("name", ANATOMIES)
def test_phantoms_are_the_same_for_a_seed_and_differ_between_seeds(name):
    matrix = (24, 28) if name == "cine" else (20, 24, 28)
    one, again, other = (phantom(name, matrix, seed, n_frames=3) for seed in (1, 1, 2))
    assert torch.equal(one.image, again.image)
    assert (one.image.abs() - other.image.abs()).norm() > 0.05 * one.image.norm()
    assert one.image.dtype == torch.complex64
    assert one.image.shape == ((3, 24, 28) if name == "cine" else matrix)


@pytest.mark.parametrize("name", ANATOMIES)
def test_phantoms_are_scaled_by_their_99th_percentile_and_masked(name):
    anatomy = phantom(name, (32, 32) if name == "cine" else (24, 32, 32), seed=3)
    assert float(anatomy.image.abs()[anatomy.mask].quantile(0.99)) == pytest.approx(1, abs=0.02)
    assert 0.1 < float(anatomy.mask.float().mean()) < 0.9
    assert float(anatomy.image.abs()[~anatomy.mask].max()) < 0.05


def test_a_plane_is_the_central_slice_of_the_volume():
    volume, plane = phantom("chest", (33, 32, 32), seed=4), phantom("chest", (32, 32), seed=4)
    a, b = volume.image[16].abs(), plane.image.abs()
    assert float((a / a.norm() - b / b.norm()).norm()) < 0.05


def test_the_same_anatomy_appears_at_two_resolutions():
    coarse, fine = phantom("head", (24, 24, 24), seed=5), phantom("head", (48, 48, 48), seed=5)
    near = fine.image.abs()[::2, ::2, ::2]
    assert float(torch.corrcoef(torch.stack([coarse.image.abs().flatten(), near.flatten()]))[0, 1]) > 0.9


def test_the_phase_is_smooth_and_not_flat():
    image = phantom("head", (32, 32, 32), seed=6).image
    turn = (image[:, :, 1:] * image[:, :, :-1].conj())[8:24, 8:24, 8:24].angle()
    assert 0.01 < float(turn.abs().max()) < 0.5


def test_the_heart_beats():
    frames = phantom("cine", (48, 48), seed=7, n_frames=8).image.abs()
    assert float((frames[3] - frames[0]).norm()) > 0.05 * float(frames[0].norm())
    assert torch.allclose(frames[0][:6], frames[3][:6], atol=1e-6)


def test_the_slab_ends_in_air_and_is_symmetric():
    for n in (31, 32):
        profile = torch.from_numpy(slab(n))
        assert torch.allclose(profile, profile.flip(0))
        assert profile[0] < 0.2
        assert profile[n // 2] == 1


@pytest.mark.parametrize(("matrix", "n_coils"), [((12, 14, 16), 8), ((9, 11, 7), 5), ((15, 16), 4), ((8, 8, 8), 20)])
def test_coil_maps_have_unit_root_sum_of_squares(matrix, n_coils):
    maps = loop_maps(matrix, n_coils)
    assert maps.shape == (n_coils, *matrix)
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(matrix), atol=1e-5)


def test_coil_maps_differ_and_point_at_their_loops():
    maps = loop_maps((16, 16, 16), 8).flatten(1)
    gram = (maps @ maps.conj().T).abs() / maps.norm(dim=1)[:, None] / maps.norm(dim=1)
    assert float((gram - torch.eye(8)).max()) < 0.75


def test_interpolated_maps_agree_with_the_field_at_every_voxel():
    whole = loop_maps((40, 40, 40), 3)
    got = whole[:, ::4, ::4, ::4]
    place = 2 * (torch.arange(10, dtype=torch.float64) - 5) / 10
    points = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1).reshape(-1, 3)
    field = torch.stack([loop_field(points, *loop) for loop in coils.loops(3, 0)])
    want = (field / field.abs().square().sum(0).sqrt()).reshape(3, 10, 10, 10)
    assert float((got - want).abs().max()) < 3e-4


def test_a_loop_has_the_known_field_on_its_axis():
    normal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    points = torch.tensor([[0.0, 0.0, d] for d in (0.0, 0.5, 1.0)], dtype=torch.float64)
    field = loop_field(points, torch.zeros(3, dtype=torch.float64), normal, 1.0).abs()
    want = (1 + points[:, 2] ** 2) ** -1.5
    assert torch.allclose(field / field[0], want)


def test_bad_requests_say_what_is_wanted():
    with pytest.raises(ValueError, match="unknown anatomy 'foot'; known: head"):
        phantom("foot", (8, 8, 8))
    with pytest.raises(ValueError, match="2D and moving"):
        phantom("cine", (8, 8, 8))
    with pytest.raises(ValueError, match="asked for 0 coils"):
        loop_maps((8, 8, 8), 0)
