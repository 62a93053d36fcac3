"""One file per way to compute gradients of an unrolled network: same model, same weights, another use of memory."""

from koosh_models.strategies.backprop import Backprop
from koosh_models.strategies.blockwise import Blockwise
from koosh_models.strategies.checkpoint import Checkpoint
from koosh_models.strategies.equilibrium import Equilibrium
from koosh_models.strategies.greedy import Greedy
from koosh_models.strategies.invertible import Invertible
from koosh_models.strategies.pipeline import Pipelined
from koosh_models.strategies.sequential import Sequential
from koosh_models.strategies.strategy import Apart, Strategy

__all__ = [
    "Apart",
    "Backprop",
    "Blockwise",
    "Checkpoint",
    "Equilibrium",
    "Greedy",
    "Invertible",
    "Pipelined",
    "Sequential",
    "Strategy",
]
