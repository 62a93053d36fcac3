import json

import numpy as np
import pytest
import torch

from koosh_models.simulation import volumes
from koosh_models.simulation.lesions import with_lesions
from koosh_models.simulation.phantoms import phantom


def write(path, image: np.ndarray, spacing=(1.0, 1.0, 1.0), **meta: str):
    np.savez(path, image=image, scale=np.float32(0.5), spacing_mm=np.array(spacing, np.float32), meta=json.dumps(meta))
    return path


@pytest.fixture
def head(tmp_path):
    """A block with a bright corner at the right, front and top of the patient; axes x, y, z in RAS."""
    image = np.zeros((20, 24, 28), np.uint16)
    image[4:-4, 4:-4, 4:-4] = 400
    image[12:-4, 14:-4, 20:-4] = 1000
    return write(tmp_path / "head.npz", image, (2.0, 1.5, 1.0), split="val", subject="h1", contrast="T1")


def test_a_volume_is_turned_to_lps_and_scaled(head):
    volume = volumes.load(head)
    assert volume.data.shape == (28, 24, 20)
    assert volume.voxel_mm == (1.0, 1.5, 2.0)
    assert (volume.subject, volume.split, volume.labels) == ("h1", "val", False)
    # right, front, top in RAS is low x, low y, high z in LPS
    assert volume.data[22, 6, 6] == volume.data.max() == pytest.approx(1.0)
    assert volume.data[6, 18, 14] == pytest.approx(0.4)


@pytest.mark.parametrize("matrix", [(14, 14, 14), (28, 30, 32), (24, 24)])
def test_the_anatomy_fits_the_matrix_and_is_the_same_for_a_seed(head, matrix):
    volume = volumes.load(head)
    one, again, other = (volumes.anatomy(volume, matrix, seed) for seed in (3, 3, 4))
    assert torch.equal(one.image, again.image)
    assert not torch.equal(one.image, other.image)
    assert one.image.shape == one.mask.shape == matrix
    assert 0.1 < float(one.mask.float().mean()) < 0.8


def test_resampling_keeps_places_and_means():
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in (40, 48, 56)], indexing="ij")
    ball = ((z - 0.2) ** 2 + y**2 + (x + 0.1) ** 2 < 0.3).float()
    small = volumes.resampled(ball, (1.0, 1.0, 1.0), (20, 24, 28), torch.eye(3, 4))
    assert float(small.sum() * 8) == pytest.approx(float(ball.sum()), rel=0.02)
    for axis, n in enumerate((20, 24, 28)):
        others = [a for a in range(3) if a != axis]
        at_small = (small.sum(others) * (torch.arange(n) - n // 2)).sum() / small.sum() * 2
        at_ball = (ball.sum(others) * (torch.arange(2 * n) - n)).sum() / ball.sum()
        assert float(at_small) == pytest.approx(float(at_ball), abs=0.1)


def test_the_same_grid_gives_the_same_image():
    image = torch.rand(7, 8, 9)
    same = volumes.resampled(image, (1.0, 1.0, 1.0), (7, 8, 9), torch.eye(3, 4))
    assert torch.allclose(same, image, atol=1e-5)


def test_labels_get_random_contrast_with_equal_hemispheres(tmp_path):
    image = np.zeros((16, 16, 16), np.uint16)
    image[2:8, 2:8, 2:-2], image[8:14, 2:8, 2:-2] = 2, 41
    image[2:8, 8:14, 2:-2], image[8:14, 8:14, 2:-2] = 3, 42
    volume = volumes.load(write(tmp_path / "l.npz", image, contrast="labels"))
    assert volume.labels
    ratios = []
    for seed in range(5):
        grey = volumes.random_contrast(volume.data, np.random.default_rng(seed))
        left, right = (grey[volume.data == label].unique().tolist() for label in (2, 41))
        assert left == right
        assert len(grey.unique()) == 3  # two tissues and air
        ratios.append(float(grey[volume.data == 3][0]) / left[0])
    assert len(set(ratios)) == 5
    one, other = (volumes.anatomy(volume, (16, 16, 16), seed, vary=False).image.abs() for seed in (0, 1))
    assert float((one - other).norm()) > 0.05 * float(one.norm())


def test_the_split_is_the_files_own_or_decided_by_the_subject(head, tmp_path):
    assert volumes.split_of(head) == "val"
    names = [write(tmp_path / f"s{i}.npz", np.ones((2, 2, 2), np.uint16), subject=f"s{i}") for i in range(60)]
    told = [volumes.split_of(name) for name in names]
    assert 1 <= told.count("val") <= 15
    assert told == [volumes.split_of(name) for name in names]
    assert sorted(volumes.of_split(names, "val") + volumes.of_split(names, "train")) == sorted(names)


def test_a_subject_in_two_splits_is_an_error(head, tmp_path):
    twin = write(tmp_path / "twin.npz", np.ones((4, 4, 4), np.uint16), split="train", subject="h1")
    with pytest.raises(ValueError, match="subject 'h1' is in the splits val and train"):
        volumes.of_split([head, twin], "train")


def test_bad_volumes_are_one_clear_sentence(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.npz is no \.npz archive"):
        volumes.load(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="wanted three axes"):
        volumes.load(write(tmp_path / "b.npz", np.ones((4, 4), np.uint16)))
    with pytest.raises(ValueError, match="nothing but zeros"):
        volumes.load(write(tmp_path / "c.npz", np.zeros((4, 4, 4), np.uint16)))
    np.savez(tmp_path / "d.npz", other=1)
    with pytest.raises(ValueError, match="no array `image`; it has other"):
        volumes.load(tmp_path / "d.npz")


def test_lesions_change_the_image_exactly_where_they_say():
    anatomy = phantom("head", (32, 32, 32), seed=1)
    changed, spots = with_lesions(anatomy, seed=2, count=4)
    again, _ = with_lesions(anatomy, seed=2, count=4)
    assert torch.equal(changed.image, again.image)
    assert spots.shape == (4, 32, 32, 32)
    assert (spots.flatten(1).sum(1) > 0).all()
    gain = (changed.image.abs() / anatomy.image.abs().clamp_min(1e-6))[anatomy.mask]
    inside = spots.any(0)[anatomy.mask]
    assert float((gain[inside] - 1).abs().min()) > 0.1
    near = torch.nn.functional.max_pool3d(spots.any(0)[None].float(), 9, 1, 4)[0] > 0
    assert torch.equal(changed.image[~near], anatomy.image[~near])
    assert int(near.sum()) < near.numel()
    assert int(spots.sum(0).max()) == 1
    assert not (spots & ~anatomy.mask).any()


def test_more_lesions_than_fit_are_refused():
    with pytest.raises(ValueError, match=r"no room for more than \d+ lesions"):
        with_lesions(phantom("head", (16, 16, 16), seed=1), count=1000)
