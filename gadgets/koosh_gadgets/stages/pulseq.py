"""The trajectory of a Pulseq sequence file (versions 1.2 to 1.4): gradients integrated up to each sample.

The readouts of one length are taken. k-space starts anew at every RF pulse, whose use these versions do not tell: only
sequences without refocusing pulses are understood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

RASTER = 10e-6
MAX_BYTES = 512 << 20


@dataclass
class Sequence:
    """Sections of the file: number -> columns; shapes decompressed."""

    raster_s: float = RASTER
    block_raster_s: float = RASTER
    version: int = 0
    rows: dict[str, list[list[float]]] = field(default_factory=dict)
    shapes: dict[int, np.ndarray] = field(default_factory=dict)


def trajectory_of(path: Path, n_samples: int) -> np.ndarray:
    """(readout, sample, axis) in 1/m of all readouts with `n_samples` samples."""
    sequence = read(path)
    traps = {int(r[0]): r for r in sequence.rows.get("TRAP", [])}
    shaped = {int(r[0]): r for r in sequence.rows.get("GRADIENTS", [])}
    adcs = {int(r[0]): r for r in sequence.rows.get("ADC", [])}
    found, k = [], np.zeros(3)
    for row in sequence.rows.get("BLOCKS", []):
        _, duration, rf, *axes, adc = (int(v) for v in row[:7])
        waves = [wave(sequence, traps, shaped, number) for number in axes]
        if rf:
            k = np.zeros(3)
        if adc:
            n, dwell_ns, delay_us = adcs[adc][1:4]
            if int(n) == n_samples:
                t = delay_us * 1e-6 + (np.arange(n_samples) + 0.5) * dwell_ns * 1e-9
                found.append(k + np.stack([area(w, t) for w in waves], axis=1))
        end = duration * sequence.block_raster_s if sequence.version >= 1004000 else np.inf
        k = k + np.array([float(area(w, np.array([end]))[0]) for w in waves])
    if not found:
        raise ValueError(f"{path.name} has no readout of {n_samples} samples")
    return np.stack(found)


def read(path: Path) -> Sequence:
    """The sections of the file that matter here."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; sequences of over {MAX_BYTES} are refused")
    sequence, section, shape, count = Sequence(), "", 0, 0
    values: list[float] = []
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            line = line.split("#")[0].strip()
            if line.startswith("["):
                section = line.strip("[]").upper()
            elif section == "SHAPES" and line.lower().startswith("shape_id"):
                shape, values = int(line.split()[1]), []
            elif section == "SHAPES" and line.lower().startswith("num_"):
                count = int(line.split()[1])
            elif section == "SHAPES" and line:
                values.append(float(line))
                sequence.shapes[shape] = np.array([count, *values])
            elif line:
                note(sequence, section, line.split())
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path.name} is no Pulseq sequence that can be read: {error}") from error
    if not sequence.version:
        raise ValueError(f"{path.name} is no Pulseq sequence: it names no version")
    sequence.shapes = {n: decompressed(s[1:], int(s[0])) for n, s in sequence.shapes.items()}
    return sequence


def note(sequence: Sequence, section: str, words: list[str]) -> None:
    """One line of a section without shapes."""
    if section == "VERSION":
        place = {"major": 1_000_000, "minor": 1_000, "revision": 0}.get(words[0], 0)
        sequence.version += place * int("".join(c for c in words[1] if c.isdigit()) or 0)
        if sequence.version >= 1_005_000:
            raise ValueError("versions from 1.5 on are not known here; export as 1.4")
    elif section == "DEFINITIONS":
        if words[0] == "GradientRasterTime":
            sequence.raster_s = float(words[1])
        elif words[0] == "BlockDurationRaster":
            sequence.block_raster_s = float(words[1])
    elif section in ("BLOCKS", "GRADIENTS", "TRAP", "ADC"):
        sequence.rows.setdefault(section, []).append([float(w) for w in words])


def decompressed(packed: np.ndarray, count: int) -> np.ndarray:
    """A shape from Pulseq's run lengths of its derivative; uncompressed ones have as many numbers as samples."""
    if len(packed) == count:
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


Wave = tuple[np.ndarray, np.ndarray]  # times in s, gradient in Hz/m, linear in between


def wave(sequence: Sequence, traps: dict[int, list[float]], shaped: dict[int, list[float]], number: int) -> Wave | None:
    """The gradient of one axis in one block."""
    if not number:
        return None
    if number in traps:
        _, height, rise, flat, fall, *later = traps[number]
        corners = (later[0] if later else 0.0) * 1e-6 + np.cumsum([0, rise, flat, fall]) * 1e-6
        return corners, height * np.array([0.0, 1.0, 1.0, 0.0])
    row = shaped[number]
    amplitude, shape, times = row[1], sequence.shapes[int(row[2])], int(row[3]) if len(row) > 4 else 0
    delay = row[-1] * 1e-6
    if times:
        return delay + sequence.shapes[times] * sequence.raster_s, amplitude * shape
    middle = (np.arange(len(shape)) + 0.5) * sequence.raster_s
    ends = np.array([0.0, len(shape) * sequence.raster_s])
    edge = np.array([0.0, 0.0])
    edge[:] = shape[0] if len(shape) < 2 else (1.5 * shape[0] - 0.5 * shape[1], 1.5 * shape[-1] - 0.5 * shape[-2])
    t = np.concatenate([ends[:1], middle, ends[1:]])
    return delay + t, amplitude * np.concatenate([edge[:1], shape, edge[1:]])


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
