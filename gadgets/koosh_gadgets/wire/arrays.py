"""Gadgetron's composite items: reconstruction data (1023), image arrays (1024), acquisition buckets (1050)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import ismrmrd
import numpy as np

from koosh_gadgets.wire import ids
from koosh_gadgets.wire.errors import Malformed, TooLarge
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import Reader

U16, U64 = struct.Struct("<H"), struct.Struct("<Q")
SAMPLING = struct.Struct("<6f6H9H")  # fields of view, matrices, three limits
Write = Callable[[bytes], None]
STATS = 9  # index sets of one bucket statistic


@dataclass
class ReconBuffer:
    """Gridded or listed k-space: data [E0, E1, E2, CHA, N, S, LOC], trajectory [dim, E0, E1, E2, N, S, LOC]."""

    data: np.ndarray
    trajectory: np.ndarray | None
    density: np.ndarray | None
    headers: np.ndarray
    sampling: tuple[float, ...]


@dataclass
class ReconData:
    """Pairs of imaging and reference buffers."""

    bits: list[tuple[ReconBuffer, ReconBuffer | None]]


@dataclass
class ImageArray:
    """Images [X, Y, Z, CHA, N, S, LOC] with headers [N, S, LOC] and meta XML in the same order."""

    data: np.ndarray
    headers: np.ndarray
    meta: list[str]
    waveforms: list[ismrmrd.Waveform] | None = None
    acquisition_headers: np.ndarray | None = None


@dataclass
class Bucket:
    """Readouts collected by an accumulating gadget, with reference readouts and waveforms."""

    data: list[ismrmrd.Acquisition]
    reference: list[ismrmrd.Acquisition]
    data_stats: list[list[np.ndarray]] = field(default_factory=list)
    reference_stats: list[list[np.ndarray]] = field(default_factory=list)
    waveforms: list[ismrmrd.Waveform] = field(default_factory=list)


def u64(source: Reader) -> int:
    """A 64 bit number."""
    return int(U64.unpack(source.read(8))[0])


def count(source: Reader, what: str, each: int, limits: Limits) -> int:
    """A number of things of at least `each` bytes."""
    n = u64(source)
    if n * each > limits.array:
        raise TooLarge(f"{what}: {n} of at least {each} bytes each, more than the {limits.array} bytes allowed")
    return n


def read_shape(source: Reader, each: int, limits: Limits) -> tuple[int, ...]:
    """The dimensions of an array whose elements take `each` bytes."""
    n_axes = u64(source)
    if not 1 <= n_axes <= 16:
        raise Malformed(f"an array has {n_axes} axes; wanted 1 to 16")
    shape = tuple(u64(source) for _ in range(n_axes))
    size = each
    for n in shape:
        size *= n
    if size > limits.array or max(shape) > limits.array:
        raise TooLarge(f"an array of {' x '.join(map(str, shape))} claims more than the {limits.array} bytes allowed")
    return shape


def read_array(source: Reader, dtype: str, limits: Limits) -> np.ndarray:
    """A numeric array in Fortran order."""
    width = np.dtype(dtype).itemsize
    shape = read_shape(source, width, limits)
    raw = source.read(width * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype).reshape(shape, order="F")


def read_structs(source: Reader, kind: type[ctypes.Structure], limits: Limits) -> np.ndarray:
    """An array of structures in Fortran order."""
    dtype = np.dtype(kind)
    shape = read_shape(source, dtype.itemsize, limits)
    raw = source.read(dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype).reshape(shape, order="F")


def present(source: Reader) -> bool:
    """Whether an optional part follows."""
    flag = source.read(1)[0]
    if flag > 1:
        raise Malformed(f"an optional part is announced by {flag}; wanted 0 or 1")
    return bool(flag)


def read_buffer(source: Reader, limits: Limits) -> ReconBuffer:
    """One reconstruction buffer."""
    data = read_array(source, "<c8", limits)
    trajectory = read_array(source, "<f4", limits) if present(source) else None
    density = read_array(source, "<f4", limits) if present(source) else None
    headers = read_structs(source, ismrmrd.AcquisitionHeader, limits)
    return ReconBuffer(data, trajectory, density, headers, SAMPLING.unpack(source.read(SAMPLING.size)))


def read_recon_data(source: Reader, limits: Limits) -> ReconData:
    """Reconstruction data (1023)."""
    bits = []
    for _ in range(count(source, "reconstruction data", SAMPLING.size, limits)):
        data = read_buffer(source, limits)
        bits.append((data, read_buffer(source, limits) if present(source) else None))
    return ReconData(bits)


def read_waveform_body(source: Reader, head: ismrmrd.WaveformHeader, limits: Limits) -> ismrmrd.Waveform:
    """The samples behind a waveform header."""
    size = 4 * head.channels * head.number_of_samples
    if size > limits.waveform:
        raise TooLarge(f"a waveform claims {size} bytes, more than the {limits.waveform} allowed")
    return ismrmrd.Waveform(head, np.frombuffer(source.read(size), "<u4"))


def read_waveform_head(source: Reader) -> ismrmrd.WaveformHeader:
    """A waveform header."""
    return ismrmrd.WaveformHeader.from_buffer_copy(source.read(ctypes.sizeof(ismrmrd.WaveformHeader)))


def read_image_array(source: Reader, limits: Limits) -> ImageArray:
    """An image array (1024)."""
    data = read_array(source, "<c8", limits)
    headers = read_structs(source, ismrmrd.ImageHeader, limits)
    meta = []
    for _ in range(count(source, "meta attributes", 8, limits)):
        length = u64(source)
        if length > limits.meta:
            raise TooLarge(f"image attributes claim {length} bytes, more than the {limits.meta} allowed")
        meta.append(bytes(source.read(length)).rstrip(b"\0").decode("utf-8", "replace"))
    waveforms = None
    if present(source):
        n = count(source, "waveforms", 40, limits)
        waveforms = [read_waveform_body(source, read_waveform_head(source), limits) for _ in range(n)]
    heads = read_structs(source, ismrmrd.AcquisitionHeader, limits) if present(source) else None
    return ImageArray(data, headers, meta, waveforms, heads)


def read_acquisitions(source: Reader, n: int, limits: Limits) -> list[ismrmrd.Acquisition]:
    """`n` headers, then all trajectories, then all data."""
    heads = [ismrmrd.AcquisitionHeader.from_buffer_copy(source.read(340)) for _ in range(n)]
    total = sum(h.number_of_samples * (8 * h.active_channels + 4 * h.trajectory_dimensions) for h in heads)
    if total > limits.array:
        raise TooLarge(f"a bucket claims {total} bytes of readouts, more than the {limits.array} allowed")
    trajectories = [
        np.frombuffer(source.read(4 * h.number_of_samples * h.trajectory_dimensions), "<f4").reshape(
            h.number_of_samples, h.trajectory_dimensions
        )
        for h in heads
    ]
    data = [
        np.frombuffer(source.read(8 * h.active_channels * h.number_of_samples), "<c8").reshape(
            h.active_channels, h.number_of_samples
        )
        for h in heads
    ]
    return [ismrmrd.Acquisition(h, d, t) for h, d, t in zip(heads, data, trajectories, strict=True)]


def read_stats(source: Reader, limits: Limits) -> list[list[np.ndarray]]:
    """Index sets per encoding space."""
    stats = []
    for _ in range(count(source, "bucket statistics", 8 * STATS, limits)):
        sets = [np.frombuffer(source.read(2 * count(source, "indices", 2, limits)), "<u2") for _ in range(STATS)]
        stats.append(sets)
    return stats


def read_bucket(source: Reader, limits: Limits) -> Bucket:
    """An acquisition bucket (1050); the byte counts of its preamble are implied by the headers and not needed."""
    preamble = struct.unpack("<13Q", source.read(104))
    n_data, n_reference, n_waveforms = preamble[0], preamble[4], preamble[10]
    for what, n, each in (("data", n_data, 340), ("reference", n_reference, 340), ("waveforms", n_waveforms, 40)):
        if n * each > limits.array:
            raise TooLarge(f"a bucket claims {n} {what}, more than {limits.array} bytes allow")
    data = read_acquisitions(source, n_data, limits)
    data_stats = read_stats(source, limits)
    reference = read_acquisitions(source, n_reference, limits)
    reference_stats = read_stats(source, limits)
    heads = [read_waveform_head(source) for _ in range(n_waveforms)]
    waveforms = [read_waveform_body(source, head, limits) for head in heads]
    return Bucket(data, reference, data_stats, reference_stats, waveforms)


def write(item: object, put: Write) -> None:
    """A composite item with its message number."""
    if isinstance(item, ReconData):
        put(U16.pack(ids.RECON_DATA) + U64.pack(len(item.bits)))
        for data, reference in item.bits:
            write_buffer(data, put)
            write_optional(reference, lambda r: write_buffer(r, put), put)
    elif isinstance(item, ImageArray):
        put(U16.pack(ids.IMAGE_ARRAY))
        write_images(item, put)
    elif isinstance(item, Bucket):
        put(U16.pack(ids.BUCKET))
        write_bucket(item, put)
    else:
        raise TypeError(f"a {type(item).__name__} has no message")


def write_optional(value: object, body: Callable[..., None], put: Write) -> None:
    """A presence flag, then the value."""
    put(b"\0" if value is None else b"\1")
    if value is not None:
        body(value)


def write_array(array: np.ndarray, dtype: str | None, put: Write) -> None:
    """Dimensions, then the data in Fortran order."""
    put(struct.pack(f"<{array.ndim + 1}Q", array.ndim, *array.shape))
    put((array if dtype is None else array.astype(dtype, copy=False)).tobytes(order="F"))


def write_buffer(buffer: ReconBuffer, put: Write) -> None:
    """One reconstruction buffer."""
    write_array(buffer.data, "<c8", put)
    for part in (buffer.trajectory, buffer.density):
        write_optional(part, lambda array: write_array(array, "<f4", put), put)
    write_array(buffer.headers, None, put)
    put(SAMPLING.pack(*buffer.sampling))


def write_images(images: ImageArray, put: Write) -> None:
    """The body of an image array."""
    write_array(images.data, "<c8", put)
    write_array(images.headers, None, put)
    put(U64.pack(len(images.meta)))
    for text in images.meta:
        put(U64.pack(len(raw := text.encode())) + raw)

    def write_waveforms(waveforms: list[ismrmrd.Waveform]) -> None:
        put(U64.pack(len(waveforms)))
        for w in waveforms:
            put(bytes(w.getHead()) + w.data.tobytes())

    write_optional(images.waveforms, write_waveforms, put)
    write_optional(images.acquisition_headers, lambda heads: write_array(heads, None, put), put)


def write_bucket(bucket: Bucket, put: Write) -> None:
    """The body of a bucket."""

    def sizes(readouts: list[ismrmrd.Acquisition]) -> tuple[int, int, int, int]:
        n = len(readouts)
        return n, 340 * n, sum(a.data.nbytes for a in readouts), sum(a.traj.nbytes for a in readouts)

    def stats_bytes(stats: list[list[np.ndarray]]) -> int:
        return 8 + sum(8 + s.nbytes for sets in stats for s in sets)

    waves = bucket.waveforms
    put(struct.pack("<8Q", *sizes(bucket.data), *sizes(bucket.reference)))
    put(struct.pack("<2Q", stats_bytes(bucket.data_stats), stats_bytes(bucket.reference_stats)))
    put(struct.pack("<3Q", len(waves), 40 * len(waves), sum(w.data.nbytes for w in waves)))
    for readouts, stats in ((bucket.data, bucket.data_stats), (bucket.reference, bucket.reference_stats)):
        put(b"".join(bytes(a.getHead()) for a in readouts))
        put(b"".join(a.traj.tobytes() for a in readouts) + b"".join(a.data.tobytes() for a in readouts))
        put(U64.pack(len(stats)))
        put(b"".join(U64.pack(len(s)) + s.tobytes() for sets in stats for s in sets))
    put(b"".join(bytes(w.getHead()) for w in waves) + b"".join(w.data.tobytes() for w in waves))
