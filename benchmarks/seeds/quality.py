"""Train small networks on simulated cases and score them on held-out ones; no network sees a truth of the test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch

from benchmarks.report import Row
from benchmarks.seeds.measure import interval
from benchmarks.seeds.problems import Case, cartesian
from koosh_models.metrics import evaluate
from koosh_models.networks.unrolled import Unrolled
from koosh_models.strategies import Strategy

TRAIN, VALIDATION, TEST = range(1000, 1040), range(2000, 2006), range(3000, 3020)
Scores = list[dict[str, float]]


@cache
def cases(anatomy: str, shape: tuple[int, ...], acceleration: float, n_coils: int, seeds: range) -> list[Case]:
    """One case a seed: anatomy, sampling and noise differ from seed to seed."""
    return [cartesian(anatomy, shape, acceleration, n_coils, seed) for seed in seeds]


def fit(
    network: Unrolled, strategy: Strategy, train: Sequence[Case], updates: int, rate: float, seed: int
) -> list[float]:
    """Losses of `updates` Adam steps, one case each, the rate falling along a cosine; one optimizer a phase."""
    optimizers = [torch.optim.Adam(group, rate) for group in strategy.phases(network)]
    drawn, order, losses = torch.Generator().manual_seed(seed), list[int](), []
    for update in range(updates):
        order = order or torch.randperm(len(train), generator=drawn).tolist()
        case = train[order.pop()]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * (0.02 + 0.98 * (1 + math.cos(math.pi * update / updates)) / 2)
            optimizer.zero_grad()
        losses.append(strategy.step(network, case.problem, case.truth)[-1])
        for optimizer in optimizers:
            optimizer.step()
    return losses


@torch.no_grad()
def scores(network: Unrolled, test: Sequence[Case]) -> Scores:
    """The metrics of every held-out case."""
    return [evaluate(network(case.problem), case.truth, case.mask) for case in test]


def mean(found: Scores, metric: str = "psnr") -> float:
    """Mean over cases."""
    return sum(s[metric] for s in found) / len(found)


def gain(
    name: str, ours: Sequence[Scores], other: Sequence[Scores], metric: str, goal: float | None = None
) -> list[Row]:
    """How much better `ours` scores: one list of scores per seed; the interval is over cases, seeds averaged."""
    n_cases, n_seeds = len(ours[0]), len(ours)
    each = [sum(ours[s][c][metric] - other[s][c][metric] for s in range(n_seeds)) / n_seeds for c in range(n_cases)]
    middle, low, high = interval(each)
    by_seed = [mean(a, metric) - mean(b, metric) for a, b in zip(ours, other, strict=True)]
    unit = "dB" if metric == "psnr" else metric
    wanted = "" if goal is None else f"95 % interval above {goal:g}"
    return [
        Row(f"{name}: gain", middle, unit),
        Row(f"{name}: lower end of 95 % over {n_cases} cases", low, unit, wanted, None if goal is None else low > goal),
        Row(f"{name}: upper end", high, unit),
        Row(f"{name}: least gain of {n_seeds} seeds", min(by_seed), unit),
    ]
