"""Greedy learning (Ozturkler et al. 2022): what depth at equal memory is worth, and how fast a pipeline of ranks is.

`python -m benchmarks.seeds.gleam [--quick] [--only TABLE] [--updates N] [--json FILE]`; one thread a process.

Equal memory: 24 stages in 3 modules against 8 stages end to end, same data, same updates, both at the better of two
learning rates on validation cases. Equal depth: greedy against exact end-to-end gradients.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from benchmarks.report import Row, arguments, command, show
from benchmarks.seeds.measure import megabytes
from benchmarks.seeds.problems import Case
from benchmarks.seeds.quality import TEST, TRAIN, VALIDATION, Scores, cases, fit, gain, mean, scores
from koosh_models.losses import Objective
from koosh_models.networks import Dims, build
from koosh_models.networks.unrolled import Unrolled
from koosh_models.strategies import Backprop, Checkpoint, Greedy, Pipelined, Strategy
from koosh_models.strategies.meter import Meter

MODULE = "benchmarks.seeds.gleam"
RATES = (1e-3, 4e-3)
MANY = range(1000, 1160)
EVERY = 0.3  # weight of the images between stages, chosen on validation cases
STEP = Dims(ndim=2, stages=8, features=12, layers=3, consistency="gradient", start="adjoint")


@dataclass(frozen=True)
class Setting:
    """One kind of image: what is measured, and the network of 8 stages."""

    anatomy: str
    shape: tuple[int, ...]
    acceleration: float
    dims: Dims
    goal: float | None


SETTINGS = {
    "2D": Setting("knee", (48, 48), 4.0, STEP, 1.1),
    "3D": Setting("knee", (20, 24, 24), 6.0, replace(STEP, ndim=3, features=8, precision="bf16"), 1.8),
    "cine": Setting(
        "cine", (8, 32, 32), 6.0, replace(STEP, ndim=3, regularizer="spacetime", features=8, layers=2), None
    ),
}


def fitted(dims: Dims, strategy: Strategy, data: Sequence[Case], updates: int, rate: float, seed: int) -> Unrolled:
    """A trained network."""
    torch.manual_seed(seed)
    network = build(dims)
    fit(network, strategy, data, updates, rate, seed)
    return network


def tuned(dims: Dims, strategy: Strategy, setting: Setting, updates: int) -> float:
    """The better rate on validation cases."""
    train = cases(setting.anatomy, setting.shape, setting.acceleration, 4, TRAIN)
    check = cases(setting.anatomy, setting.shape, setting.acceleration, 4, VALIDATION)
    return best_rate(dims, strategy, train, check, updates)


def best_rate(dims: Dims, strategy: Strategy, train: Sequence[Case], check: Sequence[Case], updates: int) -> float:
    """The better rate on the cases to check with, after half the updates."""
    found = {r: mean(scores(fitted(dims, strategy, train, updates // 2, r, 99), check)) for r in RATES}
    return max(found, key=found.__getitem__)


def peak(dims: Dims, strategy: Strategy, case: Case) -> int:
    """Bytes that autograd holds in a step."""
    network = build(dims)
    with Meter(ignored=tuple(network.parameters())) as meter:
        strategy.step(network, case.problem, case.truth)
    return meter.peak


def equal_memory(name: str, consistency: str, updates: int, n_seeds: int) -> list[Row]:
    """24 stages in 3 greedy modules against 8 end to end."""
    setting = SETTINGS[name]
    short = replace(setting.dims, consistency=consistency, lam=0.3, cg_steps=6)  # type: ignore[arg-type]
    long = replace(short, stages=24)
    train = cases(setting.anatomy, setting.shape, setting.acceleration, 4, TRAIN)
    test = cases(setting.anatomy, setting.shape, setting.acceleration, 4, TEST)
    rates = tuned(long, Greedy(3), setting, updates), tuned(short, Backprop(), setting, updates)
    greedy, whole = list[Scores](), list[Scores]()
    for seed in range(n_seeds):
        greedy.append(scores(fitted(long, Greedy(3), train, updates, rates[0], seed), test))
        whole.append(scores(fitted(short, Backprop(), train, updates, rates[1], seed), test))
    ratio = peak(long, Greedy(3), test[0]) / peak(short, Backprop(), test[0])
    label = f"{name}, {consistency}"
    goal = setting.goal if consistency == "gradient" else None
    return [
        Row(f"{label}: memory, greedy / end to end", ratio, "x", "within 5 %", abs(ratio - 1) <= 0.05),
        Row(f"{label}: 24 stages in 3 modules", sum(map(mean, greedy)) / n_seeds, "dB"),
        Row(f"{label}: 8 stages end to end", sum(map(mean, whole)) / n_seeds, "dB"),
        *gain(f"{label}: equal memory", greedy, whole, "psnr", goal),
        *gain(f"{label}: equal memory", greedy, whole, "ssim"),
    ]


def equal_depth(name: str, updates: int, n_seeds: int, stages: int = 12) -> list[Row]:
    """Exact end-to-end gradients (one graph at a time), with and without a loss after every stage, against 3 modules.

    Four times as many training cases as elsewhere: 40 are known by heart after 2000 updates.
    """
    setting = SETTINGS[name]
    dims = replace(setting.dims, stages=stages)
    train, check, test = (
        cases(setting.anatomy, setting.shape, setting.acceleration, 4, seeds) for seeds in (MANY, VALIDATION, TEST)
    )
    kinds: dict[str, Strategy] = {
        "exact": Checkpoint(), "exact, a loss at every stage": Checkpoint(Objective(every=EVERY)), "greedy": Greedy(3),
    }  # fmt: skip
    rates = {kind: best_rate(dims, strategy, train, check, updates) for kind, strategy in kinds.items()}
    found: dict[str, list[Scores]] = {kind: [] for kind in (*kinds, "greedy, then exact")}
    for seed in range(n_seeds):
        for kind, strategy in kinds.items():
            found[kind].append(scores(fitted(dims, strategy, train, updates, rates[kind], seed), test))
        half = fitted(dims, kinds["greedy"], train, updates // 2, rates["greedy"], seed)
        fit(half, kinds["exact"], train, updates // 2, rates["exact"] / 2, seed + 50)
        found["greedy, then exact"].append(scores(half, test))
    held = peak(dims, kinds["exact, a loss at every stage"], test[0]) / peak(dims, kinds["greedy"], test[0])
    label = f"{name}, {stages} stages"
    rows = [Row(f"{label}: memory, exact / greedy", held, "x", "<= 1", held <= 1)]
    rows += [Row(f"{label}: {kind}", sum(map(mean, own)) / n_seeds, "dB") for kind, own in found.items()]
    for kind in ("exact, a loss at every stage", "exact", "greedy, then exact"):
        goal = 0.2 if kind.endswith("stage") else None
        rows += gain(f"{label}: {kind}, over greedy", found[kind], found["greedy"], "psnr", goal)
    return rows


def one_rank(rank: int, ranks: int, folder: str, what: str, dims: Dims, batches: int, micro: int) -> None:
    """`batches` updates of `micro` cases on this rank: pipelined, data-parallel checkpointing, or alone."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    network = build(dims)
    strategy: Strategy = Pipelined() if what == "pipeline" else Checkpoint()
    setting = SETTINGS["2D" if dims.ndim == 2 else "3D"]
    data = cases(setting.anatomy, setting.shape, setting.acceleration, 4, range(micro))
    own = data if what == "pipeline" else data[rank::ranks]
    optimizers = [torch.optim.Adam(group, 1e-4) for group in strategy.phases(network)]
    began = 0.0
    for batch in range(batches + 1):
        if batch == 1:
            distributed.barrier()
            began = time.perf_counter()
        for case in own:
            strategy.step(network, case.problem, case.truth)
        if what != "pipeline":
            averaged(network, ranks)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    if isinstance(strategy, Pipelined):
        strategy.flush()
    distributed.barrier()
    if not rank:
        Path(folder, "seconds").write_text(str((time.perf_counter() - began) / batches))
    distributed.destroy_process_group()


def averaged(network: Unrolled, ranks: int) -> None:
    """Gradients averaged over ranks in one message, as data-parallel training does."""
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    distributed.all_reduce(flat)
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad) / ranks)


def wall(what: str, ranks: int, dims: Dims, batches: int, micro: int) -> float:
    """Wall seconds of an update of `micro` cases; it needs as many idle cores as ranks."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(one_rank, (ranks, folder, what, dims, batches, micro), nprocs=ranks)
        return float(Path(folder, "seconds").read_text())


def speed(dims: Dims, batches: int, repeats: int = 3) -> list[Row]:
    """Two ranks in a pipeline against checkpointing on one rank and data-parallel on two, 8 micro-batches an update."""
    kinds = {"pipeline": 2, "alone": 1, "parallel": 2}
    found = {k: min(wall(k, n, dims, batches, 8) for _ in range(repeats)) for k, n in kinds.items()}
    case = cases("knee", SETTINGS["2D" if dims.ndim == 2 else "3D"].shape, 4.0, 4, range(1))[0]
    alone, parallel = found["alone"] / found["pipeline"], found["parallel"] / found["pipeline"]
    label = f"{dims.ndim}D, {dims.stages} stages"
    return [
        Row(f"{label}: pipeline on 2 ranks, an update of 8", found["pipeline"], "s"),
        Row(f"{label}: checkpointing on 1 rank / pipeline on 2", alone, "x", ">= 1.3", alone >= 1.3),
        Row(f"{label}: checkpointing data-parallel on 2 / pipeline on 2", parallel, "x", ">= 1.15", parallel >= 1.15),
        Row(f"{label}: a rank of the pipeline holds", megabytes(peak(dims, Greedy(2), case)), "MiB"),
        Row(f"{label}: checkpointing holds", megabytes(peak(dims, Checkpoint(), case)), "MiB"),
    ]


TABLES = ("2D", "3D", "cine", "2D-cg", "depth", "speed")


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--updates", type=int, default=600, help="of a training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    updates, seeds = (30, 1) if chosen.quick else (chosen.updates, chosen.seeds)
    names = [chosen.only] if chosen.only else (["2D"] if chosen.quick else TABLES)
    rows = [row for name in names for row in table(name, updates, seeds)]
    show([replace(row, command=command(MODULE)) for row in rows], chosen.json)


def table(name: str, updates: int, seeds: int) -> list[Row]:
    """One table."""
    if name == "depth":
        return equal_depth("2D", updates, seeds)
    if name == "speed":
        return speed(replace(STEP, stages=12, features=16, layers=4), 3)
    kind, _, cg = name.partition("-")
    return equal_memory(kind, "cg" if cg else "gradient", updates, seeds)


if __name__ == "__main__":
    main()
