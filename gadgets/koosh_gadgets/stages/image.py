"""A complex volume as ISMRMRD images: scaled once, placed exactly, described in both families of meta keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ismrmrd
import numpy as np

if TYPE_CHECKING:
    from koosh_models.scan import Geometry

GREY = 32767  # pixels are tagged signed on their way to DICOM
BRIGHT = 16384.0  # where the 99.9th percentile of the magnitude lands
NOTICE = "Research output, not for diagnosis"
FROM_HEAD = (
    "measurement_uid",
    "patient_table_position",
    "acquisition_time_stamp",
    "physiology_time_stamp",
    "user_int",
    "user_float",
)
COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


@dataclass(frozen=True, eq=False)
class Result:
    """One reconstructed volume on its way out.

    volume     (z, y, x) or (y, x) complex64
    geometry   of exactly that matrix
    head       acquisition header record of its first readout: times and counters
    series     image_series_index
    name       series description
    meta       further keys: method, weights, notes
    first      image_index of its first image
    top        magnitude that is given a fixed grey level, 0: the volume's own; frames of a series share one
    white      share of `top` that is shown white, from 0; 0: window by percentiles
    """

    volume: np.ndarray
    geometry: Geometry
    head: np.void
    series: int
    name: str
    meta: dict[str, str] = field(default_factory=dict)
    first: int = 0
    top: float = 0.0
    white: float = 0.0

    @property
    def zyx(self) -> np.ndarray:
        """(z, y, x) whatever the dimension."""
        return self.volume.reshape((1, *self.volume.shape)[-3:])


@dataclass(frozen=True)
class Format:
    """How images leave.

    dialect  `gadgetron`: scaled float32, odd matrices shifted for its DICOM gadget; `mrd`: int16, true centres
    layout   slices, volume or both
    kinds    of magnitude, phase, complex
    """

    dialect: str = "mrd"
    layout: str = "slices"
    kinds: tuple[str, ...] = ("magnitude",)


TYPES = {"magnitude": ismrmrd.IMTYPE_MAGNITUDE, "phase": ismrmrd.IMTYPE_PHASE, "complex": ismrmrd.IMTYPE_COMPLEX}
SERIES_STEP = {"magnitude": 0, "phase": 100, "complex": 200}


def images(result: Result, form: Format) -> Iterator[ismrmrd.Image]:
    """The volume in every kind and layout asked for."""
    if not np.isfinite(result.volume).all():
        raise ValueError("the reconstructed image contains NaN or Inf")
    for kind in form.kinds:
        pixels, scaling = scaled(result.zyx, kind, form.dialect, result.top, result.white)
        for layout in ("slices", "volume") if form.layout == "both" else (form.layout,):
            offset = SERIES_STEP[kind] + (300 if layout == "volume" and form.layout == "both" else 0)
            yield from _cut(result, pixels, scaling, kind, offset, layout, form.dialect)


def scaled(
    volume: np.ndarray, kind: str, dialect: str, top: float = 0.0, white: float = 0.0
) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels of the whole volume under one scale, and the keys that undo it (and set the window)."""
    if kind == "complex":
        return volume.astype(np.complex64), {}
    if kind == "phase":
        slope, intercept = 2 * math.pi / 4096, -math.pi
        pixels = np.clip(np.rint((np.angle(volume) - intercept) / slope), 0, 4096)
        return as_type(pixels, dialect), keys(slope, intercept, 2048, 4096)
    magnitude = np.abs(volume)
    slope = (top or brightness(magnitude)) / BRIGHT
    pixels = np.minimum(np.rint(magnitude / slope), GREY)
    low, high = (0.0, white * BRIGHT) if white else np.quantile(pixels, [0.02, 0.995])
    width = max(1.0, float(high - low))
    return as_type(pixels, dialect), keys(slope, 0.0, float(low) + width / 2, width)


def brightness(magnitude: np.ndarray) -> float:
    """A robust maximum: the 99.9th percentile; 1 for an empty image."""
    top = float(np.quantile(magnitude, 0.999))
    return top if top > 0 else float(magnitude.max()) or 1.0


def as_type(pixels: np.ndarray, dialect: str) -> np.ndarray:
    """Whole numbers 0..32767 in the type that the peer takes: Gadgetron fails on int16."""
    return pixels.astype(np.float32 if dialect == "gadgetron" else np.int16)


def keys(slope: float, intercept: float, center: float, width: float) -> dict[str, str]:
    """Rescale and window in both families of keys."""
    middle, span = str(round(center)), str(max(1, round(width)))
    return {
        "RescaleSlope": repr(slope),
        "RescaleIntercept": repr(intercept),
        "WindowCenter": middle,
        "WindowWidth": span,
        "GADGETRON_WindowCenter": middle,
        "GADGETRON_WindowWidth": span,
    }


def _cut(
    result: Result, pixels: np.ndarray, scaling: dict[str, str], kind: str, offset: int, layout: str, dialect: str
) -> Iterator[ismrmrd.Image]:
    """One 2D image per slice, or one 3D image."""
    n_slices = len(pixels)
    pieces = range(n_slices) if layout == "slices" else [None]
    for piece in pieces:
        data = pixels if piece is None else pixels[piece : piece + 1]
        head = header(result, data, piece, dialect)
        head.image_type = TYPES[kind]
        head.image_series_index = (result.series + offset) & 0xFFFF
        image = ismrmrd.Image(head, data=np.ascontiguousarray(data)[None])
        image.meta = ismrmrd.Meta({**meta(result, kind), **scaling})
        yield image


def header(result: Result, data: np.ndarray, piece: int | None, dialect: str) -> ismrmrd.ImageHeader:
    """Counters, times and place of one image (a slice, or all of the volume)."""
    place, head = result.geometry, ismrmrd.ImageHeader()
    acquisition = ismrmrd.AcquisitionHeader.from_buffer_copy(result.head.tobytes())
    head.version = 1
    for name in FROM_HEAD:
        setattr(head, name, getattr(acquisition, name))
    for name in COUNTERS:
        setattr(head, name, getattr(acquisition.idx, name))
    for name in ("read_dir", "phase_dir", "slice_dir"):
        getattr(head, name)[:] = getattr(place, name)
    dz, dy, dx = (place.slice_mm, *place.voxel_mm)[-3:]
    nz, ny, nx = data.shape
    head.field_of_view[:] = (nx * dx, ny * dy, nz * dz)
    head.position[:] = position(result, piece, dialect)
    head.image_index = (result.first + (piece or 0)) & 0xFFFF
    if piece is not None and len(place.matrix) == 3:
        head.slice = piece
    return head


def position(result: Result, piece: int | None, dialect: str) -> list[float]:
    """Centre of the image in patient mm: voxel n//2 of its axes, which is the centre of the Fourier transform.

    Gadgetron's DICOM gadget takes off half a field of view from what it gets, half a voxel too much on odd axes.
    """
    place = result.geometry
    dz, dy, dx = (place.slice_mm, *place.voxel_mm)[-3:]
    nz, ny, nx = result.zyx.shape
    shift = np.zeros(3)
    if piece is not None and len(place.matrix) == 3:
        shift += (piece - nz // 2) * dz * np.array(place.slice_dir)
    if dialect == "gadgetron":
        shift += (nx % 2) * dx / 2 * np.array(place.read_dir) + (ny % 2) * dy / 2 * np.array(place.phase_dir)
    return [float(v) for v in np.array(place.position_mm) + shift]


def meta(result: Result, kind: str) -> dict[str, str | list[str]]:
    """Description, orientation and provenance for Gadgetron's and for FIRE's readers."""
    name = result.name if kind == "magnitude" else f"{result.name} {kind}"
    told = (result.meta.get("koosh_map_shows"), result.meta.get("koosh_notes"))
    comment = "; ".join([NOTICE, *(text for text in told if text)])
    role = ("SECONDARY", result.meta["koosh_map"].upper()) if "koosh_map" in result.meta else ("PRIMARY", "NONE")
    place = result.geometry
    return {
        "DataRole": "Image",
        "ImageType": f"DERIVED\\{role[0]}\\{'P' if kind == 'phase' else 'M'}\\{role[1]}",
        "SeriesDescription": name,
        "SeriesDescriptionAdditional": name,
        "SequenceDescriptionAdditional": name,
        "GADGETRON_SeqDescription": name,
        "ImageComments": comment,
        "ImageComment": comment,
        "GADGETRON_ImageComment": comment,
        "Keep_image_geometry": "1",
        "ImageRowDir": [f"{v:.9g}" for v in place.read_dir],
        "ImageColumnDir": [f"{v:.9g}" for v in place.phase_dir],
        "ImageSliceNormDir": [f"{v:.9g}" for v in place.slice_dir],
        **result.meta,
    }


def rescaled(image: ismrmrd.Image, kinds: tuple[str, ...]) -> Iterator[ismrmrd.Image]:
    """A complex image as scaled float32 images of each kind, at the same place."""
    if not np.iscomplexobj(image.data):
        yield image
        return
    top, white = (float(image.meta.get(name, 0)) for name in ("koosh_map_top", "koosh_map_white"))
    for kind in ("magnitude",) if top else kinds:
        pixels, scaling = scaled(image.data, kind, "gadgetron", top, white)
        head = image.getHead()
        head.image_type = TYPES[kind]
        head.image_series_index = (head.image_series_index + SERIES_STEP[kind]) & 0xFFFF
        out = ismrmrd.Image(head, data=np.ascontiguousarray(pixels))
        out.meta = ismrmrd.Meta({**image.meta, **scaling})
        yield out
