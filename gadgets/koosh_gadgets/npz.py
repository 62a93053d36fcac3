"""Arrays of .npz files: nothing is unpickled, nothing beyond the memory that is free is read, damage is a sentence."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from koosh_models import memory

LARGEST = 1 << 35
SMALLEST = 1 << 20
# what zipfile, zlib and numpy raise over bytes that are not what they expect
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, KeyError,
          IndexError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError, struct.error)  # fmt: skip


def arrays(path: str | Path, most: int | None = None) -> dict[str, np.ndarray]:
    """Every array by name; more than `most` bytes of them (half of the memory that is free) are refused unread."""
    path = Path(path)
    with path.open("rb"):
        pass  # the operating system's own word for what is missing or forbidden
    most = largest() if most is None else most
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(one.file_size for one in members)
            if size <= most:
                return {one.filename.removesuffix(".npy"): member(archive, one) for one in members}
    except DAMAGE as error:
        raise ValueError(
            f"{path.name} is no .npz archive of numbers, or is damaged ({error or type(error).__name__}): copy it again"
        ) from error
    raise ValueError(f"{path.name} holds arrays of {size} bytes; at most {most} are read here")


def largest() -> int:
    """Bytes that may be read: half of what is free."""
    free = memory.available()
    return LARGEST if free is None else max(SMALLEST, min(LARGEST, free // 2))


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array, after a look at whether its header claims what is there."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds pickled objects, which are never read")
        if min(shape, default=0) < 0 or file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.filename} claims an array of {shape} and has {info.file_size} bytes")
    with archive.open(info) as file:
        found = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the end, where the checksum is compared
    return np.asarray(found)
