"""NIfTI-1 files, read and written without further packages.

x runs fastest, so a C-ordered (z, y, x) array is the file's data as it lies. World axes are RAS.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from koosh_gadgets.atomic import atomic_file
from koosh_gadgets.geometry import Floats, affine_ras, from_affine, matrix3, rotation, voxel3

if TYPE_CHECKING:
    from koosh_models.scan import Geometry

HEADER = 348
DATA_AT = 352  # the header and four bytes that say "no extension"
# code -> numpy type, from nifti1.h
TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8", 1792: "c16",
}  # fmt: skip
CODES = {np.dtype(name): code for code, name in TYPES.items()}
# Deflate can't shrink by more than 1032: a header that promises more is damaged or hostile.
DEFLATE_LIMIT = 1100
DESCRIPTION = b"koosh research reconstruction, not for diagnosis"


def read_nifti(path: str | Path) -> tuple[NDArray[np.generic], Floats]:
    """The volume (z, y, x) or (frame, z, y, x) and its (4, 4) affine from index (x, y, z, 1) to RAS mm.

    The file's slope and intercept are applied (float32 then); without them the type is the file's. A damaged file is
    a ValueError that says what is wrong with it.
    """
    path = Path(path)
    with _opened(path) as file:
        order, head = _header(file.read(HEADER), path)
        shape, dtype = _layout(order, head, path)
        start = int(_unpack(order + "f", head, 108, path, "vox_offset")[0])
        if not DATA_AT <= start <= 1 << 26:
            raise ValueError(f"{path.name}: the data start at byte {start}, wanted {DATA_AT} or a little more")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        _check_room(path, start + size)
        file.read(start - HEADER)
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{path.name} ends early: {len(data)} of {size} bytes of voxels; copy it again")
        if len(file.read(1 << 20)) == 1 << 20:  # the read to the end also makes gzip check its sum
            raise ValueError(
                f"{path.name} goes on for over 1 MiB after its {size} bytes of voxels: the header is wrong"
            )
    volume = np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    return _scaled(volume, order, head, path), _affine(order, head, path)


def write_nifti(path: str | Path, volume: NDArray[np.generic], geometry: Geometry, frame_s: float = 0.0) -> Path:
    """Write (z, y, x), (frame, z, y, x) or 2D (y, x); gzip where the name ends in .gz. The file is whole or absent.

    float64 and complex128 are stored in single precision. `frame_s` is the time from frame to frame.
    """
    path = Path(path)
    volume = _storable(volume, geometry)
    head = _make_header(volume, geometry, frame_s)
    with atomic_file(path) as file:
        if path.suffix == ".gz":
            # no name and no time inside: the same volume is the same file
            with gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:
                packed.write(head)
                packed.write(volume.data)
        else:
            file.write(head)
            file.write(volume.data)
    return path


def geometry_of(affine: Floats, volume: NDArray[np.generic]) -> Geometry:
    """The geometry of a volume read from a NIfTI file; a sheared one is refused."""
    return from_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, volume.shape)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed content; what gzip says about a damaged file becomes our error."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if not packed:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield file  # type: ignore[misc]  # GzipFile reads like the file it wraps
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is cut short or damaged ({error}); copy it again") from error


def _header(head: bytes, path: Path) -> tuple[str, bytes]:
    """Byte order and the header, after its size and magic."""
    if len(head) < HEADER:
        raise ValueError(f"{path.name} has {len(head)} bytes, a NIfTI-1 header alone has {HEADER}")
    for order in "<>":
        size = struct.unpack_from(order + "i", head, 0)[0]
        if size == 540:
            raise ValueError(f"{path.name} is NIfTI-2; save it as NIfTI-1")
        if size == HEADER:
            break
    else:
        raise ValueError(f"{path.name} is no NIfTI-1 file: it does not begin with the header size {HEADER}")
    if head[344:348] == b"ni1\0":
        raise ValueError(f"{path.name} is the header of a pair (.hdr/.img); save it as one .nii or .nii.gz file")
    if head[344:348] != b"n+1\0":
        raise ValueError(f"{path.name} is no NIfTI-1 file: its magic is {head[344:348]!r}, wanted b'n+1\\0'")
    return order, head


def _layout(order: str, head: bytes, path: Path) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape (z, y, x) or (frame, z, y, x), and the type of one voxel in the file."""
    count, *dims = struct.unpack_from(order + "8h", head, 40)
    if not 1 <= count <= 7 or min(dims[:count]) < 1:
        raise ValueError(f"{path.name}: impossible size {[count, *dims]}")
    dims = [*dims[:count], 1, 1][: max(count, 3)]
    if any(n > 1 for n in dims[4:]):
        raise ValueError(f"{path.name} has size {dims}; wanted (x, y, z) or (x, y, z, frame)")
    dims = dims[:4] if len(dims) > 3 and dims[3] > 1 else dims[:3]
    code, bits = struct.unpack_from(order + "2h", head, 70)
    if code not in TYPES:
        raise ValueError(f"{path.name}: voxels of type {code} are not supported, only {sorted(TYPES)}")
    dtype = np.dtype(TYPES[code]).newbyteorder(order)  # type: ignore[arg-type]  # "<" and ">" only
    if bits != 8 * dtype.itemsize:
        raise ValueError(f"{path.name}: type {code} has {8 * dtype.itemsize} bits, the header says {bits}")
    return tuple(dims[::-1]), dtype


def _unpack(form: str, head: bytes, at: int, path: Path, name: str) -> tuple[float, ...]:
    """Finite numbers of the header."""
    values = struct.unpack_from(form, head, at)
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name}: {name} is {values}, wanted finite numbers")
    return values


def _check_room(path: Path, size: int) -> None:
    """Refuse a promise the file can't hold before memory is asked for it."""
    there = path.stat().st_size
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    if size > there * (DEFLATE_LIMIT if packed else 1):
        raise ValueError(f"{path.name} ends early: {there} bytes can't hold the {size} its header promises")


def _scaled(volume: NDArray[np.generic], order: str, head: bytes, path: Path) -> NDArray[np.generic]:
    slope, intercept = struct.unpack_from(order + "2f", head, 112)
    if slope == 0 or np.isnan(slope) or (slope, intercept) == (1.0, 0.0):  # zero and NaN both mean "not set"
        return volume
    _unpack(order + "2f", head, 112, path, "slope and intercept")
    if np.iscomplexobj(volume):
        raise ValueError(f"{path.name}: complex voxels with a slope of {slope}; save it without scaling")
    return (volume.astype(np.float64) * slope + intercept).astype(np.float32)


def _affine(order: str, head: bytes, path: Path) -> Floats:
    """The sform where set, else qform, else the voxel sizes alone."""
    qform, sform = struct.unpack_from(order + "2h", head, 252)
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.reshape(_unpack(order + "12f", head, 280, path, "sform"), (3, 4))
    else:
        size = np.abs(_unpack(order + "4f", head, 76, path, "voxel size"))
        affine[:3, :3] = np.diag(size[1:])
        if qform > 0:
            qfac = -1.0 if struct.unpack_from(order + "f", head, 76)[0] < 0 else 1.0
            b, c, d, *offset = _unpack(order + "6f", head, 256, path, "qform")
            affine[:3, :3] = _from_quaternion(b, c, d) * (size[1:] * (1, 1, qfac))
            affine[:3, 3] = offset
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"{path.name}: the matrix from voxels to mm is singular: {affine[:3].tolist()}")
    return affine


def _storable(volume: NDArray[np.generic], geometry: Geometry) -> NDArray[np.generic]:
    """C-ordered, little-endian, in a type the format has; shape checked against the geometry."""
    volume = np.asarray(volume)
    if volume.shape[-len(geometry.matrix) :] != geometry.matrix or volume.ndim > 4:
        raise ValueError(f"volume {volume.shape} and geometry {geometry.matrix} don't match")
    if max(volume.shape, default=0) > 32767 or volume.size == 0:
        raise ValueError(f"NIfTI-1 holds 1 to 32767 voxels along each axis, the volume is {volume.shape}")
    single = {"f": np.float32, "c": np.complex64, "b": np.uint8}.get(volume.dtype.kind)
    if single is not None:
        volume = volume.astype(single, copy=False)
    if np.dtype(volume.dtype.newbyteorder("=")) not in CODES:
        raise ValueError(f"NIfTI-1 has no voxels of type {volume.dtype}")
    volume = volume.reshape(*volume.shape[: -len(geometry.matrix)], *matrix3(geometry))
    return np.ascontiguousarray(volume, volume.dtype.newbyteorder("<"))


def _make_header(volume: NDArray[np.generic], geometry: Geometry, frame_s: float) -> bytes:
    """Header and the empty extension flag, 352 bytes."""
    affine, size = affine_ras(geometry), voxel3(geometry)[::-1]
    turn = np.diag([-1.0, -1.0, 1.0]) @ rotation(geometry)
    qfac = 1.0 if np.linalg.det(turn) > 0 else -1.0
    head = bytearray(DATA_AT)
    struct.pack_into("<i", head, 0, HEADER)
    struct.pack_into("<8h", head, 40, volume.ndim, *volume.shape[::-1], *[1] * (7 - volume.ndim))
    code = CODES[np.dtype(volume.dtype.newbyteorder("="))]
    struct.pack_into("<2h", head, 70, code, 8 * volume.dtype.itemsize)
    struct.pack_into("<8f", head, 76, qfac, *size, frame_s, 0, 0, 0)
    struct.pack_into("<3f", head, 108, DATA_AT, 1, 0)
    head[123] = 2 | 8  # mm, seconds
    struct.pack_into("80s", head, 148, DESCRIPTION)
    struct.pack_into("<2h", head, 252, 1, 1)  # scanner coordinates
    struct.pack_into("<6f", head, 256, *_to_quaternion(turn * (1, 1, qfac)), *affine[:3, 3])
    struct.pack_into("<12f", head, 280, *affine[:3].ravel())
    struct.pack_into("4s", head, 344, b"n+1")
    return bytes(head)


def _from_quaternion(b: float, c: float, d: float) -> Floats:
    """(3, 3) rotation of the unit quaternion with vector part (b, c, d); nifti1.h, method 2."""
    rest = 1 - b * b - c * c - d * d
    a = np.sqrt(rest) if rest > 3 * np.finfo(np.float32).eps else 0.0  # half a turn, but for the rounding of b, c, d
    norm = np.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a / norm, b / norm, c / norm, d / norm
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _to_quaternion(turn: Floats) -> tuple[float, float, float]:
    """Vector part of the unit quaternion of a proper rotation, scalar part >= 0.

    The eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix is stable for every angle, 180 degrees
    included (Bar-Itzhack, J. Guidance 23(6), 2000).
    """
    m = turn.tolist()
    k = np.array(
        [
            [m[0][0] - m[1][1] - m[2][2], 0, 0, 0],
            [m[0][1] + m[1][0], m[1][1] - m[0][0] - m[2][2], 0, 0],
            [m[0][2] + m[2][0], m[1][2] + m[2][1], m[2][2] - m[0][0] - m[1][1], 0],
            [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], m[0][0] + m[1][1] + m[2][2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    sign = -1.0 if w < 0 else 1.0
    return float(x * sign), float(y * sign), float(z * sign)
