"""MR Image Storage: one object a slice (PS3.3, A.4)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from koosh_gadgets.dicom.anatomy import UNPAIRED
from koosh_gadgets.dicom.describe import DERIVED_CONTRAST, Subject, base, comments, derivation, numbers, window
from koosh_gadgets.dicom.text import decimal
from koosh_gadgets.dicom.uids import derived_uid

FORM = "classic"
VARYING = (
    "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "TemporalPositionIdentifier", "SliceLocation",
    "PixelData",
)  # fmt: skip
SEQUENCE_KEYWORDS = ("RepetitionTime", "EchoTime", "EchoTrainLength", "ScanOptions", "MRAcquisitionType")


def datasets(subject: Subject) -> Iterator[Dataset]:
    """One object a slice, frame after frame. The same Dataset is changed and given again: write it before the next."""
    data = _series(subject)
    frames, slices = subject.stored.pixels.shape[:2]
    for frame in range(frames):
        if frames > 1:
            data.TemporalPositionIdentifier = frame + 1
        for k in range(slices):
            position = subject.planes.position(k)
            data.InstanceNumber = frame * slices + k + 1
            data.SOPInstanceUID = derived_uid("instance", subject.series, data.InstanceNumber)
            data.ImagePositionPatient = numbers(position)
            data.SliceLocation = decimal(float(position @ subject.planes.step) / subject.planes.spacing[0])
            data.add_new("PixelData", "OW", subject.stored.pixels[frame, k].tobytes())
            yield data


def _series(subject: Subject) -> Dataset:
    """What all slices share."""
    data = base(subject)
    data.SOPClassUID = MRImageStorage
    data.ImageType = ["DERIVED", "PRIMARY", "PHASE MAP" if subject.is_phase else "OTHER"]
    if subject.map in DERIVED_CONTRAST:
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER", subject.map.upper()]
    data.AcquisitionDate, data.AcquisitionTime = data.SeriesDate, data.SeriesTime
    data.ContentDate, data.ContentTime = data.SeriesDate, data.SeriesTime
    _sequence(subject, data)
    _anatomy(subject, data)
    dz, dy, dx = subject.planes.spacing
    data.ImageOrientationPatient = numbers([*subject.planes.row, *subject.planes.column])
    data.PixelSpacing = numbers([dy, dx])
    data.SliceThickness, data.SpacingBetweenSlices = numbers([subject.thickness, dz])
    data.WindowCenter, data.WindowWidth = numbers(window(subject))
    data.ImageComments, data.DerivationDescription = comments(subject), derivation(subject)
    frames, slices = subject.stored.pixels.shape[:2]
    # Orthanc expects their product
    data.ImagesInAcquisition, data.NumberOfTemporalPositions = slices, frames
    if subject.source.frame_ms > 0 and frames > 1:
        data.TemporalResolution = decimal(subject.source.frame_ms)
    data.AcquisitionNumber = 1
    return data


def _sequence(subject: Subject, data: Dataset) -> None:
    values = subject.facts.values
    data.ScanningSequence = (values.get("ScanningSequence") or "RM").split("\\")
    data.SequenceVariant = (values.get("SequenceVariant") or "NONE").split("\\")
    for keyword in SEQUENCE_KEYWORDS:
        setattr(data, keyword, values.get(keyword, ""))
    for keyword in ("InversionTime", "FlipAngle", "ImagingFrequency", "SequenceName"):
        if values.get(keyword):
            setattr(data, keyword, values[keyword])


def _anatomy(subject: Subject, data: Dataset) -> None:
    """Body part and side. A side nobody named is written as U: neither left nor right is claimed."""
    part, side = subject.facts.values.get("BodyPartExamined", ""), subject.facts.values.get("Laterality", "")
    if part:
        data.BodyPartExamined = part
    if side in ("L", "R"):
        data.Laterality = side
    elif part not in UNPAIRED:
        data.ImageLaterality = "U"
