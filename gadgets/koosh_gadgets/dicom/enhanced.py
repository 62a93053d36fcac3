"""Enhanced MR Image Storage: one object a volume (PS3.3, A.36)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage

from koosh_gadgets.dicom.anatomy import region
from koosh_gadgets.dicom.describe import (
    DERIVED_CONTRAST,
    Subject,
    base,
    code,
    comments,
    derivation,
    numbers,
    real_world,
    window,
)
from koosh_gadgets.dicom.text import cleaned, decimal
from koosh_gadgets.dicom.uids import derived_uid

FORM = "enhanced"
VARYING = ("SOPInstanceUID", "InstanceNumber", "PerFrameFunctionalGroupsSequence", "PixelData")
FRAME_CONTENT, PLANE_POSITION = Tag("FrameContentSequence"), Tag("PlanePositionSequence")


def datasets(subject: Subject) -> Iterator[Dataset]:
    """One object a volume. The same Dataset is changed and given again: write it before the next.

    Frames of a series don't share one: dcm2niix would mix up their slices unless the vendor is Philips.
    """
    data = _series(subject)
    for frame, volume in enumerate(subject.stored.pixels):
        data.InstanceNumber = frame + 1
        data.SOPInstanceUID = derived_uid("instance", subject.series, data.InstanceNumber)
        data.PerFrameFunctionalGroupsSequence = Sequence(_frame(subject, frame, k) for k in range(len(volume)))
        data.add_new("PixelData", "OW", volume.tobytes())
        yield data


def _series(subject: Subject) -> Dataset:
    """What all objects share."""
    data = base(subject)
    data.SOPClassUID = EnhancedMRImageStorage
    data.AcquisitionNumber = 1
    data.ContentDate, data.ContentTime = data.SeriesDate, data.SeriesTime
    data.AcquisitionDateTime = data.SeriesDate + data.SeriesTime
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", DERIVED_CONTRAST.get(subject.map, "NONE")]
    data.ComplexImageComponent = "PHASE" if subject.is_phase else "MAGNITUDE"
    data.ContentQualification = "RESEARCH"
    data.ApplicableSafetyStandardAgency = "IEC"  # must be named; IEC 60601-2-33 binds every MR scanner
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.PresentationLUTShape, data.PixelPresentation = "IDENTITY", "MONOCHROME"
    data.VolumetricProperties, data.VolumeBasedCalculationTechnique = "VOLUME", "NONE"
    data.AcquisitionContrast = "UNKNOWN"
    data.AcquisitionContextSequence = Sequence()
    data.ImageComments = cleaned("LT", f"{derivation(subject)} {comments(subject)}")
    data.NumberOfFrames = subject.stored.pixels.shape[1]
    _dimensions(subject, data)
    data.SharedFunctionalGroupsSequence = Sequence([_shared(subject, data)])
    return data


def _dimensions(subject: Subject, data: Dataset) -> None:
    """Stack and place in it."""
    uid = derived_uid("dimensions", subject.series)
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    data.DimensionOrganizationSequence = Sequence([organization])
    data.DimensionOrganizationType = "3D"
    indices = []
    for keyword in ("StackID", "InStackPositionNumber"):
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag(keyword), FRAME_CONTENT
        index.DimensionDescriptionLabel = keyword
        indices.append(index)
    data.DimensionIndexSequence = Sequence(indices)


def _shared(subject: Subject, data: Dataset) -> Dataset:
    shared = Dataset()
    dz, dy, dx = subject.planes.spacing
    measures, orientation, anatomy, transform, kind, voi = (Dataset() for _ in range(6))
    measures.PixelSpacing = numbers([dy, dx])
    measures.SliceThickness, measures.SpacingBetweenSlices = numbers([subject.thickness, dz])
    orientation.ImageOrientationPatient = numbers([*subject.planes.row, *subject.planes.column])
    values = subject.facts.values
    (value, meaning), side = region(values.get("BodyPartExamined", ""), values.get("Laterality", ""))
    anatomy.AnatomicRegionSequence = Sequence([code(value, "SCT", meaning)])
    anatomy.FrameLaterality = side
    slope, intercept = real_world(subject)
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = decimal(slope), decimal(intercept), "US"
    kind.FrameType = data.ImageType
    for keyword in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        setattr(kind, keyword, data[keyword].value)
    kind.ComplexImageComponent, kind.AcquisitionContrast = data.ComplexImageComponent, data.AcquisitionContrast
    centre, width = window(subject)
    # here the window is in rescaled units
    voi.WindowCenter, voi.WindowWidth = numbers([centre * slope + intercept, width * slope])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.FrameAnatomySequence = Sequence([anatomy])
    shared.PixelValueTransformationSequence = Sequence([transform])
    shared.MRImageFrameTypeSequence = Sequence([kind])
    shared.FrameVOILUTSequence = Sequence([voi])
    return shared


def _frame(subject: Subject, frame: int, k: int) -> Dataset:
    item, content, place = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", k + 1
    content.DimensionIndexValues = [1, k + 1]
    content.FrameAcquisitionNumber = 1
    if len(subject.stored.pixels) > 1:
        content.TemporalPositionIndex = frame + 1
    place.ImagePositionPatient = numbers(subject.planes.position(k))
    item.FrameContentSequence = Sequence([content])
    item.PlanePositionSequence = Sequence([place])
    return item
