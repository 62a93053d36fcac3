"""Coil maps and image estimated together from the centre of k-space, with the maps held smooth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from koosh_models.calibration.cells import Central, ball, filtered, fitted, scaled
from koosh_models.calibration.maps import CoilMaps, finished
from koosh_models.physics.operator import Apply
from koosh_models.physics.sense import fourier_basis
from koosh_models.physics.solve import conjugate_gradient

DIAMETER = 24  # cells of data; the image keeps MARGIN more on every side, for what the maps' own width brings in
MARGIN = 4
ORDER = 7  # Fourier coefficients an axis, of period STRETCH: exact to 0.004 rms for loops around a head
STRETCH = 1.5
RIDGE = 3e-4  # of the object's energy; 1e-3 and 1e-5 are within 20 % on three heads, 3e-5 at R = 12 worse
ALTERNATIONS, NEWTON_STEPS, CG_STEPS = 5, 3, 12


def joint(kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int = DIAMETER) -> CoilMaps:
    """Smooth maps `S` and an image `rho` with `P F (S rho) = k-space` on the central ball P.

    Joint estimation after Ying and Sheng 2007 (MRM 57:1196) and Uecker et al. 2008 (MRM 60:674): first alternating
    least squares on the low-resolution images, then Gauss-Newton on the convolution model, which knows that k-space is
    cut off at the ball: so maps near the object's edges are not biased as the ratio of two blurred images is.

    kspace   (coil, sample) complex
    omega    (axis, sample) rad/voxel
    weights  (sample) density weights
    size     cells across the ball; less where the trajectory samples less of it densely
    """
    cells = fitted(kspace, omega, weights, matrix, size + 2 * MARGIN)
    steps = NEWTON_STEPS
    if cells.diameter >= min(size, max(matrix) - 2):
        window = ball(cells, size)
        model = SmoothModel.windowed(filtered(cells.images, window), window)
    else:
        # the cells are guesses where samples are sparse, so the samples themselves are fitted: slower, but far better
        local, shape = scaled(omega, matrix, size + 2 * MARGIN)
        central = Central.of(kspace, local, weights, shape, float(size))
        model, steps = SmoothModel(cells.images, central.normal, central.b), 3 * NEWTON_STEPS
    coefficients, image = model.alternate(ALTERNATIONS)
    for _ in range(steps):
        coefficients, image = model.newton(coefficients, image)
    return finished(coefficients, STRETCH, cells, model.synthesis(coefficients), matrix)


@dataclass(frozen=True, eq=False)
class SmoothModel:
    """`N (S_c rho) = b_c` on calibration cells, with S_c = B s_c for a few smooth waves B.

    images  (coil, *cells) low-resolution coil images, to start from
    normal  images -> images, of the samples in the ball
    b       (coil, *cells)
    """

    images: Tensor
    normal: Apply
    b: Tensor

    @staticmethod
    def windowed(images: Tensor, window: Tensor) -> SmoothModel:
        """The model of images whose k-space is known on the cells of a window, and on no others."""
        return SmoothModel(images, lambda x: filtered(x, window), images)

    @staticmethod
    def of_images(images: Tensor) -> SmoothModel:
        """The model of images that are known voxel by voxel."""
        return SmoothModel(images, lambda x: x, images)

    @cached_property
    def scale(self) -> float:
        """Of the coil images; the image of the model is of order one."""
        return float(torch.quantile(self.images.norm(dim=0).flatten(), 0.99))

    @cached_property
    def data(self) -> Tensor:
        """(coil, *cells) scaled images."""
        return self.images / self.scale

    @cached_property
    def waves(self) -> list[Tensor]:
        """For each axis (n, ORDER)."""
        dtype, device = self.images.dtype, self.images.device
        return [fourier_basis(n, min(ORDER, n), dtype, device, STRETCH) for n in self.images.shape[1:]]

    @cached_property
    def roughness(self) -> Tensor:
        """(wave) penalty (1 + |f|^2)^2 of a wave of f periods in the field of view."""
        axes = [(torch.arange(w.shape[1], device=w.device) - w.shape[1] // 2) / STRETCH for w in self.waves]
        return (1 + torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).flatten()) ** 2

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """(coil, *waves) -> (coil, *cells)."""
        for axis, wave in enumerate(self.waves, start=1):
            coefficients = torch.movedim(torch.tensordot(coefficients, wave, dims=([axis], [1])), -1, axis)
        return coefficients

    def analysis(self, images: Tensor) -> Tensor:
        """The adjoint of `synthesis`, flat: (coil, *cells) -> (coil, wave)."""
        for axis, wave in enumerate(self.waves, start=1):
            images = torch.movedim(torch.tensordot(images, wave.conj(), dims=([axis], [0])), -1, axis)
        return images.flatten(1)

    def shaped(self, coefficients: Tensor) -> Tensor:
        """(coil, wave) -> (coil, *waves)."""
        return coefficients.reshape(-1, *[w.shape[1] for w in self.waves])

    def whitening(self, image: Tensor) -> Tensor:
        """(wave, wave) L^-1 with L L^H = B^H |rho|^2 B + ridge: the maps' part of the normal equations, one coil's."""
        energy = image.abs().square()
        gram = lags_to_gram(energy.to(image.dtype), [w.shape[1] for w in self.waves])
        gram += torch.diag(RIDGE * float(energy.sum()) * self.roughness)
        factor = torch.linalg.cholesky(gram.to(torch.complex128))
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, eye, upper=False).to(image.dtype)

    def alternate(self, times: int) -> tuple[Tensor, Tensor]:
        """Maps from the image and the image from the maps, in turn, voxel by voxel."""
        image = self.data.norm(dim=0).to(self.data.dtype)
        coefficients = self.data.new_zeros(0)
        for _ in range(times):
            white = self.whitening(image)
            flat = self.analysis(image.conj() * self.data) @ white.T @ white.conj()
            coefficients = self.shaped(flat)
            maps = self.synthesis(coefficients)
            image = (maps.conj() * self.data).sum(0) / (maps.abs().square().sum(0) + 1e-3)
        return coefficients, image

    def newton(self, coefficients: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """One Gauss-Newton step of both, the maps' part preconditioned by its own normal equations."""
        maps, white = self.synthesis(coefficients), self.whitening(image)
        n = image.numel()

        def adjoint(residual: Tensor) -> Tensor:
            part = self.analysis(image.conj() * residual) @ white.T
            return torch.cat([(maps.conj() * residual).sum(0).flatten(), part.flatten()])

        def change(v: Tensor) -> Tensor:
            return self.shaped(v[n:].reshape(len(maps), -1) @ white.conj())

        def normal(v: Tensor) -> Tensor:
            moved = maps * v[:n].reshape(image.shape) + image * self.synthesis(change(v))
            return adjoint(self.normal(moved)) + 1e-3 * v

        misfit = self.b / self.scale - self.normal(maps * image)
        step = conjugate_gradient(normal, adjoint(misfit), iterations=CG_STEPS, tolerance=1e-3).x
        return coefficients + change(step), image + step[:n].reshape(image.shape)


def lags_to_gram(density: Tensor, orders: list[int]) -> Tensor:
    """(wave, wave) matrix B^H diag(density) B, from the density's Fourier sums at the differences of two waves.

    density  (*cells) complex
    """
    lags = density[None]
    for axis, order in enumerate(orders, start=1):
        wave = fourier_basis(lags.shape[axis], 2 * order - 1, density.dtype, density.device, STRETCH).conj()
        lags = torch.movedim(torch.tensordot(lags, wave, dims=([axis], [0])), -1, axis)
    gram: Tensor = lags[0]
    rows = [torch.arange(order, device=density.device) for order in orders]
    index = [(r[:, None] - r[None, :] + len(r) - 1) for r in rows]
    n = len(orders)
    spread = [i.reshape([len(i) if a in (axis, axis + n) else 1 for a in range(2 * n)]) for axis, i in enumerate(index)]
    size = int(torch.tensor(orders).prod())
    return gram[tuple(spread)].reshape(size, size)
