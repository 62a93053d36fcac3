"""A meter of training memory: what autograd holds on a CPU, what the allocator gave out on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor


class _Held:
    """A saved tensor; its storage is counted while autograd keeps this object."""

    def __init__(self, meter: Meter, tensor: Tensor) -> None:
        self.meter, self.tensor = meter, tensor
        self.meter.take(tensor)

    def __del__(self) -> None:
        self.meter.give(self.tensor)


@dataclass
class Meter:
    """`with Meter(device, ignored) as meter: strategy.step(...)`, then `meter.peak` bytes.

    CPU  the largest sum of storages that autograd's saved tensors held at once, each storage once, graphs recomputed in
         the backward pass included; `ignored` tensors (weights) don't count
    GPU  the allocator's peak above what was allocated at the start
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ignored: tuple[Tensor, ...] = ()
    held: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        self._storages: dict[int, int] = {}
        self._own = {t.untyped_storage().data_ptr() for t in self.ignored}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(self, t), lambda held: held.tensor)

    def take(self, tensor: Tensor) -> None:
        """Autograd saves `tensor`."""
        storage = tensor.untyped_storage()
        if (where := storage.data_ptr()) in self._own:
            return
        count = self._storages.get(where, 0)
        self._storages[where] = count + 1
        if not count:
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)

    def give(self, tensor: Tensor) -> None:
        """Autograd lets go of `tensor`."""
        storage = tensor.untyped_storage()
        if (where := storage.data_ptr()) in self._own:
            return
        self._storages[where] -= 1
        if not self._storages[where]:
            del self._storages[where]
            self.held -= storage.nbytes()

    def __enter__(self) -> Meter:
        """Start counting."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.held = torch.cuda.memory_allocated(self.device)
        else:
            self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device) - self.held
        else:
            self._hooks.__exit__(kind, error, trace)
