"""The unrolled network for a scan: weights by name or by card, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from koosh_gadgets.settings import Settings
from koosh_gadgets.stages.journal import Journal

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_models.physics.problem import LinearProblem
    from koosh_models.scan import Scan


def network_for(scan: Scan, settings: Settings, journal: Journal) -> Callable[[LinearProblem], Tensor]:
    """The network that fits the scan, as a function of its problem."""
    from koosh_gadgets.stages.reconstruct import Unable

    named = f"weights {settings.weights!r}" if settings.weights else "weights"
    raise Unable(f"no {named} are installed for a scan of {len(scan.geometry.matrix)} axes and {scan.n_coils} coils")
