import json
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from koosh_gadgets.dicom.write import write_scan, write_series
from koosh_gadgets.geometry import planes
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, header, phantom, series
from tests.gadgets.orientations import NAMES, axes, vector, world


def voxels(files: list) -> tuple[np.ndarray, np.ndarray]:
    """Every stored pixel and where its object says it lies, LPS mm."""
    values, places = [], []
    for file in files:
        data = pydicom.dcmread(file)
        for frame in range(int(data.get("NumberOfFrames", 1))):
            if "PerFrameFunctionalGroupsSequence" in data:
                shared, own = data.SharedFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence[frame]
                origin = own.PlanePositionSequence[0].ImagePositionPatient
                cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
                dy, dx = shared.PixelMeasuresSequence[0].PixelSpacing
                pixels = data.pixel_array[frame]
            else:
                origin, cosines = data.ImagePositionPatient, data.ImageOrientationPatient
                (dy, dx), pixels = data.PixelSpacing, data.pixel_array
            rows, columns = np.indices(pixels.shape)
            across, down = np.array(cosines[:3], float), np.array(cosines[3:], float)
            place = np.array(origin, float) + columns[..., None] * dx * across + rows[..., None] * dy * down
            values.append(pixels.ravel())
            places.append(place.reshape(-1, 3))
    return np.concatenate(values), np.concatenate(places)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_voxel_keeps_its_place_and_value(tmp_path, name, enhanced):
    source = series(name)
    values, places = voxels(write_series(source, tmp_path, enhanced=enhanced))
    index = np.argwhere(np.ones(source.volume.shape))[:, ::-1]
    want = world(source.geometry, index)
    order, found = np.lexsort(np.round(want, 4).T), np.lexsort(np.round(places, 4).T)
    assert np.abs(want[order] - places[found]).max() < 1e-4 * min(source.geometry.voxel_mm)
    assert (source.volume.ravel()[order] == values[found]).all()


@pytest.mark.parametrize("name", NAMES)
def test_slices_are_numbered_along_the_normal_of_their_rows_and_columns(name):
    stack = planes(series(name).geometry)
    assert np.cross(stack.row, stack.column) @ stack.step > 0


def test_the_same_scan_by_the_same_recipe_gives_the_same_files(tmp_path):
    for enhanced in (False, True):
        a = write_series(series(), tmp_path / "a", enhanced=enhanced)
        b = write_series(series(), tmp_path / "b", enhanced=enhanced)
        assert [f.name for f in a] == [f.name for f in b]
        assert [f.read_bytes() for f in a] == [f.read_bytes() for f in b]


@pytest.mark.parametrize(
    "change",
    [
        {"meta": {**META, "koosh_weights_sha256": "cd" * 32}},
        {"meta": {**META, "koosh_method": "cg"}},
        {"number": 2},
        {"kind": "phase"},
        {"header": header(measurement="m18")},
        {"header": header(study="1.2.3.98")},
        {"header": header(patient="P-2")},
        {"name": "axial"},
    ],
)
def test_another_scan_recipe_or_patient_gets_other_uids(tmp_path, change):
    a, b = (pydicom.dcmread(write_series(series(**kw), tmp_path)[0]) for kw in ({}, change))
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    assert a.SOPInstanceUID != b.SOPInstanceUID


@pytest.mark.parametrize("measurement", ["", "m17"])
def test_other_pixels_are_another_image_and_the_same_ones_are_not(tmp_path, measurement):
    first = series(header=header(measurement=measurement))
    other = series(header=header(measurement=measurement), volume=first.volume[::-1].copy())
    a, b, again = (pydicom.dcmread(write_series(s, tmp_path)[0]) for s in (first, other, first))
    assert a.SOPInstanceUID == again.SOPInstanceUID != b.SOPInstanceUID


def test_patient_study_and_equipment_come_from_the_header(tmp_path):
    data = pydicom.dcmread(write_series(series(number=2), tmp_path)[0])
    assert (data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex) == (
        "Doe^Jane",
        "P-1",
        "19700203",
        "F",
    )
    assert (data.StudyInstanceUID, data.StudyDate, data.StudyTime, data.StudyID) == (
        "1.2.3.99",
        "20240506",
        "123456",
        "77",
    )
    assert (data.Manufacturer, data.ManufacturerModelName, data.BodyPartExamined) == ("Vendor", "Model", "HEAD")
    assert (data.RepetitionTime, data.EchoTime, data.FlipAngle, data.ScanningSequence) == (5.1, 2.3, 12, "GR")
    assert (data.ImagingFrequency, data.MagneticFieldStrength, data.MRAcquisitionType) == (123.197, 2.89362, "3D")
    assert (data.FrameOfReferenceUID, data.PatientPosition, data.SeriesNumber) == ("1.2.3.4.5", "HFS", 302)


def test_every_object_says_how_it_was_made_and_that_it_is_not_for_diagnosis(tmp_path):
    for enhanced in (False, True):
        data = pydicom.dcmread(write_series(series(), tmp_path, enhanced=enhanced)[0])
        assert data.ImageComments.startswith("NOT FOR DIAGNOSTIC USE")
        said = data.ContributingEquipmentSequence[0].ContributionDescription
        for word in ("method network", "weights head-3d-v1", "ab" * 32, "acceleration 12", "NOT FOR DIAGNOSTIC USE"):
            assert word in said
        assert data.ImageType[0] == "DERIVED"
        assert data.SeriesDescription == "koosh network R=12"


def test_no_header_at_all_gives_honest_placeholders(tmp_path):
    data = pydicom.dcmread(write_series(series(header="", meta={}), tmp_path)[0])
    assert data.PatientName == "UNKNOWN^"
    assert data.PatientID.startswith("UNKNOWN-")
    assert data.StudyDate == "19000101"
    assert "PatientPosition" in data
    assert not data.PatientPosition
    assert "method not recorded" in data.DerivationDescription


@pytest.mark.parametrize("given", [{"header": ""}, {}])
def test_series_of_one_scan_are_one_study_of_one_patient(tmp_path, given):
    found = [series(number=1, **given), series(number=2, meta={**META, "koosh_method": "cg"}, **given)]
    written = write_scan(found, tmp_path)
    objects = [pydicom.dcmread(files[0]) for files in written.values()]
    for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        assert len({str(one[keyword].value) for one in objects}) == 1
    assert len({one.SeriesInstanceUID for one in objects}) == 2


def test_two_scans_whose_header_names_neither_are_two_studies(tmp_path):
    a, b = series(header=""), series(header="", volume=phantom((7, 10, 13)) + 1)
    objects = [pydicom.dcmread(write_series(one, tmp_path)[0]) for one in (a, b)]
    assert len({one.StudyInstanceUID for one in objects}) == 2
    assert len({one.PatientID for one in objects}) == 2


def test_two_unknown_patients_are_not_merged(tmp_path):
    a, b = series(header="", meta={}), series("axial", header=header(patient="", measurement="m2"), meta={})
    ids = {pydicom.dcmread(write_series(s, tmp_path)[0]).PatientID for s in (a, b)}
    assert len(ids) == 2


def test_json_goes_before_the_template_and_the_template_before_the_header(tmp_path):
    source = series()
    template = write_series(series(header=header(patient="T-1", name="Temp^Late", vendor="Other")), tmp_path / "t")[0]
    (tmp_path / "j.json").write_text(json.dumps({"PatientID": "J-1", "SeriesDescription": "mine", "SeriesNumber": 9}))
    files = write_series(source, tmp_path / "o", template=template, overrides=tmp_path / "j.json")
    data = pydicom.dcmread(files[0])
    assert (data.PatientID, data.PatientName, data.Manufacturer) == ("J-1", "Temp^Late", "Other")
    assert (data.SeriesDescription, data.SeriesNumber) == ("mine", 9)
    assert data.SOPInstanceUID != pydicom.dcmread(template).SOPInstanceUID


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"PatientIdd": "x"}', "unknown keywords"),
        ('{"PixelSpacing": "1\\\\1"}', "unknown keywords"),
        ('{"StudyDate": "tomorrow"}', "no valid DA"),
        ('{"StudyInstanceUID": "XXXXXXXX"}', "no valid UI"),
        ('{"PatientID": ["x"]}', "wanted text"),
        ("[1]", "wanted an object"),
        ("{", "no JSON"),
    ],
)
def test_json_that_cannot_be_right_is_refused_and_nothing_is_written(tmp_path, content, message):
    (tmp_path / "j.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        write_series(series(), tmp_path / "o", overrides=tmp_path / "j.json")
    assert not (tmp_path / "o").exists()


def test_a_template_that_is_no_dicom_is_refused(tmp_path):
    (tmp_path / "t.dcm").write_bytes(b"not dicom" * 40)
    with pytest.raises(ValueError, match="no DICOM file"):
        write_series(series(), tmp_path / "o", template=tmp_path / "t.dcm")


def test_frames_are_numbered_in_time_and_all_counted(tmp_path):
    source = Series(phantom((3, 4, 6, 5)), Geometry((4, 6, 5), (8.0, 6, 5)), header=header(), frame_ms=40)
    data = [pydicom.dcmread(f) for f in write_series(source, tmp_path)]
    assert [d.InstanceNumber for d in data] == list(range(1, 13))
    assert [d.TemporalPositionIdentifier for d in data] == [1] * 4 + [2] * 4 + [3] * 4
    assert {(d.ImagesInAcquisition, d.NumberOfTemporalPositions) for d in data} == {(4, 3)}
    assert data[0].TemporalResolution == 40


@pytest.mark.parametrize("field", ["name", "patient", "protocol", "vendor", "part", "study", "measurement"])
@pytest.mark.parametrize("text", ["x" * 300, "Müller^Jürgen", "山田^太郎", "a\\b\x85c", "=^=^" * 80, "  "])
def test_hostile_texts_give_values_that_pass_pydicoms_own_checks(tmp_path, field, text):
    file = write_series(series(header=header(**{field: text})), tmp_path)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
        data = pydicom.dcmread(file)
        assert len([element.value for element in data.iterall()]) > 60
    assert data.StudyInstanceUID
    assert data.PatientID


def test_a_long_patient_id_is_cut_without_becoming_anothers(tmp_path):
    ids = [
        pydicom.dcmread(write_series(series(header=header(patient="x" * 299 + end)), tmp_path)[0]).PatientID
        for end in "12"
    ]
    assert ids[0] != ids[1]
    assert max(map(len, ids)) <= 64


def test_patient_data_never_reach_the_log(tmp_path, caplog):
    caplog.set_level("DEBUG")
    write_series(series(header=header(patient="SECRET" * 50, name="Hidden" * 50, part="Mysterious")), tmp_path)
    assert "PatientID" in caplog.text
    assert not any(word in caplog.text for word in ("SECRET", "Hidden", "Mysterious"))


@pytest.mark.parametrize(
    "directions",
    [
        {"read_dir": (0.0, 0.0, 0.0)},
        {"read_dir": (float("nan"), 0.0, 0.0)},
        {"read_dir": (0.9, 0.1, 0.0)},
        {"read_dir": (0.0, 1.0, 0.0)},
    ],
)
def test_directions_that_are_no_axes_are_refused(tmp_path, directions):
    source = Series(phantom((2, 3, 4)), Geometry((2, 3, 4), (2.0, 3, 4), **directions))
    with pytest.raises(ValueError, match="direction"):
        write_series(source, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_position_that_is_not_finite_is_refused(tmp_path):
    source = Series(phantom((2, 3, 4)), Geometry((2, 3, 4), (2.0, 3, 4), position_mm=(0.0, float("nan"), 0.0)))
    with pytest.raises(ValueError, match="position_mm"):
        write_series(source, tmp_path)


def test_directions_in_single_precision_are_taken(tmp_path):
    rows = axes("triple_oblique").astype("f4").T
    place = Geometry((2, 3, 4), (2.0, 3, 4), (0.0, 0, 0), *(vector(row) for row in rows))
    assert write_series(Series(phantom((2, 3, 4)), place), tmp_path)


@pytest.mark.parametrize(
    "bad", ["<ismrmrdHeader>", "no xml", '<!DOCTYPE x [<!ENTITY a "a">]><x>&a;</x>', " " + "<a/>" * 300000]
)
def test_a_header_that_is_no_header_is_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="header"):
        write_series(series(header=bad), tmp_path)


def test_torch_is_not_imported_by_the_modules_of_this_room():
    code = "import sys, koosh_gadgets.dicom.write, koosh_gadgets.nifti; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
