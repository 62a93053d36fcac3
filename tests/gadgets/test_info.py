import json
from contextlib import closing

import h5py
import ismrmrd
import numpy as np
import pytest

from koosh_gadgets import files, survey
from koosh_gadgets.cli import main

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>63866217</H1resonanceFrequency_Hz></experimentalConditions>
<encoding><encodedSpace><matrixSize><x>64</x><y>64</y><z>1</z></matrixSize>
<fieldOfView_mm><x>600</x><y>600</y><z>8</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>32</x><y>32</y><z>1</z></matrixSize>
<fieldOfView_mm><x>300</x><y>300</y><z>8</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>9</maximum><center>5</center></kspace_encoding_step_1>
<slice><minimum>0</minimum><maximum>2</maximum><center>0</center></slice></encodingLimits>
<trajectory>radial</trajectory></encoding></ismrmrdHeader>"""


def radial_as_converters_write_it(path, scale: float = 1.0, skip: int = 0) -> None:
    """Three slices of 2D radial with placeholder positions, as a converted Siemens scan looks."""
    k = (np.arange(64) - 32) / 64 * scale
    with closing(ismrmrd.Dataset(path)) as data:
        data.write_xml_header(HEADER.encode())
        for index in range(30):
            if index < skip:
                continue
            angle = index * np.pi / 30
            spoke = np.stack([k * np.cos(angle), k * np.sin(angle)], axis=1).astype(np.float32)
            readout = ismrmrd.Acquisition.from_array(np.ones((17, 64), np.complex64), spoke)
            readout.scan_counter, readout.center_sample, readout.sample_time_us = index + 1, 32, 5
            readout.idx.slice, readout.idx.kspace_encode_step_1 = index // 10, index % 10
            data.append_acquisition(readout)


def facts_of(path, capsys, *more: str) -> dict[str, dict[str, str]]:
    assert main(["info", str(path), "--json", *more]) == 0
    facts: dict[str, dict[str, str]] = json.loads(capsys.readouterr().out)
    return facts


def test_a_simulated_scan_is_described(tmp_path, capsys):
    main(["simulate", str(tmp_path / "a.h5"), "--matrix", "16", "--coils", "3", "--acceleration", "2"])
    capsys.readouterr()
    facts = facts_of(tmp_path / "a.h5", capsys)["encoding 0"]
    assert facts["readouts"] == "201 imaging, 16 noise"
    assert facts["coils"] == "3"
    assert "unit cycles/voxel by header, to 3.142 rad/voxel" in facts["trajectory"]
    assert facts["completeness"] == "201 of 201 readouts, complete, last readout flagged"
    assert facts["plan"].startswith("3D non-Cartesian, 1 volume of 201 readouts (R = 2) each, to 16 x 16 x 16 voxels")


def test_converted_radial_slices_are_described(tmp_path, capsys):
    radial_as_converters_write_it(tmp_path / "r.h5")
    facts = facts_of(tmp_path / "r.h5", capsys)["encoding 0"]
    assert facts["series"] == "3 slices"
    assert "no real position" in facts["position"]
    assert "unit cycles/voxel by detection" in facts["trajectory"]
    assert facts["completeness"] == "30 of 30 readouts, complete, no flag marks the end"
    assert (
        facts["plan"]
        == "2D non-Cartesian, 3 volumes of 10 readouts (R = 5.03) each, to 32 x 32 voxels of 9.375 x 9.375 mm"
    )


def test_a_truncated_scan_is_marked(tmp_path, capsys):
    radial_as_converters_write_it(tmp_path / "r.h5", skip=4)
    assert "26 of 30 readouts, 4 missing" in facts_of(tmp_path / "r.h5", capsys)["encoding 0"]["completeness"]


def test_an_undecided_unit_is_told_and_a_named_one_used(tmp_path, capsys):
    radial_as_converters_write_it(tmp_path / "r.h5", scale=64.0)
    assert "fits two units: cycles/FOV and 1/m" in facts_of(tmp_path / "r.h5", capsys)["encoding 0"]["trajectory"]
    named = facts_of(tmp_path / "r.h5", capsys, "--trajectory-unit", "cycles/FOV")
    assert "unit cycles/FOV by configuration" in named["encoding 0"]["trajectory"]


def test_missing_and_doubled_numbers_are_counted(tmp_path):
    radial_as_converters_write_it(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        records = file["dataset/data"][:]
        records["head"]["scan_counter"][5] = 5
        file["dataset/data"][:] = records
    with files.open_scan(tmp_path / "r.h5") as scan:
        told = survey.survey(scan)[0].facts["completeness"]
    assert "1 with a number seen before, 1 numbers missing in between" in told


def test_cartesian_scans_are_told_by_their_steps(tmp_path, capsys):
    more = ["--matrix", "16", "--coils", "2", "--acceleration", "2", "--trajectory", "cartesian3d"]
    main(["simulate", str(tmp_path / "c.h5"), *more])
    capsys.readouterr()
    facts = facts_of(tmp_path / "c.h5", capsys)["encoding 0"]
    assert facts["trajectory"] == "cartesian (cartesian3d), by the encoding steps"
    assert facts["plan"].startswith("3D Cartesian, 1 volume of ")


def test_image_files_are_described(tmp_path, capsys):
    image = ismrmrd.Image.from_array(
        np.ones((4, 5, 6), np.float32), transpose=False, image_series_index=2, image_type=1,
        field_of_view=(12, 10, 8), read_dir=(1, 0, 0), phase_dir=(0, 1, 0), slice_dir=(0, 0, 1),
    )  # fmt: skip
    files.write_images(tmp_path / "i.h5", [image], HEADER)
    assert facts_of(tmp_path / "i.h5", capsys)["images"] == {
        "series 2": "magnitude, 4 x 5 x 6 float32, voxels of 2 x 2 x 2 mm (z, y, x)"
    }


def test_text_output_names_no_patient(tmp_path, capsys):
    main(["simulate", str(tmp_path / "a.h5"), "--matrix", "8", "--coils", "1", "--acceleration", "1"])
    capsys.readouterr()
    assert main(["info", str(tmp_path / "a.h5")]) == 0
    text = capsys.readouterr().out
    assert "encoding 0" in text
    assert "Phantom" not in text
    assert "KOOSH" not in text


@pytest.mark.parametrize("content", [b"hello", b""])
def test_foreign_files_exit_with_2(tmp_path, caplog, content):
    (tmp_path / "x.h5").write_bytes(content)
    assert main(["info", str(tmp_path / "x.h5")]) == 2
    assert "x.h5 isn't an ISMRMRD file" in caplog.text
    assert main(["info", str(tmp_path / "none.h5")]) == 2
    assert "No such file" in caplog.text


def test_a_scan_of_noise_only_says_so(tmp_path, caplog):
    with closing(ismrmrd.Dataset(tmp_path / "n.h5")) as data:
        data.write_xml_header(HEADER.encode())
        readout = ismrmrd.Acquisition.from_array(np.ones((2, 8), np.complex64))
        readout.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        data.append_acquisition(readout)
    assert main(["info", str(tmp_path / "n.h5")]) == 2
    assert "no imaging readout (1 noise" in caplog.text


def test_other_hdf5_files_and_other_contents_of_a_scan_are_told_apart(tmp_path, caplog, capsys):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
        file["group/more"] = np.arange(3)
    assert main(["info", str(tmp_path / "other.h5")]) == 2
    assert "holds neither an ISMRMRD scan nor images" in caplog.text
    radial_as_converters_write_it(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        file["dataset/config"] = b"<xml/>"
        file["dataset/extra/thing"] = np.arange(3)
    assert list(facts_of(tmp_path / "r.h5", capsys)) == ["encoding 0"]
