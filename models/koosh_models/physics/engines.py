"""NUFFT backends behind one pair of words, each rescaled to the one convention of `koosh_models.physics.nufft`.

An engine is built for one trajectory and matrix; `type2` maps (image, *matrix) to (image, sample), `type1` is its
adjoint.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BACKENDS = ("finufft", "ducc0", "torchkbnufft", "cufinufft")
ON_CUDA = ("cufinufft", "torchkbnufft")
# finufft's and ducc0's low upsampling is the faster one down to this accuracy; beyond it only 2.0 reaches it
LOW_UPSAMPLING_EPS = {torch.float32: 1e-5, torch.float64: 1e-9}


class Engine(Protocol):
    """A planned NUFFT."""

    def type2(self, x: Tensor) -> Tensor:
        """(image, *matrix) -> (image, sample)."""

    def type1(self, y: Tensor) -> Tensor:
        """(image, sample) -> (image, *matrix)."""


def available(backend: str) -> bool:
    """Whether the backend's package is installed (and for cufinufft, whether a CUDA device is there)."""
    if importlib.util.find_spec(backend) is None:
        return False
    return backend != "cufinufft" or torch.cuda.is_available()


def install(backend: str) -> str:
    """The command that brings a backend: those of the GPU are an extra."""
    return "pip install 'koosh[gpu]'" if backend in ON_CUDA else f"pip install {backend}"


def choose(device: torch.device) -> str:
    """The backend for a device: a fixed order, so that the same scan gives the same bits twice."""
    order = ON_CUDA if device.type == "cuda" else ("finufft", "ducc0", "torchkbnufft")
    for backend in order:
        if available(backend):
            return backend
    raise ImportError(f"no NUFFT backend for {device}: {install(order[0])}")


class FinufftEngine:
    """finufft on the CPU: one plan serves both directions."""

    def __init__(self, omega: Tensor, matrix: tuple[int, ...], eps: float) -> None:
        import finufft

        self.points = [np.ascontiguousarray(row) for row in omega.numpy()]  # finufft keeps pointers to these
        # without a set upsampling factor finufft's own choice for type 2 costs four times more
        factor = 1.25 if eps >= LOW_UPSAMPLING_EPS[omega.dtype] else 2.0
        dtype = "complex64" if omega.dtype == torch.float32 else "complex128"
        self.plan = finufft.Plan(
            2, matrix, n_trans=1, eps=eps, isign=-1, dtype=dtype, upsampfac=factor, nthreads=torch.get_num_threads()
        )
        self.plan.setpts(*self.points)
        self.matrix, self.scale = matrix, prod(matrix) ** -0.5

    def type2(self, x: Tensor) -> Tensor:
        """(image, *matrix) -> (image, sample)."""
        out = np.empty((len(x), len(self.points[0])), complex_of(x))
        for image, row in zip(x.contiguous().numpy(), out, strict=True):
            self.plan.execute(image, out=row)
        return torch.from_numpy(out).mul_(self.scale)

    def type1(self, y: Tensor) -> Tensor:
        """(image, sample) -> (image, *matrix)."""
        out = np.empty((len(y), *self.matrix), complex_of(y))
        for row, image in zip(y.contiguous().numpy(), out, strict=True):
            self.plan.execute_adjoint(row, out=image)
        return torch.from_numpy(out).mul_(self.scale)


class DuccEngine:
    """ducc0 on the CPU."""

    def __init__(self, omega: Tensor, matrix: tuple[int, ...], eps: float) -> None:
        import ducc0

        coord = np.ascontiguousarray(omega.numpy().T)
        common = {"coord": coord, "grid_shape": matrix, "epsilon": eps, "nthreads": torch.get_num_threads()}
        self.plan = ducc0.nufft.plan(nu2u=True, **common)
        self.matrix, self.n_samples, self.scale = matrix, omega.shape[1], prod(matrix) ** -0.5

    def type2(self, x: Tensor) -> Tensor:
        """(image, *matrix) -> (image, sample)."""
        out = np.empty((len(x), self.n_samples), complex_of(x))
        for image, row in zip(x.contiguous().numpy(), out, strict=True):
            self.plan.u2nu(forward=True, grid=image, out=row)
        return torch.from_numpy(out).mul_(self.scale)

    def type1(self, y: Tensor) -> Tensor:
        """(image, sample) -> (image, *matrix)."""
        out = np.empty((len(y), *self.matrix), complex_of(y))
        for row, image in zip(y.contiguous().numpy(), out, strict=True):
            self.plan.nu2u(forward=False, points=row, out=image)
        return torch.from_numpy(out).mul_(self.scale)


class KbEngine:
    """torchkbnufft: pure torch, on any device; its Kaiser-Bessel width follows `eps`."""

    def __init__(self, omega: Tensor, matrix: tuple[int, ...], eps: float) -> None:
        with warnings.catch_warnings():  # its interpolator is compiled by torch.jit, which warns on import
            warnings.simplefilter("ignore", DeprecationWarning)
            from torchkbnufft import KbNufft, KbNufftAdjoint

        grid = tuple(max(2 * n, 6) for n in matrix)
        dtype = torch.complex64 if omega.dtype == torch.float32 else torch.complex128
        width = 6 if eps >= 1e-5 else 8
        at = {"im_size": matrix, "grid_size": grid, "numpoints": width, "dtype": dtype, "device": omega.device}
        self.omega, self.gridder, self.degridder = omega, KbNufftAdjoint(**at), KbNufft(**at)
        # its "ortho" divides by the padded grid's size, not by the image's
        self.scale = (prod(grid) / prod(matrix)) ** 0.5

    def type2(self, x: Tensor) -> Tensor:
        """(image, *matrix) -> (image, sample)."""
        return self.degridder(x[None], self.omega, norm="ortho")[0] * self.scale

    def type1(self, y: Tensor) -> Tensor:
        """(image, sample) -> (image, *matrix)."""
        return self.gridder(y[None], self.omega, norm="ortho")[0] * self.scale


class CufinufftEngine:
    """cufinufft on a CUDA device; a plan for each direction, both on the current stream."""

    def __init__(self, omega: Tensor, matrix: tuple[int, ...], eps: float) -> None:
        import cufinufft

        dtype = "complex64" if omega.dtype == torch.float32 else "complex128"
        self.points = [row.contiguous() for row in omega]
        stream = torch.cuda.current_stream(omega.device).cuda_stream
        at = {"eps": eps, "dtype": dtype, "gpu_device_id": omega.device.index or 0, "gpu_stream": stream}
        self.forward = cufinufft.Plan(2, matrix, isign=-1, **at)
        self.backward = cufinufft.Plan(1, matrix, isign=1, **at)
        self.forward.setpts(*self.points)
        self.backward.setpts(*self.points)
        self.matrix, self.scale = matrix, prod(matrix) ** -0.5

    def type2(self, x: Tensor) -> Tensor:
        """(image, *matrix) -> (image, sample)."""
        out = x.new_empty((len(x), len(self.points[0])))
        for image, row in zip(x.contiguous(), out, strict=True):
            self.forward.execute(image, out=row)
        return out.mul_(self.scale)

    def type1(self, y: Tensor) -> Tensor:
        """(image, sample) -> (image, *matrix)."""
        out = y.new_empty((len(y), *self.matrix))
        for row, image in zip(y.contiguous(), out, strict=True):
            self.backward.execute(row, out=image)
        return out.mul_(self.scale)


ENGINES: dict[str, Callable[[Tensor, tuple[int, ...], float], Engine]] = {
    "finufft": FinufftEngine,
    "ducc0": DuccEngine,
    "torchkbnufft": KbEngine,
    "cufinufft": CufinufftEngine,
}


def complex_of(x: Tensor) -> np.dtype[np.complexfloating]:
    """The numpy dtype of a complex tensor."""
    return np.dtype(np.complex64 if x.dtype == torch.complex64 else np.complex128)


def build(backend: str, omega: Tensor, matrix: tuple[int, ...], eps: float) -> Engine:
    """A planned engine; the error names what to install where the backend is missing."""
    if backend not in ENGINES:
        raise ValueError(f"unknown NUFFT backend {backend!r}; known: {', '.join(ENGINES)}, auto")
    if not available(backend):
        raise ImportError(f"the NUFFT backend {backend} is not available here: {install(backend)}, or use another")
    return ENGINES[backend](omega.detach(), matrix, eps)
