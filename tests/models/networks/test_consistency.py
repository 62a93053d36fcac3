"""Consistency steps against dense linear algebra under ordinary autograd, in double precision."""

import pytest
import torch
from torch import nn

from koosh_models.networks.consistency import ConjugateGradient, GradientStep, Linear, Proximal
from koosh_models.physics.problem import EmissionProblem, LinearProblem
from koosh_models.physics.solve import along, conjugate_gradient
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


def unrolled_cg(matrix, b, lam, z, count, held):
    """Conjugate gradients written out under autograd; `held`: no gradient through the lengths of its steps."""

    def dot(a, c):
        found = (a.conj() * c).real.sum()
        return found.detach() if held else found

    x, r = z, b - matrix @ z
    p, rr = r, dot(r, r)
    for _ in range(count):
        q = matrix @ p + lam * p
        alpha = rr / dot(p, q)
        x, r = x + alpha * p, r - alpha * q
        rr, before = dot(r, r), rr
        p = r + rr / before * p
    return x


def weighed(out):
    return (out.flatten() * random_complex((N,), 4, torch.complex128)).real.sum() + out.abs().square().sum()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_a_few_steps_is_that_of_the_image_they_gave(count, seed):
    problem, matrix = dense(seed)
    step = ConjugateGradient(0.02, steps=count, tolerance=1e-3).double()
    z = random_complex((3, 4), seed + 3, torch.complex128).requires_grad_()
    ours = step(problem, z, z)
    wanted = unrolled_cg(matrix, problem.b.flatten(), 0.02, z.flatten(), count, held=True)
    assert (ours.flatten() - wanted).norm() <= 1e-6 * wanted.norm()  # lam is kept in float32
    found, held = (torch.autograd.grad(weighed(out), z)[0] for out in (ours, wanted))
    assert (found - held).norm() <= 1e-6 * held.norm()


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_a_few_steps_is_nearer_to_the_truth_than_that_of_a_solution(seed):
    many = 400
    basis = torch.linalg.qr(random_complex((many, many), seed, torch.complex128))[0]
    matrix = basis @ (torch.logspace(-3, 0, many, dtype=torch.float64)[:, None] * basis.conj().T)
    truth = random_complex((many,), seed + 1, torch.complex128)
    problem = LinearProblem(lambda x: matrix @ x, matrix @ truth)
    z = (truth + 0.1 * random_complex((many,), seed + 2, torch.complex128)).requires_grad_()
    out = unrolled_cg(matrix, problem.b, 0.02, z, 3, held=False)
    whole = torch.autograd.grad((out - truth).abs().square().sum(), z)[0]
    step = ConjugateGradient(0.02, steps=3, tolerance=1e-3).double()
    image, path = step.value(problem, z, z.detach())
    ours, implicit = (step.pull(problem, 2 * (image - truth), p).to_regularized for p in (path, ()))
    assert (ours - whole).norm() < 0.15 * whole.norm()
    assert (implicit - whole).norm() > 2 * (ours - whole).norm()


def test_a_solution_that_was_reached_has_the_implicit_gradient():
    problem, _ = dense()
    z = random_complex((3, 4), 3, torch.complex128)
    assert ConjugateGradient(0.3, steps=40, tolerance=1e-10).double().value(problem, z, z)[1] == ()
    assert len(ConjugateGradient(0.3, steps=3, tolerance=1e-10).double().value(problem, z, z)[1]) == 3


def test_the_steps_of_a_solution_give_it_again():
    problem, _ = dense()
    found = conjugate_gradient(problem.normal, problem.b, None, 5, 1e-12)
    again = along(found.path, problem.normal, problem.b)
    assert (again - found.x).norm() <= 1e-12 * found.x.norm()
    other = random_complex((3, 4), 9, torch.complex128)
    summed = along(found.path, problem.normal, other) + found.x
    assert (along(found.path, problem.normal, problem.b + other) - summed).norm() <= 1e-12 * summed.norm()


@pytest.mark.parametrize("name", list(steps()))
def test_every_linear_step_says_so(name):
    assert isinstance(steps()[name], Linear)


def test_cg_inverts_to_the_regularized_image():
    problem, _ = dense()
    step = steps()["cg"]
    z = random_complex((3, 4), 3, torch.complex128)
    out, _ = step.value(problem, z, z)
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
