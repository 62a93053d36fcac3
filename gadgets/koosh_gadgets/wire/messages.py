"""One function per message body: bytes to items and back, every length checked before anything is allocated."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass

import ismrmrd
import numpy as np

from koosh_gadgets.wire import arrays, ids
from koosh_gadgets.wire.errors import Malformed, TooLarge
from koosh_gadgets.wire.limits import Limits
from koosh_gadgets.wire.source import Bytes, Reader

U16, U32, U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
IMAGE_TYPES = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 8, 7: 8, 8: 16}  # ISMRMRD data type -> bytes


@dataclass(frozen=True)
class Text:
    """A text, an error, or the answer to a query, told apart by `kind` (a message number)."""

    kind: int
    text: str


@dataclass(frozen=True)
class Query:
    """A question of the peer, answered with the same number."""

    number: int
    text: str


@dataclass(frozen=True)
class Named:
    """A DICOM object as Gadgetron's writer sends it."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Dependency:
    """Which earlier measurements a scanner asks for; we keep none."""

    text: str


def check(what: str, size: int, cap: int) -> int:
    """`size`, unless it is above `cap`."""
    if size > cap:
        raise TooLarge(f"{what} claims {size} bytes, more than the {cap} allowed")
    return size


def sized(source: Reader, what: str, length: struct.Struct, cap: int) -> Bytes:
    """Bytes behind their own length."""
    return source.read(check(what, length.unpack(source.read(length.size))[0], cap))


def decode(raw: bytes | Bytes, what: str) -> str:
    """UTF-8 text up to trailing NULs."""
    try:
        return bytes(raw).rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is not UTF-8 text: {error}") from error


def read_acquisition(source: Reader, limits: Limits) -> ismrmrd.Acquisition:
    """One readout."""
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(source.read(340))
    n_samples, n_coils, n_axes = head.number_of_samples, head.active_channels, head.trajectory_dimensions
    check("a readout", n_samples * (8 * n_coils + 4 * n_axes), limits.acquisition)
    trajectory = np.frombuffer(source.read(4 * n_samples * n_axes), "<f4").reshape(n_samples, n_axes)
    data = np.frombuffer(source.read(8 * n_samples * n_coils), "<c8").reshape(n_coils, n_samples)
    return ismrmrd.Acquisition(head, data, trajectory)


def read_waveform(source: Reader, limits: Limits) -> ismrmrd.Waveform:
    """One piece of a physiological trace."""
    raw = source.read(ctypes.sizeof(ismrmrd.WaveformHeader))
    head = ismrmrd.WaveformHeader.from_buffer_copy(raw)
    size = check("a waveform", 4 * head.channels * head.number_of_samples, limits.waveform)
    return ismrmrd.Waveform(head, np.frombuffer(source.read(size), "<u4"))


def image_size(head: ismrmrd.ImageHeader, cap: int) -> int:
    """Bytes of the pixels behind an image header."""
    if (width := IMAGE_TYPES.get(head.data_type)) is None:
        raise Malformed(f"an image has data type {head.data_type}; known: {sorted(IMAGE_TYPES)}")
    nx, ny, nz = head.matrix_size
    return check(f"an image of {nx} x {ny} x {nz} x {head.channels}", nx * ny * nz * head.channels * width, cap)


def read_image(source: Reader, limits: Limits) -> ismrmrd.Image:
    """One image with its meta attributes; unreadable attributes are refused."""
    head = ismrmrd.ImageHeader.from_buffer_copy(source.read(198))
    size = image_size(head, limits.image)
    meta = decode(sized(source, "image attributes", U64, limits.meta), "image attributes")
    dtype = np.dtype("<i4") if head.data_type == 4 else ismrmrd.image.get_dtype_from_data_type(head.data_type)
    nx, ny, nz = head.matrix_size
    data = np.frombuffer(source.read(size), dtype).reshape(head.channels, nz, ny, nx)
    if head.data_type == 4:  # ismrmrd maps int32 to the platform's 64 bit integer
        data, head.data_type = data.astype(np.float64), 6
    image = ismrmrd.Image(head, data=data)
    image.meta = read_meta(meta)
    return image


def read_meta(text: str) -> ismrmrd.Meta:
    """Meta attributes from their XML; entities are refused."""
    if not text.strip():
        return ismrmrd.Meta()
    import defusedxml.ElementTree as safe

    try:
        safe.fromstring(text)
        return ismrmrd.Meta.deserialize(text)
    except Exception as error:  # the parser's own classes, and assertions of ismrmrd
        raise Malformed(f"image attributes are no ISMRMRD meta XML: {error}") from error


def read_named(source: Reader, limits: Limits) -> Named:
    """A DICOM object: bytes, file name, attributes (dropped)."""
    content = bytes(sized(source, "a DICOM object", U32, limits.image))
    name = decode(sized(source, "a DICOM file name", U64, 4096), "a DICOM file name")
    sized(source, "DICOM attributes", U64, limits.meta)
    return Named(name, content)


def read_query(source: Reader, limits: Limits) -> Query:
    """A question."""
    source.read(8)
    number = U64.unpack(source.read(8))[0]
    return Query(number, decode(sized(source, "a query", U64, limits.text), "a query"))


def read_response(source: Reader, limits: Limits) -> Text:
    """An answer to a question of ours."""
    source.read(8)
    return Text(ids.RESPONSE, decode(sized(source, "a response", U64, limits.text), "a response"))


READERS: dict[int, Callable[[Reader, Limits], object]] = {
    ids.TEXT: lambda s, c: Text(ids.TEXT, decode(sized(s, "a text", U32, c.text), "a text")),
    ids.ERROR: lambda s, c: Text(ids.ERROR, decode(sized(s, "an error text", U64, c.text), "an error text")),
    ids.QUERY: read_query,
    ids.RESPONSE: read_response,
    ids.ACQUISITION: read_acquisition,
    ids.WAVEFORM: read_waveform,
    ids.IMAGE: read_image,
    ids.DICOM_NAMED: read_named,
    ids.DEPENDENCY_QUERY: lambda s, c: Dependency(decode(sized(s, "a dependency query", U64, c.text), "a query")),
    ids.RECON_DATA: arrays.read_recon_data,
    ids.IMAGE_ARRAY: arrays.read_image_array,
    ids.BUCKET: arrays.read_bucket,
}


def read_item(number: int, source: Reader, limits: Limits) -> object:
    """The item behind message `number`."""
    reader = READERS.get(number)
    if reader is None:
        raise Malformed(f"message {number} is unknown; known: {sorted(READERS)}")
    return reader(source, limits)


def serialise(item: object) -> list[bytes | memoryview]:
    """The message of an item, as pieces to be sent one after the other without a copy."""
    if isinstance(item, Text):
        return text(item.kind, item.text)
    if isinstance(item, ismrmrd.Acquisition):
        head = item.getHead()
        return [U16.pack(ids.ACQUISITION), bytes(head), flat(item.traj, "<f4"), flat(item.data, "<c8")]
    if isinstance(item, ismrmrd.Waveform):
        return [U16.pack(ids.WAVEFORM), bytes(item.getHead()), flat(item.data, "<u4")]
    if isinstance(item, ismrmrd.Image):
        return image(item)
    parts: list[bytes | memoryview] = []
    arrays.write(item, parts.append)
    return parts


def flat(array: np.ndarray, dtype: str) -> memoryview:
    """The bytes of an array in C order, shared where possible."""
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def text(kind: int, content: str) -> list[bytes | memoryview]:
    """A text (5) or error (8) message."""
    raw = content.encode("utf-8", "replace")
    return [U16.pack(kind) + (U64 if kind == ids.ERROR else U32).pack(len(raw)) + raw]


def image(item: ismrmrd.Image) -> list[bytes | memoryview]:
    """An image message."""
    head, meta = item.getHead(), item.attribute_string.encode("utf-8")
    head.attribute_string_len = len(meta)
    return [U16.pack(ids.IMAGE), bytes(head), U64.pack(len(meta)) + meta, flat(item.data, item.data.dtype.str)]


def response(query: Query, answer: str) -> list[bytes | memoryview]:
    """The answer to a query."""
    raw = answer.encode()
    return [U16.pack(ids.RESPONSE) + U64.pack(query.number) + U64.pack(len(raw)) + raw]


def config_file(name: str) -> bytes:
    """A configuration by name."""
    raw = name.encode()
    if len(raw) > 1023:
        raise ValueError(f"a configuration name has {len(raw)} bytes, at most 1023 fit")
    return U16.pack(ids.CONFIG_FILE) + raw.ljust(1024, b"\0")


def script(kind: int, content: str | bytes) -> bytes:
    """A configuration text (2) or a header (3)."""
    raw = content.encode() if isinstance(content, str) else content
    return U16.pack(kind) + U32.pack(len(raw)) + raw


CLOSE = U16.pack(ids.CLOSE)
