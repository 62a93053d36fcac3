"""What dciodvfy, dcentvfy, dcm2niix and highdicom say of the objects that are written."""

import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pytest

from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.imagefile import Series, read_series
from koosh_gadgets.nifti import read_nifti
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, header, phantom, save, series
from tests.gadgets.orientations import NAMES, world

pytestmark = pytest.mark.system

FORMS = [False, True]
SOURCES = {
    "whole header": lambda: series(),
    "no header": lambda: series(header="", meta={}),
    "left-handed": lambda: series("left_handed_oblique"),
    "floats": lambda: series(volume=phantom((7, 10, 13)) * 0.37),
    "negative": lambda: series(volume=phantom((7, 10, 13)) - 1999.5),
    "over 32767": lambda: series(volume=phantom((7, 10, 13)) + 61000),
    "phase": lambda: series(kind="phase", volume=(phantom((7, 10, 13)) - 2000) / 700),
    "residual": lambda: series(meta={**META, "koosh_map": "residual"}),
    "disagreement": lambda: series(meta={**META, "koosh_map": "disagreement"}),
    "odd": lambda: Series(phantom((3, 95, 97)), Geometry((3, 95, 97), (6.0, 95, 97)), META, header()),
    "one plane": lambda: Series(phantom((9, 5)), Geometry((9, 5), (90.0, 40.0), slice_mm=4.0), META, header()),
    "frames": lambda: Series(phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5)), META, header(), frame_ms=40),
    "zeros": lambda: series(volume=0 * phantom((7, 10, 13))),
    "300 characters": lambda: series(
        header=header(**dict.fromkeys(("name", "patient", "protocol", "vendor", "part", "study"), "x" * 300)),
        meta={**META, "ImageComments": "y" * 20000, "SeriesDescription": "z" * 300, "koosh_method": "w" * 3000},
    ),
    "not ASCII": lambda: series(
        header=header(name="山田^太郎=やまだ^たろう", patient="Ä-1", protocol="Schädel µ", vendor="Œuvre"),
        meta={**META, "SeriesDescription": "κοῦφος", "ImageComments": "naïve"},
    ),
    "knee, side unknown": lambda: series(header=header(part="KNEE")),
    "a part of no standard": lambda: series(header=header(part="Hirn und Hals")),
    "no position": lambda: series(header=header().replace("<patientPosition>HFS</patientPosition>", "")),
}


def complaints(*command: object) -> list[str]:
    """Lines of a judge that name an error or a warning, or its failure."""
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if "Error" in line or "Warning" in line]
    return lines + ([f"exit {run.returncode}"] if run.returncode else [])


@pytest.mark.parametrize("enhanced", FORMS)
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_and_dcentvfy_find_no_error_and_no_warning(tmp_path, source, enhanced):
    files = write_series(SOURCES[source](), tmp_path, enhanced=enhanced)
    for file in files:
        assert complaints("dciodvfy", "-new", file) == []
    assert complaints("dcentvfy", *files) == []


def test_dcentvfy_finds_the_series_of_one_scan_consistent(tmp_path):
    sources = [series(number=1), series(number=2, meta={**META, "koosh_method": "cg"}), series(number=3, kind="phase")]
    files = [file for source in sources for form in FORMS for file in write_series(source, tmp_path, enhanced=form)]
    assert len({file.name for file in files}) == 3 * 8
    assert complaints("dcentvfy", *files) == []


def test_dciodvfy_is_a_judge_that_can_find_fault(tmp_path):
    import pydicom

    file = write_series(series(), tmp_path)[0]
    data = pydicom.dcmread(file)
    del data.ImageType
    data.save_as(file)
    assert complaints("dciodvfy", "-new", file)


def assert_same_place(source: Series, volume: np.ndarray, affine: np.ndarray) -> None:
    """Every voxel of (z, y, x) `volume`, placed by `affine` (x, y, z -> LPS mm), is the source's voxel there."""
    index = np.argwhere(np.ones(volume.shape))[:, ::-1]
    places = index @ affine[:3, :3].T + affine[:3, 3]
    place = source.geometry
    axes = np.array([place.read_dir, place.phase_dir, place.slice_dir])
    centre = np.array([n // 2 for n in place.matrix[::-1]])
    back = (places - place.position_mm) @ axes.T / np.array(place.voxel_mm[::-1]) + centre
    whole = np.rint(back).astype(int)
    assert np.abs(back - whole).max() <= 1e-4
    assert len(np.unique(whole, axis=0)) == source.volume.size
    assert (source.volume[whole[:, 2], whole[:, 1], whole[:, 0]] == volume.ravel()).all()


def by_dcm2niix(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    subprocess.run(
        ["dcm2niix", "-b", "n", "-f", "out", "-o", folder, folder], check=True, capture_output=True, timeout=60
    )
    (file,) = folder.glob("*.nii")
    volume, affine = read_nifti(file)
    return volume, np.diag([-1.0, -1, 1, 1]) @ affine


def by_highdicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(folder.glob("*.dcm"))
    if len(files) == 1:
        found = highdicom.imread(files[0]).get_volume(apply_real_world_transform=False, apply_modality_transform=False)
    else:
        images = [highdicom.imread(file) for file in files]
        found = highdicom.get_volume_from_series(images)
    swap = np.eye(4)[[2, 1, 0, 3]]  # its index is (slice, row, column)
    return found.array, found.affine @ swap


@pytest.mark.parametrize("enhanced", FORMS)
@pytest.mark.parametrize("judge", [by_dcm2niix, by_highdicom])
@pytest.mark.parametrize("name", NAMES)
def test_judges_find_every_voxel_in_its_place(tmp_path, name, judge, enhanced):
    source = series(name)
    write_series(source, tmp_path, enhanced=enhanced)
    assert_same_place(source, *judge(tmp_path))


def test_dcm2niix_finds_frames_in_their_order(tmp_path):
    frames, place = phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5))
    write_series(Series(frames, place, META, header(), frame_ms=40), tmp_path)
    volume, affine = by_dcm2niix(tmp_path)
    assert volume.shape == frames.shape
    for found, wanted in zip(volume, frames, strict=True):
        assert_same_place(Series(wanted, place), found, affine)


def test_judges_find_each_enhanced_frame_whole(tmp_path):
    frames, place = phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5))
    files = write_series(Series(frames, place, META, header(), frame_ms=40), tmp_path / "all", enhanced=True)
    for file, wanted in zip(files, frames, strict=True):
        alone = tmp_path / file.stem
        alone.mkdir()
        (alone / file.name).write_bytes(file.read_bytes())
        for judge in (by_dcm2niix, by_highdicom):
            assert_same_place(Series(wanted, place), *judge(alone))


@pytest.mark.parametrize("judge", [by_dcm2niix, by_highdicom])
def test_judges_find_odd_matrices_read_from_an_image_file_in_place(tmp_path, judge):
    volume = phantom((5, 95, 97))
    source = Series(volume, Geometry((5, 95, 97), (10.0, 171.0, 126.1), (3.0, -7, 11)), META, header())
    (back,) = read_series(save(tmp_path / "i.h5", source))
    write_series(back, tmp_path / "o")
    assert_same_place(source, *judge(tmp_path / "o"))


def test_the_comparison_finds_a_flip_and_half_a_voxel(tmp_path):
    source = series("oblique")
    write_series(source, tmp_path)
    volume, affine = by_highdicom(tmp_path)
    with pytest.raises(AssertionError):
        assert_same_place(source, volume[:, ::-1], affine)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 0] / 2
    with pytest.raises(AssertionError):
        assert_same_place(source, volume, moved)
    assert np.isfinite(world(source.geometry, np.zeros((1, 3)))).all()
