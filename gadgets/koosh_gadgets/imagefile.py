"""Images of an ISMRMRD file, put together to volumes: one per series."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import h5py
import ismrmrd
import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from ismrmrd.hdf5 import image_header_dtype
from numpy.typing import NDArray

from koosh_gadgets.geometry import DIRECTION_TOLERANCE, Floats, from_affine

if TYPE_CHECKING:  # the module itself would import torch
    from koosh_models.scan import Geometry

log = logging.getLogger(__name__)

KINDS = {1: "magnitude", 2: "phase", 3: "real", 4: "imaginary", 5: "complex"}  # image_type of ISMRMRD
FRAME_FIELDS = ("repetition", "phase", "contrast", "set", "average")
SCALE = {"RescaleSlope": "1", "RescaleIntercept": "0"}
WINDOW = ("WindowCenter", "WindowWidth", "GADGETRON_WindowCenter", "GADGETRON_WindowWidth")
# A slice off its place by more than this part of the spacing is no rounding.
SPACING_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Series:
    """One volume, or a series of frames, and all that is known of it.

    volume    (z, y, x) or (frame, z, y, x), real
    geometry  matrix, field of view and place of one frame
    meta      the image's own keys (CONTRIBUTING: RescaleSlope, ImageComments, SeriesDescription ...)
    header    ISMRMRD XML of the scan, may be empty
    number    image_series_index
    kind      magnitude, phase, real or imaginary
    frame_ms  from frame to frame, 0 where unknown
    """

    volume: NDArray[np.generic]
    geometry: Geometry
    meta: Mapping[str, str] = field(default_factory=dict)
    header: str = ""
    number: int = 1
    kind: str = "magnitude"
    frame_ms: float = 0.0

    def __post_init__(self) -> None:
        matrix = (1, *self.geometry.matrix)[-3:]
        if self.volume.ndim not in (2, 3, 4) or self.volume.size == 0:
            raise ValueError(f"volume has shape {self.volume.shape}; wanted (z, y, x) or (frame, z, y, x), not empty")
        if (1, *self.volume.shape)[-3:] != matrix:
            raise ValueError(f"volume {self.volume.shape} and geometry {self.geometry.matrix} don't match")

    @property
    def frames(self) -> NDArray[np.generic]:
        """(frame, z, y, x), whatever the volume's shape."""
        return self.volume.reshape(-1, *(1, *self.volume.shape)[-3:])


def read_series(path: str | Path, group: str = "dataset") -> list[Series]:
    """Every series of an ISMRMRD image file, by series index; slices in the order of their positions."""
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            if group not in file:
                raise ValueError(f"{path.name} has no group {group!r}; it has {sorted(file)}")
            header = _header(file[group])
            found = [part for name in sorted(file[group]) if name != "xml" for part in _images(file[group], name, path)]
    except (OSError, RuntimeError, KeyError) as error:  # h5py's words for a damaged file
        raise ValueError(f"{path.name} can't be read as an ISMRMRD file: {error}") from error
    if not found:
        raise ValueError(f"{path.name} holds no images; was it written by `koosh replay -o`?")
    numbers = sorted({int(part.head["image_series_index"]) for part in found})
    return [_series([part for part in found if part.head["image_series_index"] == n], header, n) for n in numbers]


def series_of(images: Iterable[ismrmrd.Image], header: str = "") -> list[Series]:
    """Every series among images in memory, as `read_series` gives them from a file; positions must be true centres."""
    found = [
        _Image(
            np.frombuffer(bytes(image.getHead()), image_header_dtype)[0], _one(image), meta_of(image.attribute_string)
        )
        for image in images
    ]
    numbers = sorted({int(part.head["image_series_index"]) for part in found})
    return [_series([part for part in found if part.head["image_series_index"] == n], header, n) for n in numbers]


def _record(image: ismrmrd.Image) -> np.void:
    """The header as it is in a file."""
    return np.frombuffer(bytes(image.getHead()), image_header_dtype)[0]


def _one(image: ismrmrd.Image) -> NDArray[np.generic]:
    if image.data.shape[0] != 1:
        raise ValueError(f"an image has {image.data.shape[0]} channels; combine them first, DICOM has one")
    return _plain(image.data[0])


@dataclass(frozen=True, eq=False)
class _Image:
    """One ISMRMRD image: header record, voxels (z, y, x) and meta."""

    head: np.void
    voxels: NDArray[np.generic]
    meta: dict[str, str]

    @property
    def axes(self) -> Floats:
        """(3, 3) columns read, phase, slice."""
        return np.array([self.head[name] for name in ("read_dir", "phase_dir", "slice_dir")], dtype=np.float64).T

    @property
    def frame(self) -> tuple[int, ...]:
        return tuple(int(self.head[name]) for name in FRAME_FIELDS)


def _header(group: h5py.Group) -> str:
    if "xml" not in group:
        return ""
    text = group["xml"][0]
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _images(group: h5py.Group, name: str, path: Path) -> list[_Image]:
    """The images of one variable; an HDF5 group that holds none is left alone."""
    part = group[name]
    if not isinstance(part, h5py.Group) or "header" not in part or "data" not in part:
        return []
    heads, data = part["header"][...], part["data"]
    if data.ndim != 5 or len(heads) != len(data):
        raise ValueError(
            f"{path.name}: {name} has {len(heads)} headers for data {data.shape}; wanted (n, coil, z, y, x)"
        )
    if data.shape[1] != 1:
        raise ValueError(f"{path.name}: {name} has {data.shape[1]} channels; combine them first, DICOM has one")
    voxels = list(_plain(data[:, 0]))
    texts = part["attributes"][...] if "attributes" in part else [b""] * len(heads)
    return [_Image(heads[k], voxels[k], meta_of(texts[k])) for k in range(len(heads))]


def _plain(data: NDArray[np.generic]) -> NDArray[np.generic]:
    """Real voxels; complex ones (a compound in HDF5) become their magnitude."""
    if data.dtype.names == ("real", "imag"):
        parts = cast("NDArray[np.void]", data)  # a compound, as its names say
        return np.hypot(parts["real"], parts["imag"])
    return np.abs(data) if np.iscomplexobj(data) else data


def meta_of(text: bytes | str) -> dict[str, str]:
    """An image's meta document as name and value; a list's values stand apart by semicolons."""
    if not isinstance(text, (bytes, str)):
        text = bytes(text)
    raw = text.encode() if isinstance(text, str) else text
    if not raw.strip(b"\0 \n"):
        return {}
    try:
        root = fromstring(raw.strip(b"\0"))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ValueError(f"an image's meta is no XML: {error}") from error
    pairs = (
        (meta.findtext("name", ""), [v.text or "" for v in meta.iterfind("value")]) for meta in root.iterfind("meta")
    )
    return {name: "; ".join(values) for name, values in pairs}


def _series(images: list[_Image], header: str, number: int) -> Series:
    """One series out of its images; they must form whole frames of one grid."""
    images = _comparable(images)
    first = images[0]
    frames: dict[tuple[int, ...], list[_Image]] = {}
    for image in images:
        _check_alike(first, image, number)
        frames.setdefault(image.frame, []).append(image)
    stacks = [_stack(frames[key], number) for key in sorted(frames)]
    affine, shape = stacks[0][1], stacks[0][0].shape
    for voxels, other in stacks:
        if voxels.shape != shape or np.abs(other - affine).max() > 1e-3:
            raise ValueError(f"series {number}: frames of unlike size or place ({voxels.shape} and {shape})")
    volume = stacks[0][0] if len(stacks) == 1 else np.stack([voxels for voxels, _ in stacks])
    thickness = float(first.head["field_of_view"][2]) / first.voxels.shape[0]
    geometry = from_affine(affine, shape, slice_mm=thickness)
    if abs(thickness - geometry.voxel_mm[0]) > 0.01 * thickness:  # slices with gaps, or that overlap
        first.meta.setdefault("SliceThickness", f"{thickness:.6g}")
    kind = KINDS.get(int(first.head["image_type"]), "magnitude")
    return Series(volume, geometry, first.meta, header, number, "magnitude" if kind == "complex" else kind)


def _comparable(images: list[_Image]) -> list[_Image]:
    """The images as they are where all have one scale; else in real values, without their scales and windows."""
    scales = {(image.meta.get("RescaleSlope"), image.meta.get("RescaleIntercept")) for image in images}
    if len(scales) == 1:
        return images
    return [_real(image) for image in images]


def _real(image: _Image) -> _Image:
    slope, intercept = (float(image.meta.get(name, default)) for name, default in SCALE.items())
    meta = {name: value for name, value in image.meta.items() if name not in (*SCALE, *WINDOW)}
    return _Image(image.head, (image.voxels.astype(np.float64) * slope + intercept).astype(np.float32), meta)


def _check_alike(first: _Image, image: _Image, number: int) -> None:
    if image.voxels.shape != first.voxels.shape:
        raise ValueError(f"series {number} mixes images of {first.voxels.shape} and {image.voxels.shape} voxels")
    if np.abs(image.axes - first.axes).max() > 1e-4 or not np.allclose(
        image.head["field_of_view"], first.head["field_of_view"], rtol=1e-4
    ):
        raise ValueError(f"series {number} mixes orientations or fields of view; split it into several series")


def _stack(images: list[_Image], number: int) -> tuple[NDArray[np.generic], Floats]:
    """Voxels (z, y, x) of one frame and its (4, 4) matrix from index to LPS mm."""
    first = images[0]
    fov = np.array(first.head["field_of_view"], dtype=np.float64)
    nz, ny, nx = first.voxels.shape
    if len(images) > 1 and nz > 1:
        raise ValueError(f"series {number} holds {len(images)} volumes with equal counters; number their repetitions")
    if not (fov > 0).all() or not first.axes.any(axis=0).all():
        raise ValueError(
            f"series {number}: field of view {fov.tolist()} mm and directions {first.axes.T.tolist()} say no geometry; "
            "set field_of_view, read_dir, phase_dir and slice_dir of every image"
        )
    centres = np.array([image.head["position"] for image in images], dtype=np.float64)
    order = np.argsort(centres @ first.axes[:, 2], kind="stable")
    centres = centres[order]
    size = fov / (nx, ny, nz)
    if len(images) > 1:
        size[2] = _spacing(centres, first.axes[:, 2], number)
    affine = np.eye(4)
    affine[:3, :3] = first.axes * size
    affine[:3, 3] = centres[0] - affine[:3, :3] @ (nx // 2, ny // 2, nz // 2)
    return np.concatenate([images[k].voxels for k in order]), affine


def _spacing(centres: Floats, through: Floats, number: int) -> float:
    """Distance from slice to slice; refused where slices are doubled, missing or beside the line."""
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    spacing = float(np.linalg.norm(step))
    wanted = centres[0] + np.arange(len(centres))[:, None] * step
    away = np.abs(centres - wanted).max()
    slanted = float(np.linalg.norm(np.cross(step, through)))
    if spacing == 0 or away > SPACING_TOLERANCE * spacing or slanted > DIRECTION_TOLERANCE * spacing:
        raise ValueError(
            f"series {number}: its {len(centres)} slices are not one evenly spaced stack along slice_dir "
            f"(spacing {spacing:.4g} mm, off by up to {away:.3g} mm): a slice is missing, doubled or misplaced"
        )
    return spacing
