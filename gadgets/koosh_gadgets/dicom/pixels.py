"""The integers a DICOM image holds, and the window it is shown in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.int16] | NDArray[np.uint16]

PEAK = 32767  # readers that take pixels as signed show nothing wrong up to here
SPIKE = 16  # voxels beyond this many times the 99.9th percentile are cut, so that it keeps 2000 grey levels


@dataclass(frozen=True, eq=False)
class Stored:
    """What is written for a volume.

    pixels  int16 or uint16, shape of the volume; volume = pixels * slope
    cut     voxels brighter than could be kept
    window  centre and width in stored values, from robust percentiles
    """

    pixels: Pixels
    slope: float
    cut: int
    window: tuple[float, float]

    @property
    def signed(self) -> bool:
        """True where there are negative pixels."""
        return self.pixels.dtype == np.int16


def stored(volume: NDArray[np.generic]) -> Stored:
    """16-bit pixels: unchanged where the volume holds such integers already, else scaled once as a whole.

    Zero stays zero. Negative values make the pixels signed. NaN, Inf and complex voxels are refused.
    """
    if volume.size == 0:
        raise ValueError(f"the volume is empty: shape {volume.shape}")
    if volume.dtype.kind not in "fiub":
        raise ValueError(f"voxels are {volume.dtype}; DICOM takes real numbers: take the magnitude or the phase first")
    if volume.dtype.kind == "f" and (bad := int(volume.size - np.isfinite(volume).sum())):
        raise ValueError(f"{bad} of {volume.size} voxels are NaN or Inf; a DICOM image can't show them: not written")
    lowest, highest = float(volume.min()), float(volume.max())
    if lowest >= -PEAK - 1 and highest <= (2 * PEAK + 1 if lowest >= 0 else PEAK) and _whole(volume):
        pixels: Pixels = volume.astype(np.int16) if lowest < 0 else volume.astype(np.uint16)
        return Stored(pixels, 1.0, 0, _window(pixels))
    return _scaled(volume, max(highest, -lowest), signed=lowest < 0)


def _whole(volume: NDArray[np.generic]) -> bool:
    return volume.dtype.kind != "f" or bool((volume == np.rint(volume)).all())


def _scaled(volume: NDArray[np.generic], peak: float, signed: bool) -> Stored:
    typical = float(np.percentile(np.abs(_sample(volume)), 99.9))
    limit = min(peak, SPIKE * typical) if typical > 0 else peak
    slope = limit / PEAK
    if not np.isfinite(1 / slope):
        raise ValueError(f"the brightest voxel is {peak:.3g}: too small to scale; multiply the volume")
    scaled = np.rint(volume / np.asarray(slope, np.float64).astype(np.result_type(volume.dtype, np.float32)))
    cut = int((np.abs(scaled) > PEAK).sum())
    kept = scaled.clip(-PEAK, PEAK)
    pixels: Pixels = kept.astype(np.int16) if signed else kept.astype(np.uint16)
    return Stored(pixels, slope, cut, _window(pixels))


def _sample(volume: NDArray[np.generic]) -> NDArray[np.float64]:
    """About a million voxels, evenly taken: percentiles of more take long and say the same."""
    step = max(1, volume.size >> 20) | 1  # odd, so that it doesn't walk along one column of an even matrix
    return volume.reshape(-1)[::step].astype(np.float64)


def _window(pixels: Pixels) -> tuple[float, float]:
    low, high = np.percentile(_sample(pixels), (0.5, 99.5)).round()
    return float(low + high) / 2, float(max(high - low, 1))
