"""What every operator offers, and how one is differentiated without storing anything of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]


class Operator(Protocol):
    """A linear map between images and measurements. `normal` is added only where it is cheaper than both."""

    def forward(self, x: Tensor) -> Tensor:
        """Measurement of the image `x`."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Image that the measurement `y` is correlated with; an adjoint is not an inverse."""


class _Linear(torch.autograd.Function):
    """`apply(x)` whose gradient is `transpose(g)`: nothing of the operator or of `x` is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Apply, transpose: Apply) -> Tensor:
        ctx.maps = (apply, transpose)  # not ctx.apply: the engine calls that name
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        apply, transpose = ctx.maps
        return linear(grads[0], transpose, apply), None, None


def linear(x: Tensor, apply: Apply, transpose: Apply) -> Tensor:
    """`apply(x)`, differentiable any number of times; `transpose` is the exact adjoint of `apply`."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Linear.apply(x, apply, transpose)  # type: ignore[no-untyped-call]
    return apply(x)


def selfadjoint(x: Tensor, normal: Apply) -> Tensor:
    """`normal(x)` for a self-adjoint map, differentiable any number of times."""
    return linear(x, normal, normal)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of `<a, b>`, a scalar; for real tensors the ordinary dot product."""
    return torch.vdot(a.flatten(), b.flatten()).real
