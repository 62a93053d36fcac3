"""Is a folder of DICOM files valid and its geometry sound? What can be told without other programs."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage
from pydicom.valuerep import validate_value

from koosh_gadgets.dicom.push import files_of

# type 1: a value is required (PS3.3, A.4 and A.36)
COMMON = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "ImageType", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip
CLASSIC = (
    *COMMON,
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ScanningSequence",
    "SequenceVariant",
)
ENHANCED = (
    *COMMON, "NumberOfFrames", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
    "ContentDate", "ContentTime", "ContentQualification", "BurnedInAnnotation", "LossyImageCompression",
    "PresentationLUTShape", "PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique",
    "ComplexImageComponent", "AcquisitionContrast", "DimensionOrganizationSequence", "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
# type 2: there, perhaps empty
PRESENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
UNREADABLE = (pydicom.errors.InvalidDicomError, ValueError, KeyError, EOFError, NotImplementedError, OverflowError)
SAME_IN_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
SAME_IN_SERIES = ("Modality", "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "PatientPosition")


@dataclass
class Stack:
    """What a series has shown so far: its planes, and how many images it should have."""

    form: str
    files: int = 0
    expected: int | None = None
    planes: list[tuple[tuple[float, ...], np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """Faults, as `file or series: what`, and for each series its form, objects and planes."""

    faults: list[str]
    series: dict[str, Stack]


def check(folder: str | Path) -> Findings:
    """Read every object below `folder` and say what is wrong with each and with the series they form."""
    faults: list[str] = []
    stacks: dict[str, Stack] = {}
    seen: dict[str, str] = {}
    known: dict[tuple[str, str], str] = {}
    for path in files_of(folder):
        data = _read(path, faults)
        if data is None:
            continue
        faults += [f"{path.name}: {fault}" for fault in _object_faults(data)]
        uid = str(data.get("SOPInstanceUID", ""))
        if other := seen.setdefault(uid, path.name) if uid else "":
            faults += [f"{path.name}: same SOPInstanceUID as {other}"] if other != path.name else []
        faults += [f"{path.name}: {fault}" for fault in _strays(data, known)]
        _collect(data, stacks)
    for uid, stack in stacks.items():
        faults += [f"series {uid}: {fault}" for fault in _stack_faults(stack)]
    return Findings(faults, stacks)


def _read(path: Path, faults: list[str]) -> Dataset | None:
    """The object with every value parsed; a value its VR doesn't allow is a fault."""
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        data = pydicom.dcmread(path)
        for element in data.iterall():
            for value in element.value if element.VM > 1 else [element.value]:
                if isinstance(value, str):
                    validate_value(element.VR, value, config.RAISE)  # reading alone lets dates and times pass
    except (
        pydicom.errors.InvalidDicomError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        OverflowError,
    ) as error:
        faults.append(f"{path.name}: {' '.join(str(error).split())}")
        return None
    finally:
        config.settings.reading_validation_mode = mode
    return data


def _object_faults(data: Dataset) -> Iterable[str]:
    sop_class = data.get("SOPClassUID")
    if sop_class not in (MRImageStorage, EnhancedMRImageStorage):
        yield f"SOP class {sop_class} is neither MR nor Enhanced MR Image Storage"
        return
    for keyword in CLASSIC if sop_class == MRImageStorage else ENHANCED:
        if data.get(keyword) in (None, "", b""):
            yield f"{keyword} is missing or empty"
    yield from (f"{keyword} is missing" for keyword in PRESENT if keyword not in data)
    if data.file_meta.get("MediaStorageSOPInstanceUID") != data.get("SOPInstanceUID"):
        yield "the file's name for the object is not the object's SOPInstanceUID"
    if sop_class == MRImageStorage and ("RescaleSlope" in data or "FloatPixelData" in data):
        yield "a rescale slope or float pixels have no place in MR Image Storage"
    size = [int(data.get(keyword) or 0) for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")]
    wanted = int(np.prod(size)) // 8 * int(data.get("NumberOfFrames") or 1)
    if (there := len(data.get("PixelData", b""))) not in (wanted, wanted + wanted % 2):
        yield f"PixelData has {there} bytes, wanted {wanted}"
    if data.get("ImageType", [""])[0] == "DERIVED" and "NOT FOR DIAGNOSTIC USE" not in str(
        data.get("ImageComments", "")
    ):
        yield 'ImageComments don\'t say "NOT FOR DIAGNOSTIC USE"'
    for _, orientation, spacing in _planes(data):
        yield from _plane_faults(orientation, spacing)
        break


def _planes(data: Dataset) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Position, orientation (2, 3) and spacing of each plane, as far as they are there."""
    try:
        if "PerFrameFunctionalGroupsSequence" not in data:
            parts = (data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing)
            yield np.array(parts[0], float), np.array(parts[1], float).reshape(2, 3), np.array(parts[2], float)
            return
        shared = data.SharedFunctionalGroupsSequence[0]
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
        spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
        for frame in data.PerFrameFunctionalGroupsSequence:
            yield np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), orientation, spacing
    except (AttributeError, IndexError, TypeError, ValueError):
        return  # what is missing has been named


def _plane_faults(orientation: np.ndarray, spacing: np.ndarray) -> Iterable[str]:
    product = orientation @ orientation.T
    if np.abs(product - np.eye(2)).max() > 1e-4:
        yield f"ImageOrientationPatient is not two orthogonal unit vectors: {orientation.ravel().tolist()}"
    if not (spacing > 0).all():
        yield f"PixelSpacing {spacing.tolist()} must be positive"


def _strays(data: Dataset, known: dict[tuple[str, str], str]) -> Iterable[str]:
    """Values that differ from those of the first object of the same study or series."""
    for group, keywords in (("StudyInstanceUID", SAME_IN_STUDY), ("SeriesInstanceUID", SAME_IN_SERIES)):
        for keyword in keywords:
            value = str(data.get(keyword, ""))
            if known.setdefault((str(data.get(group)), keyword), value) != value:
                yield f"{keyword} differs within one {group.removesuffix('InstanceUID').lower()}"


def _collect(data: Dataset, stacks: dict[str, Stack]) -> None:
    enhanced = data.get("SOPClassUID") == EnhancedMRImageStorage
    stack = stacks.setdefault(str(data.get("SeriesInstanceUID", "")), Stack("enhanced" if enhanced else "classic"))
    stack.files += 1
    if not enhanced and data.get("ImagesInAcquisition"):
        stack.expected = int(data.ImagesInAcquisition) * int(data.get("NumberOfTemporalPositions") or 1)
    if enhanced:
        stack.expected = (stack.expected or 0) + int(data.get("NumberOfFrames") or 0)
    size = (float(data.get("Rows") or 0), float(data.get("Columns") or 0))
    for position, orientation, spacing in _planes(data):
        key = (*size, *np.round(spacing, 6), *np.round(orientation.ravel(), 5))
        stack.planes.append((key, position))


def _stack_faults(stack: Stack) -> Iterable[str]:
    if stack.expected is not None and len(stack.planes) != stack.expected:
        yield f"{len(stack.planes)} images of {stack.expected}: some are missing"
    keys = collections.Counter(key for key, _ in stack.planes)
    if len(keys) > 1:
        yield f"{len(keys)} different matrices, spacings or orientations in one series"
        return
    places = collections.Counter(tuple(np.round(position, 3)) for _, position in stack.planes)
    if len(set(places.values())) > 1:
        yield "some slices are there more often than others"
    positions = np.array(sorted(places))
    if len(positions) < 3:
        return
    orientation = np.array(stack.planes[0][0][4:]).reshape(2, 3)
    normal = np.cross(*orientation)
    positions = positions[np.argsort(positions @ normal)]
    steps = np.diff(positions, axis=0)
    spacing = float(np.linalg.norm(steps.mean(axis=0)))
    if np.abs(steps - steps.mean(axis=0)).max() > 0.01 * spacing:
        yield "slices are not evenly spaced: one is missing or misplaced"
    if np.linalg.norm(np.cross(steps.mean(axis=0), normal)) > 1e-3 * spacing:
        yield "slices are not stacked along the normal of their plane: the volume is sheared"
