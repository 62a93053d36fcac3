"""Reconstruction of a series whose small patches change along few patterns in time."""

from __future__ import annotations

import torch
from torch import Tensor

from koosh_models.baselines.classical import Progress, Result
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.solve import conjugate_gradient, largest_eigenvalue

WEIGHT = 0.005  # in units of the scale; the middle of what tuning on cines of 4 to 12-fold undersampling chose
STRONG = 0.025  # for a few iterations that begin with a series that stands still
ITERATIONS = 40
SIDE = {1: 16, 2: 6, 3: 4}  # voxels across a patch, by spatial axes


def locally_low_rank(
    problem: LinearProblem,
    weight: float = WEIGHT,
    iterations: int = ITERATIONS,
    side: int | None = None,
    seed: int = 0,
    lipschitz: float | None = None,
    progress: Progress | None = None,
    start: Tensor | None = None,
) -> Result:
    """`argmin |W^1/2 (A x - y)|^2 / 2 + weight * scale * sum_p |C_p x|_*` by FISTA, patches at random shifts.

    C_p stacks the frames of patch p as rows (Trzasko and Manduca 2011, ISMRM 19:4371; Zhang et al. 2015, MRM 73:655).
    The weight is multiplied by what the largest singular value of a patch of pure noise of deviation one would be, so
    that it needs no change with the patch's size or the number of frames.

    problem    of a series, (frame, z, y, x) or (frame, y, x)
    side       voxels across a patch
    lipschitz  largest eigenvalue of the normal operator; estimated by power iteration where not given
    start      image to begin with; zero where not given
    """
    check(problem, weight)
    axes = len(problem.shape) - 1
    width = side or SIDE[axes]
    step = 1 / (lipschitz or 1.1 * largest_eigenvalue(problem.normal, problem.b))
    threshold = weight * problem.scale * step * (width ** (axes / 2) + problem.shape[0] ** 0.5)
    generator = torch.Generator().manual_seed(seed)
    x = z = problem.b * 0 if start is None else start
    t = 1.0
    for k in range(iterations):
        new = shrunk(z - step * (problem.normal(z) - problem.b), threshold, width, generator)
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z = new + ((t - 1) / t_new) * (new - x)
        x, t = new, t_new
        if progress is not None:
            progress(k, x)
    return Result(x, iterations)


def few_patterns(problem: LinearProblem, iterations: int) -> Tensor:
    """What a network may start from: some iterations under a strong weight, from the best image without motion."""
    check(problem, STRONG)
    return locally_low_rank(problem, STRONG, iterations, start=still(problem)).image


def still(problem: LinearProblem, steps: int = 6) -> Tensor:
    """The one image that fits the samples of all frames together best, as every frame."""
    shape = problem.shape

    def normal(image: Tensor) -> Tensor:
        return problem.normal(image.expand(shape).contiguous()).mean(0)

    return conjugate_gradient(normal, problem.b.mean(0), iterations=steps).x.expand(shape).contiguous()


def check(problem: LinearProblem, weight: float) -> None:
    """Refuse what is no series or no weight."""
    if len(problem.shape) < 3 or problem.shape[0] < 2:
        raise ValueError(
            "locally low rank needs a series (frame, z, y, x) or (frame, y, x) of two frames at least; "
            f"this problem has shape {problem.shape}: use cg or l1"
        )
    if weight < 0:
        raise ValueError(f"the weight is {weight}, wanted 0 or more")


def shrunk(series: Tensor, threshold: float, side: int, generator: torch.Generator) -> Tensor:
    """The series with the singular values of its patches lessened by `threshold`; patches start at a random place."""
    matrix = tuple(series.shape[1:])
    room = [-(-n // side) * side for n in matrix]
    shifts = [int(torch.randint(0, side, (), generator=generator)) for _ in room]
    axes = tuple(range(1, series.ndim))
    inside = (slice(None), *(slice(0, n) for n in matrix))
    wide = series.new_zeros((len(series), *room))
    wide[inside] = series
    patches = cut(wide.roll(shifts, axes), side)
    whole = joined(soft(patches, threshold), room, side)
    return whole.roll([-s for s in shifts], axes)[inside].contiguous()


def cut(series: Tensor, side: int) -> Tensor:
    """(patch, frame, voxel) of a series whose sizes are multiples of `side`."""
    frames, *sizes = series.shape
    split = series.reshape(frames, *[part for n in sizes for part in (n // side, side)])
    outer, inner = range(1, split.ndim, 2), range(2, split.ndim, 2)
    return split.permute(*outer, 0, *inner).reshape(-1, frames, side ** len(sizes))


def joined(patches: Tensor, sizes: list[int], side: int) -> Tensor:
    """The series of `cut` patches."""
    frames, axes = patches.shape[1], len(sizes)
    split = patches.reshape(*[n // side for n in sizes], frames, *[side] * axes)
    order = [axes] + [part for axis in range(axes) for part in (axis, axes + 1 + axis)]
    return split.permute(*order).reshape(frames, *sizes)


def soft(patches: Tensor, threshold: float) -> Tensor:
    """(patch, frame, voxel) with singular values lessened by `threshold`, none below 0.

    By the eigenvectors of the smaller Gram matrix, which costs far less than singular vectors.
    """
    tall = patches.shape[1] > patches.shape[2]
    rows = patches.mH if tall else patches
    values, vectors = torch.linalg.eigh(rows @ rows.mH)
    singular = values.clamp_min(0).sqrt()
    keep = (1 - threshold / singular.clamp_min(1e-30)).clamp_min(0)
    lessened = (vectors * keep[:, None, :].to(vectors.dtype)) @ (vectors.mH @ rows)
    return lessened.mH if tall else lessened
