"""Small MRD streams for tests: a header, readouts of a point object, and the bytes of a whole scan."""

from __future__ import annotations

import contextlib
from pathlib import Path

import ismrmrd
import numpy as np

from koosh_gadgets.wire import ids, messages

SPACE = "http://www.ismrm.org/ISMRMRD"


def header_xml(n: int = 16, fov: float = 160.0, spokes: int = 64, extra: str = "") -> str:
    """A complete header of an n^3 radial scan."""
    space = (
        f"<matrixSize><x>{n}</x><y>{n}</y><z>{n}</z></matrixSize>"
        f"<fieldOfView_mm><x>{fov}</x><y>{fov}</y><z>{fov}</z></fieldOfView_mm>"
    )
    step = "kspace_encoding_step_1"
    limit = f"<{step}><minimum>0</minimum><maximum>{spokes - 1}</maximum><center>0</center></{step}>"
    return (
        f'<?xml version="1.0"?><ismrmrdHeader xmlns="{SPACE}">'
        "<measurementInformation><measurementID>scan-1</measurementID><patientPosition>HFS</patientPosition>"
        "</measurementInformation><experimentalConditions><H1resonanceFrequency_Hz>123000000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding><encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>"
        f"<encodingLimits>{limit}</encodingLimits><trajectory>radial</trajectory></encoding>{extra}</ismrmrdHeader>"
    )


def directions(n: int) -> np.ndarray:
    """(n, 3) unit vectors spread evenly over the half sphere."""
    z = (np.arange(n) + 0.5) / n
    phi = np.pi * (1 + 5**0.5) * np.arange(n)
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


def point_scan(
    n: int = 16, spokes: int = 64, coils: int = 3, voxel: tuple[int, int, int] = (9, 6, 10), noise: float = 0.0
) -> list[ismrmrd.Acquisition]:
    """Readouts of one bright voxel (z, y, x) seen by flat coils, trajectory in cycles per voxel."""
    rng = np.random.default_rng(0)
    k = (np.arange(n) - n // 2)[:, None] / n
    r = np.array(voxel[::-1]) - n // 2
    gains = np.exp(1j * np.arange(coils)) * (1 + np.arange(coils) / coils)
    readouts = []
    for number, direction in enumerate(directions(spokes)):
        trajectory = (k * direction).astype(np.float32)
        signal = np.exp(-2j * np.pi * trajectory @ r) * n**-1.5
        data = gains[:, None] * signal + noise * (
            rng.standard_normal((coils, n)) + 1j * rng.standard_normal((coils, n))
        )
        readouts.append(readout(number, data.astype(np.complex64), trajectory, last=number == spokes - 1))
    return readouts


def point_file(path: Path, *more: ismrmrd.Waveform, header: str = "") -> Path:
    """An ISMRMRD file of a point, with waveforms after its readouts."""
    with contextlib.closing(ismrmrd.Dataset(str(path), "dataset")) as file:
        file.write_xml_header((header or header_xml()).encode())
        for a in point_scan():
            file.append_acquisition(a)
        for wave in more:
            file.append_waveform(wave)
    return path


def readout(
    number: int, data: np.ndarray, trajectory: np.ndarray | None = None, last: bool = False, **fields: object
) -> ismrmrd.Acquisition:
    """One acquisition with the fields a scanner sets."""
    acquisition = ismrmrd.Acquisition.from_array(
        data, trajectory, scan_counter=number, center_sample=data.shape[1] // 2, sample_time_us=5.0, **fields
    )
    acquisition.idx.kspace_encode_step_1 = number & 0xFFFF
    for name, vector in (("read_dir", (1, 0, 0)), ("phase_dir", (0, 1, 0)), ("slice_dir", (0, 0, 1))):
        getattr(acquisition, name)[:] = vector
    if last:
        acquisition.set_flag(ismrmrd.ACQ_LAST_IN_REPETITION)
    return acquisition


def noise_readout(number: int, coils: int = 3, samples: int = 64, scale: float = 0.1) -> ismrmrd.Acquisition:
    """A noise measurement."""
    rng = np.random.default_rng(number)
    data = scale * (rng.standard_normal((coils, samples)) + 1j * rng.standard_normal((coils, samples)))
    acquisition = readout(number, data.astype(np.complex64))
    acquisition.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return acquisition


def message(item: object) -> bytes:
    """One message."""
    return b"".join(messages.serialise(item))


def opening(header: str | bytes, config: str = "<configuration/>", name: str | None = None) -> list[bytes]:
    """Configuration (text, or file name) and header."""
    first = messages.config_file(name) if name is not None else messages.script(ids.CONFIG_TEXT, config)
    return [first, messages.script(ids.HEADER, header)]


def scan_stream(
    items: list[object] | None = None, header: str | bytes | None = None, close: bool = True, **kw: str
) -> list[bytes]:
    """The messages of a whole scan, one each."""
    items = point_scan() if items is None else items
    stream = [*opening(header or header_xml(), **kw), *map(message, items)]
    return [*stream, messages.CLOSE] if close else stream
