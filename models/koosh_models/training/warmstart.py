"""One regularizer after the other learns to clean the images that its stage is given; no operator in a step.

What an unrolled network is warm-started by where end-to-end steps are slow: the images each stage is given are made
once per case, and a step is one pass of one regularizer.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from koosh_models import private
from koosh_models.losses import Objective, Target, target_after
from koosh_models.networks.stage import Box, smooth_phase
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.strategy import graph, require_own_weights, settle, volume

EDGE = 0.02  # of the largest magnitude of the target: what lies beyond the object is not trained on


@dataclass
class Warmstart:
    """Memory: the graph of one regularizer over the object's box, and the images that are kept.

    stage  the regularizer trained now; those before it make its images and stay as they are
    side   voxels of a random box a step works on; 0: the whole object
    keep   images kept, one per case
    turn   mirror the box and swap its axes at random: as good a pair of images as the one it comes from
    folder of images on disk, so that a run that is gone on with need not make them again; empty: none
    """

    objective: Objective = field(default_factory=Objective)
    stage: int = 0
    side: int = 0
    keep: int = 512
    turn: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        self._images: OrderedDict[str, tuple[int, Tensor]] = OrderedDict()
        self._known = (-1, "")

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: the regularizer of the stage trained now."""
        require_own_weights(network, "warm-start")
        if not 0 <= self.stage < network.dims.stages:
            raise ValueError(f"stage {self.stage} of a network of {network.dims.stages}")
        return [[p for p in network.stage(self.stage).parts[0].parameters() if p.requires_grad]]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss of the regularized image; gradients are added to `.grad`."""
        x, wanted = self.inputs(network, problem), target_after(target, self.stage + 1)
        box = self.box(wanted)
        condition = network.condition(problem)
        condition = condition.detach() if condition is not None else None
        stage, given, wanted = network.stage(self.stage), x[box], wanted[box]
        if not self.turn:
            z = stage.regularize(problem, given, condition, box)
            return [settle(self.objective([z], wanted, self.stage + 1), problem)]
        if getattr(problem, "guide", None) is not None:
            raise ValueError("turn = true would have to turn the guide as well, which it does not: leave it out")
        if stage.upright:
            back = smooth_phase(problem)[box].conj()
            given, wanted = given * back, wanted * back
        given, wanted = turned(given, wanted)
        z = stage.cleaned(given, problem.scale, None, condition)
        return [settle(self.objective([z], wanted, self.stage + 1), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`graph + V`."""
        voxels = 1
        for n in problem.shape:
            voxels *= min(n, self.side) if self.side else n
        return graph(network, voxels) + 2 * volume(network, problem)

    @torch.no_grad()
    def inputs(self, network: Unrolled, problem: Problem) -> Tensor:
        """The image that the stage trained now is given, from memory where this case was seen before."""
        name = str(getattr(problem, "name", "")) or str(id(problem))
        known, x = self._images.get(name, (-1, None))
        if x is None or known != self.stage:
            x = self._made(network, problem, name, known, x)
        self._images[name] = (self.stage, x)
        self._images.move_to_end(name)
        while len(self._images) > self.keep:
            self._images.popitem(last=False)
        return x

    def _made(self, network: Unrolled, problem: Problem, name: str, known: int, x: Tensor | None) -> Tensor:
        file = Path(self.folder) / f"{name}-{self._print(network)}.safetensors" if self.folder else None
        if file is not None and file.is_file():
            return load_file(file)["image"].to(problem.device)
        if x is None or known > self.stage:
            known, x = 0, network.start(problem)
        condition = network.condition(problem)
        for k in range(known, self.stage):
            x = network.stage(k)(problem, x, condition)
        if file is not None:
            private.folder(file.parent)
            part = file.with_name(f".{file.stem}.{uuid.uuid4().hex[:8]}.part")
            save_file({"image": x.cpu().contiguous()}, part)
            part.replace(file)
        return x

    def _print(self, network: Unrolled) -> str:
        """What the images of this stage depend on besides the case: how the network starts, the stages before."""
        known, weights = self._known
        if known != self.stage or not weights:
            dims = network.dims
            total = hashlib.sha256(f"{dims.start}|{dims.start_steps}|{dims.cg_tolerance}|{self.stage}".encode())
            for k in range(self.stage):
                for part in network.stage(k).parts:
                    for p in part.parameters():
                        total.update(p.detach().cpu().numpy().tobytes())
            self._known = (self.stage, total.hexdigest()[:16])
        return self._known[1]

    def box(self, target: Tensor) -> Box:
        """The object's bounding box, or a random part of it."""
        inside = target.abs() > EDGE * target.abs().max()
        if not bool(inside.any()):  # a target of NaN or zero: the loss will say so
            return tuple(slice(0, n) for n in target.shape)
        box = []
        for axis in range(target.ndim):
            others = tuple(a for a in range(target.ndim) if a != axis)
            where = inside.any(dim=others).nonzero() if others else inside.nonzero()
            low, high = int(where.min()), int(where.max()) + 1
            if self.side and high - low > self.side:
                low += int(torch.randint(high - low - self.side + 1, ()))
                high = low + self.side
            box.append(slice(low, high))
        return tuple(box)


def turned(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Both images mirrored and with swapped axes, alike."""
    axes = given.ndim
    flips = [axis for axis, coin in enumerate(torch.rand(axes).tolist()) if coin < 0.5]
    order = torch.randperm(axes).tolist()
    both = torch.stack([given, wanted]).permute(0, *(1 + axis for axis in order)).flip([1 + axis for axis in flips])
    return both[0].contiguous(), both[1].contiguous()
