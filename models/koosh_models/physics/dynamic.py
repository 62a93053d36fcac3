"""A series of frames, each with a measurement of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.operator import Apply, Operator, linear, selfadjoint


@dataclass(frozen=True, eq=False)
class Frames:
    """One operator a frame: (frame, ...) images -> (frame, coil, sample) k-space; frames have equally many samples."""

    operators: tuple[Operator, ...]

    def __post_init__(self) -> None:
        if not self.operators:
            raise ValueError("a series needs at least one frame")

    def forward(self, x: Tensor) -> Tensor:
        """Images -> k-space."""
        return linear(x, self._each("forward"), self._each("adjoint"))

    def adjoint(self, y: Tensor) -> Tensor:
        """k-space -> images."""
        return linear(y, self._each("adjoint"), self._each("forward"))

    def _each(self, name: str) -> Apply:
        parts: list[Callable[[Tensor], Tensor]] = [getattr(operator, name) for operator in self.operators]

        def apply(series: Tensor) -> Tensor:
            if len(series) != len(parts):
                raise ValueError(f"the series has {len(series)} frames, the operator {len(parts)}")
            return torch.stack([part(one) for part, one in zip(parts, series, strict=True)])

        return apply


def frame_wise(normals: list[Apply]) -> Apply:
    """The normal operator of a series from those of its frames."""

    def each(x: Tensor) -> Tensor:
        return torch.stack([normal(one) for normal, one in zip(normals, x, strict=True)])

    return lambda x: selfadjoint(x, each)
