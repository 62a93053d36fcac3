"""FBSEM-Net and its sequential training, against its papers' claims: `python -m benchmarks.seeds.fbsem`.

Corda-D'incan, Schnabel, Reader, IEEE TRPMS 2022; Mehranian & Reader, IEEE TRPMS 2020. NRMSE is
|image - truth| / |truth| over the whole grid, not rescaled, on held-out patients.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.report import Row, arguments, command, show
from benchmarks.seeds.fbsem_study import (
    Plan,
    baselines,
    end_to_end,
    errors,
    interval,
    iterated,
    sequentially,
    timed,
    truth,
)
from koosh_models.networks import Dims, Unrolled, build
from koosh_models.simulation.petset import Example
from koosh_models.simulation.tissue import Labels, labels_in
from koosh_models.strategies.backprop import Backprop
from koosh_models.strategies.meter import Meter
from koosh_models.strategies.sequential import Sequential

MODULE = "benchmarks.seeds.fbsem"
EM = Dims(
    ndim=2, stages=10, features=16, layers=5, consistency="em", channels=1, guides=1, start="osem", start_steps=24
)
EM = replace(EM, gamma=1.0)
FLAT = Plan(64, 96, (1e5, 1e6), train=64, test=12, dims=EM, steps=150, whole=200)
QUICK = replace(
    FLAT, size=24, views=24, train=6, test=4, dims=replace(EM, stages=2, features=4, layers=3), steps=8, whole=8
)
SMALL = Plan(
    32, 48, (1e5, 4e5), train=32, test=12, steps=80, whole=150,
    dims=replace(EM, stages=6, features=8, layers=3, start="ones"),
)  # fmt: skip
VOLUME = Plan(
    48, 48, (5e6, 3e7), train=16, test=4, steps=30, whole=0, rings=8, ring_mm=10.0, n_subsets=8, batch=1,
    dims=replace(EM, ndim=3, stages=50, features=12, layers=4, start="ones"),
)  # fmt: skip
TINY = replace(SMALL, size=16, steps=4, whole=4, train=4, test=2)
SHALLOW = replace(VOLUME, size=16, train=2, test=2, steps=2, dims=replace(VOLUME.dims, stages=3, features=4))
ENDS = replace(SMALL, train=48, test=16, steps=150, whole=450, dims=replace(SMALL.dims, stages=10))
OURS, SMOOTHED = "FBSEM, one stage after the other", "OSEM, best-smoothed"
Maps = tuple[Sequence[Labels], Sequence[Labels]]


def memory(quick: bool) -> list[Row]:
    """Saved activations of a training step, parameters and the scan's own data apart."""
    plan = replace(SMALL, size=32)
    made, _ = plan.sets((), ())
    example, rows = made.example(0), []
    for stages in (2, 10) if quick else (2, 5, 10, 20, 30, 40, 50, 60):
        network = build(replace(EM, stages=stages, start="ones"))
        one, all_ = Sequential(stage=stages - 1), Backprop()
        one.inputs(network, example.problem)
        sizes = [
            peak(lambda s=s, n=network: s.step(n, example.problem, example.truth), network, example)
            for s in (one, all_)
        ]
        share = sizes[0] / sizes[1] * stages
        rows.append(Row(f"saved by one stage, K = {stages}", sizes[0] / 2**20, "MiB"))
        rows.append(Row(f"saved end to end, K = {stages}", sizes[1] / 2**20, "MiB"))
        rows.append(Row(f"ratio times K, K = {stages}", share, "", "<= 1.1", share <= 1.1))
    return rows


def peak(step: Callable[[], object], network: torch.nn.Module, example: Example) -> int:
    """Bytes that autograd held at most."""
    gc.collect()
    with Meter(ignored=(*network.parameters(), example.problem.inverse_sensitivity)) as meter:
        step()
    return meter.peak


def table(plan: Plan, maps: Maps) -> list[Row]:
    """Errors of every method on the same held-out scans: with MR and without, one target for all stages or T_k."""
    made, held = plan.sets(*maps)
    train, test, others = made.take(plan.train), held.take(plan.test), strange(plan, maps)
    found = baselines(test)
    rows = [Row(name, float(e.mean()), "NRMSE") for name, e in found.items()]
    rows += [
        Row(f"OSEM, best-smoothed, {n:.0e} counts", float(baselines(e, strengths=())[SMOOTHED].mean()), "NRMSE")
        for n, e in others.items()
    ]
    blind = replace(plan, dims=replace(plan.dims, guides=0))
    ways: dict[str, tuple[Callable[[], Unrolled], Callable[[Example], Example]]] = {
        OURS: (partial(sequentially, plan, train, truth, 0), same),
        "FBSEM, targets T_k": (partial(sequentially, plan, train, iterated, 0), same),
        "FBSEM without MR": (partial(sequentially, blind, [unguided(e) for e in train], truth, 0), unguided),
        "FBSEM, targets T_10k": (partial(sequentially, plan, [ahead(e) for e in train], iterated, 0), same),
    }
    for name, (train_it, seen) in ways.items():
        network, took = timed(train_it)
        found[name] = errors(network, [seen(e) for e in test])
        new = [Row(name, float(found[name].mean()), "NRMSE"), Row(f"{name}: training", took, "s")]
        for n, e in others.items():
            new.append(Row(f"{name}, {n:.0e} counts", float(errors(network, [seen(x) for x in e]).mean()), "NRMSE"))
        show(new)
        rows += new
    return rows + verdicts(found)


def same(example: Example) -> Example:
    """The example as it is."""
    return example


def unguided(example: Example) -> Example:
    """The example without its MR image."""
    return replace(example, problem=replace(example.problem, guide=None))


def ahead(example: Example) -> Example:
    """The example with targets that run ten updates ahead with every stage."""
    return replace(example, stride=10, _targets={})


def verdicts(found: dict[str, Tensor]) -> list[Row]:
    """The comparisons that goals are set for; differences with the half width of their 95 % interval over the scans."""
    best = torch.minimum(found["OSEM, best-stopped"].mean(), found[SMOOTHED].mean())
    tuned = torch.minimum(found["MAP-EM, quadratic"].mean(), found["MAP-EM, Bowsher with MR"].mean())
    ours = found[OURS]
    rows = [
        Row("FBSEM / best OSEM", float(ours.mean() / best), "", "<= 0.80", bool(ours.mean() <= 0.8 * best)),
        Row("FBSEM / tuned MAP-EM", float(ours.mean() / tuned), "", "<= 0.95", bool(ours.mean() <= 0.95 * tuned)),
    ]
    if "FBSEM without MR" in found:
        share = float(found["FBSEM without MR"].mean() / best)
        rows.append(Row("FBSEM without MR / best OSEM", share, "", "<= 0.90", share <= 0.9))
    return rows + [difference(found, OURS, name) for name in found if "targets" in name]


def difference(found: dict[str, Tensor], one: str, other: str, goal: float | None = None) -> Row:
    """How much larger the errors of one are than those of the other, in percent, paired by scan."""
    mean, half = (100 * v for v in interval(found[one] / found[other] - 1))
    met = None if goal is None else abs(mean) <= goal
    name = f"{one} against {other} (95 % interval +- {half:.1f})"
    return Row(name, mean, "%", "" if goal is None else f"|difference| <= {goal:g}", met)


def ends(plan: Plan, maps: Maps) -> list[Row]:
    """One stage after the other against all at once: in full, truncated, with shared weights; K = 10, small 2D."""
    made, held = plan.sets(*maps)
    train, test = made.take(plan.train), held.take(plan.test)
    ways: dict[str, Callable[[], Unrolled]] = {
        "sequential": partial(sequentially, plan, train, truth, 0),
        "end to end": partial(end_to_end, plan, train, 0),
        "truncated": partial(end_to_end, plan, train, 0, truncated=True),
        "shared": partial(end_to_end, plan, train, 0, shared=True),
    }
    found, rows = {}, []
    for name, train_it in ways.items():
        network, took = timed(train_it)
        found[name] = errors(network, test)
        rows += [
            Row(f"K = 10, {name}", float(found[name].mean()), "NRMSE"),
            Row(f"K = 10, {name}: training", took, "s"),
        ]
        show(rows[-2:])
    goals = {"end to end": 3.0, "truncated": 3.0, "shared": None}
    rows += [difference(found, "sequential", other, goal) for other, goal in goals.items()]
    return [*rows, difference(found, "truncated", "end to end")]


def strange(plan: Plan, maps: Maps) -> dict[float, list[Example]]:
    """Held-out scans at count levels below and above all that are trained on."""
    scans = {}
    for level in (0.3 * plan.counts[0], 3 * plan.counts[1]):
        _, held = replace(plan, counts=(level, level)).sets(*maps)
        scans[level] = replace(held, seed=3).take(max(4, plan.test // 2))
    return scans


def seeds(plan: Plan, maps: Maps, n: int) -> list[Row]:
    """Spread over training runs: with one target for all stages, with T_k, and a shared network end to end."""
    from scipy.stats import levene

    made, held = plan.sets(*maps)
    train, test = made.take(plan.train), held.take(plan.test)
    ways: dict[str, Callable[[int], Unrolled]] = {
        "truth for all": partial(sequentially, plan, train, truth),
        "T_k": partial(sequentially, plan, train, iterated),
        "shared, end to end": partial(end_to_end, plan, train, shared=True),
    }
    found, rows = {}, []
    for name, run in ways.items():
        values = torch.tensor([float(errors(run(seed), test).mean()) for seed in range(n)])
        found[name] = values
        rows.append(Row(f"{name}: mean of {n} runs", float(values.mean()), "NRMSE"))
        rows.append(Row(f"{name}: deviation over runs", 100 * float(values.std() / values.mean()), "% of mean"))
        show(rows[-2:])
    relative = {name: (values / values.mean()).tolist() for name, values in found.items()}
    for other in ("truth for all", "shared, end to end"):
        rows.append(Row(f"Levene, T_k vs {other}", float(levene(relative["T_k"], relative[other]).pvalue), "p"))
    return rows


def volume(plan: Plan, maps: Maps) -> list[Row]:
    """3D: a deep network from a flat start and a shallow one from OSEM, stage after stage, in the memory of one."""
    made, held = plan.sets(*maps)
    train, test = made.take(plan.train), held.take(plan.test)
    found = baselines(test, 64, (0.01, 0.05, 0.2))
    rows = [Row(f"3D {name}", float(e.mean()), "NRMSE") for name, e in found.items()]
    few = max(1, plan.dims.stages // 5)
    warm = replace(plan.dims, stages=few, start="osem", start_steps=24)
    for shown, dims, steps in (("flat", plan.dims, plan.steps), ("OSEM", warm, plan.steps * 10 // 3)):
        network, took = timed(partial(sequentially, replace(plan, dims=dims, steps=steps), train, truth, 0))
        found[OURS] = errors(network, test)
        name = f"3D from {shown}, {dims.stages} stages: "
        rows.append(Row(f"{name}FBSEM", float(found[OURS].mean()), "NRMSE"))
        rows.append(Row(f"{name}training", took, "s"))
        rows += [replace(row, name=name + row.name) for row in verdicts(found)]
        show(rows[-4:])
    return rows


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--labels", metavar="FOLDER", help="tissue label maps (labels*.npz); else phantoms alone")
    parser.add_argument("--only", choices=("memory", "table", "ends", "seeds", "volume"), help="one part")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    maps: Maps = labels_in(chosen.labels) if chosen.labels else ((), ())
    quick = chosen.quick
    flat, small, deep = (QUICK, TINY, SHALLOW) if quick else (FLAT, SMALL, VOLUME)
    parts: dict[str, Callable[[], list[Row]]] = {
        "memory": lambda: memory(quick),
        "table": lambda: table(flat, maps),
        "ends": lambda: ends(replace(TINY, dims=replace(TINY.dims, stages=10)) if quick else ENDS, maps),
        "seeds": lambda: seeds(small, maps, 3 if quick else 12),
        "volume": lambda: volume(deep, maps),
    }
    rows = [row for name, part in parts.items() if chosen.only in (None, name) for row in part()]
    line = command(MODULE)
    if quick:  # too small to judge anything but memory
        rows = [row if row.name.startswith("ratio") else replace(row, goal="", met=None) for row in rows]
    show([replace(row, command=line) for row in rows], chosen.json)


if __name__ == "__main__":
    main()
