"""Block-wise learning, exactly: images between stages are held, graphs exist for one tile at a time.

Miller, Pirasteh, Johnson 2023, with halos instead of overlaps: the gradient is that of ordinary backpropagation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks import tiles
from koosh_models.networks.tiles import Tile, team_of
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem, Team
from koosh_models.strategies.chain import Boundaries, Chain, Link
from koosh_models.strategies.strategy import copies, graph, real_size, settle, trainable, volume


class OnDevice:
    """Every boundary stays where it was computed, held by autograd: one volume a stage."""

    def __init__(self) -> None:
        self._images: list[Tensor] = []

    def leave(self, k: int, link: Link, x: Tensor, out: Tensor) -> None:
        """Keep the input."""
        self._images.append(x)

    def held(self) -> list[Tensor]:
        """All of them; from here on only autograd has them."""
        images, self._images = self._images, []
        return images

    def enter(self, k: int, link: Link, out: Tensor, held: Sequence[Tensor]) -> Tensor:
        """The input of stage `k`."""
        return held[k]


class Spread:
    """Every boundary lies in equal parts on the ranks that share the measurement."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._parts: list[Tensor] = []

    def leave(self, k: int, link: Link, x: Tensor, out: Tensor) -> None:
        """Keep this rank's part of the input."""
        self._parts.append(self._mine(x).clone())

    def held(self) -> list[Tensor]:
        """All parts; from here on only autograd has them."""
        parts, self._parts = self._parts, []
        return parts

    def enter(self, k: int, link: Link, out: Tensor, held: Sequence[Tensor]) -> Tensor:
        """The input of stage `k`, put together from all ranks."""
        x = torch.zeros_like(out)
        self._mine(x).copy_(held[k])
        return self._team.total(x)

    def _mine(self, x: Tensor) -> Tensor:
        """This rank's voxels."""
        return torch.tensor_split(x.reshape(-1), self._team.size)[self._team.rank]


class OnHost:
    """Boundaries lie in host memory, pinned where a GPU computes; copies run on a stream of their own.

    The one that is needed next is fetched while a stage works on the one before it.
    """

    def __init__(self) -> None:
        self._images: list[Tensor] = []
        self._coming: dict[int, Tensor] = {}
        self._side: torch.cuda.Stream | None = None

    @property
    def bytes(self) -> int:
        """Host memory taken."""
        return sum(t.untyped_storage().nbytes() for t in self._images)

    def leave(self, k: int, link: Link, x: Tensor, out: Tensor) -> None:
        """Copy the input away; on the CPU it is there already."""
        if not x.is_cuda:
            self._images.append(x)
            return
        self._side = self._side or torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        away = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._side):
            away.copy_(x, non_blocking=True)
        x.record_stream(self._side)
        self._images.append(away)

    def held(self) -> list[Tensor]:
        """Nothing."""
        return []

    def enter(self, k: int, link: Link, out: Tensor, held: Sequence[Tensor]) -> Tensor:
        """The input of stage `k`, and the one before it sent for."""
        if self._side is None:
            return self._images[k]
        here = self._fetch(k, out.device)
        now = torch.cuda.current_stream(out.device)
        now.wait_stream(self._side)
        here.record_stream(now)
        if k:
            self._coming[k - 1] = self._fetch(k - 1, out.device)
        return here

    def _fetch(self, k: int, device: torch.device) -> Tensor:
        if k in self._coming:
            return self._coming.pop(k)
        assert self._side is not None
        with torch.cuda.stream(self._side):
            return self._images[k].to(device, non_blocking=True)


@dataclass(frozen=True)
class Blockwise:
    """Memory: `(K + 1) V` and one tile's graph; with boundaries on the host `V` and one tile's graph.

    Ranks that share a measurement (`problem.team`) share its tiles, its boundaries and the budget: of R ranks each
    holds `(K / R + 1) V` and one tile.

    tile        side of a tile, one number or one per axis; None: the largest that fits `budget`
    budget      bytes for one tile's graph
    boundaries  where the K images between stages lie
    """

    tile: int | tuple[int, ...] | None = None
    budget: int = 2**30
    boundaries: Literal["device", "host"] = "device"
    objective: Objective = field(default_factory=Objective)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: all."""
        return [trainable(network)]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss; gradients are added to `.grad`."""
        where = self._boundaries(team_of(problem))
        chain = Chain(network, problem, self.tiles(network, problem), where, every=self.objective.every > 0)
        images = chain(network.start(problem))
        return [settle(self.objective(images, target, network.dims.stages - len(images) + 1), problem)]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`(K + 1) V + tile`, or `V + tile`; of R ranks each `(K / R + 1) V + tile`."""
        team = team_of(problem)
        kept = network.dims.stages if self.boundaries == "device" else 0
        tile = graph(network, tiles.largest(tiles.own(self.tiles(network, problem), team)))
        one = volume(network, problem)
        return one + kept * one // (1 if team is None else team.size) + tile

    def _boundaries(self, team: Team | None) -> Boundaries:
        if self.boundaries == "host":
            return OnHost()
        return OnDevice() if team is None else Spread(team)

    def tiles(self, network: Unrolled, problem: Problem) -> list[Tile]:
        """The tiles of a step; their graph must fit the budget, and a team has one for each rank at least."""
        regularizer, team = network.stage(0).regularizer, team_of(problem)
        itemsize = real_size(network) if network.dims.precision == "fp32" else 2
        sides = self.tile
        if sides is None:
            room = self.budget // (1 if team is None else team.size) - copies(network)
            sides = tiles.divided(problem.shape, tiles.side_for(problem.shape, regularizer, room, itemsize), team)
        plan = tiles.plan(problem.shape, sides, regularizer)
        needed = graph(network, tiles.largest(plan))
        if needed > self.budget:
            raise ValueError(
                f"a tile of side {sides} with its halo {regularizer.radius} needs {needed} bytes, the budget is "
                f"{self.budget}: take smaller tiles, or leave the side out and let the budget choose"
            )
        return plan
