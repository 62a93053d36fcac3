"""What a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Times = Sequence[tuple[str, float, float]]


@dataclass(frozen=True, eq=False)
class Shown:
    """One reconstruction on the page.

    title     of its column
    volume    (z, y, x) or (y, x) magnitude, any scale
    facts     name -> text: method, readouts, notes
    scores    name -> number against the truth, where it is known
    times     part, seconds while the scan ran, seconds after its last readout
    residual  share of the data that the image does not explain, by shell of k-space to the edge
    noise     the part of it that noise alone would leave, where it was measured
    card      name -> text of the weights it was made with
    """

    title: str
    volume: np.ndarray
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    times: Times = ()
    residual: Sequence[float] = ()
    noise: Sequence[float] = ()
    card: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Mapped:
    """Where an image is doubtful.

    title   of its column
    volume  (z, y, x) or (y, x)
    top     what is drawn brightest
    shows   what it is, in words
    """

    title: str
    volume: np.ndarray
    top: float
    shows: str


@dataclass(frozen=True, eq=False)
class Measured:
    """Pictures of a non-Cartesian scan.

    matrix   voxels of the encoded image
    k        (readout, sample, axis) trajectory in cycles per voxel
    weights  (readout, sample) density weights, in cells of k-space
    spread   (y, x) point-spread function's central plane, magnitude, its peak is one
    coils    (coil, y, x) magnitudes of the coil maps' central plane
    """

    matrix: tuple[int, ...]
    k: np.ndarray
    weights: np.ndarray
    spread: np.ndarray
    coils: np.ndarray


@dataclass(frozen=True, eq=False)
class Content:
    """Everything a page shows.

    truth     (z, y, x) magnitude, None where unknown
    maps      of where an image is doubtful, each on a fixed scale
    measured  pictures of the scan, None where there is none or it is Cartesian
    """

    title: str
    shown: Sequence[Shown]
    scan: Mapping[str, str]
    truth: np.ndarray | None = None
    measured: Measured | None = None
    warnings: Sequence[str] = ()
    maps: Sequence[Mapped] = ()
