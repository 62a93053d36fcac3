"""Memory-efficient learning (Wang et al. 2021): memory, exactness, the guard, and what the depth it affords is worth.

`python -m benchmarks.seeds.mel [--quick] [--only TABLE] [--json FILE]`; CPU time on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.report import Row, arguments, command, show
from benchmarks.seeds.measure import cost, interval, megabytes
from benchmarks.seeds.problems import Case, cartesian
from benchmarks.seeds.quality import TEST, TRAIN, Scores, cases, fit, gain, mean, scores
from koosh_models.metrics import fitted
from koosh_models.networks import Dims, build
from koosh_models.networks.cnn import Cnn
from koosh_models.networks.unrolled import Unrolled, consistency
from koosh_models.strategies import Backprop, Checkpoint, Invertible, Strategy

MODULE = "benchmarks.seeds.mel"
MODL = Dims(ndim=3, features=16, layers=5, consistency="cg", lam=3.0, cg_steps=12, cg_tolerance=1e-7)
NETS = {"knee": MODL, "cine": replace(MODL, regularizer="spacetime", layers=3)}
SIZES = {"knee": (24, 32, 32), "cine": (10, 32, 32)}
SMALL = {"knee": (12, 24, 24), "cine": (8, 24, 24)}
GOALS = {"knee": 3.6, "cine": 5.9}


def memory(kind: str, shape: tuple[int, ...], depths: tuple[int, ...], fresh: bool) -> list[Row]:
    """Plain backpropagation against the invertible strategy at equal net, and how it grows with depth."""
    making, rows, seen = (cartesian, (kind, shape, 6.0, 8, 0)), [], {}
    for stages in depths:
        seen[stages] = cost(Invertible(bound="proven"), replace(NETS[kind], stages=stages), making, fresh=fresh)
        rows.append(Row(f"{kind} {shape}, {stages} stages: invertible holds", megabytes(seen[stages].held), "MiB"))
        rows.append(Row(f"{kind}, {stages} stages: stage inputs kept", seen[stages].kept, ""))
    flat = seen[depths[-1]].held / seen[depths[0]].held - 1
    none = not any(s.kept for s in seen.values())
    label = f"{kind}: growth from {depths[0]} to {depths[-1]} stages" + ("" if none else " (some inputs were kept)")
    rows.append(Row(label, flat, "relative", "<= 0.05", flat <= 0.05))
    middle = 10 if 10 in depths else depths[0]
    plain = cost(Backprop(), replace(NETS[kind], stages=middle), making, fresh=fresh)
    ratio = plain.held / seen[middle].held
    rows.append(Row(f"{kind}, {middle} stages: backprop holds", megabytes(plain.held), "MiB"))
    rows.append(Row(f"{kind}, {middle} stages: times less held", ratio, "x", f">= {GOALS[kind]}", ratio >= GOALS[kind]))
    rows.append(Row(f"{kind}: step / backprop step", seen[middle].seconds / plain.seconds, "x CPU"))
    return rows


def exactness(kind: str, shape: tuple[int, ...]) -> list[Row]:
    """The gradient at 10 stages against autograd, and the guard on an inversion that can't work."""
    case, rows = cartesian(kind, shape, 6.0, 8, 0), []
    for name, dims in (
        ("", replace(NETS[kind], stages=10)),
        (", lambda 0.05 and 8 CG steps", replace(NETS[kind], stages=10, lam=0.05, cg_steps=8)),
    ):
        torch.manual_seed(0)
        network, guarded, blind = build(dims), Invertible(), Invertible(tolerance=float("inf"))
        ours, unguarded = gradient(guarded, network, case), gradient(blind, network, case)
        want = gradient(Backprop(), network, case)
        off, cosine = apart(ours, want)
        rows += [
            Row(f"{kind}{name}: gradient off by", off, "relative", "<= 1e-3", off <= 1e-3),
            Row(f"{kind}{name}: cosine", cosine, "", ">= 0.9999", cosine >= 0.9999),
            Row(f"{kind}{name}: inputs kept of 10", len(guarded.kept), ""),
            Row(f"{kind}{name}: off by without the guard", apart(unguarded, want)[0], "relative"),
        ]
    return rows


def guard(kind: str) -> list[Row]:
    """What the guard's tolerance means for the gradient, on a small problem and a net that has not learned."""
    rows = []
    for stages, lam, tolerance in product((10, 20), (1.0, 0.3, 0.1), (1e-4, 1e-3, float("inf"))):
        case, strategy = cartesian(kind, (8, 16, 16), 2.0, 4, 0), Invertible(tolerance=tolerance)
        torch.manual_seed(0)
        network = build(replace(NETS[kind], stages=stages, features=4, layers=2, lam=lam, cg_steps=60))
        off, _ = apart(gradient(strategy, network, case), gradient(Backprop(), network, case))
        label = f"{kind}, {stages} stages, lambda {lam}, tolerance {tolerance:g}"
        rows += [Row(f"{label}: kept", len(strategy.kept), ""), Row(f"{label}: gradient off by", off, "relative")]
    return rows


def gradient(strategy: Strategy, network: Unrolled, case: Case) -> Tensor:
    """All gradients of a step in one vector."""
    network.zero_grad()
    strategy.step(network, case.problem, case.truth)
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def apart(ours: Tensor, want: Tensor) -> tuple[float, float]:
    """Relative distance and cosine, in double precision."""
    a, b = ours.double(), want.double()
    return float((a - b).norm() / b.norm()), float(torch.dot(a, b) / a.norm() / b.norm())


def depth_pays(updates: int, n_seeds: int) -> list[Row]:
    """Cine: 10 stages with the invertible strategy against as many as backprop holds in the same memory."""
    shape, rows = (8, 32, 32), []
    train, test = cases("cine", shape, 6.0, 4, TRAIN), cases("cine", shape, 6.0, 4, TEST)
    dims = replace(NETS["cine"], lam=2.0, features=8, layers=2, cg_steps=8, cg_tolerance=1e-6)
    deep, problem = replace(dims, stages=10), test[0].problem
    room = Invertible().memory(build(deep), problem)
    fits = max(
        [k for k in range(1, 10) if Backprop().memory(build(replace(dims, stages=k)), problem) <= 1.05 * room] or [1]
    )
    ours, other, kept = list[Scores](), list[Scores](), 0
    profiles = list[float]()
    for seed in range(n_seeds):
        torch.manual_seed(seed)
        network, strategy = build(deep), Invertible()
        fit(network, strategy, train, updates, 2e-3, seed)
        kept = max(kept, len(strategy.kept))
        torch.manual_seed(seed)
        shallow = build(replace(dims, stages=fits))
        fit(shallow, Backprop(), train, updates, 2e-3, seed)
        ours.append(scores(network, test))
        other.append(scores(shallow, test))
        profiles += [profile_error(shallow, case) - profile_error(network, case) for case in test]
    middle, low, _ = interval(profiles)
    rows += [
        Row("cine: stages that backprop holds in the memory of 10 invertible ones", fits, ""),
        Row(
            "cine: memory of those / of 10 invertible",
            Backprop().memory(build(replace(dims, stages=fits)), problem) / room,
            "x",
        ),
        Row("cine: inputs kept in the last steps, at most", kept, ""),
        Row("cine: 10 stages, invertible", sum(map(mean, ours)) / n_seeds, "dB"),
        Row(f"cine: {fits} stage(s), backprop", sum(map(mean, other)) / n_seeds, "dB"),
        *gain("cine: depth", ours, other, "psnr", 0.3),
        *gain("cine: depth", ours, other, "ssim", 0.0),
        Row("cine: x-t profiles, less NRMSE", middle, "", "95 % interval above 0", low > 0),
    ]
    return rows


@torch.no_grad()
def profile_error(network: Unrolled, case: Case) -> float:
    """NRMSE of the (frame, x) profiles through the middle sixth of y, after subtracting each point's mean over time."""
    seen, wanted, _ = fitted(network(case.problem), case.truth, case.mask)
    n = seen.shape[1]
    lines = slice(n // 2 - n // 12, n // 2 + n // 12)
    moving, truth = (x[:, lines] - x[:, lines].mean(0) for x in (seen, wanted))
    return float((moving - truth).norm() / truth.norm())


def planes(dims: Dims, features: int) -> Unrolled:
    """The same network with kernels that see only the plane across the readout: slice-wise 2D."""
    parts: list[nn.Module] = [Cnn(2, 2, features, [(3, 3, 1)] * dims.layers) for _ in range(dims.stages)]
    return Unrolled(dims, parts, [consistency(dims, dims.cg_steps) for _ in range(dims.stages)])


def volume_pays(updates: int, n_seeds: int) -> list[Row]:
    """Knee: 3D against slice-wise 2D of equal depth, with as many features (equal memory) and with as many weights."""
    shape = (20, 24, 24)
    train, test = cases("knee", shape, 6.0, 4, TRAIN), cases("knee", shape, 6.0, 4, TEST)
    dims = replace(MODL, stages=4, lam=0.3, features=8, layers=3, cg_steps=8, cg_tolerance=1e-6, precision="bf16")
    kinds: dict[str, Callable[[], Unrolled]] = {
        "3D": lambda: build(dims),
        "2D, equal memory": lambda: planes(dims, dims.features),
        "2D, equal weights": lambda: planes(dims, 15),
    }
    found: dict[str, list[Scores]] = {name: [] for name in kinds}
    for seed, (name, making) in product(range(n_seeds), kinds.items()):
        torch.manual_seed(seed)
        network = making()
        fit(network, Checkpoint(), train, updates, 2e-3, seed)
        found[name].append(scores(network, test))
    rows = [Row("knee: weights in 3D / in the wider 2D", count(build(dims)) / count(planes(dims, 15)), "x")]
    rows += [Row(f"knee: {name}", sum(map(mean, own)) / n_seeds, "dB") for name, own in found.items()]
    for name in list(kinds)[1:]:
        rows += gain(f"knee: 3D over {name}", found["3D"], found[name], "psnr", 0.3)
        rows += gain(f"knee: 3D over {name}", found["3D"], found[name], "ssim", 0.0)
    return rows


def count(network: nn.Module) -> int:
    """Weights."""
    return sum(p.numel() for p in network.parameters())


TABLES = ("memory", "exactness", "guard", "depth", "volume")


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--updates", type=int, default=400, help="of a training")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    sizes, depths, rows = (SMALL, (5, 10), list[Row]()) if chosen.quick else (SIZES, (5, 10, 20), list[Row]())
    wanted = [chosen.only] if chosen.only else list(TABLES[: 2 if chosen.quick else 5])
    if "memory" in wanted:
        rows += [row for kind in GOALS for row in memory(kind, sizes[kind], depths, not chosen.quick)]
    if "exactness" in wanted:
        rows += [row for kind in GOALS for row in exactness(kind, SMALL[kind])]
    if "guard" in wanted:
        rows += [row for kind in GOALS for row in guard(kind)]
    if "depth" in wanted:
        rows += depth_pays(chosen.updates, 3)
    if "volume" in wanted:
        rows += volume_pays(chosen.updates, 3)
    show([replace(row, command=command(MODULE)) for row in rows], chosen.json)


if __name__ == "__main__":
    main()
