"""A training run on disk: everything a resumed run needs to end with the same bits. Safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from koosh_models import private

log = logging.getLogger(__name__)
KEPT = 3  # checkpoints; the best one besides
KEY = "koosh_run"


@dataclass
class State:
    """What a run is made of at one step.

    step        steps done
    recipe      sha256 of the recipe and the number of ranks: a checkpoint of another one is refused
    network     weights; `mean` their running mean
    optimizers  per group the tensors of each parameter, by name
    facts       numbers that go on: best validation, seconds spent
    """

    step: int
    recipe: str
    network: dict[str, Tensor]
    mean: dict[str, Tensor]
    optimizers: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)


def fingerprint(text: str, world: int) -> str:
    """What a checkpoint must agree about to be resumed: recipe and number of ranks, which fixes the order of data."""
    return f"{hashlib.sha256(text.encode()).hexdigest()}-{world}"


def path_of(folder: Path, step: int) -> Path:
    """The file of a step."""
    return folder / f"step-{step:08d}.safetensors"


def write(folder: Path, state: State) -> Path:
    """Put the state on disk whole, then drop the oldest beyond those that are kept; a full disk loses nothing."""
    private.folder(folder)
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().clone().contiguous()
        for group, part in (("network", state.network), ("mean", state.mean), ("optimizer", state.optimizers))
        for name, tensor in part.items()
    }
    head = {"step": state.step, "recipe": state.recipe, "facts": state.facts}
    path = path_of(folder, state.step)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        save_file(tensors, part, metadata={KEY: json.dumps(head)})
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"the checkpoint of step {state.step} was not written ({error}); the one before it is whole"
        ) from (error)
    finally:
        part.unlink(missing_ok=True)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path, recipe: str | None = None) -> State:
    """The state of a checkpoint; refused where it is damaged or of another recipe."""
    try:
        with safe_open(str(path), framework="pt") as file:
            head = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is no checkpoint of ours or is damaged ({error})") from error
    if recipe is not None and head["recipe"] != recipe:
        raise ValueError(
            f"{path.name} belongs to another recipe or number of ranks ({head['recipe'][:20]}, this is {recipe[:20]}): "
            "resume with the recipe.toml of its own run, or start a new one with --out"
        )
    groups: dict[str, dict[str, Tensor]] = {"network": {}, "mean": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return State(head["step"], head["recipe"], groups["network"], groups["mean"], groups["optimizer"], head["facts"])


def newest(folder: Path, recipe: str | None = None) -> State | None:
    """The last whole checkpoint of a folder; damaged ones are named in the log and passed over."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            return read(path, recipe)
        except ValueError as error:
            if "another recipe" in str(error):
                raise
            log.warning("%s: going back to the one before", error)
    return None


def pack(optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str], first: int = 0) -> dict[str, Tensor]:
    """What the optimizers remember, by group (counted from `first`), parameter and quantity."""
    out = {}
    for index, optimizer in enumerate(optimizers, start=first):
        for parameter, memory in optimizer.state.items():
            for key, value in memory.items():
                out[f"{index}/{names[parameter]}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return out


def unpack(
    optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str], packed: dict[str, Tensor], first: int = 0
) -> None:
    """Give the optimizers back what `pack` took; groups that none of them has are passed over."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in packed.items():
        group, name, quantity = key.split("/")
        index = int(group) - first
        if not 0 <= index < len(optimizers):
            continue
        parameter = parameters[name]
        # Adam's count of steps stays on the host, its means lie where the parameter lies
        where = value if quantity == "step" else value.to(parameter.device)
        optimizers[index].state[parameter][quantity] = where.clone()
