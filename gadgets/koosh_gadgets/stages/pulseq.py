"""The trajectory of a Pulseq sequence file (versions 1.2 to 1.5): gradients integrated up to each sample.

The readouts of one length are taken. k-space starts anew at the centre of every excitation and is mirrored at the
centre of every refocusing pulse. Versions before 1.5 do not tell what a pulse is for: there each counts as excitation.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

RASTER, RF_RASTER = 10e-6, 1e-6
MAX_BYTES = 512 << 20
MAX_SAMPLES = 50_000_000  # of all shapes together
V1_4, V1_5, V1_6 = 1_004_000, 1_005_000, 1_006_000
EXCITES, REFOCUSES, UNKNOWN = (ord(c) for c in "eru")


@dataclass
class Sequence:
    """Sections of the file: number -> columns; shapes decompressed.

    rotations  number -> quaternion of extension ROTATIONS      kinds  number -> name of an extension
    """

    raster_s: float = RASTER
    block_raster_s: float = RASTER
    rf_raster_s: float = RF_RASTER
    version: int = 0
    rows: dict[str, list[list[float]]] = field(default_factory=dict)
    shapes: dict[int, np.ndarray] = field(default_factory=dict)
    rotations: dict[int, np.ndarray] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    extension: str = ""

    def table(self, section: str) -> dict[int, list[float]]:
        """Rows of a section by their number."""
        return {int(row[0]): row for row in self.rows.get(section, [])}


def trajectory_of(path: Path, n_samples: int) -> np.ndarray:
    """(readout, sample, axis) in 1/m of all readouts with `n_samples` samples."""
    sequence = read(path)
    try:
        found = readouts(sequence, n_samples)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path.name} is no whole Pulseq sequence: event or shape {error} is missing") from error
    except OverflowError as error:
        raise ValueError(f"{path.name} is no whole Pulseq sequence: {error}") from error
    if not all(np.isfinite(k).all() for k in found):
        raise ValueError(f"{path.name} is no whole Pulseq sequence: its gradients reach no finite place")
    if not found:
        raise ValueError(f"{path.name} has no readout of {n_samples} samples")
    return np.stack(found)


def readouts(sequence: Sequence, n_samples: int) -> list[np.ndarray]:
    """(sample, axis) in 1/m of each readout of that length."""
    gradients, pulses = Gradients(sequence), {n: pulse(sequence, r) for n, r in sequence.table("RF").items()}
    adcs, found, k = sequence.table("ADC"), [], np.zeros(3)
    for row in sequence.rows.get("BLOCKS", []):
        _, duration, rf, *axes, adc = (int(v) for v in row[:7])
        turn = rotation(sequence, int(row[7]) if len(row) > 7 else 0)
        waves = [gradients.wave(number) for number in axes]
        if rf:
            use, center = pulses[rf]
            passed = moment(waves, np.array([center]), turn)[0]
            if use in (EXCITES, UNKNOWN):
                k = -passed
            elif use == REFOCUSES:
                k = -k - 2 * passed
        if adc:
            n, dwell_ns, delay_us = adcs[adc][1:4]
            if int(n) == n_samples:
                found.append(k + moment(waves, delay_us * 1e-6 + (np.arange(n_samples) + 0.5) * dwell_ns * 1e-9, turn))
        end = duration * sequence.block_raster_s if sequence.version >= V1_4 else np.inf
        k = k + moment(waves, np.array([end]), turn)[0]
    return found


def read(path: Path) -> Sequence:
    """The sections of the file that matter here."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; sequences of over {MAX_BYTES} are refused")
    sequence, section, shape, count = Sequence(), "", 0, 0
    packed: dict[int, tuple[int, list[float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            line = line.split("#")[0].strip()
            if line.startswith("["):
                section = line.strip("[]").upper()
            elif section == "SHAPES" and line.lower().startswith("shape_id"):
                shape = int(line.split()[1])
            elif section == "SHAPES" and line.lower().startswith("num_"):
                count = int(line.split()[1])
                packed[shape] = count, []
                if sum(n for n, _ in packed.values()) > MAX_SAMPLES:
                    raise ValueError(f"its shapes claim more than {MAX_SAMPLES} samples")
            elif section == "SHAPES" and line:
                packed[shape][1].append(float(line))
            elif line:
                note(sequence, section, line.split())
        plain = sequence.version >= V1_4
        sequence.shapes = {n: decompressed(np.array(s), count, plain) for n, (count, s) in packed.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"{path.name} is no Pulseq sequence that can be read: {error}") from error
    if not sequence.version:
        raise ValueError(f"{path.name} is no Pulseq sequence: it names no version")
    return sequence


def note(sequence: Sequence, section: str, words: list[str]) -> None:
    """One line of a section without shapes."""
    if section == "VERSION":
        place = {"major": 1_000_000, "minor": 1_000, "revision": 1}.get(words[0], 0)
        sequence.version += place * int("".join(c for c in words[1] if c.isdigit()) or 0)
        if sequence.version >= V1_6:
            number = f"{sequence.version // 1_000_000}.{sequence.version // 1_000 % 1_000}"
            raise ValueError(f"version {number} is not known here; export as 1.5 or 1.4")
    elif section == "DEFINITIONS":
        names = {"GradientRasterTime": "raster_s", "BlockDurationRaster": "block_raster_s",
                 "RadiofrequencyRasterTime": "rf_raster_s"}  # fmt: skip
        if words[0] in names:
            setattr(sequence, names[words[0]], float(words[1]))
    elif section == "EXTENSIONS":
        note_extension(sequence, words)
    elif section == "RF" and sequence.version >= V1_5:
        sequence.rows.setdefault(section, []).append([*(float(w) for w in words[:-1]), float(ord(words[-1][0]))])
    elif section in ("BLOCKS", "GRADIENTS", "TRAP", "ADC", "RF"):
        sequence.rows.setdefault(section, []).append([float(w) for w in words])


def note_extension(sequence: Sequence, words: list[str]) -> None:
    """One line of the list of extensions, or of the specification of one of them."""
    if words[0] == "extension":
        sequence.extension = words[1]
        sequence.kinds[int(words[2])] = words[1]
    elif not sequence.extension:
        sequence.rows.setdefault("EXTENSIONS", []).append([float(w) for w in words[:4]])
    elif sequence.extension == "ROTATIONS":
        sequence.rotations[int(words[0])] = np.array([float(w) for w in words[1:5]])


def decompressed(packed: np.ndarray, count: int, plain: bool) -> np.ndarray:
    """A shape from Pulseq's run lengths of its derivative.

    plain  shapes with as many numbers as samples are not compressed (from version 1.4 on)
    """
    if plain and len(packed) == count:
        return packed
    out: list[float] = []
    i = 0
    while i < len(packed) and len(out) < count:
        if i + 2 < len(packed) and packed[i] == packed[i + 1]:
            repeats = int(packed[i + 2]) + 2
            out += [float(packed[i])] * min(repeats, count - len(out))
            i += 3
        else:
            out.append(float(packed[i]))
            i += 1
    return np.cumsum(out)


def pulse(sequence: Sequence, row: list[float]) -> tuple[int, float]:
    """(use, time of the effective rotation in s from the block's start) of an RF event."""
    if sequence.version >= V1_5:
        return int(row[-1]), (row[5] + row[6]) * 1e-6
    shape = np.abs(sequence.shapes[int(row[2])])
    time_id, delay_us = (int(row[4]), row[5]) if sequence.version >= V1_4 else (0, row[4])
    times = sequence.shapes[time_id] if time_id else np.arange(len(shape)) + 0.5
    top = np.flatnonzero(shape >= 0.99999 * shape.max())  # the middle of the plateau where there is one
    return UNKNOWN, delay_us * 1e-6 + float(times[top[0]] + times[top[-1]]) / 2 * sequence.rf_raster_s


def rotation(sequence: Sequence, number: int) -> np.ndarray | None:
    """(3, 3) by which a block's gradients are turned; None where they are not."""
    listed = sequence.table("EXTENSIONS") if number and sequence.rotations else {}
    for _ in range(len(listed)):
        if number not in listed:
            return None
        _, kind, reference, following = (int(v) for v in listed[number])
        if sequence.kinds.get(kind) == "ROTATIONS":
            return turned(sequence.rotations[reference])
        number = following
    return None


def turned(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of a quaternion w, x, y, z."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + 2 * w * cross + 2 * cross @ cross)


Wave = tuple[np.ndarray, np.ndarray]  # times in s, gradient in Hz/m, linear in between


class Gradients:
    """The gradients of a sequence by their numbers, each made once."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.traps, self.shaped = sequence.table("TRAP"), sequence.table("GRADIENTS")
        self.wave = functools.lru_cache(maxsize=4096)(self._wave)

    def _wave(self, number: int) -> Wave | None:
        """The gradient of one axis in one block."""
        if not number:
            return None
        if number in self.traps:
            _, height, rise, flat, fall, *later = self.traps[number]
            corners = (later[0] if later else 0.0) * 1e-6 + np.cumsum([0, rise, flat, fall]) * 1e-6
            return corners, height * np.array([0.0, 1.0, 1.0, 0.0])
        row, sequence = self.shaped[number], self.sequence
        ends = (row[2], row[3]) if sequence.version >= V1_5 else None
        _, amplitude, *_, delay_us = row
        shape_id, time_id = (int(row[4]), int(row[5])) if ends else (int(row[2]), int(row[3]) if len(row) > 4 else 0)
        values, delay = amplitude * sequence.shapes[shape_id], delay_us * 1e-6
        if time_id > 0:
            return delay + sequence.shapes[time_id] * sequence.raster_s, values
        # samples lie in the middle of raster cells, or twice as densely: in the middles and between cells
        step, start = (1.0, 0.5) if time_id == 0 else (0.5, 0.5)
        times = start + step * np.arange(len(values))
        first, last = ends or ((1.5 * values[0] - 0.5 * values[min(1, len(values) - 1)]),
                               (1.5 * values[-1] - 0.5 * values[max(-2, -len(values))]))  # fmt: skip
        times = np.concatenate([[0.0], times, [times[-1] + 0.5]]) * sequence.raster_s
        return delay + times, np.concatenate([[first], values, [last]])


def moment(waves: list[Wave | None], t: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    """(time, axis) the block's gradients integrated from its start to each time, in 1/m."""
    found = np.stack([area(wave, t) for wave in waves], axis=1)
    return found if turn is None else found @ turn.T


def area(gradient: Wave | None, t: np.ndarray) -> np.ndarray:
    """The gradient's integral from the block's start to each time, in 1/m; exact for straight pieces."""
    if gradient is None:
        return np.zeros(len(t))
    times, values = gradient
    whole = np.concatenate([[0.0], np.cumsum(np.diff(times) * (values[1:] + values[:-1]) / 2)])
    inside = np.clip(t, times[0], times[-1])
    piece = np.clip(np.searchsorted(times, inside, side="right") - 1, 0, len(times) - 2)
    passed = inside - times[piece]
    slope = (values[piece + 1] - values[piece]) / np.maximum(times[piece + 1] - times[piece], 1e-30)
    return np.asarray(whole[piece] + passed * (values[piece] + slope * passed / 2))
