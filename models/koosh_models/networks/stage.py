"""One stage of an unrolled network: a regularizer, then a consistency step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from koosh_models.networks.consistency import Consistency
from koosh_models.networks.regularizer import Regularizer, channels_last, to_channels, to_image
from koosh_models.physics.problem import Problem

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """`x = stage.consistency(problem, x, stage.regularize(problem, x))`.

    precision  of the convolutions: "fp32" (or whatever the image has), "bf16" or "fp16" with channels last
    upright    the regularizer sees images without the smooth phase of the measurement, which is put back afterwards
    """

    regularizer: Regularizer
    consistency: Consistency
    precision: Precision = "fp32"
    upright: bool = False

    def regularize(self, problem: Problem, x: Tensor, condition: Tensor | None = None, box: Box = ()) -> Tensor:
        """`x + scale f(x / scale)`; `box` says which part of the volume `x` is, for the guide."""
        guide = getattr(problem, "guide", None)
        if guide is not None and box:
            guide = guide[(slice(None), *box)]
        if not self.upright:
            return self.cleaned(x, problem.scale, guide, condition)
        phase = smooth_phase(problem)[box] if box else smooth_phase(problem)
        return phase * self.cleaned(x * phase.conj(), problem.scale, guide, condition)

    def cleaned(self, x: Tensor, scale: float, guide: Tensor | None, condition: Tensor | None) -> Tensor:
        """`x + scale f(x / scale)`."""
        channels = to_channels(x / scale, guide)
        return x + scale * to_image(self._residual(channels, condition), x)

    def _residual(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        if self.precision == "fp32":
            return self.regularizer(channels, condition)
        layout = channels_last(channels.ndim - 1)
        packed = channels[None].to(DTYPES[self.precision]).contiguous(memory_format=layout)[0]
        with torch.autocast(channels.device.type, DTYPES[self.precision]):
            return self.regularizer(packed, condition)

    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters, the regularizer's first."""
        return [p for part in self.parts for p in part.parameters() if p.requires_grad]

    @property
    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Both as modules."""
        assert isinstance(self.regularizer, nn.Module)
        assert isinstance(self.consistency, nn.Module)
        return self.regularizer, self.consistency

    def __call__(self, problem: Problem, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The next image."""
        return self.consistency(problem, x, self.regularize(problem, x, condition))


def smooth_phase(problem: Problem) -> Tensor:
    """Unit complex image, the smooth phase of the measurement."""
    phase = getattr(problem, "phase", None)
    if not isinstance(phase, Tensor):
        raise TypeError(f"{type(problem).__name__} has no phase; upright stages need a complex linear problem")
    return phase
