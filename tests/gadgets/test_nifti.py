import gzip
import random
import struct

import nibabel
import numpy as np
import pytest

from koosh_gadgets.nifti import geometry_of, read_nifti, write_nifti
from koosh_models.scan import Geometry
from tests.gadgets.orientations import NAMES, geometry, world

FLIP = np.diag([-1.0, -1, 1])


def phantom(matrix: tuple[int, ...], dtype: str = "f4") -> np.ndarray:
    return np.arange(np.prod(matrix)).reshape(matrix).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", NAMES)
def test_every_voxel_keeps_its_place_and_value(tmp_path, name, suffix):
    where = geometry(name)
    path = write_nifti(tmp_path / f"v{suffix}", phantom(where.matrix), where)
    volume, affine = read_nifti(path)
    index = np.argwhere(np.ones(where.matrix))[:, ::-1]
    ras = index @ affine[:3, :3].T + affine[:3, 3]
    assert np.abs(ras @ FLIP - world(where, index)).max() < 1e-4 * min(where.voxel_mm)
    assert (volume == phantom(where.matrix)).all()


@pytest.mark.parametrize("name", NAMES)
def test_nibabel_reads_the_same_place_from_sform_and_from_qform(tmp_path, name):
    where = geometry(name)
    image = nibabel.load(write_nifti(tmp_path / "v.nii.gz", phantom(where.matrix), where))
    _, affine = read_nifti(tmp_path / "v.nii.gz")
    assert np.abs(image.get_sform() - affine).max() == 0
    assert np.abs(image.get_qform() - affine).max() < 2e-5
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert (phantom(where.matrix) == np.asarray(image.dataobj).T).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_only_a_qform_is_read_like_nibabel_does(tmp_path, name):
    where = geometry(name)
    image = nibabel.load(write_nifti(tmp_path / "v.nii", phantom(where.matrix), where))
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "q.nii")
    assert np.abs(read_nifti(tmp_path / "q.nii")[1] - image.affine).max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_geometry_comes_back(tmp_path, name):
    where = geometry(name)
    volume, affine = read_nifti(write_nifti(tmp_path / "v.nii", phantom(where.matrix), where))
    back = geometry_of(affine, volume)
    assert back.matrix == where.matrix
    for field in ("fov_mm", "position_mm", "read_dir", "phase_dir", "slice_dir"):
        assert np.allclose(getattr(back, field), getattr(where, field), atol=2e-5)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "c8", "i8"])
def test_voxels_keep_their_type(tmp_path, dtype):
    where = geometry("oblique")
    volume, _ = read_nifti(write_nifti(tmp_path / "v.nii.gz", phantom(where.matrix, dtype), where))
    assert volume.dtype == dtype
    assert (volume == phantom(where.matrix, dtype)).all()


def test_a_series_of_frames_and_a_plane_keep_their_shape(tmp_path):
    where = geometry("coronal")
    frames = phantom((4, *where.matrix))
    volume, _ = read_nifti(write_nifti(tmp_path / "f.nii", frames, where, frame_s=0.05))
    assert (volume == frames).all()
    assert nibabel.load(tmp_path / "f.nii").header.get_zooms()[3] == pytest.approx(0.05)
    plane = Geometry((9, 5), (90.0, 40.0), slice_mm=4.0)
    volume, affine = read_nifti(write_nifti(tmp_path / "p.nii", phantom((9, 5)), plane))
    assert volume.shape == (1, 9, 5)
    assert affine[2, 2] == 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_nibabels_scaled_files_in_either_byte_order_give_the_scaled_values(tmp_path, order):
    head = nibabel.Nifti1Header(endianness=order)
    head.set_data_dtype("i2")
    image = nibabel.Nifti1Image(phantom((5, 4, 3), "f4"), np.diag([2.0, 3, 4, 1]), head)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "v.nii.gz")
    volume, affine = read_nifti(tmp_path / "v.nii.gz")
    assert (volume.transpose() == nibabel.load(tmp_path / "v.nii.gz").get_fdata()).all()
    assert (affine == np.diag([2.0, 3, 4, 1])).all()


def test_the_same_volume_is_the_same_file(tmp_path):
    where = geometry("sagittal")
    a, b = (write_nifti(tmp_path / n, phantom(where.matrix), where) for n in ("a.nii.gz", "b.nii.gz"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    where = geometry("oblique")
    whole = write_nifti(tmp_path / f"v{suffix}", phantom(where.matrix), where).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for size in [0, 1, 2, 3, 40, 347, 348, 352, len(whole) // 2, len(whole) - 9, len(whole) - 1]:
        cut.write_bytes(whole[: min(size, len(whole) - 1)])
        with pytest.raises(ValueError, match=r"cut\.nii"):
            read_nifti(cut)


def test_flipped_bits_give_a_volume_or_a_value_error(tmp_path):
    where = geometry("oblique")
    whole = write_nifti(tmp_path / "v.nii", phantom(where.matrix), where).read_bytes()
    flipped, chance = tmp_path / "w.nii", random.Random(3)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(352)] ^= 1 << chance.randrange(8)
        flipped.write_bytes(damaged)
        try:
            volume, affine = read_nifti(flipped)
        except ValueError:
            refused += 1
        else:
            assert volume.size <= len(whole)
            assert np.isfinite(affine).all()
    assert refused > 20


def test_flipped_bits_of_a_compressed_file_never_change_a_voxel(tmp_path):
    where = geometry("oblique")
    whole = write_nifti(tmp_path / "v.nii.gz", phantom(where.matrix), where).read_bytes()
    flipped, chance, refused = tmp_path / "w.nii.gz", random.Random(4), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.randrange(10, len(whole))] ^= 1 << chance.randrange(8)
        flipped.write_bytes(damaged)
        try:
            volume, _ = read_nifti(flipped)
        except ValueError:
            refused += 1
        else:  # the last byte of a deflate stream has bits that mean nothing
            assert (volume == phantom(where.matrix)).all()
    assert refused >= 195


def test_a_header_that_promises_terabytes_is_refused_before_memory_is_asked_for(tmp_path):
    where = geometry("axial")
    whole = bytearray(write_nifti(tmp_path / "v.nii", phantom(where.matrix), where).read_bytes())
    struct.pack_into("<8h", whole, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    for name, content in (("a.nii", bytes(whole)), ("a.nii.gz", gzip.compress(bytes(whole)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="can't hold"):
            read_nifti(tmp_path / name)


def test_a_volume_that_is_not_the_geometrys_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="don't match"):
        write_nifti(tmp_path / "v.nii", np.zeros((3, 3, 3)), geometry("axial"))
    with pytest.raises(ValueError, match="not orthogonal"):
        write_nifti(tmp_path / "v.nii", np.zeros((2, 2, 2)), Geometry((2, 2, 2), (2.0, 2, 2), read_dir=(0.9, 0.2, 0)))
    assert list(tmp_path.iterdir()) == []
