"""What is in a recorded scan: counts, trajectory and unit, completeness, and what koosh would do with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ismrmrd
import numpy as np

from koosh_gadgets import units
from koosh_gadgets.files import ScanFile

KINDS = {
    "noise": (ismrmrd.ACQ_IS_NOISE_MEASUREMENT,),
    "navigator": (
        ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA, ismrmrd.ACQ_IS_PHASE_STABILIZATION,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ),
    "dummy": (ismrmrd.ACQ_IS_DUMMYSCAN_DATA,),
    "coil calibration": (ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION),
}  # fmt: skip
SERIES = ("slice", "contrast", "phase", "repetition", "set", "average")
AXES = "xyz"


@dataclass(frozen=True)
class Survey:
    """Facts about one encoding of a scan, as text by name, in the order in which they are told."""

    encoding: int
    facts: dict[str, str]


def kinds(heads: np.ndarray) -> np.ndarray:
    """(readout) what each readout is: imaging, or one of `KINDS`."""
    out = np.full(len(heads), "imaging", dtype="U16")
    for name, flags in KINDS.items():
        mask = np.uint64(sum(1 << (flag - 1) for flag in flags))
        out[(heads["flags"] & mask) != 0] = name
    return out


def survey(file: ScanFile, configured: str | None = None) -> list[Survey]:
    """One survey for every encoding that has imaging readouts; none is an error."""
    what = kinds(file.heads)
    if not (what == "imaging").any():
        counted = ", ".join(f"{(what == kind).sum()} {kind}" for kind in KINDS)
        raise ValueError(f"{file.name} has no imaging readout ({counted}): is the noise flag set on every readout?")
    used = np.unique(file.heads["encoding_space_ref"][what == "imaging"])
    if used[-1] >= len(file.header.encoding):
        raise ValueError(
            f"{file.name}: readouts refer to encoding {used[-1]}, but the header has {len(file.header.encoding)}"
        )
    return [Survey(int(ref), encoding_facts(file, what, int(ref), configured)) for ref in used]


def encoding_facts(file: ScanFile, what: np.ndarray, ref: int, configured: str | None) -> dict[str, str]:
    """The facts about one encoding."""
    mine = file.heads["encoding_space_ref"] == ref
    chosen = mine & (what == "imaging")
    heads, encoding = file.heads[chosen], file.header.encoding[ref]
    facts = {
        "scanner": scanner(file.header),
        "protocol": protocol(file.header),
        "encoded space": space(encoding.encodedSpace),
        "recon space": space(encoding.reconSpace),
        "readouts": ", ".join(f"{(mine & (what == kind)).sum()} {kind}" for kind in np.unique(what[mine])),
        "samples": spread(heads["number_of_samples"]) + discarded(heads),
        "coils": spread(heads["active_channels"]),
        "dwell": f"{spread(heads['sample_time_us'])} us",
        "series": series(heads),
        "position": placed(heads),
        "trajectory": trajectory(file, chosen, ref, configured),
        "completeness": completeness(file.header, encoding, heads),
        "plan": plan(file.header, encoding, heads),
    }
    return {name: text for name, text in facts.items() if text}


def scanner(header: ismrmrd.xsd.ismrmrdHeader) -> str:
    """Vendor, model, field; nothing about the patient."""
    system = header.acquisitionSystemInformation
    frequency = header.experimentalConditions.H1resonanceFrequency_Hz if header.experimentalConditions else 0
    parts = [system.systemVendor, system.systemModel] if system else []
    if system and system.systemFieldStrength_T:
        parts.append(f"{system.systemFieldStrength_T:g} T")
    if frequency:
        parts.append(f"{frequency / 1e6:.3f} MHz")
    return ", ".join(p for p in parts if p) or "not said"


def protocol(header: ismrmrd.xsd.ismrmrdHeader) -> str:
    """Patient position and timing."""
    parts = []
    if header.measurementInformation:
        parts.append(header.measurementInformation.patientPosition.value)
    sequence = header.sequenceParameters
    for name, unit in (("TR", "ms"), ("TE", "ms"), ("flipAngle_deg", "degrees")):
        if values := list(getattr(sequence, name, None) or []):
            parts.append(f"{name.removesuffix('_deg')} {'/'.join(f'{v:g}' for v in values)} {unit}")
    return ", ".join(parts)


def sizes(space: ismrmrd.xsd.encodingSpaceType) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Matrix and field of view in mm, (z, y, x), or (y, x) where there is one partition."""
    matrix = tuple(getattr(space.matrixSize, axis) for axis in AXES[::-1])
    fov = tuple(float(getattr(space.fieldOfView_mm, axis)) for axis in AXES[::-1])
    return (matrix, fov) if matrix[0] > 1 else (matrix[1:], fov[1:])


def space(part: ismrmrd.xsd.encodingSpaceType) -> str:
    """Matrix, field of view and voxel, x first as the header has them."""
    matrix = [getattr(part.matrixSize, axis) for axis in AXES]
    fov = [getattr(part.fieldOfView_mm, axis) for axis in AXES]
    voxel = [f / n for f, n in zip(fov, matrix, strict=True)]
    return f"{times(matrix)} voxels over {times(fov)} mm: {times(voxel)} mm (x, y, z)"


def times(values: list[int] | list[float]) -> str:
    """The numbers with a multiplication sign between."""
    return " x ".join(f"{v:.4g}" for v in values)


def spread(values: np.ndarray) -> str:
    """The value, or the least and the greatest."""
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def discarded(heads: np.ndarray) -> str:
    """Samples that the headers ask to leave out, and where the echo is."""
    before, after = heads["discard_pre"].max(), heads["discard_post"].max()
    text = f" a readout, centre at {spread(heads['center_sample'])}"
    return text + (f", {before} discarded before and {after} after" if before or after else "")


def series(heads: np.ndarray) -> str:
    """Which counters run, and how far."""
    parts = [f"{len(np.unique(heads['idx'][name]))} {name}s" for name in SERIES if np.ptp(heads["idx"][name])]
    return ", ".join(parts) or "one volume"


def placed(heads: np.ndarray) -> str:
    """Centre and slice direction of the first readout, and how many positions there are."""
    first = heads[0]
    normal = ", ".join(f"{v:.3g}" for v in first["slice_dir"])
    n = len(np.unique(heads["position"], axis=0))
    text = f"centre ({', '.join(f'{v:.4g}' for v in first['position'])}) mm LPS, slice direction ({normal})"
    if n == 1:
        return text + (" for every slice: no real position" if np.ptp(heads["idx"]["slice"]) else "")
    return f"{n} positions, the first: {text}"


def user_parameter(header: ismrmrd.xsd.ismrmrdHeader, name: str) -> str | int | float | None:
    """A user parameter of the header, whatever its type."""
    given = header.userParameters
    for kind in ("userParameterString", "userParameterLong", "userParameterDouble"):
        for item in getattr(given, kind, None) or []:
            if item.name == name:
                value: str | int | float = item.value
                return value
    return None


def trajectory(file: ScanFile, chosen: np.ndarray, ref: int, configured: str | None) -> str:
    """Family, range and unit; an undecided unit is told, not raised."""
    encoding = file.header.encoding[ref]
    family = encoding.trajectory.value
    described = encoding.trajectoryDescription
    if described is not None and described.identifier:
        family += f" ({described.identifier})"
    with_path = chosen & (file.heads["trajectory_dimensions"] > 0)
    if not with_path.any():
        if encoding.trajectory.value == "cartesian":
            return f"{family}, by the encoding steps"
        return f"{family}, none in the readouts: name a trajectory_file, or let it be computed from the header"
    with_path &= file.heads["trajectory_dimensions"] == file.heads["trajectory_dimensions"][with_path][0]
    k = file.trajectory(with_path)
    matrix, fov_mm = sizes(encoding.encodedSpace)
    reach = ", ".join(f"k{AXES[i]} {k[:, i].min():.4g} to {k[:, i].max():.4g}" for i in range(k.shape[1]))
    partial = "" if with_path.sum() == chosen.sum() else f", on {with_path.sum()} of {chosen.sum()} readouts"
    header_unit = user_parameter(file.header, "trajectoryUnit")
    try:
        choice = units.choose(k, matrix, fov_mm, configured, str(header_unit) if header_unit else None)
        unit = f"unit {choice.unit} by {choice.source}, to {choice.peak:.4g} rad/voxel"
    except ValueError as error:
        unit = f"unit undecided: {error}"
    return f"{family}, {reach}{partial}; {unit}"


def expected(header: ismrmrd.xsd.ismrmrdHeader, encoding: ismrmrd.xsd.encodingType) -> int | None:
    """Imaging readouts that a whole scan has; None where the header doesn't say."""
    told = user_parameter(header, "expectedReadouts")
    if isinstance(told, int) and told > 0:
        return told
    limits, total = encoding.encodingLimits, 1
    if limits is None or limits.kspace_encoding_step_1 is None:
        return None
    for name in ("kspace_encoding_step_1", "kspace_encoding_step_2", *SERIES):
        if (limit := getattr(limits, name)) is not None:
            total *= limit.maximum - limit.minimum + 1
    return total


def completeness(header: ismrmrd.xsd.ismrmrdHeader, encoding: ismrmrd.xsd.encodingType, heads: np.ndarray) -> str:
    """Readouts received against expected, gaps and duplicates of the counter, and the last flag."""
    n, whole = len(heads), expected(header, encoding)
    counters = heads["scan_counter"]
    double = n - len(np.unique(counters))
    parts = [f"{n} readouts, none expected by the header" if whole is None else f"{n} of {whole} readouts"]
    if whole is not None:
        parts.append("complete" if n >= whole else f"{whole - n} missing or not planned (undersampled)")
    if np.ptp(counters) == 0 and n > 1:
        parts.append("not numbered: order of arrival")
    elif double:
        parts.append(f"{double} with a number seen before")
    if missing := gaps(counters):
        parts.append(f"{missing} numbers missing in between")
    last = sum(1 << (flag - 1) for flag in (ismrmrd.ACQ_LAST_IN_MEASUREMENT, ismrmrd.ACQ_LAST_IN_REPETITION))
    parts.append("last readout flagged" if (heads["flags"] & np.uint64(last)).any() else "no flag marks the end")
    return ", ".join(parts)


def gaps(counters: np.ndarray) -> int:
    """Numbers between the first and the last imaging readout that never came."""
    distinct = np.unique(counters)
    return int(distinct[-1]) - int(distinct[0]) + 1 - len(distinct) if len(distinct) > 1 else 0


def plan(header: ismrmrd.xsd.ismrmrdHeader, encoding: ismrmrd.xsd.encodingType, heads: np.ndarray) -> str:
    """What a reconstruction with default settings makes of it."""
    matrix, fov = sizes(encoding.reconSpace)
    volumes = math.prod(len(np.unique(heads["idx"][name])) for name in SERIES if name != "average")
    each = len(heads) / volumes
    cartesian = encoding.trajectory.value == "cartesian" and not heads["trajectory_dimensions"].any()
    if cartesian:
        # of the encoded matrix: lines of phase encoding that a full scan has
        full, unit = math.prod(sizes(encoding.encodedSpace)[0][:-1]), "lines"
    else:
        size = math.prod(matrix) ** (1 / len(matrix))
        half = 2 if (heads["center_sample"] < heads["number_of_samples"] / 8).all() else 1
        full, unit = half * math.pi / 2 * size ** (len(matrix) - 1), "readouts"
    kind = f"{len(matrix)}D {'Cartesian' if cartesian else 'non-Cartesian'}"
    goal = f"{times(list(matrix[::-1]))} voxels of {times([f / n for f, n in zip(fov, matrix, strict=True)][::-1])} mm"
    share = f"R = {full / each:.3g}" if encoding.trajectory.value in ("cartesian", "radial", "goldenangle") else ""
    rate = f"{each:g} {unit}" + (f" ({share})" if share else "")
    return f"{kind}, {volumes} volume{'s' if volumes > 1 else ''} of {rate} each, to {goal}"
