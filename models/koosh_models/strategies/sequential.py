"""Stage after stage: one stage is trained, those before it are frozen and their images cached.

Corda-D'incan, Schnabel, Reader 2022, for any consistency step: where its costly part sees no parameters (EM), that part
is cached too and a step of training needs no operator at all.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from koosh_models.losses import Objective, Target, target_after
from koosh_models.networks.consistency import Split
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import EmissionProblem, Problem
from koosh_models.strategies.greedy import module_parameters
from koosh_models.strategies.strategy import require_own_weights, settle, stage_chain, volume


@dataclass(frozen=True, eq=False)
class Cached:
    """The input of stage `k` for one measurement, and the part of its consistency step that sees no parameters."""

    k: int
    x: Tensor
    data: Tensor | None


@dataclass
class Sequential:
    """Memory: one stage's graph, whatever the depth; cached besides: one image per measurement (two with EM).

    stage  the one trained now; training resumes where it is set. Its target is `target(stage + 1)`
    flips  every step mirrors the cached images, guide and target about axes drawn anew: more patients for nothing. Only
           for steps whose costly part is cached (EM): the operator itself knows no mirrored patient
    """

    objective: Objective = field(default_factory=Objective)
    stage: int = 0
    flips: bool = False

    def __post_init__(self) -> None:
        self._cache: MutableMapping[Problem, Cached] = WeakKeyDictionary()

    def advance(self, network: Unrolled) -> bool:
        """Go on to the next stage, whose predecessors are frozen from now on; False where there is none."""
        if self.stage + 1 >= network.dims.stages:
            return False
        self.stage += 1
        return True

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: the stage trained now."""
        require_own_weights(network, "sequential")
        if not 0 <= self.stage < network.dims.stages:
            raise ValueError(f"stage {self.stage} of a network of {network.dims.stages}")
        if self.flips and not isinstance(step := network.stage(self.stage).consistency, Split):
            raise ValueError(f"flips need a consistency step that can be cached (em), not {type(step).__name__}")
        return [module_parameters(network, range(self.stage, self.stage + 1))]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss of this stage's image; gradients are added to `.grad`."""
        require_own_weights(network, "sequential")
        cached, stage = self.inputs(network, problem), network.stage(self.stage)
        if self.flips:
            problem, cached, target = mirrored(problem, cached, target_after(target, self.stage + 1))
        condition = network.condition(problem)
        if condition is not None and self.stage:
            condition = condition.detach()
        z = stage.regularize(problem, cached.x, condition)
        if cached.data is None:
            x = stage.consistency(problem, cached.x, z)
        else:
            assert isinstance(stage.consistency, Split)
            x = stage.consistency.fuse(problem, cached.data, z)
        return [settle(self.objective([x], target, self.stage + 1), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`graph + z [+ x] + V`."""
        return stage_chain(network, problem, 1) + volume(network, problem)

    @torch.no_grad()
    def inputs(self, network: Unrolled, problem: Problem) -> Cached:
        """What the stage trained now is given for this measurement: from the cache, or from the stages before it."""
        known = self._cache.get(problem)
        if known is None or known.k > self.stage:
            known = self._prepared(network, problem, 0, network.start(problem))
        condition = network.condition(problem)
        for k in range(known.k, self.stage):
            known = self._prepared(network, problem, k + 1, network.stage(k)(problem, known.x, condition))
        self._cache[problem] = known
        return known

    def _prepared(self, network: Unrolled, problem: Problem, k: int, x: Tensor) -> Cached:
        step = network.stage(k).consistency
        return Cached(k, x, step.data(problem, x) if k == self.stage and isinstance(step, Split) else None)


def mirrored(problem: Problem, cached: Cached, target: Tensor) -> tuple[Problem, Cached, Tensor]:
    """All that a stage with a cached EM update sees, mirrored about axes drawn from torch's generator."""
    assert isinstance(problem, EmissionProblem)
    assert cached.data is not None
    axes = [axis for axis in range(-target.ndim, 0) if torch.rand(()) < 0.5]
    if not axes:
        return problem, cached, target
    seen = replace(
        problem,
        ratio=unmeasured,
        inverse_sensitivity=problem.inverse_sensitivity.flip(axes),
        guide=None if problem.guide is None else problem.guide.flip(axes),
    )
    return seen, Cached(cached.k, cached.x.flip(axes), cached.data.flip(axes)), target.flip(axes)


def unmeasured(x: Tensor, subset: int) -> Tensor:
    """No EM update: nobody measured the mirror image of a patient."""
    raise RuntimeError(f"subset {subset} was asked for an update of a mirrored patient; only its cached one exists")
