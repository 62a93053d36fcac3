"""Gridding, CG-SENSE and L1-wavelet reconstructions of a linear problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.baselines import wavelet
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.solve import conjugate_gradient, largest_eigenvalue

LAMBDA = 0.009  # L1 weight in units of the scale: what tuning on heads chose at 48^3 and 96^3 (benchmarks.classical)
CG_ITERATIONS = 10
L1_ITERATIONS = 30
Progress = Callable[[int, Tensor], None]


@dataclass(frozen=True, eq=False)
class Result:
    """An image with how it was reached.

    image       (z, y, x) complex
    iterations  applications of the normal operator
    residual    |N x - b| / |b|; None where it was not computed
    """

    image: Tensor
    iterations: int
    residual: float | None = None


def gridding(problem: LinearProblem) -> Result:
    """The weighted adjoint: no iteration, no regularization."""
    return Result(problem.b.clone(), 0)


def cg_sense(
    problem: LinearProblem, iterations: int = CG_ITERATIONS, tikhonov: float = 0.0, tolerance: float = 1e-4
) -> Result:
    """`argmin |W^1/2 (A x - y)|^2 + tikhonov |x|^2` by conjugate gradients (Pruessmann et al. 2001)."""
    if tikhonov < 0:
        raise ValueError(f"tikhonov is {tikhonov}, wanted 0 or more")
    normal = problem.normal if tikhonov == 0 else lambda x: problem.normal(x) + tikhonov * x
    solution = conjugate_gradient(normal, problem.b, iterations=iterations, tolerance=tolerance)
    return Result(solution.x, solution.iterations, solution.residual)


def l1_wavelet(
    problem: LinearProblem,
    weight: float = LAMBDA,
    iterations: int = L1_ITERATIONS,
    seed: int = 0,
    lipschitz: float | None = None,
    progress: Progress | None = None,
) -> Result:
    """`argmin |W^1/2 (A x - y)|^2 / 2 + weight * scale * |Psi x|_1` by FISTA, randomly shifted.

    Beck and Teboulle 2009.

    weight     in units of the problem's scale
    lipschitz  largest eigenvalue of the normal operator; estimated by power iteration where not given
    """
    if weight < 0:
        raise ValueError(f"the L1 weight is {weight}, wanted 0 or more")
    # power iteration approaches from below; the margin covers what 8 steps miss
    step = 1 / (lipschitz or 1.1 * largest_eigenvalue(problem.normal, problem.b))
    generator = torch.Generator().manual_seed(seed)
    x = z = problem.b * 0
    t = 1.0
    for k in range(iterations):
        gradient = problem.normal(z) - problem.b
        new = denoise(z - step * gradient, weight * problem.scale * step, generator)
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z = new + ((t - 1) / t_new) * (new - x)
        x, t = new, t_new
        if progress is not None:
            progress(k, x)
    return Result(x, iterations)


def denoise(x: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """One soft threshold of the wavelet coefficients of a randomly shifted copy."""
    count = wavelet.levels(tuple(x.shape))
    room = wavelet.padded(tuple(x.shape), count)
    shifts = [int(torch.randint(0, n, (), generator=generator)) for n in room]
    axes = tuple(range(x.ndim))
    wide = x.new_zeros(room)
    wide[tuple(slice(0, n) for n in x.shape)] = x
    coefficients = wavelet.forward(wide.roll(shifts, axes), count)
    smooth = wavelet.inverse(wavelet.shrink(coefficients, threshold), count)
    return smooth.roll([-s for s in shifts], axes)[tuple(slice(0, n) for n in x.shape)].contiguous()
