"""A recipe: network, data, phases of training, schedule. Read from TOML; errors name the line and the nearest key."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from koosh_models.networks.unrolled import Dims
from koosh_models.training.pet import PetData
from koosh_models.training.tables import Data, Interval, Phase, Strict, Training, nearest
from koosh_models.training.toml import RecipeError, TOMLDecodeError, assign, line_of, loads, value_of

SOURCE, INSTALLED = Path(__file__).parents[2] / "recipes", Path(sys.prefix) / "share" / "koosh" / "recipes"
FOLDER = SOURCE if SOURCE.is_dir() else INSTALLED  # a checkout or an editable install; a wheel


class Recipe(Strict):
    """Everything a training run depends on.

    accepts  ranges of scans the network may be used for, where wider than what it is trained on; goes to the card
    sizes    named sets of changes, such as one of test size
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    description: str = ""
    anatomy: str = ""
    sources: tuple[str, ...] = ()
    network: Dims = Dims()
    data: Data = Field(default_factory=Data)
    phases: tuple[Phase, ...] = Field(min_length=1)
    training: Training = Field(default_factory=Training)
    accepts: dict[str, tuple[float, float]] = {}
    sizes: dict[str, dict[str, Any]] = {}

    @field_validator("accepts")
    @classmethod
    def ranges(cls, value: dict[str, Interval]) -> dict[str, Interval]:
        """Refuse names that a card has no range for."""
        known = ("acceleration", "matrix", "voxel_mm", "coils", "frames")
        for name in value:
            if name not in known:
                raise ValueError(f"unknown {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def fitting(self) -> Recipe:
        """Refuse a network whose axes are not those of its data."""
        if self.data.pet is not None:
            return self._fitting_pet(self.data.pet)
        dynamic = self.data.dynamic
        if dynamic and (self.data.motion_voxels[1] or self.data.motion_degrees[1]):
            raise ValueError(
                "data.motion_voxels and data.motion_degrees are for still anatomies; a series moves itself"
            )
        axes = {len(m) + bool(dynamic) for m in self.data.matrix}
        if axes != {self.network.ndim}:
            raise ValueError(
                f"network.ndim is {self.network.ndim}, the images of data.matrix"
                f"{' with their frames' if dynamic else ''} have {', '.join(map(str, sorted(axes)))} axes"
            )
        return self

    def _fitting_pet(self, pet: PetData) -> Recipe:
        """Refuse a network that is not for these counts."""
        net = self.network
        wanted = {
            "ndim": len(pet.geometry.matrix), "guides": int(pet.guided), "consistency": "em", "channels": 1,
            "subsets": pet.subsets,
        }  # fmt: skip
        for name, value in wanted.items():
            if getattr(net, name) != value:
                raise ValueError(f"network.{name} is {getattr(net, name)!r}, data.pet needs {value!r}")
        if pet.first != (net.start_steps if net.start == "osem" else 0):
            raise ValueError(
                f"data.pet.first is {pet.first}; wanted network.start_steps where it starts with osem, else 0"
            )
        return self

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)


def recipe_path(name_or_path: str) -> Path:
    """The file of a recipe that ships, by name, or the path itself."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = FOLDER / f"{name_or_path.removesuffix('.toml')}.toml"
    if shipped.is_file():
        return shipped
    known = sorted(p.stem for p in FOLDER.glob("*.toml"))
    raise FileNotFoundError(f"no recipe at {path}{nearest(path.stem, known)}; shipped: {', '.join(known)}")


def read(path: str | Path, changes: list[str] | None = None, size: str | None = None) -> Recipe:
    """The recipe of a file, with the changes of one of its `sizes`, then `key.of.table=value` ones."""
    path = Path(path)
    return parse(path.read_text(), path.name, changes, size)


def parse(text: str, file: str = "recipe", changes: list[str] | None = None, size: str | None = None) -> Recipe:
    """The recipe of a TOML text."""
    try:
        tree = loads(text)
    except TOMLDecodeError as error:
        raise RecipeError(f"{file}: {error}") from error
    if size is not None:
        sizes = tree.get("sizes", {})
        if size not in sizes:
            raise RecipeError(f"{file}: no size {size!r}{nearest(size, sizes)}; it has {', '.join(sizes) or 'none'}")
        for key, value in sizes[size].items():
            assign(tree, key, value, file)
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change}: wanted key=value, such as training.ema=0.9")
        assign(tree, key.strip(), value_of(value), "--set")
    check_keys(tree, text, file)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(e, text, file) for e in error.errors())) from error


def check_keys(tree: dict[str, Any], text: str, file: str) -> None:
    """Refuse keys of `network` that it does not have; the other tables are checked when they are read."""
    known = [f.name for f in dataclasses.fields(Dims)]
    network = tree.get("network", {})
    for name in network if isinstance(network, dict) else ():
        if name not in known:
            where = line_of(text, ("network", name))
            raise RecipeError(f"{file}{where}: network has no {name!r}{nearest(name, known)}")


def explain(error: Any, text: str, file: str) -> str:
    """One line for one thing that is wrong."""
    loc = tuple(error["loc"])
    dotted = ".".join(map(str, loc))
    if error["type"] == "extra_forbidden":
        table = model_at(loc[:-1])
        close = nearest(str(loc[-1]), list(table.model_fields)) if table else ""
        return f"{file}{line_of(text, loc)}: unknown key {dotted!r}{close}"
    message = error["msg"].removeprefix("Value error, ")
    seen = "" if isinstance(error.get("input"), dict) else f" (it is {error.get('input')!r})"
    return f"{file}{line_of(text, loc)}: {dotted or 'recipe'}: {message}{seen}"


def model_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The table at a place of the recipe."""
    tables: dict[str, type[BaseModel]] = {"data": Data, "training": Training, "phases": Phase}
    return tables.get(str(loc[0])) if loc else Recipe
