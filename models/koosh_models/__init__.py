"""The mathematics of koosh: operators, calibration, baselines, networks and their training; no sockets.

The names below stay as they are from release to release; torch is imported with the first one that is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from koosh_models.metrics import evaluate
    from koosh_models.reconstruction import Reconstruction, calibrate, reconstruct, with_weights
    from koosh_models.scan import Geometry, Scan
    from koosh_models.simulation.phantoms import phantom
    from koosh_models.simulation.simulate import simulate
    from koosh_models.simulation.trajectories import trajectory

__all__ = [
    "Geometry",
    "Reconstruction",
    "Scan",
    "calibrate",
    "evaluate",
    "phantom",
    "reconstruct",
    "simulate",
    "trajectory",
    "with_weights",
]

_HOMES = {
    "Geometry": "scan",
    "Reconstruction": "reconstruction",
    "Scan": "scan",
    "calibrate": "reconstruction",
    "evaluate": "metrics",
    "phantom": "simulation.phantoms",
    "reconstruct": "reconstruction",
    "simulate": "simulation.simulate",
    "trajectory": "simulation.trajectories",
    "with_weights": "reconstruction",
}


def __getattr__(name: str) -> object:
    """A public name, its module imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'koosh_models' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"koosh_models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
