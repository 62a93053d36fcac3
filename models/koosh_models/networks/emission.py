"""The consistency step of PET: one EM update, fused with the regularized image in closed form (FBSEM-Net).

Mehranian & Reader, IEEE TRPMS 2020; Corda-D'incan, Schnabel, Reader, IEEE TRPMS 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from koosh_models.physics.pet.prior import access_order, fuse, relative
from koosh_models.physics.problem import EmissionProblem, Problem


class Strength(nn.Module):
    """gamma >= 0, how much the regularized image counts against the data; free of units, 0 means not at all."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma is {gamma}, wanted a number >= 0")
        # softplus of -1e4 is exactly 0 in every precision, and its slope too; unlike minus infinity it can be stored
        inverse = gamma + math.log(-math.expm1(-gamma)) if gamma > 0 else -1e4
        self.raw = nn.Parameter(torch.tensor(inverse))

    def forward(self) -> Tensor:
        """gamma, a scalar."""
        return nn.functional.softplus(self.raw)


class EmissionStep(nn.Module):
    """`x = 2 x_em / (b + sqrt(b^2 + 4 g S x_em))`, b = 1 - g S x_reg: the root of both terms together.

    The EM update x_em sees no parameter of its stage, so a strategy may compute it once (`data`) and train on `fuse`.

    position   which update of the reconstruction this is: it says which subset is used
    strength   gamma; several steps may share one
    truncated  no gradient goes through the projections: x_em = x * ratio, with the ratio held fixed
    """

    kind = "em"

    def __init__(self, position: int, strength: Strength, truncated: bool = False) -> None:
        super().__init__()
        self.position, self.truncated, self.strength = position, truncated, strength

    def subset(self, problem: EmissionProblem) -> int:
        """The ordered subset of this update."""
        return access_order(problem.n_subsets)[self.position % problem.n_subsets]

    def data(self, problem: Problem, x: Tensor) -> Tensor:
        """The EM update of `x`, with this step's subset."""
        emission = emission_problem(problem)
        return x * emission.ratio(x.detach() if self.truncated else x, self.subset(emission))

    def fuse(self, problem: Problem, data: Tensor, regularized: Tensor) -> Tensor:
        """The next image from the EM update and the regularized image."""
        emission = emission_problem(problem)
        subset = self.subset(emission)
        strength = relative(emission, subset) * self.strength()
        return fuse(data, regularized, emission.inverse_sensitivity[subset], strength)

    def forward(self, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
        """The next image, >= 0."""
        return self.fuse(problem, self.data(problem, x), regularized)


def emission_problem(problem: Problem) -> EmissionProblem:
    """The problem, which must offer EM updates."""
    if not isinstance(problem, EmissionProblem):
        raise TypeError(f"an em step needs an EmissionProblem (counts), got {type(problem).__name__}; use its own step")
    return problem


def osem_updates(problem: Problem, n: int) -> Tensor:
    """The image after `n` updates of OSEM from a flat start."""
    emission = emission_problem(problem)
    order, x = access_order(emission.n_subsets), emission.flat()
    for k in range(n):
        x = emission.em(x, order[k % len(order)])
    return x


def emission_steps(n: int, gamma: float, shared: bool, truncated: bool, first: int = 0) -> list[EmissionStep]:
    """The EM steps of `n` updates in a row, after `first` ones; `shared` ones have one gamma."""
    one = Strength(gamma)
    return [EmissionStep(first + k, one if shared else Strength(gamma), truncated) for k in range(n)]
