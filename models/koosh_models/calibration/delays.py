"""Gradient delays: how far the true trajectory lags behind the nominal one, found from the scan itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.calibration.cells import scaled
from koosh_models.physics import toeplitz
from koosh_models.physics.compress import compression, gram
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import Apply
from koosh_models.physics.solve import conjugate_gradient

# cells of k-space around the centre whose samples are compared, and the steps taken there: from coarse to fine, since a
# delay turns the phase of a small ball's image less
LEVELS = ((6, 8), (10, 4), (16, 4))
MARGIN = 4
COILS = 3  # virtual coils
CG_STEPS = 12
START = 1.0  # samples: readouts from the centre overlap there when delays are overestimated and leave a hole when they
# are underestimated, which explains too much; so the search comes from above
SETTLED = 1e-3  # samples; a smaller change ends a level
LARGEST = 0.5  # samples in one step: beyond it the linear model of a shift no longer holds


@dataclass(frozen=True, eq=False)
class Delays:
    """What the gradients do to a trajectory.

    tensor  (axis, axis) in samples, rows and columns z, y, x: `k_true(t) = k(t) - tensor dk/dt`; the diagonal holds the
            delay of each axis, the rest the cross-talk (or axes that are oblique to the gradients)
    before  part of the central signal that no image explains on the nominal trajectory
    after   the same on the corrected one
    """

    tensor: Tensor
    before: float
    after: float


def estimate(kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], readout: int) -> Delays:
    """The delay tensor for which the readouts agree with each other best near k = 0.

    Spokes that cross the centre in many directions must show one and the same object there. As in RING (Rosenzweig et
    al. 2019, MRM 81:1898), whose spokes meet in a ring, a tensor shifts every spoke; here it is found in two or three
    dimensions by Gauss-Newton on the misfit between the samples and the small coil images that fit them best (variable
    projection), so no crossing of spokes is needed and curved readouts serve as well.

    kspace   (coil, sample) complex, several readouts through or from the centre in different directions
    omega    (axis, sample) rad/voxel, nominal
    weights  (sample) density weights
    readout  samples in one readout
    """
    check_directions(omega, readout)
    if not bool(kspace.abs().max() > 0):
        raise ValueError("k-space is all zero: no delays can be found")
    few = compression(gram(kspace), min(COILS, len(kspace))).apply(kspace)
    tensor = START * torch.eye(len(matrix), dtype=torch.float64)
    for diameter, steps in LEVELS:
        for _ in range(steps):
            path = corrected(omega, tensor, readout)
            step = _Central.of(few, path, weights, matrix, diameter).step(velocity(path, readout))
            step *= min(1.0, LARGEST / max(float(step.abs().max()), 1e-12))
            tensor = tensor + step
            if float(step.abs().max()) < SETTLED:
                break
    diameter = LEVELS[-1][0]
    before = _Central.of(few, omega, weights, matrix, diameter).misfit()
    after = _Central.of(few, corrected(omega, tensor, readout), weights, matrix, diameter).misfit()
    return Delays(tensor, before, after)


def corrected(omega: Tensor, tensor: Tensor, readout: int) -> Tensor:
    """The true trajectory (..., axis, sample) of a nominal one.

    Each axis is read at its own delayed time, cross-talk is added to first order. What is pushed beyond the matrix, at
    most |delay| samples of a readout, is held at its rim.
    """
    cross = (tensor - torch.diag(tensor.diagonal())).to(omega.device)
    moved = -(cross @ velocity(omega, readout).double())
    paths = omega.double().reshape(*omega.shape[:-1], -1, readout)
    for axis, delay in enumerate(tensor.diagonal().tolist()):
        moved[..., axis, :] += late(paths[..., axis, :, :], delay).flatten(-2)
    return moved.clamp(-torch.pi, torch.pi).to(omega.dtype)


def late(path: Tensor, delay: float) -> Tensor:
    """The path (..., sample) at sample - delay, linear between samples and beyond the ends."""
    place = torch.arange(path.shape[-1], dtype=path.dtype, device=path.device) - delay
    left = place.floor().clamp(0, path.shape[-1] - 2).long()
    return path[..., left] + (place - left) * (path[..., left + 1] - path[..., left])


def velocity(omega: Tensor, readout: int) -> Tensor:
    """(..., axis, sample) rad/voxel a sample: how fast each readout moves."""
    if readout < 2 or omega.shape[-1] % readout:
        raise ValueError(f"{omega.shape[-1]} samples are no whole number of readouts of {readout} (two at least)")
    paths = omega.reshape(*omega.shape[:-1], -1, readout)
    return torch.gradient(paths, dim=-1)[0].flatten(-2)


def check_directions(omega: Tensor, readout: int) -> None:
    """Refuse trajectories whose readouts all move along fewer axes than there are: their delays cannot be seen."""
    speed = velocity(omega, readout)
    spread = torch.linalg.eigvalsh((speed @ speed.T).double() / speed.shape[1])
    if float(spread[0]) < 1e-3 * float(spread[-1]):
        raise ValueError(
            "the readouts of this trajectory do not move along every axis, so the delays of all gradients cannot be "
            "estimated from it: give the delays, or use radial, cone or spiral readouts"
        )


@dataclass(frozen=True, eq=False)
class _Central:
    """Samples near k = 0 and the small coil images that fit them.

    y        (coil, sample)
    weights  (sample)
    scale    (axis) rad per voxel of the small matrix for one of the whole
    """

    y: Tensor
    nufft: Nufft
    weights: Tensor
    normal: Apply
    inside: Tensor
    scale: Tensor

    @staticmethod
    def of(kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], diameter: int) -> _Central:
        local, cells = scaled(omega, matrix, diameter + 2 * MARGIN)
        reach = torch.tensor([min(diameter, n) / n for n in cells], device=omega.device)[:, None]
        radius = (local / (torch.pi * reach)).norm(dim=0)
        inside = radius < 1
        if int(inside.sum()) < 4 * len(matrix) ** 2:
            raise ValueError(
                f"only {int(inside.sum())} samples lie within {diameter / 2:g} cells of the centre of k-space: too few "
                "to find delays; the trajectory has to pass the centre"
            )
        # samples at the ball's rim feel cells beyond it, so they count less
        w = (weights * torch.cos(radius.clamp_max(1) * (torch.pi / 2)).square())[inside]
        nufft = Nufft(local[:, inside].contiguous(), cells)
        scale = torch.tensor([n / c for n, c in zip(matrix, cells, strict=True)], dtype=torch.float64)
        return _Central(kspace[:, inside], nufft, w, toeplitz.build(nufft, w).normal, inside, scale)

    def fit(self, y: Tensor) -> Tensor:
        """The images (..., *cells) whose samples come closest to y (..., sample)."""
        b = self.nufft.adjoint(y.reshape(-1, y.shape[-1]) * self.weights)
        images = conjugate_gradient(self.normal, b, iterations=CG_STEPS, tolerance=1e-4, independent=1).x
        return images.reshape(*y.shape[:-1], *self.nufft.matrix)

    def rest(self, y: Tensor) -> Tensor:
        """What no image explains of y (..., sample)."""
        return y - self.nufft.forward(self.fit(y))

    def misfit(self) -> float:
        """Weighted norm of what no image explains of the samples, over theirs."""
        power = (self.y.abs().square() * self.weights).sum()
        rest = (self.rest(self.y).abs().square() * self.weights).sum()
        return float((rest / power).sqrt())

    def step(self, speed: Tensor) -> Tensor:
        """The change (axis, axis) of the delay tensor that lowers the misfit most, to first order."""
        images = self.fit(self.y)
        residual = self.y - self.nufft.forward(images)
        columns = []
        for axis, n in enumerate(self.nufft.matrix):
            place = (torch.arange(n, device=images.device) - n // 2).reshape([-1] + [1] * (len(speed) - 1 - axis))
            slope = self.nufft.forward(-1j * place * images) * -float(self.scale[axis])
            columns += [slope * row for row in speed[:, self.inside]]
        jacobian = torch.stack(columns)
        jacobian = self.rest(jacobian)
        rows = (jacobian * self.weights.sqrt()).flatten(1).to(torch.complex128)
        target = (residual * self.weights.sqrt()).flatten().to(torch.complex128)
        hessian, slope_of = (rows.conj() @ rows.T).real, (rows.conj() @ target).real
        # directions that the data do not determine (a common shift of all readouts) stay where they are
        hessian += 1e-4 * float(hessian.diagonal().max()) * torch.eye(len(hessian), dtype=torch.float64)
        change = torch.linalg.solve(hessian, slope_of)
        return change.reshape(len(speed), len(speed)).cpu()
