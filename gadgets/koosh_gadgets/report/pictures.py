"""Arrays as pictures inside a page: PNG, without further packages."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

PLANES = ("axial", "coronal", "sagittal")


def png(pixels: np.ndarray) -> bytes:
    """A grey PNG of (row, column) uint8, or a coloured one of (row, column, 3)."""
    rows, columns = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    lines = np.ascontiguousarray(pixels, np.uint8).reshape(rows, -1)
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """One part of a PNG with its length and check sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def inline(pixels: np.ndarray) -> str:
    """The picture as a data address."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def grey(values: np.ndarray, top: float, bottom: float = 0.0) -> np.ndarray:
    """Values from `bottom` to `top` as 0 to 255."""
    share = (values - bottom) / max(top - bottom, 1e-30)
    return (255 * np.clip(share, 0, 1)).astype(np.uint8)


def heat(values: np.ndarray, top: float) -> np.ndarray:
    """(row, column, 3) black over red and yellow to white."""
    share = np.clip(values / max(top, 1e-30), 0, 1)[..., None] * 3 - np.arange(3)
    return (255 * np.clip(share, 0, 1)).astype(np.uint8)


def cut(volume: np.ndarray, plane: str) -> np.ndarray:
    """(row, column) middle slice, the head up; a 2D image is its own axial plane."""
    if volume.ndim == 2 or plane == "axial":
        return volume if volume.ndim == 2 else volume[volume.shape[0] // 2]
    side = volume[:, volume.shape[1] // 2] if plane == "coronal" else volume[:, :, volume.shape[2] // 2]
    return side[::-1]
