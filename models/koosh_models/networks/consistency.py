"""Consistency steps: what turns a regularized image back into one that fits the measurement.

The three linear ones are written with their backward: it needs one application of the normal operator (or one solve),
and of the forward pass only inner products with the regularized image, so that a strategy can gather those while it
recomputes that image tile by tile and no volume of a consistency step is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from koosh_models.physics.operator import Apply, inner
from koosh_models.physics.problem import LinearProblem, Problem
from koosh_models.physics.solve import Path, Solution, along, conjugate_gradient


class Consistency(Protocol):
    """One step towards the measurement.

    kind  names the mathematics: "gradient", "cg", "proximal", "em" ...; errors and strategies speak of it
    """

    kind: str

    def __call__(self, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
        """The next image, from the iterate `x` before regularization and the regularized one."""


@runtime_checkable
class Split(Protocol):
    """A step whose costly part sees neither parameters nor the regularized image (EM): a strategy may cache that part.

    `step(problem, x, regularized) == step.fuse(problem, step.data(problem, x), regularized)`
    """

    def data(self, problem: Problem, x: Tensor) -> Tensor:
        """The part that needs the measurement (one EM update of `x`)."""

    def fuse(self, problem: Problem, data: Tensor, regularized: Tensor) -> Tensor:
        """The next image from that part and the regularized image."""


@dataclass(frozen=True, eq=False)
class Pull:
    """The gradient of the next image pulled back through a linear step.

    to_regularized  gradient of the regularized image
    to_x            gradient of the iterate before regularization, None where the step does not use it
    probes          volumes whose inner product with the regularized image the parameters' gradients need
    image           a volume the step keeps for its parameters' gradients
    """

    to_regularized: Tensor
    to_x: Tensor | None
    probes: tuple[Tensor, ...]
    image: Tensor | None = None


@runtime_checkable
class Linear(Protocol):
    """A consistency step with a hand-written backward, linear in its images.

    needs  which of "x" and "out" the parameters' gradients need besides the probes
    """

    needs: tuple[str, ...]

    def value(self, problem: Problem, x: Tensor, regularized: Tensor) -> tuple[Tensor, Path]:
        """The next image, outside autograd, and how it was found where `pull` has to know."""

    def pull(self, problem: Problem, grad: Tensor, path: Path) -> Pull:
        """Gradients of the images."""

    def slopes(self, problem: Problem, grad: Tensor, pull: Pull, dots: list[Tensor], x: Tensor, out: Tensor) -> Slopes:
        """Gradients of the parameters, in the order of `parameters()`; `dots` are Re<probe, regularized>."""


Slopes = tuple[Tensor, ...]


class _Step(torch.autograd.Function):
    """A linear step under autograd; saves the regularized image and what `needs` names."""

    @staticmethod
    def forward(
        ctx: Any, step: Linear, problem: Problem, x: Tensor, regularized: Tensor, *parameters: Tensor
    ) -> Tensor:
        out, ctx.path = step.value(problem, x, regularized)
        ctx.step, ctx.problem = step, problem
        kept = {"x": x, "out": out}
        ctx.save_for_backward(regularized, *(kept[name] for name in step.needs))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        regularized, *rest = ctx.saved_tensors
        kept = dict(zip(ctx.step.needs, rest, strict=True))
        pull = ctx.step.pull(ctx.problem, grads[0], ctx.path)
        dots = [inner(probe, regularized) for probe in pull.probes]
        none = regularized.new_empty(0)
        slopes = ctx.step.slopes(ctx.problem, grads[0], pull, dots, kept.get("x", none), kept.get("out", none))
        return None, None, pull.to_x, pull.to_regularized, *slopes


def _differentiable(step: Any, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
    return _Step.apply(step, problem, x, regularized, *step.parameters())  # type: ignore[no-untyped-call]


def linear_problem(problem: Problem, kind: str) -> LinearProblem:
    """The problem, which must offer `normal` and `b`."""
    if not isinstance(problem, LinearProblem):
        raise TypeError(
            f"a {kind} step needs a LinearProblem (normal and b), got {type(problem).__name__}; use its own step"
        )
    return problem


def _positive(name: str, value: float) -> Tensor:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}, wanted a positive number")
    return torch.tensor(float(value))


class GradientStep(nn.Module):
    """`x = z - sum_j c_j N^j (N z - b)`: a gradient step from the regularized image z, learned coefficients c.

    degree 0 is the plain step of Miller et al. 2023; a higher one preconditions by a learned polynomial in N, each
    order costing one more application of it.
    """

    kind = "gradient"
    needs: tuple[str, ...] = ()

    def __init__(self, step: float = 1.0, degree: int = 0) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.cat([_positive("step", step)[None], torch.zeros(degree)]))

    def forward(self, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
        """The next image; `x` is not used."""
        return _differentiable(self, problem, x, regularized)

    def value(self, problem: Problem, x: Tensor, regularized: Tensor) -> tuple[Tensor, Path]:
        """The next image, outside autograd."""
        linear = linear_problem(problem, self.kind)
        residual = linear.normal(regularized) - linear.b
        out = regularized - self.steps[0].detach() * residual
        for step in self.steps[1:].detach():
            residual = linear.normal(residual)
            out = out - step * residual
        return out, ()

    def pull(self, problem: Problem, grad: Tensor, path: Path) -> Pull:
        """`gz = g - sum_j c_j N^(j+1) g`."""
        linear = linear_problem(problem, self.kind)
        out, probes = grad, list[Tensor]()
        for step in self.steps.detach():
            probes.append(linear.normal(probes[-1] if probes else grad))
            out = out - step * probes[-1]
        return Pull(out, None, tuple(probes))

    def slopes(self, problem: Problem, grad: Tensor, pull: Pull, dots: list[Tensor], x: Tensor, out: Tensor) -> Slopes:
        """`g_cj = -Re<N^j g, N z - b>`, with N moved to the left side."""
        b = linear_problem(problem, self.kind).b
        powers = (grad, *pull.probes[:-1])
        return (torch.stack([inner(p, b) - dot for p, dot in zip(powers, dots, strict=True)]).to(self.steps.dtype),)


class ConjugateGradient(nn.Module):
    """`x = (N + lam)^-1 (b + lam z)` by conjugate gradients from z (MoDL, Aggarwal et al. 2019).

    lam is learned through its logarithm, so it stays positive. It is relative to N's largest eigenvalue, about 1.

    Where the steps reach the tolerance, the gradient is the implicit one of the solution. Where they end before it, as
    two or three steps do, the image is `x = z + q(N) (b - N z)` with q the polynomial that the steps were, and the
    gradient is that of this image, q held. The implicit gradient is not: it takes from z what N hardly sees, the very
    part that the regularizer has to fill in (its norm is 6 to 80 times too small in the first of four stages).

    near  the steps use the problem's cheaper operator, the residual that they start from the exact one
    """

    kind = "cg"
    needs: tuple[str, ...] = ("out",)

    def __init__(self, lam: float = 0.05, steps: int = 10, tolerance: float = 1e-6, near: bool = False) -> None:
        super().__init__()
        self.log_lam = nn.Parameter(_positive("lambda", lam).log())
        self.steps, self.tolerance, self.near = steps, tolerance, near

    @property
    def lam(self) -> float:
        """The weight of the regularized image."""
        return float(self.log_lam.detach().exp())

    def forward(self, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
        """The next image; `x` is not used."""
        return _differentiable(self, problem, x, regularized)

    def damped(self, normal: Apply) -> Apply:
        """`N + lam`."""
        lam = self.lam
        return lambda v: normal(v).add(v, alpha=lam)

    def solve(self, problem: Problem, right: Tensor, start: Tensor | None, near: bool = False) -> Solution:
        """`(N + lam)^-1 right`."""
        linear = linear_problem(problem, self.kind)
        other = self.damped(linear.near) if near else None
        return conjugate_gradient(self.damped(linear.normal), right, start, self.steps, self.tolerance, near=other)

    def value(self, problem: Problem, x: Tensor, regularized: Tensor) -> tuple[Tensor, Path]:
        """The next image, outside autograd, and the steps if they ended before the tolerance."""
        right = linear_problem(problem, self.kind).b + self.lam * regularized
        found = self.solve(problem, right, regularized, self.near)
        return found.x, found.path if self.near or found.residual > self.tolerance else ()

    def pull(self, problem: Problem, grad: Tensor, path: Path) -> Pull:
        """`v = q(N) g`, `gz = g - N v`; of a converged solution `v = (N + lam)^-1 g`, `gz = lam v`."""
        if not path:
            v = self.solve(problem, grad, None).x
            return Pull(self.lam * v, None, (v,))
        linear = linear_problem(problem, self.kind)
        v = along(path, self.damped(linear.near if self.near else linear.normal), grad)
        return Pull(grad - linear.normal(v), None, (v,))

    def slopes(self, problem: Problem, grad: Tensor, pull: Pull, dots: list[Tensor], x: Tensor, out: Tensor) -> Slopes:
        """`g_lam = Re<v, z - x>`, times lam for its logarithm; before convergence v stands for `(N + lam)^-1 g`."""
        return ((self.lam * (dots[0] - inner(pull.probes[0], out))).to(self.log_lam.dtype),)

    def inverse(self, problem: Problem, out: Tensor) -> Tensor:
        """The regularized image `((N + lam) out - b) / lam`; exact as far as the solver had converged."""
        linear = linear_problem(problem, self.kind)
        return (linear.normal(out) - linear.b) / self.lam + out

    def spread(self, problem: Problem, error: Tensor) -> Tensor:
        """What an error of the result becomes in `inverse`: `(N + lam) e / lam`."""
        return linear_problem(problem, self.kind).normal(error) / self.lam + error


class Proximal(nn.Module):
    """`x' = (x - s (N x - b) + s lam z) / (1 + s lam)`: a data step from x, then the proximal map of `lam/2 |x - z|^2`.

    The two images meet only here, so both carry gradient. s and lam are learned through their logarithms.
    """

    kind = "proximal"
    needs: tuple[str, ...] = ("x", "out")

    def __init__(self, step: float = 1.0, lam: float = 1.0) -> None:
        super().__init__()
        self.log_step = nn.Parameter(_positive("step", step).log())
        self.log_lam = nn.Parameter(_positive("lambda", lam).log())

    def _weights(self) -> tuple[float, float]:
        return float(self.log_step.detach().exp()), float(self.log_lam.detach().exp())

    def forward(self, problem: Problem, x: Tensor, regularized: Tensor) -> Tensor:
        """The next image."""
        return _differentiable(self, problem, x, regularized)

    def value(self, problem: Problem, x: Tensor, regularized: Tensor) -> tuple[Tensor, Path]:
        """The next image, outside autograd."""
        linear = linear_problem(problem, self.kind)
        step, lam = self._weights()
        return (x - step * (linear.normal(x) - linear.b) + step * lam * regularized) / (1 + step * lam), ()

    def pull(self, problem: Problem, grad: Tensor, path: Path) -> Pull:
        """`u = g / (1 + s lam)`, `gx = u - s N u`, `gz = s lam u`."""
        step, lam = self._weights()
        u = grad / (1 + step * lam)
        image = linear_problem(problem, self.kind).normal(u)
        return Pull(step * lam * u, u - step * image, (u,), image)

    def slopes(self, problem: Problem, grad: Tensor, pull: Pull, dots: list[Tensor], x: Tensor, out: Tensor) -> Slopes:
        """`g_s = -Re<u, N x - b> + lam Re<u, z - x'>`, `g_lam = s Re<u, z - x'>`, each times its own weight."""
        step, lam = self._weights()
        (u,), image = pull.probes, pull.image
        assert image is not None
        apart = dots[0] - inner(u, out)
        misfit = inner(image, x) - inner(u, linear_problem(problem, self.kind).b)
        return (step * (lam * apart - misfit)).to(self.log_step.dtype), (lam * step * apart).to(self.log_lam.dtype)
