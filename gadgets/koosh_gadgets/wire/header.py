"""The ISMRMRD header from hostile or merely sloppy XML."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import typing
import warnings
import xml.etree.ElementTree as plain

import ismrmrd

from koosh_gadgets.wire.errors import Malformed, TooLarge

log = logging.getLogger(__name__)
SPACE = "http://www.ismrm.org/ISMRMRD"
MAX_BYTES = 1 << 20
# parts that ismrmrd 1.15 demands and scanners leave out; what is filled in is never used as a measured value
FILL = {
    "ismrmrdHeader": {"experimentalConditions": ""},
    "experimentalConditionsType": {"H1resonanceFrequency_Hz": "0"},
    "measurementInformationType": {"patientPosition": "HFS"},
    "encodingType": {"encodingLimits": "", "trajectory": "other"},
}
TRAJECTORIES = {"cartesian", "epi", "radial", "goldenangle", "spiral", "other"}


def read_header(raw: bytes | bytearray | str, max_bytes: int = MAX_BYTES) -> ismrmrd.xsd.ismrmrdHeader:
    """The header; unknown elements are dropped, missing optional ones filled in, anything dangerous refused."""
    raw = raw.encode() if isinstance(raw, str) else bytes(raw)
    if len(raw) > max_bytes:
        raise TooLarge(f"the header has {len(raw)} bytes, more than the {max_bytes} allowed")
    root = parse(raw.rstrip(b"\0 \r\n\t"))
    tidy(root, ismrmrd.xsd.ismrmrdHeader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            header = ismrmrd.xsd.CreateFromDocument(plain.tostring(root))
        except Exception as error:  # every class of xsdata, and its warnings about values
            # values are left out of the message: they may be the patient's
            text = re.sub(r"`[^`]*`", "`...`", str(error))[:500]
            raise Malformed(f"the header is no valid ISMRMRD header: {text}") from None
    check_header(header)
    return header


def parse(raw: bytes) -> plain.Element:
    """The XML tree, without entities, DTDs or external references."""
    import defusedxml.ElementTree as safe

    try:
        root: plain.Element = safe.fromstring(raw, forbid_dtd=True)
    except Exception as error:  # defusedxml raises several unrelated classes
        where = "at line {}, column {}".format(*getattr(error, "position", ("?", "?")))
        raise Malformed(f"the header is no XML that can be accepted: {type(error).__name__} {where}") from None
    if root.tag.rpartition("}")[2] != "ismrmrdHeader":
        raise Malformed("the header's root is another element than <ismrmrdHeader>")
    return root


def member(hint: object) -> type | None:
    """The class inside `X`, `list[X]` or `X | None`, where it is a schema class."""
    for inner in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            return inner
    return None


def tidy(element: plain.Element, schema: type, depth: int = 0) -> None:
    """Drop what the schema does not know, fill what it demands, put everything into the schema's namespace."""
    element.tag = f"{{{SPACE}}}{element.tag.rpartition('}')[2]}"
    element.attrib.clear()
    hints = typing.get_type_hints(schema)
    for child in list(element):
        name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        if name not in hints:
            log.warning("the header's element %s/%s is unknown and ignored", schema.__name__, name[:64])
            element.remove(child)
        elif (inner := member(hints[name])) is not None:
            tidy(child, inner, depth + 1)
        else:
            child.tag = f"{{{SPACE}}}{name}"
            child.attrib.clear()
    if schema.__name__ == "encodingType":
        soften_trajectory(element)
    for name, value in FILL.get(schema.__name__, {}).items():
        if element.find(f"{{{SPACE}}}{name}") is None:
            child = plain.SubElement(element, f"{{{SPACE}}}{name}")
            child.text = value or None
            if (inner := member(hints[name])) is not None:
                tidy(child, inner, depth + 1)


def soften_trajectory(encoding: plain.Element) -> None:
    """Trajectory families the schema does not name count as `other`."""
    node = encoding.find(f"{{{SPACE}}}trajectory")
    if node is not None and (node.text or "").strip().lower() not in TRAJECTORIES:
        log.warning("the header's trajectory is unknown; taken as 'other'")
        node.text = "other"
    elif node is not None:
        node.text = (node.text or "").strip().lower()


def check_header(header: ismrmrd.xsd.ismrmrdHeader) -> None:
    """Refuse what would go wrong later: no encoding, impossible sizes."""
    if not header.encoding:
        raise Malformed("the header has no encoding: matrix size and field of view are needed")
    if len(header.encoding) > 64:
        raise Malformed(f"the header has {len(header.encoding)} encodings; at most 64 make sense")
    for number, encoding in enumerate(header.encoding):
        for name in ("encodedSpace", "reconSpace"):
            check_space(f"encoding {number}, {name}", getattr(encoding, name))


def check_space(where: str, space: ismrmrd.xsd.encodingSpaceType) -> None:
    """Matrix 1..4096 and a positive finite field of view."""
    if space is None or space.matrixSize is None or space.fieldOfView_mm is None:
        raise Malformed(f"{where} lacks its matrix size or field of view")
    for axis in "xyz":
        n, fov = getattr(space.matrixSize, axis), getattr(space.fieldOfView_mm, axis)
        if n is None or not 1 <= n <= 4096:
            raise Malformed(f"{where}: matrix size {axis} is {n}; wanted 1 to 4096")
        if fov is None or not math.isfinite(fov) or not 0 < fov <= 10_000:
            raise Malformed(f"{where}: field of view {axis} is {fov} mm; wanted a positive number up to 10000")
