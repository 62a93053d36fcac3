from contextlib import closing

import ismrmrd
import numpy as np
import pytest
import torch

from koosh_gadgets import files, npz
from koosh_gadgets.cli import main
from koosh_gadgets.convert import archive, bart, mrd
from koosh_gadgets.convert.recording import read_recording
from koosh_gadgets.nifti import read_nifti
from koosh_models.scan import Geometry
from tests.gadgets.test_info import radial_as_converters_write_it

FAMILIES = ("radial3d", "radial2d", "cartesian3d", "cine_radial", "cine_cartesian", "stack_of_stars")


def simulated(folder, family: str, *more: str):
    matrix = ["12", "14"] if family in ("radial2d", "cine_radial", "cine_cartesian") else ["10", "12", "14"]
    arguments = ["--matrix", *matrix, "--coils", "3", "--acceleration", "2", "--frames", "3", "--trajectory", family]
    assert main(["simulate", str(folder / "a.h5"), *arguments, "--position", "3", "4", "5", *more]) == 0
    return folder / "a.h5"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("through", ["b.cfl", "b.npz"])
def test_a_scan_survives_the_way_there_and_back(tmp_path, family, through):
    source = simulated(tmp_path, family)
    assert main(["convert", str(source), str(tmp_path / through)]) == 0
    size = ["12", "14"] if "2d" in family or "cine" in family else ["10", "12", "14"]
    known = ["--matrix", *size, "--fov-mm", *[str(int(n) * 240 / 14) for n in size]] if through == "b.cfl" else []
    assert main(["convert", str(tmp_path / through), str(tmp_path / "c.h5"), *known]) == 0
    before, after = read_recording(source), read_recording(tmp_path / "c.h5")
    assert np.array_equal(before.kspace, after.kspace)
    assert before.series == after.series
    assert before.center == after.center
    assert np.array_equal(before.noise, after.noise)
    assert before.geometry.matrix == after.geometry.matrix
    assert before.geometry.fov_mm == pytest.approx(after.geometry.fov_mm)
    if before.omega is not None:
        assert np.allclose(before.omega, after.omega, atol=2e-6)
    if through == "b.npz":
        assert after.geometry.position_mm == (3, 4, 5)


def test_bart_dimensions_and_units_are_as_its_programs_read_them(tmp_path):
    source = simulated(tmp_path, "radial3d")
    bart.write_recording(tmp_path / "b", read_recording(source))
    kspace, k = bart.read_cfl(tmp_path / "b"), bart.read_cfl(tmp_path / "b_traj")
    n = read_recording(source).kspace.shape[-2]
    assert kspace.shape[::-1][:5] == (1, 28, n, 3, 1)
    assert k.shape[::-1][:4] == (3, 28, n, 1)
    reach = np.abs(k).reshape(-1, 3).max(axis=0)
    assert (reach <= [7, 6, 5]).all()
    assert (reach > [5.5, 4.7, 3.9]).all()


def test_slices_and_frames_are_at_their_dimensions(tmp_path):
    radial_as_converters_write_it(tmp_path / "r.h5")
    bart.write_recording(tmp_path / "r", read_recording(tmp_path / "r.h5"))
    dims = bart.read_cfl(tmp_path / "r").shape[::-1]
    assert (dims[1], dims[2], dims[3], dims[13]) == (64, 10, 17, 3)
    cine = simulated(tmp_path, "cine_radial")
    bart.write_recording(tmp_path / "c", read_recording(cine))
    assert bart.read_cfl(tmp_path / "c_traj").shape[::-1][10] == 3


def test_an_asymmetric_echo_and_a_doubled_line_lie_right_on_the_grid(tmp_path):
    source = simulated(tmp_path, "cartesian3d")
    whole = read_recording(source).kspace
    with closing(ismrmrd.Dataset(source, create_if_needed=False)) as data:
        header = data.read_xml_header()
        readouts = [data.read_acquisition(i) for i in range(data.number_of_acquisitions())]
    cut = [r for r in readouts if not r.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    with closing(ismrmrd.Dataset(tmp_path / "cut.h5")) as data:
        data.write_xml_header(header)
        for r in [*cut, cut[-1]]:
            part = ismrmrd.Acquisition.from_array(np.ascontiguousarray(r.data[:, 4:]))
            part.idx.kspace_encode_step_1, part.idx.kspace_encode_step_2 = (
                r.idx.kspace_encode_step_1,
                r.idx.kspace_encode_step_2,
            )
            part.center_sample, part.read_dir, part.phase_dir, part.slice_dir = 3, (1, 0, 0), (0, 1, 0), (0, 0, 1)
            data.append_acquisition(part)
    got = read_recording(tmp_path / "cut.h5").kspace
    assert np.allclose(got[..., 4:], whole[..., 4:])
    assert (got[..., :4] == 0).all()


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "npz", "cfl", "h5"])
def test_an_image_survives_the_way_there_and_back(tmp_path, ending):
    image = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    geometry = Geometry((4, 5, 6), (8.0, 15.0, 9.0), (1, -2, 3), (0, 1, 0), (0, 0, 1), (1, 0, 0))
    mrd.write_volume(tmp_path / "a.h5", image, geometry)
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / f"b.{ending}")]) == 0
    more = ["--fov-mm", "8", "15", "9"] if ending == "cfl" else []
    assert main(["convert", str(tmp_path / f"b.{ending}"), str(tmp_path / "c.npz"), *more]) == 0
    back, place = archive.image_of(npz.arrays(tmp_path / "c.npz"), "c.npz")
    assert np.allclose(np.abs(back), image)
    assert place.fov_mm == pytest.approx((8, 15, 9), rel=1e-5)
    if ending != "cfl":
        assert place.position_mm == pytest.approx((1, -2, 3), abs=1e-4)
        assert place.read_dir == pytest.approx((0, 1, 0), abs=1e-5)


def test_complex_images_keep_their_phase(tmp_path):
    image = torch.randn(3, 4, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)).numpy()
    mrd.write_volume(tmp_path / "a.h5", image, Geometry((3, 4, 5), (3.0, 4.0, 5.0)))
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.cfl")]) == 0
    assert np.array_equal(bart.read_image(tmp_path / "b"), image)


def test_one_of_several_series_must_be_chosen(tmp_path, caplog):
    images = [
        ismrmrd.Image.from_array(np.full((2, 3, 4), s, np.float32), transpose=False, image_series_index=s, image_type=1,
                                 field_of_view=(4, 3, 2), read_dir=(1, 0, 0), phase_dir=(0, 1, 0), slice_dir=(0, 0, 1))
        for s in (1, 2)
    ]  # fmt: skip
    files.write_images(tmp_path / "i.h5", images)
    assert main(["convert", str(tmp_path / "i.h5"), str(tmp_path / "o.nii")]) == 2
    assert "holds the series 1, 2; choose one with --series" in caplog.text
    assert main(["convert", str(tmp_path / "i.h5"), str(tmp_path / "o.nii"), "--series", "2"]) == 0
    assert (read_nifti(tmp_path / "o.nii")[0] == 2).all()


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("a.h5", "b.nii.gz", "is a scan and NIfTI holds images"),
        ("a.h5", "b.txt", "unknown ending"),
        ("none.cfl", "b.h5", "No such file"),
        ("bad.cfl", "b.h5", "its header says 3 x 3"),
        ("bad.npz", "b.h5", "is no .npz archive"),
        ("other.npz", "b.h5", "has neither `kspace` nor `image`; it has numbers"),
    ],
)
def test_bad_requests_exit_with_2_and_leave_nothing(tmp_path, caplog, source, target, says):
    simulated(tmp_path, "radial2d")
    (tmp_path / "bad.hdr").write_text("# Dimensions\n3 3\n")
    (tmp_path / "bad.cfl").write_bytes(b"12345678")
    (tmp_path / "bad.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", numbers=1)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 2
    assert says in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_uneven_series_are_refused(tmp_path, caplog):
    radial_as_converters_write_it(tmp_path / "r.h5", skip=4)
    assert main(["convert", str(tmp_path / "r.h5"), str(tmp_path / "r.cfl")]) == 2
    assert "volumes of the series have 6 to 10 readouts" in caplog.text
