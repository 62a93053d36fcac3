"""Training: time a step, waiting for data, two ranks beside one, memory known beforehand: `-m benchmarks.training`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import Row, arguments, command, show
from koosh_models.networks.unrolled import build
from koosh_models.strategies.meter import Meter
from koosh_models.training.distributed import Ranks
from koosh_models.training.estimate import estimate
from koosh_models.training.feed import Feed, Place
from koosh_models.training.journal import rows as logged
from koosh_models.training.loop import Run
from koosh_models.training.plan import parts
from koosh_models.training.recipe import Recipe, read, recipe_path

THIS = "benchmarks.training"
CPU = torch.device("cpu")


def recipe(quick: bool, *changes: str) -> Recipe:
    """The main network at its small size, end to end alone; smaller still where it has to be quick."""
    size = ["data.matrix=[[24, 24, 24]]", "data.coils=[8, 8]"] if quick else ["data.matrix=[[48, 48, 48]]"]
    phases = 'phases=[{ strategy="blockwise", steps=8, options={ tile=24 } }]'
    base = [*size, phases, "data.cases=8", "training.save_every=1000", "training.validate_every=1000"]
    base += ["data.validation_cases=1", "data.phantoms=['head']", "network.cg_tolerance=1e-6"]
    return read(recipe_path("radial3d_blockwise"), [*base, *changes], "small")


def loop_seconds(folder: Path, quick: bool, steps: int) -> list[Row]:
    """Time per step and the share of it that the loop waits for cases on disk."""
    run = Run(recipe(quick, f"phases.0.steps={steps}", "training.hold=0"), folder, folder / "cases", Ranks(), CPU)
    for index in range(run.recipe.data.cases):  # the cache is there already in every epoch but the first
        run.feed._fetch(index)
    run.train()
    rows = [row for row in logged(folder / "log.csv") if row["loss"]]
    seconds = sorted(float(row["seconds"]) for row in rows)
    waited = 100 * float(rows[-1]["waiting"]) / sum(seconds)
    where = command(THIS)
    return [
        Row("blockwise step, median", seconds[len(seconds) // 2], "s", command=where),
        Row("waiting for cases from the cache", waited, "% of step time", "<= 5", waited <= 5, where),
    ]


def rank(index: int, world: int, port: int, folder: str, quick: bool, share: str, steps: int) -> None:
    """One rank of a run, started as a process of its own."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=index, world_size=world)
    changes = [f'training.share="{share}"', f"phases.0.steps={steps}", "training.hold=8"]
    run = Run(recipe(quick, *changes), Path(folder), Path(folder).parent / "cases", Ranks(index, world, index), CPU)
    list(run.feed.batches(0, steps))
    begun, busy = time.perf_counter(), time.process_time()
    run._part(run.plan[0], None, None)
    sys.stdout.write(f"SECONDS {time.perf_counter() - begun} {time.process_time() - busy}\n")
    if world > 1:
        torch.distributed.destroy_process_group()


def ranks_seconds(folder: Path, world: int, quick: bool, share: str, steps: int) -> tuple[float, float]:
    """Seconds of `steps` steps on so many ranks, on the clock and of the busiest core; starting up not counted."""
    port = 29500 + os.getpid() % 2000 + 10 * world + (share == "coils")
    code = "from benchmarks.training import rank; rank({}, {}, {}, {!r}, {}, {!r}, {})"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(k, world, port, str(folder / f"{world}{share}"), quick, share, steps)],
            stdout=subprocess.PIPE, text=True,
        )
        for k in range(world)
    ]  # fmt: skip
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a rank of {world} failed")
    lines = [line.split()[1:] for output in outputs for line in output.splitlines() if line.startswith("SECONDS")]
    return max(float(wall) for wall, _ in lines), max(float(busy) for _, busy in lines)


def ranks_rows(folder: Path, quick: bool, steps: int) -> list[Row]:
    """Volumes per second of two ranks over those of one, each on one core."""
    one, busy_one = ranks_seconds(folder, 1, quick, "volumes", steps)
    two, busy_two = ranks_seconds(folder, 2, quick, "volumes", steps)
    gain, work, where = 2 * one / two, busy_two / busy_one, command(THIS)
    return [
        Row("2 ranks, data parallel: volumes per second", gain, "x one rank", ">= 1.7", gain >= 1.7, where),
        Row("CPU seconds of a rank of two for as many steps", work, "x one rank", command=where),
    ]


def coil_rows(folder: Path, quick: bool) -> list[Row]:
    """What a rank holds of a scan when two share its coils, and how far the sum of both is from the whole."""
    feed = Feed(recipe(quick).data, folder / "cases", Place(), 1)
    case = feed._fetch(0)
    halves = [case.share(k, 2) for k in range(2)]

    def held(one: object) -> int:
        return one.maps.nbytes + one.scan.kspace.nbytes  # type: ignore[attr-defined]

    x = case.target
    whole = case.problem().normal(x)
    off = float((sum(h.problem().normal(x) for h in halves) - whole).norm() / whole.norm())
    share = max(held(h) for h in halves) / held(case)
    where = command(THIS)
    return [
        Row("coils over 2 ranks: maps and samples a rank holds", share, "x the whole", "<= 0.6", share <= 0.6, where),
        Row("coils over 2 ranks: normal operator", off, "relative error", "<= 1e-5", off <= 1e-5, where),
    ]


def memory_rows(folder: Path, quick: bool) -> list[Row]:
    """What autograd holds in a step, as estimated before and as measured."""
    settings = recipe(quick)
    torch.manual_seed(0)
    network, strategy = build(settings.network), parts(settings)[0].enter()
    case = Feed(settings.data, folder / "cases", Place(), 1)._fetch(0)
    problem = case.problem()
    with Meter(CPU, tuple(network.parameters())) as meter:
        strategy.step(network, problem, case.target)
    ratio = strategy.memory(network, problem) / meter.peak
    begun = time.perf_counter()
    estimate(read(recipe_path("radial3d_blockwise")), CPU)
    seconds = time.perf_counter() - begun
    where = command(THIS)
    return [
        Row("memory of a step, estimated", ratio, "x measured", "within 0.15", abs(ratio - 1) <= 0.15, where),
        Row("dry run after torch is imported", seconds, "s", "<= 5", seconds <= 5, where),
    ]


def main() -> None:
    """Print the table, write JSON where asked."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = loop_seconds(folder / "loop", options.quick, 4 if options.quick else 16)
        rows += memory_rows(folder / "loop", options.quick)
        rows += coil_rows(folder / "loop", options.quick)
        rows += ranks_rows(folder / "loop", options.quick, 4 if options.quick else 8)
        show(rows, options.json)


if __name__ == "__main__":
    main()
