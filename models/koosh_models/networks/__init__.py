"""Regularizers, exact tiles, consistency steps and the unrolled network."""

from koosh_models.networks.consistency import Consistency
from koosh_models.networks.stage import Stage
from koosh_models.networks.unrolled import Dims, Unrolled, build

__all__ = ["Consistency", "Dims", "Stage", "Unrolled", "build"]
