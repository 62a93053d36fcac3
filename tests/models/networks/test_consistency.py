"""Consistency steps against dense linear algebra under ordinary autograd, in double precision."""

import pytest
import torch
from torch import nn

from koosh_models.networks.consistency import ConjugateGradient, GradientStep, Linear, Proximal
from koosh_models.physics.problem import EmissionProblem, LinearProblem
from koosh_models.physics.solve import conjugate_gradient
from tests.properties import random_complex

N = 12


def dense(seed: int = 0) -> tuple[LinearProblem, torch.Tensor]:
    """A problem whose normal operator is a known positive matrix of largest eigenvalue 1."""
    a = random_complex((N, N), seed, torch.complex128)
    matrix = a.conj().T @ a
    matrix = matrix / torch.linalg.eigvalsh(matrix)[-1]
    b = random_complex((3, 4), seed + 1, torch.complex128)
    return LinearProblem(lambda x: (matrix @ x.flatten()).view(x.shape), b), matrix


def steps() -> dict[str, nn.Module]:
    polynomial = GradientStep(0.7, degree=2).double()
    with torch.no_grad():
        polynomial.steps[1:] = torch.tensor([0.4, -0.2])
    return {
        "gradient": GradientStep(0.7).double(),
        "polynomial": polynomial,
        "cg": ConjugateGradient(0.3, steps=40, tolerance=1e-14).double(),
        "proximal": Proximal(0.7, 0.4).double(),
    }


def by_autograd(name, step, matrix, b, x, z):
    """The step's equation, written out densely."""
    flat_x, flat_z, flat_b = x.flatten(), z.flatten(), b.flatten()
    if name in ("gradient", "polynomial"):
        power, out = matrix @ flat_z - flat_b, flat_z
        for c in step.steps:
            out, power = out - c * power, matrix @ power
        return out.view(x.shape)
    lam = step.log_lam.exp()
    if name == "cg":
        return torch.linalg.solve(matrix + lam * torch.eye(N, dtype=torch.float64), flat_b + lam * flat_z).view(x.shape)
    size = step.log_step.exp()
    out = (flat_x - size * (matrix @ flat_x - flat_b) + size * lam * flat_z) / (1 + size * lam)
    return out.view(x.shape)


@pytest.mark.parametrize("name", list(steps()))
def test_a_step_and_its_gradients_equal_the_dense_equation(name):
    problem, matrix = dense()
    step = steps()[name]
    x = random_complex((3, 4), 2, torch.complex128).requires_grad_()
    z = random_complex((3, 4), 3, torch.complex128).requires_grad_()
    seen_by = random_complex((3, 4), 4, torch.complex128)
    results = []
    for out in (step(problem, x, z), by_autograd(name, step, matrix, problem.b, x, z)):
        loss = (out * seen_by).real.sum() + out.abs().square().sum()
        results.append((out, *torch.autograd.grad(loss, [x, z, *step.parameters()], allow_unused=True)))
    for ours, wanted in zip(*results, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None:
            assert (ours - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.parametrize("name", list(steps()))
def test_every_linear_step_says_so(name):
    assert isinstance(steps()[name], Linear)


def test_cg_inverts_to_the_regularized_image():
    problem, _ = dense()
    step = steps()["cg"]
    z = random_complex((3, 4), 3, torch.complex128)
    out = step.value(problem, z, z)
    assert (step.inverse(problem, out) - z).norm() <= 1e-10 * z.norm()


def test_the_solver_stops_on_its_residual_and_stays_finite_past_convergence():
    problem, matrix = dense()
    found = conjugate_gradient(problem.normal, matrix.new_zeros(3, 4) + problem.b, None, 500, 1e-3)
    assert found.iterations < 500
    assert found.residual <= 1e-3
    again = conjugate_gradient(
        problem.normal, problem.b, torch.linalg.solve(matrix, problem.b.flatten()).view(3, 4), 9, 1e-8
    )
    assert again.iterations == 0


def test_the_solver_gives_zero_for_a_zero_right_side():
    problem, _ = dense()
    assert float(conjugate_gradient(problem.normal, torch.zeros_like(problem.b), problem.b, 9, 1e-8).x.abs().max()) == 0


def test_the_solver_refuses_an_operator_that_is_not_positive():
    problem, _ = dense()
    with pytest.raises(ValueError, match="not positive"):
        conjugate_gradient(lambda x: -problem.normal(x), problem.b, None, 9, 1e-8)


@pytest.mark.parametrize(
    "make", [lambda v: ConjugateGradient(v), lambda v: Proximal(1.0, v), lambda v: GradientStep(v)]
)
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(make, value):
    with pytest.raises(ValueError, match="wanted a positive number"):
        make(value)


def test_a_linear_step_refuses_an_emission_problem_by_name():
    emission = EmissionProblem(lambda x, subset: torch.ones_like(x), torch.ones(1, 3, 4))
    with pytest.raises(TypeError, match="EmissionProblem"):
        GradientStep()(emission, torch.ones(3, 4), torch.ones(3, 4))
