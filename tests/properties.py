"""The shared property checks: an operator that fails one is not merged."""

import torch
from torch import Tensor

from koosh_models.physics.operator import Operator


def random_complex(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    """A reproducible complex normal tensor."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def assert_adjoint(op: Operator, x: Tensor, y: Tensor, rtol: float) -> None:
    """`<A x, y> == <x, A^H y>` and the shapes agree."""
    ax, ay = op.forward(x), op.adjoint(y)
    assert ax.shape == y.shape
    assert ay.shape == x.shape
    lhs, rhs = torch.vdot(ax.flatten(), y.flatten()), torch.vdot(x.flatten(), ay.flatten())
    assert abs(lhs - rhs) <= rtol * ax.norm() * y.norm()


def assert_normal(op: Operator, x: Tensor, rtol: float) -> None:
    """`normal(x) == adjoint(forward(x))`."""
    want = op.adjoint(op.forward(x))
    assert (op.normal(x) - want).norm() <= rtol * want.norm()  # type: ignore[attr-defined]


def assert_gradient(op: Operator, x: Tensor, y: Tensor, rtol: float) -> None:
    """Autograd of the misfit `|A x - y|^2 / 2` is the adjoint of the residual."""
    x = x.clone().requires_grad_()
    misfit = (op.forward(x) - y).abs().square().sum() / 2
    (grad,) = torch.autograd.grad(misfit, x)
    want = op.adjoint(op.forward(x.detach()) - y)
    assert (grad - want).norm() <= rtol * want.norm()


def assert_double_backward(op: Operator, x: Tensor, rtol: float) -> None:
    """The gradient of `|A x|^2 / 2` is differentiable, and its derivative along v is `A^H A v`."""
    x = x.clone().requires_grad_()
    v = torch.ones_like(x)
    (grad,) = torch.autograd.grad(op.forward(x).abs().square().sum() / 2, x, create_graph=True)
    (second,) = torch.autograd.grad(grad, x, v)
    want = op.adjoint(op.forward(v))
    assert (second - want).norm() <= rtol * want.norm()
