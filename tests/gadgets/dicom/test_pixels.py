"""Voxel values in DICOM: refused, scaled, kept, windowed."""

import numpy as np
import pydicom
import pytest

from koosh_gadgets.dicom.write import write_series
from koosh_gadgets.geometry import planes
from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.dicom.samples import META, phantom, series


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path, bad):
    volume = phantom((7, 10, 13)) + 0.5
    volume[2, 3, 4] = bad
    with pytest.raises(ValueError, match=r"1 of 910 voxels are NaN or Inf"):
        write_series(series(volume=volume), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_voxels_too_small_to_scale_are_refused(tmp_path):
    with pytest.raises(ValueError, match="too small to scale"):
        write_series(series(volume=np.full((7, 10, 13), 1e-40, "f4")), tmp_path)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u4", "i8", "u1", "?"])
def test_every_real_type_is_written(tmp_path, dtype):
    volume = (phantom((7, 10, 13)) % 2 if dtype == "?" else phantom((7, 10, 13)) % 120).astype(dtype)
    data = [pydicom.dcmread(file) for file in write_series(series("axial", volume=volume), tmp_path)]
    assert (np.stack([one.pixel_array for one in data]) == volume).all()


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="take the magnitude"):
        write_series(series(volume=phantom((7, 10, 13)).astype("c8")), tmp_path)


@pytest.mark.parametrize("offset", [0.0, -1000.0])
@pytest.mark.parametrize("scale", [1e-7, 0.123, 1e6])
def test_float_and_negative_voxels_come_back_within_half_a_grey_level(tmp_path, scale, offset):
    volume = (phantom((7, 10, 13)) + offset) * np.float32(scale)
    (file,) = write_series(series(volume=volume), tmp_path, enhanced=True)
    data = pydicom.dcmread(file)
    slope = float(data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleSlope)
    values = planes(series().geometry)
    back = data.pixel_array[:: -1 if values.reverse else 1] * slope
    assert np.abs(back - volume).max() <= 0.51 * slope
    assert np.abs(data.pixel_array).max() <= 32767
    assert data.PixelRepresentation == (offset < 0)


def test_integers_of_16_bits_are_kept_as_they_are(tmp_path):
    volume = phantom((7, 10, 13)) + 61000
    data = [pydicom.dcmread(f) for f in write_series(series("axial", volume=volume), tmp_path)]
    assert (np.stack([d.pixel_array for d in data]) == volume).all()


def test_a_spike_does_not_darken_the_rest(tmp_path):
    volume = phantom((20, 30, 40)) + 0.5
    volume[0, 0, 0] = 1e9
    source = Series(volume, Geometry((20, 30, 40), (20.0, 30, 40)))
    data = [pydicom.dcmread(f) for f in write_series(source, tmp_path)]
    assert np.percentile(np.stack([d.pixel_array for d in data]), 99.9) > 2000
    assert "1 brightest voxels cut" in data[0].ImageComments


def test_the_window_is_robust_and_a_volume_of_zeros_has_one_too(tmp_path):
    volume = phantom((7, 10, 13))
    volume[0, 0, 0] = 30000
    data = pydicom.dcmread(write_series(series(volume=volume), tmp_path)[0])
    assert float(data.WindowCenter) + float(data.WindowWidth) / 2 < 5000
    flat = pydicom.dcmread(write_series(series(volume=0 * volume), tmp_path)[0])
    assert float(flat.WindowWidth) >= 1


def test_the_slope_of_the_source_is_carried_on(tmp_path):
    meta = {**META, "RescaleSlope": "0.25", "RescaleIntercept": "3"}
    data = pydicom.dcmread(write_series(series(meta=meta), tmp_path, enhanced=True)[0])
    transform = data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    assert (transform.RescaleSlope, transform.RescaleIntercept) == (0.25, 3)
    classic = pydicom.dcmread(write_series(series(meta=meta), tmp_path)[0])
    assert "value = stored * 0.25 + 3" in classic.ImageComments
    assert "RescaleSlope" not in classic
