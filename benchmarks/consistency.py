"""Few conjugate-gradient steps in a stage: whose gradient is right, and what a cheaper operator costs in quality.

`python -m benchmarks.consistency`: simulated phantoms, R = 12, 8 coils, 2 % noise, the shipped radial3d.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import one_thread, radial
from benchmarks.report import Row, arguments, command, show
from koosh_models import metrics, weights
from koosh_models.losses import relative_l2
from koosh_models.networks.consistency import ConjugateGradient
from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.physics.mri import normal_of, of_operator
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import inner
from koosh_models.physics.problem import LinearProblem
from koosh_models.physics.sense import Sense, SenseNormal, strongest
from koosh_models.physics.toeplitz import Toeplitz
from koosh_models.reconstruction import calibrate
from koosh_models.support import boxed

THIS = command("benchmarks.consistency")
VARIANTS: dict[str, tuple[float, float]] = {
    "the strongest coils (96 % of the energy)": (0.96, 2.0),
    "the strongest coils, transforms of 1.5 n": (0.96, 1.5),
    "the strongest coils, transforms of 1.25 n": (0.96, 1.25),
    "the strongest coils (90 % of the energy)": (0.90, 2.0),
}
"""Share of the energy that the coils see, size of the transforms."""


def case(name: str, n: int, seed: int) -> tuple[SenseNormal, LinearProblem, Tensor, Tensor]:
    """A scan's normal operator and problem in its box, the truth and where it is judged."""
    made = radial(n, seed=seed, body=name)
    scan = made.scan
    maps = calibrate(scan)
    inside, within, box = boxed(scan, maps)
    assert inside.weights is not None
    sense = Sense(within, Nufft(inside.omega, box.size, 1e-4))
    operator = normal_of(inside, sense)
    assert isinstance(operator, SenseNormal)
    problem = of_operator(operator, sense.adjoint(inside.kspace * inside.weights))
    dense = within.coils(0, within.shape[0])
    true = (dense.conj() * box.cut(made.maps)).sum(0) * box.cut(made.truth)
    return operator, problem, true, box.cut(made.mask)


def every_step(step: ConjugateGradient, problem: LinearProblem, z: Tensor) -> Tensor:
    """The step with all of conjugate gradients under autograd, lengths of steps too: the gradient to compare with."""
    lam = step.log_lam.exp()
    r = problem.b - problem.normal(z)
    p, rr, x = r, inner(r, r), z
    for _ in range(step.steps):
        q = problem.normal(p) + lam * p
        alpha = rr / inner(p, q)
        x, r = x + alpha * p, r - alpha * q
        rr, before = inner(r, r), rr
        p = r + rr / before * p
    return x


Gradients = list[tuple[Tensor, float]]


def gradients(network: Unrolled, problem: LinearProblem, target: Tensor, kind: str) -> Gradients:
    """Of each regularizer's weights, in one vector, and of log lambda, by "every step", "held" steps or "implicit"."""
    network.zero_grad()
    x = network.start(problem)
    for k in range(network.dims.stages):
        stage, step = network.stage(k), network.steps[k]
        assert isinstance(step, ConjugateGradient)
        z = stage.regularize(problem, x)
        if kind == "every step":
            x = every_step(step, problem, z)
        elif kind == "held":
            x = step(problem, x, z)
        else:
            x = _Implicit.apply(z, step.log_lam, step, problem)  # type: ignore[no-untyped-call]  # torch's, untyped
    relative_l2(x, target).backward()
    out = []
    for part, step in zip(network.regularizers, network.steps, strict=True):
        weights_of = torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None])
        (log_lam,) = step.parameters()
        out.append((weights_of, float(log_lam.grad) if log_lam.grad is not None else 0.0))
    return out


class _Implicit(torch.autograd.Function):
    """The step with the gradients of a solution, reached or not."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_lam: Tensor, step: ConjugateGradient, problem: LinearProblem) -> Tensor:
        ctx.step, ctx.problem = step, problem
        out, _ = step.value(problem, z, z)
        ctx.save_for_backward(z, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, out = ctx.saved_tensors
        pull = ctx.step.pull(ctx.problem, grads[0], ())
        (slope,) = ctx.step.slopes(ctx.problem, grads[0], pull, [inner(pull.probes[0], z)], z, out)
        return pull.to_regularized, slope, None, None


def gradient_rows(network: Unrolled, problem: LinearProblem, target: Tensor) -> Iterator[Row]:
    """Cosine with the whole gradient, and length relative to it, stage by stage."""
    network.requires_grad_(True)
    whole = gradients(network, problem, target, "every step")
    for kind in ("held", "implicit"):
        found = gradients(network, problem, target, kind)
        for k, ((a, slope), (b, wanted)) in enumerate(zip(found, whole, strict=True)):
            yield Row(f"gradient, {kind}, stage {k}: cosine", float(torch.cosine_similarity(a, b, 0)), "", command=THIS)
            yield Row(f"gradient, {kind}, stage {k}: length", float(a.norm() / b.norm()), "x", command=THIS)
            yield Row(f"gradient, {kind}, stage {k}: of lambda", slope / wanted, "x", command=THIS)


@torch.no_grad()
def quality(network: Unrolled, problem: LinearProblem, target: Tensor, mask: Tensor) -> tuple[float, float]:
    """PSNR and CPU seconds."""
    begun = time.process_time()
    image = network(problem)
    seconds = time.process_time() - begun
    return metrics.psnr(image, target, mask), seconds


def near_rows(near: Unrolled, exact: Unrolled, n: int, count: int) -> Iterator[Row]:
    """Mean PSNR and CPU seconds of each operator for the steps."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(count):
        operator, problem, target, mask = case(("head", "knee", "chest", "abdomen")[seed % 4], n, 100 + seed)
        assert isinstance(operator.convolution, Toeplitz)
        found.setdefault("the exact operator", []).append(quality(exact, problem, target, mask))
        for name, (kept, growth) in VARIANTS.items():
            convolution = operator.convolution if growth >= 2 else operator.convolution.nearby(growth)
            cheap = SenseNormal(strongest(operator.maps, problem.b, kept), convolution).normal
            other = replace(problem, nearby=lambda cheap=cheap: cheap)
            found.setdefault(name, []).append(quality(near, other, target, mask))
    first = found["the exact operator"]
    for name, scores in found.items():
        psnr, seconds = (sum(s[i] for s in scores) / len(scores) for i in (0, 1))
        yield Row(f"{n}^3, steps with {name}: PSNR", psnr, "dB", command=THIS)
        yield Row(f"{n}^3, steps with {name}: CPU", seconds, "s", command=THIS)
        if scores is not first:
            yield Row(
                f"{n}^3, steps with {name}: time of the exact",
                seconds / (sum(s[1] for s in first) / len(first)),
                "x",
                command=THIS,
            )


def main() -> None:
    """Gradients first, then operators."""
    options = arguments(__doc__ or "").parse_args()
    one_thread()
    shipped, _ = weights.load("radial3d")
    near, exact = (build(replace(shipped.dims, cg_near=on)).eval() for on in (True, False))
    for network in (near, exact):
        network.load_state_dict(shipped.state_dict())
    n, count = (32, 1) if options.quick else (64, 4)
    _, problem, target, _ = case("head", n, 99)
    rows = [*gradient_rows(exact, problem, target)]
    exact.requires_grad_(False)
    rows += near_rows(near, exact, n, count)
    if not options.quick:
        rows += near_rows(near, exact, 96, 1)
    show(rows, options.json)


if __name__ == "__main__":
    main()
