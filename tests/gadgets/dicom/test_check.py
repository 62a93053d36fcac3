import numpy as np
import pydicom
import pytest

from koosh_gadgets.dicom.check import check
from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, header, phantom, series
from tests.gadgets.orientations import NAMES


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_has_no_faults(tmp_path, name, enhanced):
    write_series(series(name), tmp_path, enhanced=enhanced)
    found = check(tmp_path)
    assert found.faults == []
    assert [len(stack.planes) for stack in found.series.values()] == [7]


@pytest.mark.parametrize("enhanced", [False, True])
def test_frames_and_unknown_patients_have_no_faults(tmp_path, enhanced):
    source = Series(phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5)), frame_ms=40)
    write_series(source, tmp_path, enhanced=enhanced)
    assert check(tmp_path).faults == []


def change(path, **values):
    data = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for keyword, value in values.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
        data.save_as(path)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"ImageType": None}, "ImageType is missing"),
        ({"StudyID": None}, "StudyID is missing"),
        ({"PatientID": "other"}, "PatientID differs within one study"),
        ({"SeriesNumber": 99}, "SeriesNumber differs within one series"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "not two orthogonal"),
        ({"PixelSpacing": [0, 1]}, "must be positive"),
        ({"ImagePositionPatient": [0, 0, 500]}, "not evenly spaced"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, "no place in MR"),
        ({"ImageComments": "fine"}, "NOT FOR DIAGNOSTIC USE"),
        ({"PixelData": b"\0" * 10}, "PixelData has 10 bytes, wanted 260"),
        ({"StudyDate": "yesterday"}, "Invalid value for VR DA"),
        ({"ManufacturerModelName": "m" * 100}, "maximum length"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "neither MR nor Enhanced"),
        ({"SOPInstanceUID": "1.2.3"}, "not the object's SOPInstanceUID"),
        ({"Rows": 9}, "PixelData has 260 bytes, wanted 234"),
    ],
)
def test_a_fault_is_named(tmp_path, values, fault):
    files = write_series(series("axial"), tmp_path)
    change(files[3], **values)
    faults = check(tmp_path).faults
    assert any(fault in one for one in faults), faults


def test_a_missing_slice_a_doubled_one_and_a_cut_file_are_named(tmp_path):
    files = write_series(series("axial"), tmp_path)
    whole = files[2].read_bytes()
    (tmp_path / "copy.dcm").write_bytes(whole)
    assert any("same SOPInstanceUID" in fault for fault in check(tmp_path).faults)
    (tmp_path / "copy.dcm").unlink()
    files[2].write_bytes(whole[:300])
    assert any(files[2].name in fault for fault in check(tmp_path).faults)
    files[2].unlink()
    faults = check(tmp_path).faults
    assert any("6 images of 7" in fault for fault in faults)
    assert any("not evenly spaced" in fault for fault in faults)


def test_two_series_in_one_folder_are_told_apart(tmp_path):
    for number in (1, 2):
        write_series(series(number=number), tmp_path)
    found = check(tmp_path)
    assert found.faults == []
    assert len(found.series) == 2


def test_a_sheared_stack_is_named(tmp_path):
    files = write_series(Series(phantom((5, 4, 4)), Geometry((5, 4, 4), (5.0, 4, 4)), META, header()), tmp_path)
    for k, file in enumerate(files):
        change(file, ImagePositionPatient=list(np.array([0.2 * k, 0, k])))
    assert any("sheared" in fault for fault in check(tmp_path).faults)


def test_a_folder_that_is_not_there_or_empty_is_an_error(tmp_path):
    with pytest.raises(OSError, match="no such file"):
        check(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no DICOM"):
        check(tmp_path)
