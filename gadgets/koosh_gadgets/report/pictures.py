"""Arrays as pictures inside a page: grey PNG and SVG, without further packages."""

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


def spokes(k: np.ndarray, most: int = 60) -> str:
    """SVG of the first readouts, (readout, sample, axis) in cycles per voxel, seen along z and along y."""
    views = [(0, 1, "kx, ky")] + ([(0, 2, "kx, kz")] if k.shape[2] == 3 else [])
    parts = []
    for a, b, name in views:
        lines = "".join(
            f'<polyline points="{" ".join(f"{100 * x:.1f},{-100 * y:.1f}" for x, y in path[:, [a, b]])}"/>'
            for path in k[:most, :: max(1, k.shape[1] // 64)]
        )
        parts.append(
            f'<figure><svg viewBox="-52 -52 104 104" role="img" aria-label="{name}"><g fill="none" '
            f'stroke="currentColor" stroke-width="0.4" opacity="0.6">{lines}</g></svg>'
            f"<figcaption>{name}, {min(most, len(k))} readouts</figcaption></figure>"
        )
    return "".join(parts)


def curve(values: np.ndarray, name: str, unit: str) -> str:
    """SVG of one curve over its index, from 0 to its largest value."""
    top = float(values.max()) or 1.0
    points = " ".join(f"{100 * i / max(len(values) - 1, 1):.1f},{-50 * v / top:.1f}" for i, v in enumerate(values))
    return (
        f'<figure><svg viewBox="-2 -54 104 58" role="img" aria-label="{name}"><polyline points="{points}" fill="none" '
        f'stroke="currentColor" stroke-width="1"/><path d="M0 -52V0H100" fill="none" stroke="currentColor" '
        f'stroke-width="0.3"/></svg><figcaption>{name}, to {top:.3g} {unit}</figcaption></figure>'
    )
