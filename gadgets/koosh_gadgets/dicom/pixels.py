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
    lowest, highest = float(volume.min()), float(volume.max())
    if not np.isfinite(lowest) or not np.isfinite(highest):
        bad = volume.size - int(np.isfinite(volume).sum())
        raise ValueError(f"{bad} of {volume.size} voxels are NaN or Inf; a DICOM image can't show them: not written")
    if lowest >= -PEAK - 1 and highest <= (2 * PEAK + 1 if lowest >= 0 else PEAK) and _whole(volume):
        pixels: Pixels = volume.astype(np.int16) if lowest < 0 else volume.astype(np.uint16)
        return Stored(pixels, 1.0, 0, _window(pixels))
    return _scaled(volume, max(highest, -lowest), signed=lowest < 0)


def _whole(volume: NDArray[np.generic]) -> bool:
    if volume.dtype.kind != "f":
        return True
    few = _sample(volume)  # mostly settles it, without two passes over the whole
    return bool((few == np.rint(few)).all()) and bool((volume == np.rint(volume)).all())


def _scaled(volume: NDArray[np.generic], peak: float, signed: bool) -> Stored:
    typical = float(np.percentile(np.abs(_sample(volume)), 99.9))
    limit = min(peak, SPIKE * typical) if typical > 0 else peak
    dtype = np.result_type(volume.dtype, np.float32)
    slope = dtype.type(limit / PEAK)
    if not slope > np.finfo(dtype).tiny:
        raise ValueError(f"the brightest voxel is {peak:.3g}: too small to scale; multiply the volume")
    scaled = np.divide(volume, slope, dtype=dtype)
    np.rint(scaled, out=scaled)
    cut = int((np.abs(scaled) > PEAK).sum()) if limit < peak else 0
    np.clip(scaled, -PEAK, PEAK, out=scaled)
    pixels: Pixels = scaled.astype(np.int16) if signed else scaled.astype(np.uint16)
    return Stored(pixels, float(slope), cut, _window(pixels))


def _sample(volume: NDArray[np.generic]) -> NDArray[np.float64]:
    """About a million voxels, evenly taken: percentiles of more take long and say the same."""
    step = max(1, volume.size >> 20) | 1  # odd, so that it doesn't walk along one column of an even matrix
    return volume.reshape(-1)[::step].astype(np.float64)


def _window(pixels: Pixels) -> tuple[float, float]:
    low, high = np.percentile(_sample(pixels), (0.5, 99.5)).round()
    return float(low + high) / 2, float(max(high - low, 1))
