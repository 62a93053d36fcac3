"""A recipe: network, data, phases of training, schedule. Read from TOML; errors name the line and the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from koosh_models.networks.unrolled import Dims
from koosh_models.simulation.phantoms import ANATOMIES
from koosh_models.simulation.trajectories import FAMILIES
from koosh_models.training.pet import PetData

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE, INSTALLED = Path(__file__).parents[2] / "recipes", Path(sys.prefix) / "share" / "koosh" / "recipes"
FOLDER = SOURCE if SOURCE.is_dir() else INSTALLED  # a checkout or an editable install; a wheel
Interval = tuple[float, float]
Option = bool | int | float | str | list[int]


class RecipeError(ValueError):
    """A recipe that can't be used; the message names file, line and remedy."""


class Strict(BaseModel):
    """No unknown keys, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Strict):
    """What is scanned, and how.

    volumes        folder of .npz volumes and label maps; empty: phantoms only
    phantoms       anatomies that ship as code
    phantom_share  of the training cases, where there are volumes too
    validation     subjects or files held out, besides those that the files mark so
    trajectory     families, one drawn for each case
    matrix         sizes, one drawn for each case; its longest axis spans fov_mm
    acceleration, noise, coils   lowest and highest; acceleration is drawn evenly on a logarithmic scale
    maps           "estimated" from the scan, as at the scanner, or the "true" ones
    cases          on disk, made once and used in every epoch; 0: a new one each step
    split          self-supervised: the share of the readouts whose samples are only compared with; 0: truth is known
    pet            PET scans instead, of the label maps in `volumes` and of phantoms; the MRI keys don't count then
    """

    volumes: str = ""
    phantoms: tuple[str, ...] = ("head",)
    phantom_share: float = Field(default=0.2, ge=0, le=1)
    validation: tuple[str, ...] = ()
    trajectory: tuple[str, ...] = ("radial3d",)
    matrix: tuple[tuple[int, ...], ...] = ((64, 64, 64),)
    frames: int = Field(default=8, ge=1)
    fov_mm: float = Field(default=240.0, gt=0)
    acceleration: Interval = (6.0, 20.0)
    noise: Interval = (0.0, 0.04)
    coils: tuple[int, int] = (4, 12)
    rotate: bool = True
    maps: Literal["estimated", "true"] = "estimated"
    cases: int = Field(default=0, ge=0)
    validation_cases: int = Field(default=4, ge=1)
    validation_acceleration: float | None = 12.0
    validation_noise: float = Field(default=0.02, ge=0)
    validation_coils: int = Field(default=8, ge=1)
    split: float = Field(default=0.0, ge=0, lt=1)
    pet: PetData | None = None
    seed: int = Field(default=0, ge=0)

    @field_validator("phantoms", "trajectory")
    @classmethod
    def known(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        """Refuse names that nothing is known by."""
        names = ANATOMIES if info.field_name == "phantoms" else FAMILIES
        for name in value:
            if name not in names:
                raise ValueError(f"unknown {name!r}{nearest(name, names)}; known: {', '.join(names)}")
        return value

    @field_validator("acceleration", "noise", "coils")
    @classmethod
    def ordered(cls, value: Interval) -> Interval:
        """Refuse intervals that hold nothing."""
        if not all(math.isfinite(v) and v >= 0 for v in value) or value[0] > value[1]:
            raise ValueError(f"{value[0]:g} to {value[1]:g} is no interval of numbers >= 0")
        return value

    @field_validator("matrix")
    @classmethod
    def sizes(cls, value: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """Refuse sizes that no phantom has."""
        if not value or any(len(m) not in (2, 3) or min(m) < 8 or max(m) > 1024 for m in value):
            raise ValueError("each matrix has two or three sizes of 8 to 1024")
        return value


class Phase(Strict):
    """A part of the training: one strategy, so many steps.

    strategy  warmstart, backprop, checkpoint, blockwise, invertible, greedy, sequential, equilibrium
    options   of that strategy, e.g. tile, modules
    rate      the learning rate after its warm-up; it falls to `last` times that by a cosine
    inherit   a stage trained apart starts from the weights of the one before it
    lead      the first of such stages takes so many times the steps of each other
    """

    strategy: str
    steps: int = Field(ge=1)
    rate: float = Field(1e-3, gt=0)
    last: float = Field(default=0.05, ge=0, le=1)
    warmup: int = Field(default=20, ge=0)
    inherit: bool = False
    lead: float = Field(default=1.0, ge=1)
    options: dict[str, Option] = {}


class Training(Strict):
    """The schedule common to all phases.

    accumulate   cases whose gradients are added up for one step of the optimizer
    clip         largest norm of the gradient of one group, 0 for no limit
    ema          decay of the running mean of the weights; those means are what is exported
    memory_mb    what a step may take; the tile of a strategy that has tiles is chosen to fit
    save_every, validate_every   steps
    workers      processes that make or read cases ahead; 0: in the loop itself
    hold         problems kept in memory between epochs
    loss         relative_l1 or relative_l2; `ssim` of it is added
    every        weight of the images before the last one
    init         name or path of weights to begin with; empty: drawn from the seed
    share        what ranks share: "volumes", each has its own, or "coils": all work on one volume, each on some coils
    """

    accumulate: int = Field(default=1, ge=1)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    memory_mb: int = Field(default=1024, ge=1)
    save_every: int = Field(default=200, ge=1)
    validate_every: int = Field(default=500, ge=1)
    workers: int = Field(default=0, ge=0)
    hold: int = Field(default=0, ge=0)
    loss: Literal["relative_l1", "relative_l2"] = "relative_l2"
    ssim: float = Field(default=0.0, ge=0)
    every: float = Field(default=0.0, ge=0)
    share: Literal["volumes", "coils"] = "volumes"
    init: str = ""
    seed: int = Field(default=0, ge=0)


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
        known = ("acceleration", "matrix", "voxel_mm", "coils")
        for name in value:
            if name not in known:
                raise ValueError(f"unknown {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def fitting(self) -> Recipe:
        """Refuse a network whose axes are not those of its data."""
        if self.data.pet is not None:
            return self._fitting_pet(self.data.pet)
        dynamic = {"cine_radial", "cine_cartesian"} & set(self.data.trajectory)
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
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
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


def value_of(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def assign(tree: dict[str, Any], key: str, value: Any, file: str) -> None:
    """Set `a.b.0.c` in nested tables and arrays."""
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        if isinstance(node, list):
            node = node[index_of(node, name, key, file)]
        else:
            node = node.setdefault(name, {})
    if isinstance(node, list):
        node[index_of(node, last, key, file)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"{file}: {key} goes into {node!r}, which is no table")


def index_of(node: list[Any], name: str, key: str, file: str) -> int:
    """A position in an array of tables."""
    if not name.isdigit() or int(name) >= len(node):
        raise RecipeError(f"{file}: {key} names entry {name!r} of {len(node)}; they count from 0")
    return int(name)


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


def nearest(name: str, known: Any) -> str:
    """`, did you mean ...?` where something is alike."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")


def line_of(text: str, loc: tuple[int | str, ...]) -> str:
    """` line N` of a key, or of the nearest table around it; empty where the file does not have it."""
    table: tuple[int | str, ...] = ()
    counts: dict[str, int] = {}
    best, depth = 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            name = header[2]
            table = tuple(name.split("."))
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
            if table[0] in counts:
                table = (table[0], counts[str(table[0])], *table[1:])
            here = table
        elif "=" in line and not line.lstrip().startswith("#"):
            here = (*table, *(part.strip().strip("\"'") for part in line.split("=")[0].split(".")))
        else:
            continue
        if here == loc[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return f" line {best}" if best else ""
