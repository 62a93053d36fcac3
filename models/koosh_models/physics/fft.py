"""Transforms on the CPU that need no memory of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Fft = Callable[[np.ndarray, tuple[int, ...], bool], None]


def in_place(threads: int) -> Fft:
    """In-place FFT `fft(array, axes, forward)`, normalised on the way back: ducc0's, or torch's in its absence."""
    try:
        from ducc0.fft import c2c
    except ImportError:
        return _torch_fft

    def transform(a: np.ndarray, axes: tuple[int, ...], forward: bool) -> None:
        c2c(a, axes=axes, forward=forward, inorm=0 if forward else 2, out=a, nthreads=threads)

    return transform


def _torch_fft(a: np.ndarray, axes: tuple[int, ...], forward: bool) -> None:
    t = torch.from_numpy(a)
    t.copy_(torch.fft.fftn(t, dim=axes) if forward else torch.fft.ifftn(t, dim=axes))
