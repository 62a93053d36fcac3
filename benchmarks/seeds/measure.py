"""Memory and time of training steps."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats

from benchmarks.seeds.problems import Case
from koosh_models.networks import Dims, build
from koosh_models.strategies import Strategy
from koosh_models.strategies.meter import Meter


@dataclass(frozen=True)
class Cost:
    """Of one step.

    held      bytes that autograd held at the peak
    resident  bytes by which the process grew at its peak, everything included
    seconds   CPU time of a step, without the start image
    kept      stage inputs that the invertible strategy kept
    stated    bytes that the strategy's formula gives
    before    bytes resident before the step
    """

    held: int
    resident: int
    seconds: float
    kept: int
    stated: int
    before: int


Making = tuple[Callable[..., Case], tuple[object, ...]]


def cost(strategy: Strategy, dims: Dims, making: Making, repeats: int = 1, fresh: bool = True) -> Cost:
    """The cost of a step of this strategy, in a fresh process where the resident peak shall be its own."""
    if not fresh:
        return in_process(strategy, dims, making, repeats)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(in_process, (strategy, dims, making, repeats))


def in_process(strategy: Strategy, dims: Dims, making: Making, repeats: int) -> Cost:
    """The cost of a step, measured here; the first step warms up and gives the memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    case, network = making[0](*making[1]), build(dims)
    before = resident_now()
    with Meter(ignored=tuple(network.parameters())) as meter:
        began = time.process_time()
        strategy.step(network, case.problem, case.truth)
        best = time.process_time() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for _ in range(repeats - 1):
        network.zero_grad()
        began = time.process_time()
        strategy.step(network, case.problem, case.truth)
        best = min(best, time.process_time() - began)
    kept = len(getattr(strategy, "kept", ()))
    return Cost(meter.peak, resident, best, kept, strategy.memory(network, case.problem), before)


def resident_now() -> int:
    """Bytes resident in this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Least CPU time of some runs; CPU time, since other work on the machine must not count."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def megabytes(n: float) -> float:
    """In MiB."""
    return n / 2**20


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval (Student's t) of paired differences."""
    values = torch.tensor(differences, dtype=torch.float64)
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std()) / n**0.5
    mean = float(values.mean())
    return mean, mean - half, mean + half
