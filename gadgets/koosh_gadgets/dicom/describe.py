"""What every object of a series says of itself: who it is of, how it was made, that it is not for diagnosis."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from koosh_gadgets.dicom.metadata import Facts
from koosh_gadgets.dicom.pixels import Stored, stored
from koosh_gadgets.dicom.text import cleaned, decimal
from koosh_gadgets.dicom.uids import derived_uid
from koosh_gadgets.geometry import Planes, matrix3, planes
from koosh_gadgets.imagefile import Series

log = logging.getLogger(__name__)

DERIVED_CONTRAST = {"residual": "SUBTRACTION", "disagreement": "STD_DEVIATION"}  # PS3.3 C.8.16.1.4, by kind of map
WARNING = "NOT FOR DIAGNOSTIC USE"
UID_KEYWORDS = ("StudyInstanceUID", "FrameOfReferenceUID")
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientWeight", "PatientSize",
    "PatientComments", "EthnicGroup", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
SERIES_AND_EQUIPMENT = (
    "SeriesDate", "SeriesTime", "ProtocolName", "PatientPosition", "PositionReferenceIndicator", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "StationName", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "MagneticFieldStrength",
)  # fmt: skip
# must be there, may be empty
MAY_BE_EMPTY = (
    "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "PatientPosition",
    "PositionReferenceIndicator",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Subject:
    """A series ready to be written: its pixels, its planes, its names.

    stored   pixels (frame, z, y, x)
    series, study, reference   UIDs
    """

    source: Series
    facts: Facts
    stored: Stored
    planes: Planes
    study: str
    series: str
    reference: str

    @property
    def is_phase(self) -> bool:
        """True for a map of phases."""
        return self.source.kind == "phase"

    @property
    def map(self) -> str:
        """What a map beside an image shows (residual, disagreement), "" for an image."""
        return self.source.meta.get("koosh_map", "")

    @property
    def thickness(self) -> float:
        """Slice thickness in mm; spacing where the source says nothing else."""
        said = float(cleaned("DS", self.source.meta.get("SliceThickness", "")) or 0)
        return said if said > 0 else self.planes.spacing[0]

    @property
    def number(self) -> int:
        """Series number: that of the scanner's series times 100, plus ours."""
        said = self.facts.values.get("SeriesNumber")
        return int(said) if said else min(self.facts.series_base * 100 + self.source.number, 2**31 - 1)


def subject(source: Series, facts: Facts, form: str) -> Subject:
    """Scale, place and name a series; `form` (classic, enhanced) keeps their UIDs apart."""
    pixels = stored(source.frames)
    if pixels.cut:
        log.warning(
            "series %d: %d voxels brighter than 16 times the 99.9th percentile are cut", source.number, pixels.cut
        )
    where = planes(source.geometry)
    if where.reverse:
        pixels.pixels[:] = pixels.pixels[:, ::-1].copy()
    scan = facts.identity or source.header
    given = {keyword: facts.values.get(keyword, "") for keyword in UID_KEYWORDS}
    study = given["StudyInstanceUID"] or derived_uid("study", scan)
    reference = given["FrameOfReferenceUID"] or derived_uid("frame of reference", scan)
    recipe = (source.number, source.kind, method(source), series_description(source, facts), software())
    # a corrected patient or study, or other pixels, are another image: under an equal UID an archive keeps the old one
    who = (study, facts.values["PatientID"])
    series = derived_uid("series", form, scan, *who, *recipe, *_shape(source), digest(pixels.pixels))
    return Subject(source, facts, pixels, where, study, series, reference)


def digest(pixels: NDArray[np.generic]) -> str:
    """The sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _shape(source: Series) -> tuple[str, ...]:
    """Matrix and place: an image of another grid is another image."""
    place = source.geometry
    return tuple(map(repr, (len(source.frames), matrix3(place), place.fov_mm, place.position_mm, place.read_dir)))


def software() -> str:
    """Name and version, as SoftwareVersions holds them."""
    try:
        return f"koosh {version('koosh')}"
    except PackageNotFoundError:  # run from a checkout that isn't installed
        return "koosh"


def method(source: Series) -> str:
    """How the image was made: method, weights, acceleration, as far as its meta says."""
    words = {
        "method": source.meta.get("koosh_method"),
        "weights": source.meta.get("koosh_weights"),
        "sha256": source.meta.get("koosh_weights_sha256"),
        "acceleration": source.meta.get("koosh_acceleration"),
        "readouts": source.meta.get("koosh_readouts"),
    }
    return "; ".join(f"{name} {value}" for name, value in words.items() if value) or "method not recorded"


def series_description(source: Series, facts: Facts) -> str:
    """At most 64 characters."""
    said = facts.values.get("SeriesDescription") or source.meta.get("SeriesDescription")
    said = said or source.meta.get("SequenceDescriptionAdditional") or source.meta.get("GADGETRON_SeqDescription")
    return cleaned("LO", said or f"koosh {source.meta.get('koosh_method', 'reconstruction')} {source.kind}")


def comments(subject: Subject) -> str:
    """The warning first, then what the pixels mean, then what the image's own comment says."""
    own = subject.source.meta.get("ImageComments") or subject.source.meta.get("GADGETRON_ImageComment") or ""
    slope, intercept = real_world(subject)
    scale = f"value = stored * {slope:.9g}" + (f" + {intercept:.9g}" if intercept else "")
    cut = f"{subject.stored.cut} brightest voxels cut" if subject.stored.cut else ""
    return cleaned("LT", "; ".join(part for part in (WARNING, "research reconstruction", scale, cut, own) if part))


def real_world(subject: Subject) -> tuple[float, float]:
    """Slope and intercept from stored pixels to the reconstruction's own units."""
    meta = subject.source.meta
    slope = float(cleaned("DS", meta.get("RescaleSlope", "")) or 1) or 1.0
    return subject.stored.slope * slope, float(cleaned("DS", meta.get("RescaleIntercept", "")) or 0)


def window(subject: Subject) -> tuple[float, float]:
    """Centre and width: the source's own where the pixels are unchanged, else from percentiles."""
    said = [cleaned("DS", subject.source.meta.get(name, "")) for name in ("WindowCenter", "WindowWidth")]
    if subject.stored.slope == 1 and said[0] and said[1] and float(said[1]) >= 1:
        return float(said[0]), float(said[1])
    return subject.stored.window


def base(subject: Subject) -> Dataset:
    """The modules that classic and enhanced objects share: patient, study, series, equipment, derivation."""
    values = subject.facts.values
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT_AND_STUDY, *SERIES_AND_EQUIPMENT):
        if values.get(keyword) or keyword in MAY_BE_EMPTY:
            setattr(data, keyword, values.get(keyword, ""))
    data.Modality = "MR"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
        subject.study,
        subject.series,
        subject.reference,
    )
    data.SeriesNumber = subject.number
    data.SeriesDescription = series_description(subject.source, subject.facts)
    data.SoftwareVersions = software()
    data.ContributingEquipmentSequence = Sequence([_equipment(subject)])
    pixel = subject.stored.pixels
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixel.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(subject.stored.signed)
    return data


def derivation(subject: Subject) -> str:
    """How the image came to be, in one paragraph."""
    made = f"{WARNING}. Reconstructed by {software()} from raw data; {method(subject.source)}."
    meta = subject.source.meta
    asides = [f"{name}: {meta[f'koosh_{name}']}." for name in ("truncated", "fallback") if meta.get(f"koosh_{name}")]
    return cleaned("ST", " ".join([made, *asides]))


def _equipment(subject: Subject) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code("109102", "DCM", "Processing Equipment")])
    item.Manufacturer = item.ManufacturerModelName = "koosh"
    item.SoftwareVersions = software()
    item.ContributionDescription = derivation(subject)
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def numbers(values: Iterable[float]) -> list[str]:
    """Decimal strings, one each."""
    return [decimal(float(value)) for value in values]
