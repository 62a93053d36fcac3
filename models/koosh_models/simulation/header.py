"""The ISMRMRD header of a simulated scan: complete, without the `<version>` element that real Gadgetrons refuse."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from koosh_models.scan import Geometry
from koosh_models.simulation.trajectories import Trajectory

Node = tuple[str, "str | int | float | Sequence[Node]"]
Series = Sequence[dict[str, int]]
"""The counters of every frame."""
COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set", "segment")
RADIAL = ("radial3d", "ute3d", "radial2d", "stack_of_stars", "cine_radial")
SPIRAL = ("spiral2d", "stack_of_spirals", "spiral3d", "cones")
LIMIT = 65535
"""Largest counter of a 16-bit encoding step; more readouts go on in the next `kspace_encode_step_2`."""


@dataclass(frozen=True)
class Protocol:
    """What the header says beside the geometry.

    n_noise      noise readouts before the scan
    source       what the scanner is called
    correlation  of the noise between neighbouring coils, 0 to below 1; signals mix in the same way
    """

    patient_name: str = "Phantom^Simulated"
    patient_id: str = "KOOSH-PHANTOM"
    body_part: str = "HEAD"
    dwell_us: float = 4.0
    tr_ms: float = 5.0
    te_ms: float = 0.5
    flip_deg: float = 8.0
    n_noise: int = 16
    correlation: float = 0.0
    source: str = "simulation"


def header_xml(
    scan: Trajectory, geometry: Geometry, n_coils: int, protocol: Protocol, series: Series, seed: int
) -> str:
    """The header as XML text."""
    root = ElementTree.Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    nodes: list[Node] = [
        *people(protocol, seed),
        ("acquisitionSystemInformation", [
            ("systemVendor", "koosh"), ("systemModel", protocol.source), ("systemFieldStrength_T", 3.0),
            ("relativeReceiverNoiseBandwidth", 0.79), ("receiverChannels", n_coils),
            ("institutionName", f"koosh {protocol.source}"), ("deviceSerialNumber", "0"),
        ]),
        ("experimentalConditions", [("H1resonanceFrequency_Hz", 123249173)]),
        ("encoding", encoding(scan, geometry, protocol, series)),
        ("sequenceParameters", [
            ("TR", protocol.tr_ms), ("TE", protocol.te_ms), ("flipAngle_deg", protocol.flip_deg),
            ("sequence_type", "GRE"),
        ]),
        ("userParameters", [
            parameter("Long", "expectedReadouts", scan.n_readouts * len(series)),
            parameter("Double", "dwellTime_us", protocol.dwell_us),
            parameter("String", "trajectoryUnit", "cycles/voxel"),
            parameter("String", "mrAcquisitionType", f"{len(geometry.matrix)}D"),
        ]),
    ]  # fmt: skip
    for node in nodes:
        append(root, node)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def append(parent: ElementTree.Element, node: Node) -> None:
    """Add the node and all below it."""
    name, content = node
    element = ElementTree.SubElement(parent, name)
    if isinstance(content, (str, int, float)):
        element.text = str(content)
    else:
        for child in content:
            append(element, child)


def parameter(kind: str, name: str, value: str | float) -> Node:
    """A user parameter."""
    return (f"userParameter{kind}", [("name", name), ("value", value)])


def uid(*parts: object) -> str:
    """A DICOM unique identifier that is the same for the same parts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(str(p) for p in ('koosh', *parts))).int}"


def people(protocol: Protocol, seed: int) -> list[Node]:
    """Subject, study and measurement; nobody real."""
    return [
        ("subjectInformation", [
            ("patientName", protocol.patient_name), ("patientWeight_kg", 70.0), ("patientID", protocol.patient_id),
            ("patientBirthdate", "1980-01-01"), ("patientGender", "O"),
        ]),
        ("studyInformation", [
            ("studyDate", "2025-01-01"), ("studyTime", "12:00:00"), ("studyID", str(seed)),
            ("accessionNumber", seed), ("referringPhysicianName", "None^Simulated"),
            ("studyDescription", f"koosh {protocol.source}"), ("studyInstanceUID", uid(protocol.patient_id, seed)),
            ("bodyPartExamined", protocol.body_part),
        ]),
        ("measurementInformation", [
            ("measurementID", f"koosh-{seed}"), ("seriesDate", "2025-01-01"), ("seriesTime", "12:00:00"),
            ("patientPosition", "HFS"), ("initialSeriesNumber", 1), ("protocolName", f"koosh {protocol.source}"),
            ("sequenceName", "koosh"), ("seriesDescription", protocol.source),
            ("frameOfReferenceUID", uid(protocol.patient_id, seed, "frame")),
        ]),
    ]  # fmt: skip


def encoding(scan: Trajectory, geometry: Geometry, protocol: Protocol, series: Series) -> list[Node]:
    """Spaces, limits and trajectory."""
    return [
        ("encodedSpace", space(geometry)),
        ("reconSpace", space(geometry)),
        ("encodingLimits", limits(scan, geometry, series)),
        ("trajectory", kind(scan)),
        ("trajectoryDescription", [
            ("identifier", scan.family),
            parameter("Long", "readouts", scan.n_readouts),
            parameter("Long", "samples", scan.readout),
            parameter("Long", "centerSample", scan.center),
            parameter("Double", "dwellTime_us", protocol.dwell_us),
        ]),
        ("echoTrainLength", 1),
    ]  # fmt: skip


def kind(scan: Trajectory) -> str:
    """The word of ISMRMRD's list that comes closest."""
    if scan.lines is not None:
        return "cartesian"
    return "radial" if scan.family in RADIAL else "spiral" if scan.family in SPIRAL else "other"


def space(geometry: Geometry) -> list[Node]:
    """Matrix and field of view; a 2D slice has one voxel along z."""
    sizes = (1, *geometry.matrix)[-3:]
    extents = (geometry.slice_mm, *geometry.fov_mm)[-3:]
    return [
        ("matrixSize", list(zip("xyz", sizes[::-1], strict=True))),
        ("fieldOfView_mm", list(zip("xyz", extents[::-1], strict=True))),
    ]


def limits(scan: Trajectory, geometry: Geometry, series: Series) -> list[Node]:
    """Ranges of the counters: the phase encoding of Cartesian scans, the number of the readout of all others."""
    if scan.lines is not None:
        n_y, n_z = geometry.matrix[-2], (1, *geometry.matrix)[-3]
        first, second = (n_y - 1, n_y // 2), (n_z - 1, n_z // 2)
    else:
        last = scan.n_readouts - 1
        first, second = (min(last, LIMIT), 0), (last // (LIMIT + 1), 0)
    return [
        limit("kspace_encoding_step_0", scan.readout - 1, scan.center),
        limit("kspace_encoding_step_1", *first),
        limit("kspace_encoding_step_2", *second),
        *(limit(name, max(frame.get(name, 0) for frame in series)) for name in COUNTERS),
    ]


def limit(name: str, maximum: int, center: int = 0) -> Node:
    """The range 0 to `maximum` of one counter."""
    return (name, [("minimum", 0), ("maximum", maximum), ("center", center)])
