"""`koosh train`: from a recipe to weights."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from koosh_models.training.distributed import Ranks
    from koosh_models.training.journal import Progress
    from koosh_models.training.loop import Outcome, Run
    from koosh_models.training.recipe import Recipe

log = logging.getLogger(__name__)
STOPPED = 42  # the exit code of a run that a signal ended: the job script asks for it to be queued again


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("train", help="train a network as a recipe says", description=__doc__)
    p.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of one that ships")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="change the recipe")
    p.add_argument("--size", help="one of the recipe's own sizes, such as test or small")
    p.add_argument("--out", metavar="FOLDER", help="of the run (runs/NAME)")
    p.add_argument("--cache", metavar="FOLDER", help="of cases made once (FOLDER/cases of the run)")
    p.add_argument("--resume", metavar="auto|FILE", help="auto: go on where the run's folder ends, or start")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (%(default)s)")
    p.add_argument("--dry-run", action="store_true", help="check all, print parameters, memory and time; train nothing")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when done, 42 when a signal stopped the run and it is to be resumed."""
    import torch

    from koosh_models.training import distributed
    from koosh_models.training.recipe import read, recipe_path

    path = recipe_path(arguments.recipe)
    recipe = read(path, arguments.changes, arguments.size)
    me = distributed.ranks()
    device = device_of(arguments.device, me)
    folder = Path(arguments.out or f"runs/{recipe.name}")
    cache = Path(arguments.cache) if arguments.cache else folder / "cases"
    if arguments.dry_run:
        return dry_run(recipe, folder, device)
    distributed.join(me, device)
    try:
        outcome = trained(arguments, recipe, path, folder, cache, me, device)
    finally:
        distributed.leave()
    if me.first:
        shown = ", ".join(f"{k} {v:.4g}" for k, v in outcome.metrics.items())
        sys.stdout.write(
            f"{outcome.checkpoint}: step {outcome.step} of {recipe.steps}{'; ' + shown if shown else ''}\n"
        )
    del torch
    return STOPPED if outcome.stopped else 0


def trained(
    arguments: argparse.Namespace,
    recipe: Recipe,
    path: Path,
    folder: Path,
    cache: Path,
    me: Ranks,
    device: torch.device,
) -> Outcome:
    """Start or resume the run of a folder, and train."""
    from koosh_models.training.loop import Run

    run = Run(recipe, folder, cache if recipe.data.cases else None, me, device)
    resume_or_start(run, arguments.resume, path)
    run.stop.listen()
    return run.train(progress(recipe, run.step, me))


def resume_or_start(run: Run, resume: str | None, path: Path) -> None:
    """Load what the run goes on from, or put the recipe into a new folder."""
    from koosh_models import private
    from koosh_models.training import checkpoint

    state = None
    if resume == "auto":
        state = checkpoint.newest(run.saves, run.print)
    elif resume is not None:
        state = checkpoint.read(Path(resume), run.print)
    elif any(run.saves.glob("step-*.safetensors")):
        raise ValueError(f"{run.folder} holds a run already: go on with --resume auto, or name another --out")
    if state is not None:
        run.resume(state)
        log.info("going on after step %d", state.step)
    if run.me.first:
        private.folder(run.folder)
        (run.folder / "recipe.toml").write_text(path.read_text())
        (run.folder / "recipe.json").write_text(run.recipe.model_dump_json(indent=1) + "\n")


def device_of(name: str, me: Ranks) -> torch.device:
    """The device asked for; a GPU per local rank where `auto` finds any."""
    import torch

    if name == "auto":
        name = f"cuda:{me.local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: {error}") from error


def progress(recipe: Recipe, first: int, me: Ranks) -> Progress | None:
    """A line that moves on a terminal, plain lines elsewhere; the first rank alone talks."""
    if not me.first:
        return None
    moving, begun, last = sys.stderr.isatty(), time.perf_counter(), 0.0

    def show(step: int, loss: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < (0.2 if moving else 20.0) and step < recipe.steps:
            return
        last = now
        left = (now - begun) / max(1, step - first) * (recipe.steps - step)
        line = f"step {step}/{recipe.steps}  loss {loss:.4g}  {left / 60:.1f} min left"
        sys.stderr.write(f"\r\x1b[K{line}" if moving and step < recipe.steps else f"{line}\n")
        sys.stderr.flush()

    return show


def dry_run(recipe: Recipe, folder: Path, device: torch.device) -> int:
    """What the run would be: parameters, steps, memory of each part, time from one step."""
    from koosh_models.training.estimate import estimate

    for line in estimate(recipe, device):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"would write to {folder}\n")
    return 0
