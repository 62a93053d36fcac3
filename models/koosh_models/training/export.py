"""From a run to weights with their card."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from koosh_models import weights
from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.training import checkpoint
from koosh_models.training.cases import sources
from koosh_models.training.pet import PetData
from koosh_models.training.recipe import Recipe
from koosh_models.training.tables import Data
from koosh_models.training.validate import Score, means
from koosh_models.training.volumes import Source, sources_of

FAMILY = {
    "radial3d": "radial", "ute3d": "radial", "radial2d": "radial", "cine_radial": "radial",
    "stack_of_stars": "stack_of_stars", "stack_of_spirals": "stack_of_curves", "cones": "curved", "spiral3d": "curved",
    "spiral2d": "curved", "cartesian3d": "cartesian", "cine_cartesian": "cartesian",
}  # fmt: skip
"""What a scan of each simulated family looks like to `weights.describe`."""


def trained_on(data: Data) -> weights.Range:
    """The scans that a recipe simulates."""
    if data.pet is not None:
        return pet_range(data.pet)
    sizes = [n for matrix in data.matrix for n in matrix]
    voxels = [data.fov_mm / max(matrix) for matrix in data.matrix]
    axes = len(data.matrix[0])
    if axes not in (2, 3):
        raise ValueError(f"data.matrix has {axes} axes; wanted 2 or 3")
    return weights.Range(
        axes=3 if axes == 3 else 2,
        families=tuple(sorted({FAMILY[name] for name in data.trajectory})),
        acceleration=data.acceleration,
        matrix=(min(sizes), max(sizes)),
        voxel_mm=(min(voxels), max(voxels)),
        coils=(float(data.coils[0]), float(data.coils[1])),
        noise=data.noise,
        dynamic=data.dynamic,
        **({"frames": (data.frames, data.frames)} if data.dynamic else {}),
    )


def pet_range(pet: PetData) -> weights.Range:
    """The PET scans that a recipe simulates."""
    grid = pet.geometry
    return weights.Range(
        axes=2 if len(grid.matrix) == 2 else 3,
        families=("pet",),
        matrix=(min(grid.matrix), max(grid.matrix)),
        voxel_mm=(min(grid.voxel_mm), max(grid.voxel_mm)),
    )


def conditions(data: Data) -> str:
    """Of the held-out cases, in words."""
    if data.pet is not None:
        return f"{data.validation_cases} held-out cases, {data.pet.counts[0]:.0e} to {data.pet.counts[1]:.0e} counts"
    return f"{data.validation_cases} held-out cases, R = {data.validation_acceleration}, {data.validation_noise} noise"


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run follows, changes included."""
    path = folder / "recipe.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run of `koosh train`: it has no recipe.json")
    return Recipe.model_validate_json(path.read_text())


def network_of(folder: Path, raw: bool = False) -> tuple[Unrolled, Recipe, int]:
    """The network of a run's last checkpoint, its recipe and its step; the running means unless `raw`."""
    recipe = recipe_of(folder)
    state = checkpoint.newest(folder / "checkpoints")
    if state is None:
        raise FileNotFoundError(f"{folder} has no whole checkpoint yet")
    network = build(recipe.network)
    network.load_state_dict(state.network if raw else {**state.network, **state.mean})
    return network.eval().requires_grad_(False), recipe, state.step


def card_of(
    recipe: Recipe, name: str, step: int, scores: Sequence[Score] = (), data_name: str = "", notes: str = ""
) -> weights.Card:
    """The card of a run's network; its hash is filled in when it is saved."""
    trained = trained_on(recipe.data)
    accepts = trained.model_copy(update=dict(recipe.accepts)) if recipe.accepts else trained
    numbers = [
        weights.Metric(data=data_name, method=method, **{k: round(v, 4) for k, v in found.items()})
        for method, found in means(scores).items()
    ]
    return weights.Card(
        name=name,
        dims=recipe.network,
        trained=trained,
        accepts=weights.Range.model_validate(accepts.model_dump()),
        anatomy=recipe.anatomy,
        data=recipe.sources or credits_of(recipe.data),
        recipe=recipe.model_dump_json(exclude={"sizes"}),
        metrics=tuple(numbers),
        notes=notes,
        steps=step,
        created=datetime.date.today().isoformat(),
        software=f"koosh {version()}",
    )


def credits_of(data: Data) -> tuple[str, ...]:
    """What the network was trained on: files with their origin and licence, and phantoms."""
    if data.pet is not None:
        found = sources_of(data.volumes) if data.volumes else []
        used = [s for s in found if s.labels] + [Source(name, name, "training") for name in data.pet.phantoms]
    else:
        used = sources(data)
    used = [s for s in used if s.split == "training"]
    return tuple(f"{s.name} ({s.credit or ('phantom' if s.path is None else 'no licence stated')})" for s in used)


def version() -> str:
    """Of the installed distribution."""
    try:
        return metadata.version("koosh")
    except metadata.PackageNotFoundError:
        return "from source"
