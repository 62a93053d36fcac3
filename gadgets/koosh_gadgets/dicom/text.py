"""Values as DICOM's value representations allow them (PS3.5, table 6.2-1), from whatever a header holds."""

from __future__ import annotations

import datetime
import hashlib
import math
import re

from pydicom.valuerep import format_number_as_ds

LIMITS = {"LO": 64, "SH": 16, "ST": 1024, "LT": 10240, "PN": 64, "CS": 16}
# A cut identifier could become another patient's: what is cut off stays in a hash.
IDENTIFIERS = ("PatientID", "AccessionNumber", "StudyID", "DeviceSerialNumber")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]+")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_TIME = re.compile(r"(\d\d):?(\d\d)(?::?(\d\d)(?:\.(\d{1,6})\d*)?)?(?:Z|[+-]\d\d:?\d\d)?")
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:Z|[+-]\d\d:\d\d)?")


def cleaned(vr: str, value: object, keyword: str = "") -> str:
    """`value` as a valid string of `vr`; empty where nothing valid can be made of it."""
    text = str(value).strip()
    if vr == "PN":
        return _name(text)
    if vr in ("LO", "SH", "ST", "LT"):
        return _cut(_CONTROL.sub(_blank, text).strip(), LIMITS[vr], keyword)
    if vr == "CS":
        return "\\".join(re.sub(r"[^A-Z0-9_ ]", "_", part.upper())[:16].strip() for part in text.split("\\"))
    if vr == "UI":
        return text if len(text) <= 64 and _UID.fullmatch(text) else ""
    return {"DA": _date, "TM": _time, "DS": _decimal, "IS": _integer}[vr](text)


def _blank(found: re.Match[str]) -> str:
    return "/" if found.group() == "\\" else " "


def _cut(text: str, limit: int, keyword: str) -> str:
    if len(text) <= limit:
        return text
    if keyword in IDENTIFIERS:
        return text[: limit - 9] + "~" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return text[:limit].rstrip()


def _name(text: str) -> str:
    """Up to three groups (=) of up to five components (^), each group cut to its 64 characters.

    "Last, First" becomes "Last^First", and a bare word a family name: without ^ the old form of names is meant.
    """
    groups = [_group(group) for group in _CONTROL.sub(" ", text).split("=")[:3]]
    return "=".join(groups).rstrip("=")


def _group(text: str) -> str:
    if "^" not in text and text.count(",") == 1:
        text = text.replace(",", "^")
    parts = [part.strip() for part in text.split("^", 4)]
    short = "^".join(part.replace("^", " ") for part in parts)[:63].rstrip(" ^")
    return short if "^" in short or not short else short + "^"


def _date(text: str) -> str:
    found = _DATE.fullmatch(text)
    try:
        return datetime.date(*(int(part) for part in found.groups())).strftime("%Y%m%d") if found else ""
    except ValueError:
        return ""


def _time(text: str) -> str:
    found = _TIME.fullmatch(text)
    if not found or int(found[1]) > 23 or int(found[2]) > 59 or int(found[3] or 0) > 59:
        return ""
    return found[1] + found[2] + (found[3] or "00") + (f".{found[4]}" if found[4] else "")


def _decimal(text: str) -> str:
    try:
        return decimal(*(float(part) for part in text.split("\\")))
    except ValueError:
        return ""


def _integer(text: str) -> str:
    try:
        return str(int(text)) if -(2**31) <= int(text) < 2**31 else ""
    except ValueError:
        return ""


def decimal(*values: float) -> str:
    """Decimal strings of at most 16 characters each, joined; as near to the values as they can be."""
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{values} can't be written as decimal strings: not finite")
    return "\\".join(format_number_as_ds(float(value) + 0.0) for value in values)
