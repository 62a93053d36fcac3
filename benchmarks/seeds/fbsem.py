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
from koosh_models.baselines.pet import error
from koosh_models.networks import Dims, Unrolled, build
from koosh_models.simulation.petset import Example
from koosh_models.simulation.tissue import Labels, labels_in
from koosh_models.strategies.backprop import Backprop
from koosh_models.strategies.meter import Meter
from koosh_models.strategies.sequential import Sequential
from koosh_models.weights import load

MODULE = "benchmarks.seeds.fbsem"
EM = Dims(
    ndim=2, stages=6, features=24, layers=5, consistency="em", channels=1, guides=1, start="osem", start_steps=24,
    gamma=1.0, precision="bf16",
)  # fmt: skip
FLAT = Plan(64, 96, (1e5, 1e6), train=256, test=12, dims=EM, steps=150, whole=200, batch=4)
TINY_2D = replace(
    FLAT, size=24, views=24, train=6, test=4, dims=replace(EM, stages=2, features=4, layers=3), steps=8, whole=8
)
SMALL = Plan(
    32, 48, (1e5, 4e5), train=32, test=12, steps=80, whole=150,
    dims=replace(EM, stages=6, features=8, layers=3, start="ones", precision="fp32"),
)  # fmt: skip
VOLUME = Plan(
    48, 48, (5e6, 3e7), train=32, test=4, steps=40, whole=0, rings=8, ring_mm=10.0, n_subsets=8, batch=1,
    dims=replace(EM, ndim=3, stages=50, features=8, layers=4, start="ones"),
)  # fmt: skip
TINY = replace(SMALL, size=16, steps=4, whole=4, train=4, test=2)
SHALLOW = replace(VOLUME, size=16, train=2, test=2, steps=2, dims=replace(VOLUME.dims, stages=3, features=4))
ENDS = replace(SMALL, train=64, test=32, steps=150, whole=400, dims=replace(SMALL.dims, stages=10, start="osem"))
OURS, BLIND, TRUTH = "FBSEM with MR", "FBSEM without MR", "the truth for all stages"
STOPPED, SMOOTHED = "OSEM, best-stopped", "OSEM, best-smoothed"
PARTS = ("memory", "table", "targets", "ends", "flat", "seeds", "volume", "deep")
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
    """Errors of the networks that ship, with MR and without, and of every baseline, on the same held-out scans."""
    _, held = plan.sets((), maps[1])
    test = held.take(plan.test)
    found = baselines(test) | shipped(test)
    rows = [Row(name, float(e.mean()), "NRMSE") for name, e in found.items()] + verdicts(found)
    for n, scans in strange(plan, maps).items():
        new = {SMOOTHED: baselines(scans, strengths=())[SMOOTHED]} | shipped(scans)
        rows += [Row(f"{name}, {n:.0e} counts", float(e.mean()), "NRMSE") for name, e in new.items()]
    return rows


def shipped(test: Sequence[Example]) -> dict[str, Tensor]:
    """Errors of the networks that ship on these scans: 2D or 3D as the scans are."""
    names = {OURS: "fbsem3d"} if test[0].truth.ndim == 3 else {OURS: "fbsem2d_mr", BLIND: "fbsem2d"}
    found = {}
    for name, weights in names.items():
        network, _ = load(weights)
        found[name] = errors(network, [e if network.dims.guides else unguided(e) for e in test])
    return found


def targets(plan: Plan, maps: Maps) -> list[Row]:
    """One target for all stages, a target of its own for each, and one shared network, all stage after stage."""
    made, held = plan.sets(*maps)
    train, test, others = made.take(plan.train), held.take(plan.test), strange(plan, maps)
    best = baselines(test, strengths=())
    ways: dict[str, Callable[[], Unrolled]] = {
        TRUTH: partial(sequentially, plan, train, truth, 0),
        "targets T_k": partial(sequentially, plan, train, iterated, 0),
        "targets T_10k": partial(sequentially, plan, [ahead(e) for e in train], iterated, 0),
    }
    found, rows = {}, [Row(name, float(e.mean()), "NRMSE") for name, e in best.items()]
    for name, train_it in ways.items():
        network, took = timed(train_it)
        found[name] = errors(network, test)
        new = [Row(name, float(found[name].mean()), "NRMSE"), Row(f"{name}: training", took, "CPU s")]
        new += [Row(f"{name}, {n:.0e} counts", float(errors(network, e).mean()), "NRMSE") for n, e in others.items()]
        show(new)
        rows += new
    return rows + [difference(found, name, TRUTH) for name in found if name != TRUTH]


def unguided(example: Example) -> Example:
    """The example without its MR image."""
    return replace(example, problem=replace(example.problem, guide=None))


def ahead(example: Example) -> Example:
    """The example with targets that run ten updates ahead with every stage."""
    return replace(example, stride=10, _targets={})


def verdicts(found: dict[str, Tensor]) -> list[Row]:
    """Mean errors against the better OSEM and the better MAP-EM; the goals are 0.80 (0.90 without MR) and 0.95."""
    best = torch.minimum(found[STOPPED].mean(), found[SMOOTHED].mean())
    tuned = torch.minimum(found["MAP-EM, quadratic"].mean(), found["MAP-EM, Bowsher with MR"].mean())
    rows = []
    for name, goals in (
        (OURS, ((best, "best OSEM", 0.8), (tuned, "tuned MAP-EM", 0.95))),
        (BLIND, ((best, "best OSEM", 0.9),)),
    ):
        for other, what, goal in goals if name in found else ():
            share = float(found[name].mean() / other)
            rows.append(Row(f"{name} / {what}", share, "", f"<= {goal:.2f}", share <= goal))
    return rows


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
    finest = replace(plan, rate=plan.rate / 4)
    first, took = timed(partial(sequentially, plan, train, truth, 0))
    found, rows = {"sequential": errors(first, test)}, [Row("K = 10, sequential: training", took, "CPU s")]
    ways: dict[str, Callable[[], Unrolled]] = {
        "end to end": partial(end_to_end, plan, train, 0),
        "truncated": partial(end_to_end, plan, train, 0, truncated=True),
        "end to end after sequential": partial(end_to_end, finest, train, 0, first),
        "shared": partial(end_to_end, plan, train, 0, shared=True),
    }
    for name, train_it in ways.items():
        network, took = timed(train_it)
        found[name] = errors(network, test)
        rows.append(Row(f"K = 10, {name}: training", took, "CPU s"))
        show([Row(f"K = 10, {name}", float(found[name].mean()), "NRMSE"), rows[-1]])
    rows = [Row(f"K = 10, {name}", float(e.mean()), "NRMSE") for name, e in found.items()] + rows
    goals = {"end to end": 3.0, "truncated": 3.0, "end to end after sequential": 3.0, "shared": None}
    rows += [difference(found, "sequential", other, goal) for other, goal in goals.items()]
    return [*rows, difference(found, "truncated", "end to end", 3.0), difference(found, "shared", "end to end")]


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
    """3D: the network that ships."""
    _, held = plan.sets((), maps[1])
    found = baselines(held.take(plan.test), 64, (0.01, 0.03, 0.06, 0.12, 0.25))
    found |= shipped(held.take(plan.test))
    return [Row(f"3D {name}", float(e.mean()), "NRMSE") for name, e in found.items()] + [
        replace(row, name=f"3D {row.name}") for row in verdicts(found)
    ]


def deep(plan: Plan, maps: Maps) -> list[Row]:
    """3D: fifty stages from a flat start, stage after stage, in the memory of one."""
    made, held = plan.sets(*maps)
    train, test = made.take(plan.train), held.take(plan.test)
    network, took = timed(partial(sequentially, plan, train, truth, 0))
    name = f"3D, {plan.dims.stages} stages from a flat start"
    images = [torch.tensor([error(x, e.truth) for x in network.images(e.problem)]) for e in test]
    reached = torch.stack(images).mean(0)
    at = sorted({0, 4, 9, 19, 29, 39, plan.dims.stages - 1} & set(range(plan.dims.stages)))
    rows = [Row(f"{name}, after {k + 1}", float(reached[k]), "NRMSE") for k in at]
    return [*rows, Row(f"{name}: training", took, "CPU s")]


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--labels", metavar="FOLDER", help="tissue label maps (labels*.npz); else phantoms alone")
    parser.add_argument("--only", choices=PARTS, help="one part")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    maps: Maps = labels_in(chosen.labels) if chosen.labels else ((), ())
    quick = chosen.quick
    parts: dict[str, Callable[[], list[Row]]] = {
        "memory": lambda: memory(quick),
        "table": lambda: table(replace(FLAT, test=4) if quick else FLAT, maps),
        "targets": lambda: targets(TINY_2D if quick else FLAT, maps),
        "ends": lambda: ends(replace(TINY, dims=replace(TINY.dims, stages=10)) if quick else ENDS, maps),
        "flat": lambda: ends(replace(TINY if quick else ENDS, dims=replace(ENDS.dims, start="ones")), maps),
        "seeds": lambda: seeds(TINY if quick else SMALL, maps, 3 if quick else 12),
        "volume": lambda: volume(replace(VOLUME, test=1) if quick else VOLUME, maps),
        "deep": lambda: deep(SHALLOW if quick else VOLUME, maps),
    }
    rows = [row for name, part in parts.items() if chosen.only in (None, name) for row in part()]
    line = command(MODULE)
    if quick:  # too small to judge anything but memory
        rows = [row if row.name.startswith("ratio") else replace(row, goal="", met=None) for row in rows]
    show([replace(row, command=line) for row in rows], chosen.json)


if __name__ == "__main__":
    main()
