"""Greedy learning over ranks: module m lives on rank m and runs backward while the next one runs forward."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.greedy import cuts, module_parameters, run_module
from koosh_models.strategies.strategy import settle, stage_chain, volume


@dataclass
class Pipelined:
    """Memory on each rank: its module's graphs, and `ahead` images on their way.

    Needs an initialized process group of as many ranks as modules; each rank calls `step` with the same measurements in
    the same order and trains its own module. An image leaves before the module's backward pass, so weights are those of
    `Greedy` to the bit: a module never sees anything of those behind it.

    modules  0: as many as ranks
    """

    objective: Objective = field(default_factory=Objective)
    modules: int = 0
    ahead: int = 2
    _sent: deque[tuple[distributed.Work, Tensor]] = field(default_factory=deque, repr=False)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: this rank's module."""
        return [module_parameters(network, self._own(network))]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss of this rank's module; its gradients are added to `.grad`."""
        stages = self._own(network)
        if network.conditioning is not None:
            raise ValueError(
                "a conditioned network can't be trained over ranks: its conditioning belongs to all; use Greedy"
            )
        images = run_module(network, problem, stages, self._receive(network, problem), None)
        if distributed.get_rank() + 1 < distributed.get_world_size():
            self._send(images[-1].detach())
        return [settle(self.objective(images, target, stages.start + 1), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """One module as ordinary autograd holds it: this rank's, or the longest where there are no ranks yet."""
        if distributed.is_initialized() or not self.modules:
            longest = len(self._own(network))
        else:
            longest = max(len(stages) for stages in cuts(network, self.modules))
        return stage_chain(network, problem, longest) + volume(network, problem)

    def flush(self) -> None:
        """Wait until the next rank has all that was sent."""
        while self._sent:
            self._sent.popleft()[0].wait()

    def _own(self, network: Unrolled) -> range:
        if not distributed.is_initialized():
            raise RuntimeError(
                "no process group: start one rank per module (torchrun) and call init_process_group first"
            )
        ranks = distributed.get_world_size()
        if self.modules not in (0, ranks):
            raise ValueError(f"{self.modules} modules on {ranks} ranks: start one rank for each module")
        return cuts(network, ranks)[distributed.get_rank()]

    def _receive(self, network: Unrolled, problem: Problem) -> Tensor:
        if not distributed.get_rank():
            return network.start(problem)
        x = torch.empty(problem.shape, dtype=network.dtype(problem), device=problem.device)
        distributed.recv(_real(x), distributed.get_rank() - 1)
        return x

    def _send(self, x: Tensor) -> None:
        while len(self._sent) >= self.ahead:
            self._sent.popleft()[0].wait()
        work = distributed.isend(_real(x.contiguous()), distributed.get_rank() + 1)
        assert work is not None
        self._sent.append((work, x))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
