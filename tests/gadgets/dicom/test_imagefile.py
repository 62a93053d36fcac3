import contextlib

import h5py
import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.imagefile import Series, meta_of, read_series, series_of
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, PLANE, damage, images_of, phantom, save, series
from tests.gadgets.orientations import NAMES

FIELDS = ("fov_mm", "position_mm", "read_dir", "phase_dir", "slice_dir")


@pytest.mark.parametrize("as_slices", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_volume_comes_back_with_its_geometry_from_slices_and_from_one_image(tmp_path, name, as_slices):
    source = series(name)
    (back,) = read_series(save(tmp_path / "i.h5", source, as_slices))
    assert (back.volume == source.volume).all()
    assert back.geometry.matrix == source.geometry.matrix
    for field in FIELDS:
        assert np.allclose(getattr(back.geometry, field), getattr(source.geometry, field), atol=3e-5)
    assert back.header == source.header
    assert back.meta == META


@pytest.mark.parametrize("as_slices", [True, False])
def test_images_in_memory_give_what_their_file_gives(tmp_path, as_slices):
    source = series()
    (from_file,) = read_series(save(tmp_path / "i.h5", source, as_slices))
    (in_memory,) = series_of(images_of(source, as_slices), source.header)
    assert (in_memory.volume == from_file.volume).all()
    assert (in_memory.geometry, in_memory.meta) == (from_file.geometry, from_file.meta)


def test_series_stay_apart_and_keep_number_and_kind(tmp_path):
    path = save(tmp_path / "i.h5", series(number=2, kind="phase"))
    save(path, series("axial", number=1))
    found = read_series(path)
    assert [(s.number, s.kind) for s in found] == [(1, "magnitude"), (2, "phase")]
    assert found[0].geometry.read_dir == (1, 0, 0)


def test_repetitions_become_frames(tmp_path):
    frames = phantom((3, 4, 6, 5))
    source = Series(frames, Geometry((4, 6, 5), (8.0, 6, 5)), number=4)
    (back,) = read_series(save(tmp_path / "i.h5", source))
    assert (back.volume == frames).all()


def test_a_single_plane_keeps_its_thickness(tmp_path):
    plane = Series(phantom((9, 5)), PLANE)
    path = tmp_path / "i.h5"
    image = ismrmrd.Image.from_array(np.ascontiguousarray(plane.frames[0]), transpose=False)
    image.field_of_view, image.position = (40.0, 90.0, 4.0), (0.0, 0.0, 0.0)
    image.read_dir, image.phase_dir, image.slice_dir = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    with contextlib.closing(ismrmrd.Dataset(str(path))) as file:
        file.append_image("image_0", image)
    (back,) = read_series(path)
    assert back.geometry.voxel_mm == (4.0, 10.0, 8.0)


def test_slices_with_gaps_keep_spacing_and_thickness(tmp_path):
    source = series("axial")
    nx, ny = source.geometry.fov_mm[2], source.geometry.fov_mm[1]
    (back,) = read_series(save(tmp_path / "i.h5", source, field_of_view=(nx, ny, 2.5)))
    assert back.geometry.voxel_mm[0] == pytest.approx(3.3)
    assert float(back.meta["SliceThickness"]) == pytest.approx(2.5)


def test_complex_images_become_their_magnitude(tmp_path):
    volume = phantom((4, 6, 5)) * np.exp(0.3j)
    source = Series(volume.astype("c8"), Geometry((4, 6, 5), (8.0, 6, 5)))
    (back,) = read_series(save(tmp_path / "i.h5", source))
    assert np.allclose(back.volume, np.abs(volume), rtol=1e-6)
    assert back.kind == "magnitude"


@pytest.mark.parametrize("change", ["missing", "doubled"])
def test_a_missing_or_doubled_slice_is_refused(tmp_path, change):
    path = save(tmp_path / "i.h5", series())
    damage(path, change)
    with pytest.raises(ValueError, match="missing, doubled or misplaced"):
        read_series(path)


def test_images_without_directions_or_field_of_view_are_refused(tmp_path):
    for head in ({"read_dir": (0, 0, 0)}, {"field_of_view": (0, 0, 0)}):
        path = save(tmp_path / f"{next(iter(head))}.h5", series(), **head)
        with pytest.raises(ValueError, match="say no geometry"):
            read_series(path)


def test_a_file_without_images_of_another_kind_or_damaged_is_refused(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("dataset")
    with pytest.raises(ValueError, match="holds no images"):
        read_series(tmp_path / "empty.h5")
    with pytest.raises(ValueError, match="no group 'other'"):
        read_series(tmp_path / "empty.h5", "other")
    whole = save(tmp_path / "i.h5", series()).read_bytes()
    for size in (0, 100, len(whole) // 2):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="can't be read"):
            read_series(tmp_path / "cut.h5")


def test_entities_in_an_images_meta_are_refused():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><ismrmrdMeta><meta><name>n</name><value>&a;</value></meta></ismrmrdMeta>'
    with pytest.raises(ValueError, match="meta is no XML"):
        meta_of(bomb)


def test_an_empty_volume_and_one_that_is_not_the_geometrys_are_refused():
    with pytest.raises(ValueError, match="not empty"):
        Series(np.zeros((0, 4, 4)), Geometry((1, 4, 4), (1.0, 4, 4)))
    with pytest.raises(ValueError, match="don't match"):
        Series(np.zeros((2, 4, 4)), Geometry((4, 4, 2), (1.0, 4, 4)))
