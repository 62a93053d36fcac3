"""The unrolled network: `for stage: x = stage.consistency(problem, x, stage.regularize(x))`.

Every measurement is an argument; nothing of one is ever part of the network or of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from koosh_models.baselines.locally_low_rank import few_patterns
from koosh_models.networks import tiles
from koosh_models.networks.cnn import residual_cnn, space_time_cnn
from koosh_models.networks.consistency import ConjugateGradient, Consistency, GradientStep, Proximal, linear_problem
from koosh_models.networks.emission import emission_steps, osem_updates
from koosh_models.networks.regularizer import Regularizer
from koosh_models.networks.stage import Precision, Stage
from koosh_models.networks.unet import Unet
from koosh_models.physics.problem import EmissionProblem, Problem
from koosh_models.physics.solve import conjugate_gradient


@dataclass(frozen=True)
class Dims:
    """What fixes the shapes of all weights, and how the network starts.

    ndim         axes of the image: 2 slices, 3 volumes or (frame, y, x)
    layers       of the CNN (a layer of "spacetime" is a pair), down-samplings of the U-Net
    shared       one regularizer and one consistency step for all stages
    channels     2 for complex images, 1 for real ones
    guides       channels of another contrast that the problem brings (`problem.guide`)
    traits       numbers the problem brings to condition on (`problem.traits`), 0 for none
    start        image before the first stage: "zero", "adjoint" (b), "cg" (steps on N x = b), "llr" (locally low rank,
                 for series), "ones" (times scale) or "osem" (PET); start_steps of "cg", "llr" and "osem"
    step, lam    where the consistency steps begin; both are learned
    gamma        where the strength of an "em" step begins (PET); learned; 0 stays OSEM
    truncated    no gradient through the projections of an "em" step
    subsets      ordered subsets that "em" steps were made for; 0 takes any
    upright      regularizers see images without the smooth phase of the measurement (its scanner's zero is arbitrary)
    cg_steps     at most so many in a "cg" stage, which stops earlier at cg_tolerance
    cg_early     so many in the first half of the stages instead, whose steps noise harms less; 0: as in all
    cg_near      few steps with the coils that see most, from residuals of all coils, and so in the start image
    """

    ndim: int = 3
    stages: int = 5
    regularizer: Literal["cnn", "unet", "spacetime"] = "cnn"
    features: int = 32
    layers: int = 5
    consistency: Literal["gradient", "cg", "proximal", "em"] = "cg"
    shared: bool = False
    channels: Literal[1, 2] = 2
    guides: int = 0
    traits: int = 0
    start: Literal["zero", "adjoint", "cg", "llr", "ones", "osem"] = "cg"
    step: float = 0.5  # density-weighted problems have eigenvalues of up to 3
    lam: float = 0.05
    gamma: float = 0.2
    truncated: bool = False
    subsets: int = 0
    degree: int = 0
    cg_steps: int = 10
    cg_early: int = 0
    cg_tolerance: float = 1e-6
    cg_near: bool = False
    start_steps: int = 5
    precision: Precision = "fp32"
    upright: bool = False

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.stages < 1:
            raise ValueError(
                f"{self.stages} stages over {self.ndim} axes; wanted at least one stage, two or three axes"
            )
        if self.regularizer == "spacetime" and self.ndim != 3:
            raise ValueError(f"a space-time regularizer needs (frame, y, x), three axes, got {self.ndim}")
        if self.cg_early and self.shared:
            raise ValueError(
                f"cg_early = {self.cg_early} for stages that share one step; leave it out, or shared = false"
            )

    @property
    def solver_steps(self) -> list[int]:
        """At most so many steps of conjugate gradients in each stage."""
        early = self.stages // 2 if self.cg_early else 0
        return [self.cg_early] * early + [self.cg_steps] * (self.stages - early)


class Unrolled(nn.Module):
    """`network(problem)` -> image. One regularizer and one consistency step per stage, or one of each for all."""

    def __init__(self, dims: Dims, regularizers: Sequence[nn.Module], steps: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, parts in (("regularizers", regularizers), ("consistency steps", steps)):
            if len(parts) not in (1, dims.stages):
                raise ValueError(f"{len(parts)} {name} for {dims.stages} stages; wanted one, or one a stage")
        self.dims = dims
        self.regularizers, self.steps = nn.ModuleList(regularizers), nn.ModuleList(steps)
        self.conditioning = _conditioning(dims.traits) if dims.traits else None
        self.starts: WeakKeyDictionary[Problem, Tensor] | None = None

    @property
    def stages(self) -> list[Stage]:
        """The stages in order; those of a shared network are the same parts again and again."""
        return [self.stage(k) for k in range(self.dims.stages)]

    def stage(self, k: int) -> Stage:
        """Stage `k`."""
        regularizer = self.regularizers[k % len(self.regularizers)]
        step = self.steps[k % len(self.steps)]
        return Stage(cast(Regularizer, regularizer), cast(Consistency, step), self.dims.precision, self.dims.upright)

    def condition(self, problem: Problem) -> Tensor | None:
        """The condition vector of this measurement, computed once per volume."""
        if self.conditioning is None:
            return None
        traits = getattr(problem, "traits", ())
        if len(traits) != self.dims.traits:
            raise ValueError(f"the problem brings {len(traits)} traits, the network was built for {self.dims.traits}")
        like = next(self.parameters())
        return cast(Tensor, self.conditioning(torch.tensor(traits, dtype=like.dtype, device=like.device)))

    def keep_starts(self) -> None:
        """Remember every problem's start image for as long as the problem lives: for problems that come again."""
        self.starts = WeakKeyDictionary()

    def start(self, problem: Problem) -> Tensor:
        """The image before the first stage; it has no parameters."""
        if self.starts is None:
            return self._started(problem)
        if problem not in self.starts:
            self.starts[problem] = self._started(problem)
        return self.starts[problem]

    @torch.no_grad()
    def _started(self, problem: Problem) -> Tensor:
        self.check(problem)
        if self.dims.start == "ones":
            if isinstance(problem, EmissionProblem):
                return problem.flat()
            return torch.full(problem.shape, problem.scale, device=problem.device, dtype=self.dtype(problem))
        if self.dims.start == "osem":
            return osem_updates(problem, self.dims.start_steps)
        if self.dims.start == "zero":
            return torch.zeros(problem.shape, device=problem.device, dtype=self.dtype(problem))
        linear = linear_problem(problem, f"start image {self.dims.start!r}")
        if self.dims.start == "adjoint":
            return linear.b.clone()
        if self.dims.start == "llr":
            return few_patterns(linear, self.dims.start_steps)
        dims, near = self.dims, linear.near if self.dims.cg_near else None
        return conjugate_gradient(linear.normal, linear.b, None, dims.start_steps, dims.cg_tolerance, near=near).x

    def forward(self, problem: Problem, start: Tensor | None = None, tile: int | Sequence[int] | None = None) -> Tensor:
        """The reconstructed image; with `tile` the regularizers run on tiles of that side, with the same result."""
        out = None
        for out in self.images(problem, start, tile):  # noqa: B007
            pass
        assert out is not None
        return out

    def images(
        self, problem: Problem, start: Tensor | None = None, tile: int | Sequence[int] | None = None
    ) -> Iterator[Tensor]:
        """The image after each stage."""
        x = self.start(problem) if start is None else start
        condition = self.condition(problem)
        for stage in self.stages:
            if tile is None:
                z = stage.regularize(problem, x, condition)
            else:
                z = tiles.tiled(stage, problem, x, condition, tiles.plan(x.shape, tile, stage.regularizer))
            x = stage.consistency(problem, x, z)
            yield x

    def check(self, problem: Problem) -> None:
        """Refuse an image that this network's regularizers were not made for."""
        shape, radius = problem.shape, self.stage(0).regularizer.radius
        if len(shape) != self.dims.ndim:
            raise ValueError(f"an image of shape {shape} for a network over {self.dims.ndim} axes")
        if any(r >= n for r, n in zip(radius, shape, strict=True)):
            raise ValueError(
                f"the receptive radius {radius} spans the whole image {shape}: "
                "use fewer layers or levels, or a larger image"
            )
        if self.dtype(problem).is_complex != (self.dims.channels == 2):
            raise ValueError(f"a network of {self.dims.channels} channel(s) for {self.dtype(problem)} images")
        if self.dims.subsets and isinstance(problem, EmissionProblem) and problem.n_subsets != self.dims.subsets:
            raise ValueError(
                f"the network is made for {self.dims.subsets} subsets, the problem has {problem.n_subsets}"
            )
        guide = getattr(problem, "guide", None)
        if (0 if guide is None else guide.shape[0]) != self.dims.guides:
            raise ValueError(
                f"the network takes {self.dims.guides} guide channel(s), the problem brings "
                f"{0 if guide is None else guide.shape[0]}"
            )

    def dtype(self, problem: Problem) -> torch.dtype:
        """Of the images of this problem."""
        for name in ("b", "inverse_sensitivity"):
            if (found := getattr(problem, name, None)) is not None:
                return cast(torch.dtype, found.dtype)
        return torch.complex64 if self.dims.channels == 2 else torch.float32


def _conditioning(traits: int, width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(traits, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


def build(dims: Dims) -> Unrolled:
    """The network of these dimensions, its weights drawn from torch's generator."""
    count = 1 if dims.shared else dims.stages
    return Unrolled(dims, [regularizer(dims) for _ in range(count)], consistency_steps(dims))


def regularizer(dims: Dims) -> nn.Module:
    """One regularizer of these dimensions."""
    n_in, n_out, width = dims.channels + dims.guides, dims.channels, 16 if dims.traits else 0
    if dims.regularizer == "unet":
        return Unet(n_in, n_out, dims.features, dims.layers, dims.ndim, width)
    if dims.regularizer == "spacetime":
        return space_time_cnn(n_in, n_out, dims.features, dims.layers, width)
    return residual_cnn(n_in, n_out, dims.features, dims.layers, dims.ndim, width)


def consistency_steps(dims: Dims) -> list[nn.Module]:
    """One consistency step a stage, or one for all; those of PET differ in their subset even where all is shared."""
    if dims.consistency == "em":
        first = dims.start_steps if dims.start == "osem" else 0
        return [*emission_steps(dims.stages, dims.gamma, dims.shared, dims.truncated, first)]
    return [consistency(dims, steps) for steps in (dims.solver_steps[:1] if dims.shared else dims.solver_steps)]


def consistency(dims: Dims, steps: int) -> nn.Module:
    """One consistency step of these dimensions; `steps` of a solver."""
    if dims.consistency == "gradient":
        return GradientStep(dims.step, dims.degree)
    if dims.consistency == "proximal":
        return Proximal(dims.step, dims.lam)
    return ConjugateGradient(dims.lam, steps, dims.cg_tolerance, dims.cg_near)
