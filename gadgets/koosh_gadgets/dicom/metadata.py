"""Patient, study, series and equipment: from the ISMRMRD header, a template DICOM and a JSON file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from pydicom.datadict import dictionary_VR

from koosh_gadgets.dicom.anatomy import body_part
from koosh_gadgets.dicom.text import cleaned
from koosh_gadgets.dicom.uids import derived_uid

log = logging.getLogger(__name__)

HEADER_LIMIT = 1 << 20

# what the header calls it -> DICOM keyword
FROM_HEADER = {
    "subjectInformation/patientName": "PatientName",
    "subjectInformation/patientID": "PatientID",
    "subjectInformation/patientBirthdate": "PatientBirthDate",
    "subjectInformation/patientGender": "PatientSex",
    "subjectInformation/patientWeight_kg": "PatientWeight",
    "subjectInformation/patientHeight_m": "PatientSize",
    "studyInformation/studyInstanceUID": "StudyInstanceUID",
    "studyInformation/studyDate": "StudyDate",
    "studyInformation/studyTime": "StudyTime",
    "studyInformation/studyID": "StudyID",
    "studyInformation/accessionNumber": "AccessionNumber",
    "studyInformation/referringPhysicianName": "ReferringPhysicianName",
    "studyInformation/studyDescription": "StudyDescription",
    "studyInformation/bodyPartExamined": "BodyPartExamined",
    "measurementInformation/seriesDate": "SeriesDate",
    "measurementInformation/seriesTime": "SeriesTime",
    "measurementInformation/patientPosition": "PatientPosition",
    "measurementInformation/protocolName": "ProtocolName",
    "measurementInformation/sequenceName": "SequenceName",
    "measurementInformation/frameOfReferenceUID": "FrameOfReferenceUID",
    "acquisitionSystemInformation/systemVendor": "Manufacturer",
    "acquisitionSystemInformation/systemModel": "ManufacturerModelName",
    "acquisitionSystemInformation/systemFieldStrength_T": "MagneticFieldStrength",
    "acquisitionSystemInformation/institutionName": "InstitutionName",
    "acquisitionSystemInformation/stationName": "StationName",
    "acquisitionSystemInformation/deviceID": "DeviceSerialNumber",
    "acquisitionSystemInformation/deviceSerialNumber": "DeviceSerialNumber",
    "sequenceParameters/TR": "RepetitionTime",
    "sequenceParameters/TE": "EchoTime",
    "sequenceParameters/TI": "InversionTime",
    "sequenceParameters/flipAngle_deg": "FlipAngle",
    "encoding/echoTrainLength": "EchoTrainLength",
}
# beside those, what a template or a JSON file may say
SUPPLIED = (
    "Laterality", "PositionReferenceIndicator", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "ImagingFrequency", "PatientComments", "InstitutionAddress", "InstitutionalDepartmentName",
    "EthnicGroup",
)  # fmt: skip
SETTABLE = frozenset(FROM_HEADER.values()) | frozenset(SUPPLIED)
# only JSON: a template's own are those of the template's series
OF_THE_SERIES = ("SeriesDescription", "SeriesNumber")
# what the standard wants non-empty and a header may lack; none of it can be taken for the truth
PLACEHOLDERS = {
    "PatientName": "UNKNOWN^",
    "StudyDate": "19000101",
    "StudyTime": "000000",
    "StudyID": "UNKNOWN",
    "Manufacturer": "UNKNOWN",
    "ManufacturerModelName": "UNKNOWN",
    "DeviceSerialNumber": "UNKNOWN",
}
SEQUENCES = {"SE": ("se", "tse", "fse", "turbospinecho", "spinecho"), "EP": ("epi",), "IR": ("ir", "mprage")}
GRADIENT = ("gre", "flash", "spgr", "bssfp", "trufi", "ssfp", "fisp", "gradientecho", "ute", "zte")


@dataclass(frozen=True)
class Facts:
    """DICOM keywords and their valid values, alike for all series of a scan.

    identity      names the scan; empty where the header doesn't, so that UIDs must follow the pixels
    placeholders  keywords for which nobody supplied a value
    series_base   first part of the series number, the scanner's own series number
    """

    values: Mapping[str, str]
    identity: str
    placeholders: tuple[str, ...]
    series_base: int = 0


def facts(
    header: str, template: str | Path | None = None, overrides: str | Path | None = None, scan_id: str = ""
) -> Facts:
    """What is known of the scan: JSON before template before header before placeholders.

    scan_id   names the scan where the header doesn't
    """
    fields = header_fields(header)
    values = _from_header(fields)
    if template is not None:
        values |= _from_template(Path(template))
    if overrides is not None:
        values |= _from_json(Path(overrides))
    identity = _identity(fields, values) or scan_id
    # the id must differ from unknown patient to unknown patient: archives merge equal ones
    unknown = f"UNKNOWN-{derived_uid('patient', identity or header)[5:17]}"
    filled = {**PLACEHOLDERS, "PatientID": unknown}
    missing = tuple(sorted(keyword for keyword in filled if not values.get(keyword)))
    values |= {keyword: filled[keyword] for keyword in missing}
    values["SeriesDate"] = values.get("SeriesDate") or values["StudyDate"]
    values["SeriesTime"] = values.get("SeriesTime") or values["StudyTime"]
    if missing:
        log.info("placeholders are written for %s: supply them with a template or a JSON file", ", ".join(missing))
    base = cleaned("IS", fields.get("measurementInformation/initialSeriesNumber", ""))
    return Facts(values, identity, missing, max(0, int(base or 0)))


def header_fields(header: str) -> dict[str, str]:
    """Texts of an ISMRMRD XML header by `section/element`, first occurrence; unknown and missing ones don't matter."""
    text = header.strip("\0 \t\r\n\ufeff")
    if not text:
        return {}
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"the header has {len(text)} characters, at most {HEADER_LIMIT} are read")
    try:
        root = fromstring(text.encode())
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ValueError(f"the header is no ISMRMRD XML ({type(error).__name__}): {error}") from error
    fields: dict[str, str] = {}
    for section in root:
        for element in section:
            fields.setdefault(f"{_name(section.tag)}/{_name(element.tag)}", (element.text or "").strip())
    for matrix in root.iterfind(".//{*}encodedSpace/{*}matrixSize/{*}z"):
        fields.setdefault("encodedSpace/z", (matrix.text or "").strip())
    for user in root.iterfind("{*}userParameters/{*}userParameterString"):
        name, value = user.findtext("{*}name", ""), user.findtext("{*}value", "")
        fields.setdefault(f"user/{name.strip()}", value.strip())
    return fields


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]


def _from_header(fields: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for field, keyword in FROM_HEADER.items():
        if text := _checked(keyword, fields.get(field, "")):
            values[keyword] = text
    if frequency := cleaned("DS", fields.get("experimentalConditions/H1resonanceFrequency_Hz", "")):
        values["ImagingFrequency"] = cleaned("DS", str(float(frequency) / 1e6))
    values["PatientSex"] = values.get("PatientSex", "")[:1]
    if values["PatientSex"] not in ("M", "F", "O"):
        values["PatientSex"] = ""
    values["ScanningSequence"] = _sequence(fields.get("sequenceParameters/sequence_type", ""))
    deep = int(cleaned("IS", fields.get("encodedSpace/z", "")) or 1) > 1
    kind = fields.get("user/mrAcquisitionType", "").upper()
    values["MRAcquisitionType"] = kind if kind in ("2D", "3D") else "3D" if deep else "2D"
    return values


def _sequence(name: str) -> str:
    plain = "".join(letter for letter in name.lower() if letter.isalpha())
    for code, names in SEQUENCES.items():
        if plain in names:
            return code
    return "GR" if plain in GRADIENT else "RM"  # research mode: the header doesn't say


def _from_template(path: Path) -> dict[str, str]:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        texts = {keyword: _text(dataset.get(keyword)) for keyword in sorted(SETTABLE)}
    except OSError:
        raise
    except Exception as error:  # over damage pydicom raises errors of a dozen unrelated classes
        raise ValueError(f"the template {path.name} is no DICOM file; give one image of the study") from error
    return {keyword: text for keyword, found in texts.items() if (text := _checked(keyword, found))}


def _text(value: object) -> str:
    """An element's value as text; several stand apart by backslashes."""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value)


def _from_json(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path.name} holds a {type(content).__name__}; wanted an object: {{"PatientID": "..."}}')
    known = SETTABLE | frozenset(OF_THE_SERIES)
    if unknown := sorted(set(content) - known):
        raise ValueError(f"unknown keywords {unknown} in {path.name}; known: {sorted(known)}")
    values: dict[str, str] = {}
    for keyword, value in content.items():
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{keyword} in {path.name} is a {type(value).__name__}; wanted text or a number")
        values[keyword] = _checked(keyword, str(value))
        if str(value).strip() and not values[keyword]:
            vr = dictionary_VR(keyword)
            raise ValueError(f"{keyword} in {path.name} is no valid {vr} of DICOM; see PS3.5, table 6.2-1")
    return values


def _checked(keyword: str, text: str) -> str:
    """A valid value; says which ones were shortened or dropped, never what they were."""
    if keyword == "BodyPartExamined":
        part = body_part(text)
        if text and not part:
            log.warning("BodyPartExamined: the header's word is none of DICOM's terms and is left out")
        return part
    value = cleaned(dictionary_VR(keyword), text, keyword)
    if len(value) < len(text.strip()) and dictionary_VR(keyword) not in ("DA", "TM", "DS"):
        log.warning("%s has %d characters; %d are kept", keyword, len(text), len(value))
    return value


def _identity(fields: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Names the scan among all others, or nothing where the header can't: a number alone repeats from day to day."""
    measurement = fields.get("measurementInformation/measurementID", "")
    if not measurement:
        return ""
    keywords = (
        "StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
        "SeriesDate", "SeriesTime", "DeviceSerialNumber", "StationName", "ProtocolName",
    )  # fmt: skip
    return derived_uid("scan", measurement, *(values.get(keyword, "") for keyword in keywords))
