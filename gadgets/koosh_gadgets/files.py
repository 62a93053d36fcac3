"""ISMRMRD files: scans read in slabs as the wire would have cut them, images written whole or not at all."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype, get_hdf5type, image_header_dtype

from koosh_gadgets.atomic import write_atomic
from koosh_gadgets.wire.header import read_header
from koosh_gadgets.wire.readouts import HEAD, Readouts, capacity

SHAPE = ("number_of_samples", "active_channels", "trajectory_dimensions")
WAVEFORM_SLAB = 1024


@dataclass(frozen=True, eq=False)
class ScanFile:
    """An open ISMRMRD file of one scan.

    name   of the file, for messages
    group  the HDF5 group that holds `xml` and `data`
    """

    name: str
    group: h5py.Group

    @cached_property
    def xml(self) -> bytes:
        """The header as it stands in the file."""
        with hdf5(self.name):
            stored = self.group["xml"][:1] if "xml" in self.group else []
        if not len(stored):
            raise ValueError(
                f"{self.name} has no XML header in group {self.group.name!r}; it isn't a complete ISMRMRD file"
            )
        text = stored[0]
        return text.encode() if isinstance(text, str) else bytes(text)

    @cached_property
    def header(self) -> ismrmrd.xsd.ismrmrdHeader:
        """The header, read tolerantly."""
        return read_header(self.xml)

    def __len__(self) -> int:
        with hdf5(self.name):
            return int(self.group["data"].size) if "data" in self.group else 0

    @cached_property
    def heads(self) -> np.ndarray:
        """(readout) structured: every acquisition header, without the data."""
        if not len(self):
            return np.zeros(0, HEAD)
        with hdf5(self.name):
            return as_heads(self.group["data"].fields("head")[:], self.name)

    def slabs(self) -> Iterator[slice]:
        """Runs of readouts of one shape, as long as a block may be."""
        shapes = np.stack([self.heads[name] for name in SHAPE], axis=1)
        start = 0
        while start < len(shapes):
            limit = start + capacity(*(int(n) for n in shapes[start]))
            other = np.flatnonzero((shapes[start:limit] != shapes[start]).any(axis=1))
            stop = min(limit, len(shapes)) if not len(other) else start + int(other[0])
            yield slice(start, stop)
            start = stop

    def blocks(self) -> Iterator[Readouts]:
        """All readouts in their order, cut like the wire cuts them."""
        for slab in self.slabs():
            yield self.block(slab)

    def block(self, slab: slice) -> Readouts:
        """The readouts of one slab, which all have one shape."""
        heads = self.heads[slab]
        with hdf5(self.name):
            records = self.group["data"][slab]
            samples, paths = records["data"], records["traj"]
        n_samples, n_coils, n_axes = (int(heads[name][0]) for name in SHAPE)
        n = len(heads)
        check_sizes(samples, 2 * n_coils * n_samples, f"{self.name}: data", slab)
        check_sizes(paths, n_samples * n_axes, f"{self.name}: trajectory", slab)
        data = np.stack(samples).astype(np.float32, copy=False).view(np.complex64)
        trajectory = np.stack(paths).astype(np.float32, copy=False)
        return Readouts(heads, trajectory.reshape(n, n_samples, n_axes), data.reshape(n, n_coils, n_samples))

    def trajectory(self, chosen: np.ndarray) -> np.ndarray:
        """(sample, axis) of the `chosen` (readout) readouts of one shape, without reading their data."""
        stored, parts = self.group["data"].fields("traj"), []
        n_axes = int(self.heads["trajectory_dimensions"][chosen][0])
        for slab in self.slabs():
            if chosen[slab].any():
                with hdf5(self.name):
                    paths = stored[slab][chosen[slab]]
                wanted = n_axes * int(self.heads["number_of_samples"][slab][0])
                check_sizes(paths, wanted, f"{self.name}: trajectory", slab)
                parts.append(np.stack(paths).reshape(-1, n_axes))
        return np.concatenate(parts)

    def waveforms(self) -> Iterator[ismrmrd.Waveform]:
        """All waveforms in their order; usually none."""
        with hdf5(self.name):
            n = int(self.group["waveforms"].size) if "waveforms" in self.group else 0
        for start in range(0, n, WAVEFORM_SLAB):
            with hdf5(self.name):
                records = self.group["waveforms"][start : start + WAVEFORM_SLAB]
            for record in records:
                head = waveform_header(record["head"])
                yield ismrmrd.Waveform(head, record["data"].reshape(head.channels, head.number_of_samples))

    def items(self) -> Iterator[Readouts | ismrmrd.Waveform]:
        """Readouts in blocks, then waveforms: what a client would send."""
        yield from self.blocks()
        yield from self.waveforms()


@contextlib.contextmanager
def open_scan(path: str | Path, group: str | None = None) -> Iterator[ScanFile]:
    """The scan in the file's `group`, or in its only one; anything else is a sentence about what is wrong."""
    name = Path(path).name
    with opened(path) as file:
        with hdf5(name):
            holders = [key for key, value in file.items() if isinstance(value, h5py.Group) and "xml" in value]
        if not holders:
            raise ValueError(
                f"{name} is an HDF5 file but holds no ISMRMRD scan; its contents: {', '.join(file) or 'none'}"
            )
        if group is None and len(holders) > 1 and "dataset" not in holders:
            raise ValueError(f"{name} holds several scans ({', '.join(holders)}); name one")
        chosen = group or ("dataset" if "dataset" in holders else holders[0])
        if chosen not in holders:
            raise ValueError(f"{name} has no scan {chosen!r}; it has {', '.join(holders)}")
        yield ScanFile(name, file[chosen])


def opened(path: str | Path) -> h5py.File:
    """The HDF5 file, open for reading; a missing or foreign file is one clear error."""
    path = Path(path)
    with path.open("rb"):
        pass  # the operating system's own word for what is missing or forbidden
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path.name} isn't an ISMRMRD file (no HDF5 signature)")
    with hdf5(path.name):
        return h5py.File(path, "r")


@contextlib.contextmanager
def hdf5(name: str) -> Iterator[None]:
    """What HDF5 raises over a damaged file (several unrelated classes), as one sentence that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError, OverflowError) as error:
        raise ValueError(f"{name} is a damaged HDF5 file: {error}; copy it again from its source") from error


def as_heads(stored: np.ndarray, name: str) -> np.ndarray:
    """(readout) headers in the layout of the wire, from whatever packing the file used."""
    if stored.dtype.names != acquisition_header_dtype.names:
        raise ValueError(f"{name}: acquisition headers have the fields {stored.dtype.names}; this isn't ISMRMRD 1.x")
    packed = stored.astype(acquisition_header_dtype, copy=False)
    return np.frombuffer(packed.tobytes(), HEAD)


def check_sizes(arrays: np.ndarray, wanted: int, what: str, slab: slice) -> None:
    """Refuse records that don't have as many numbers as their headers say."""
    for index, array in enumerate(arrays):
        if array.size != wanted:
            raise ValueError(
                f"{what} of readout {slab.start + index} has {array.size} numbers where its header says {wanted}; "
                "the file is damaged or was written wrongly"
            )


def waveform_header(record: np.void) -> ismrmrd.WaveformHeader:
    """The header of a waveform, field by field, since files align it and the wire doesn't."""
    head = ismrmrd.WaveformHeader()
    for field, _ in head._fields_:
        setattr(head, field, record[field].item())
    return head


def write_images(
    path: str | Path, images: Iterable[ismrmrd.Image], xml: bytes | str | None = None, group: str = "dataset"
) -> int:
    """Write the images by series as `GROUP/image_N` and say how many; the file is whole or absent.

    A series whose images differ in shape or type goes on in `image_N_1`, `image_N_2`, ...
    """
    if not group.strip("/. "):
        raise ValueError(f"the group {group!r} is no name for the images")
    grouped: dict[tuple[int, tuple[int, ...], int], list[ismrmrd.Image]] = defaultdict(list)
    for image in images:
        grouped[image.image_series_index, image.data.shape, image.data_type].append(image)
    taken: dict[int, int] = defaultdict(int)
    # in memory first: an HDF5 file that can't be closed for want of disk ends the process when it ends
    with h5py.File(held := io.BytesIO(), "w") as file:
        dataset = file.create_group(group)
        if xml is not None:
            text = xml.encode() if isinstance(xml, str) else xml
            dataset.create_dataset("xml", data=[text], dtype=h5py.special_dtype(vlen=bytes), maxshape=(1,))
        for (series, _, _), members in grouped.items():
            name = f"image_{series}" + (f"_{taken[series]}" if taken[series] else "")
            taken[series] += 1
            fill_series(dataset.create_group(name), members)
    write_atomic(path, held.getbuffer())
    return sum(len(members) for members in grouped.values())


def fill_series(group: h5py.Group, images: list[ismrmrd.Image]) -> None:
    """Headers, attributes and pixels of images of one shape."""
    heads = np.frombuffer(b"".join(bytes(image.getHead()) for image in images), image_header_dtype)
    group.create_dataset("header", data=heads, maxshape=(None,))
    attributes = [image.attribute_string for image in images]
    group.create_dataset("attributes", data=attributes, dtype=h5py.special_dtype(vlen=str), maxshape=(None,))
    shape, dtype = images[0].data.shape, get_hdf5type(images[0].data_type)
    pixels = group.create_dataset("data", (len(images), *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
    for index, image in enumerate(images):
        pixels[index] = np.ascontiguousarray(image.data).view(dtype)


def read_images(path: str | Path) -> list[ismrmrd.Image]:
    """Every image of the file, series by series."""
    images: list[ismrmrd.Image] = []
    with opened(path) as file, hdf5(Path(path).name):
        for holder in [value for value in file.values() if isinstance(value, h5py.Group)]:
            for series in [holder, *(v for v in holder.values() if isinstance(v, h5py.Group))]:
                if {"header", "attributes", "data"} <= set(series):
                    images += series_images(series)
    if not images:
        raise ValueError(f"{Path(path).name} holds no ISMRMRD images")
    return images


def series_images(group: h5py.Group) -> list[ismrmrd.Image]:
    """The images of one series."""
    heads = group["header"][:].astype(image_header_dtype, copy=False)
    texts = group["attributes"][:]
    out = []
    for index, head in enumerate(heads):
        text = texts[index].decode() if isinstance(texts[index], bytes) else str(texts[index])
        image = ismrmrd.Image(ismrmrd.ImageHeader.from_buffer_copy(head.tobytes()), text)
        pixels = group["data"][index]
        if pixels.dtype.names:
            pixels = pixels.view(np.complex64 if pixels.dtype.itemsize == 8 else np.complex128)
        image.data[:] = pixels
        out.append(image)
    return out
