"""Block-wise learning (Miller et al. 2023): memory and step time against plain backpropagation.

`python -m benchmarks.seeds.blockwise [--quick] [--full-size] [--json FILE]`; CPU time on one thread. `--full-size` runs
the one step that the paper needed its whole card for: 450 x 300 x 450, 12 coils, 5 stages.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.report import Row, arguments, command, show
from benchmarks.seeds.measure import cost, in_process, megabytes, seconds
from benchmarks.seeds.problems import Case, cartesian, radial
from koosh_models.networks import Dims, build, tiles
from koosh_models.networks.stage import Precision
from koosh_models.networks.unrolled import Unrolled
from koosh_models.strategies import Backprop, Blockwise, Checkpoint, Strategy

TWO = ("backprop", "blockwise, device")
MODULE = "benchmarks.seeds.blockwise"
NET = Dims(ndim=3, stages=8, features=32, layers=5, consistency="gradient", start="adjoint")  # about the paper's


def exactness(shape: tuple[int, int, int]) -> list[Row]:
    """Largest relative difference of the gradient from plain backpropagation, fp32, over tiles and strategies."""
    torch.manual_seed(0)
    case = cartesian("chest", shape, 4, 4, 0)
    network = build(replace(NET, stages=3, features=8))
    want = gradient(Backprop(), network, case)
    rows = []
    strategies: dict[str, Strategy] = {
        "checkpoint": Checkpoint(),
        "tiles that divide": Blockwise(tile=shape[0] // 2),
        "tiles that don't": Blockwise(tile=shape[0] // 2 + 3),
        "a tile that exceeds": Blockwise(tile=2 * shape[0]),
        "boundaries on the host": Blockwise(tile=shape[0] // 2, boundaries="host"),
    }
    for name, strategy in strategies.items():
        off = float((gradient(strategy, network, case) - want).norm() / want.norm())
        rows.append(Row(f"gradient, {name}", off, "relative", "<= 1e-5", off <= 1e-5))
    return rows


def gradient(strategy: Strategy, network: Unrolled, case: Case) -> torch.Tensor:
    """All gradients of a step in one vector."""
    network.zero_grad()
    strategy.step(network, case.problem, case.truth)
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def memory(n: int, tile: int, precision: Precision, names: tuple[str, ...], fresh: bool = True) -> list[Row]:
    """Bytes of a step at n^3, 8 stages; the first strategy named is what the others are compared with."""
    dims = replace(NET, precision=precision)
    making = (cartesian, ("chest", (n, n, n), 4, 4, 0))
    rows, plain = [], None
    strategies: dict[str, Strategy] = {
        "backprop": Backprop(),
        "checkpoint": Checkpoint(),
        "blockwise, device": Blockwise(tile=tile),
        "blockwise, host": Blockwise(tile=tile, boundaries="host"),
    }
    for name, strategy in ((name, strategies[name]) for name in names):
        seen = cost(strategy, dims, making, fresh=fresh)
        label = f"{name}, {n}^3, {precision}"
        rows.append(Row(f"{label}: held by autograd", megabytes(seen.held), "MiB"))
        if fresh:
            rows.append(Row(f"{label}: resident growth", megabytes(seen.resident), "MiB"))
        rows.append(Row(f"{label}: formula off by", abs(seen.held / seen.stated - 1), "relative"))
        plain = plain or seen
        if name.startswith("blockwise"):
            ratio = plain.held / seen.held
            rows.append(Row(f"{label}: times less held", ratio, "x", ">= 20", ratio >= 20))
        if fresh and name.startswith("blockwise"):
            rows.append(Row(f"{label}: times less resident", plain.resident / seen.resident, "x"))
    return rows


def depth(n: int, tile: int, stages: tuple[int, ...], fresh: bool = True) -> list[Row]:
    """How memory grows with the number of stages: one volume each, or nothing with boundaries on the host."""
    making = (cartesian, ("chest", (n, n, n), 4, 4, 0))
    volume, rows = n**3 * 8, []
    for where in ("device", "host"):
        strategy = Blockwise(tile=tile, boundaries=where)  # type: ignore[arg-type]
        held = [
            cost(strategy, replace(NET, stages=k, features=16, precision="bf16"), making, fresh=fresh).held
            for k in stages
        ]
        growth = (held[-1] - held[0]) / (stages[-1] - stages[0]) / volume
        label = f"boundaries on the {where}, {n}^3: growth from {stages[0]} to {stages[-1]} stages"
        if where == "device":
            rows.append(Row(label, growth, "V per stage", "1.00 +- 0.02", abs(growth - 1) <= 0.02))
        else:
            flat = held[-1] / held[0] - 1
            rows.append(Row(label, flat, "relative", "<= 0.05", abs(flat) <= 0.05))
    return rows


def step_time(n: int, sides: tuple[int, ...], stages: int) -> list[Row]:
    """A step against its floor: 4/3 of the network's share times the halos' factor, and the consistency as is."""
    torch.manual_seed(0)
    case, dims = cartesian("chest", (n, n, n), 4, 8, 0), replace(NET, stages=stages)
    network = build(dims)

    def run(strategy: Strategy) -> float:
        return seconds(lambda: gradient(strategy, network, case), 2)

    normal = 2 * stages * seconds(lambda: case.problem.normal(case.problem.b))
    plain = run(Backprop())
    rows = [
        Row(f"plain step, {n}^3, {stages} stages", plain, "s CPU"),
        Row("of which consistency", normal, "s CPU"),
        Row("checkpoint / plain", run(Checkpoint()) / plain, "x"),
    ]
    for side in sides:
        plan = tiles.plan((n, n, n), side, network.stage(0).regularizer)
        halo = sum(t.voxels for t in plan) / n**3
        floor, took = 4 / 3 * halo * (plain - normal) + normal, run(Blockwise(tile=side))
        rows.append(Row(f"tile {side} (halo factor {halo:.2f}): step", took, "s CPU"))
        rows.append(Row(f"tile {side}: step / floor", took / floor, "x", "<= 1.15", took <= 1.15 * floor))
        rows.append(Row(f"tile {side}: step / plain step", took / plain, "x"))
    return rows


def mostly_consistency(n: int, tile: int) -> list[Row]:
    """The whole step against plain where the consistency is at least half of it: 3D radial, 12 coils, bf16."""
    case = radial((n, n, n), 8, 12)
    dims = replace(NET, stages=3, features=16, precision="bf16")
    network = build(dims)
    normal = 2 * dims.stages * seconds(lambda: case.problem.normal(case.problem.b), 2)
    plain = seconds(lambda: gradient(Backprop(), network, case), 2)
    block = seconds(lambda: gradient(Blockwise(tile=tile), network, case), 2)
    share = normal / plain
    met = block <= 1.4 * plain if share >= 0.5 else None
    return [
        Row(f"3D radial {n}^3, 12 coils: consistency's share of a plain step", share, ""),
        Row(f"3D radial {n}^3, 12 coils, tile {tile}: step / plain step", block / plain, "x", "<= 1.4", met),
    ]


def full_size(shape: tuple[int, int, int], tile: int) -> list[Row]:
    """One training step: 5 stages, 12 coils, 16-bit Toeplitz kernel, maps as 16^3 coefficients, boundaries on host."""
    dims = replace(NET, stages=5, precision="bf16")
    strategy = Blockwise(tile=tile, boundaries="host", budget=2**34)
    seen = in_process(strategy, dims, (radial, (shape, 12.0, 12, True)), 1)
    total = seen.resident + seen.before
    label = "x".join(map(str, shape))
    met = total <= 16e9 if shape == (450, 300, 450) else None
    return [
        Row(f"{label}: step", seen.seconds, "s CPU"),
        Row(f"{label}: held by autograd", megabytes(seen.held), "MiB"),
        Row(f"{label}: resident before the step", megabytes(seen.before), "MiB"),
        Row(f"{label}: resident peak of the process", total / 1e9, "GB", "<= 16", met),
    ]


TABLES = ("exactness", "time", "time96", "radial", "memory", "large", "depth")


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--full-size", action="store_true", help="one step at 450 x 300 x 450, up to two hours")
    parser.add_argument("--shape", type=int, nargs=3, default=(450, 300, 450), help="another size for --full-size")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = [replace(row, command=command(MODULE)) for row in rows_of(chosen)]
    show(rows, chosen.json)


def rows_of(chosen: argparse.Namespace) -> list[Row]:
    """What was asked for."""
    if chosen.full_size:
        return full_size(tuple(chosen.shape), 96)
    if chosen.quick:
        return [
            *exactness((20, 20, 20)),
            *memory(48, 24, "fp32", TWO, fresh=False),
            *depth(24, 12, (5, 10), fresh=False),
            *step_time(48, (24, 48), 1),
        ]
    tables: dict[str, Callable[[], list[Row]]] = {
        "exactness": lambda: exactness((32, 32, 32)),
        "time": lambda: step_time(64, (32, 48, 64), 1),
        "time96": lambda: step_time(96, (32, 64, 96), 2),
        "radial": lambda: mostly_consistency(64, 32),
        "memory": lambda: memory(64, 32, "fp32", ("backprop", "checkpoint", *TWO[1:], "blockwise, host")),
        "large": lambda: memory(128, 32, "bf16", TWO),
        "depth": lambda: depth(32, 16, (5, 20)),
    }
    return [row for name in TABLES if chosen.only in (None, name) for row in tables[name]()]


if __name__ == "__main__":
    main()
