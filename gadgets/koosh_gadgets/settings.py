"""Every parameter of a reconstruction, under one name for XML properties, JSON text and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRUST = ("none", "residual", "disagreement", "both")
METHODS = ("unrolled", "llr", "l1", "cg", "gridding")
UNITS = ("auto", "cycles/voxel", "cycles/FOV", "1/m", "rad/m", "rad/voxel")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
PATHS = ("weights", "trajectory_file", "dicom", "gating", "girf")  # what the wire may only name, never locate


def setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A field with its help text and allowed values."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """How one scan is reconstructed. Sizes are in MiB, times in seconds."""

    method: str = setting("unrolled", "reconstruction; the next best one stands in where it can't run", METHODS)
    weights: str = setting("", "name of the network's weights; empty: the newest that fits the scan")
    matrix: int = setting(0, "voxels along each axis over the encoded field of view; 0: the header's recon matrix")
    coils: int = setting(0, "virtual coils after compression; 0: all coils")
    memory: int = setting(0, "MiB one reconstruction may use; 0: half of what is free")
    time_limit: float = setting(0.0, "seconds after the last readout before a faster method stands in; 0: none")
    series: str = setting("koosh", "series description; the method is appended")
    dicom: str = setting("", "folder for DICOM files beside the images sent")
    enhanced: bool = setting(False, "DICOM as one Enhanced MR object a volume instead of one a slice")
    trajectory_file: str = setting("", "trajectory for readouts that carry none: ISMRMRD, .npz or Pulseq .seq")
    trajectory_unit: str = setting("auto", "unit of the trajectory", UNITS)
    delays: str = setting("0", "gradient delays x,y,z in samples, auto: estimated from the scan, 0: none")
    girf: str = setting("", "the gradients' impulse response (JSON), by which trajectories are corrected")
    gating: str = setting("", "file of one weight per readout (.npz, key `weights`); empty: every readout counts")
    noise_adjusted: bool = setting(False, "an earlier gadget has whitened the data")
    preview: bool = setting(False, "send gridded previews while the scan runs")
    baseline: bool = setting(False, "send a second series: the best classical method beside the network's")
    even: bool = setting(False, "divide out the shading that the coils leave in the image")
    phase: bool = setting(False, "send phase images as well")
    complex: bool = setting(False, "send complex images as well")
    residual: bool = setting(False, "measure how far the image is from the data, shell by shell of k-space")
    trust: str = setting("none", "send further series that show where the image is doubtful", TRUST)
    layout: str = setting("slices", "2D images, one 3D image, or both", ("slices", "volume", "both"))

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"{item.name} is {value!r}; wanted one of {', '.join(choices)}")
        if min(self.matrix, self.coils, self.memory) < 0 or not 0 <= self.time_limit < float("inf"):
            raise ValueError("matrix, coils, memory and time_limit must not be negative")
        if self.matrix > 2048:
            raise ValueError(f"matrix is {self.matrix}; at most 2048")


@dataclass(frozen=True)
class Folders:
    """Where names from the wire are looked up; None: nothing may be named."""

    weights: Path | None = None
    trajectory_file: Path | None = None
    dicom: Path | None = None
    gating: Path | None = None
    girf: Path | None = None


def ladder(method: str, series: bool = False) -> tuple[str, ...]:
    """The method asked for and those that stand in for it, best first; `llr` only where there is a series."""
    steps = METHODS[METHODS.index(method) :]
    return steps if series or method == "llr" else tuple(step for step in steps if step != "llr")


def names() -> list[str]:
    """Every known parameter."""
    return [item.name for item in dataclasses.fields(Settings)]


def build(values: dict[str, str], base: Settings | None = None) -> Settings:
    """Settings from texts; unknown names are refused with the list of the known ones."""
    base = base or Settings()
    if unknown := sorted(set(values) - set(names())):
        raise ValueError(f"unknown parameters {', '.join(map(repr, unknown))[:200]}; known: {', '.join(names())}")
    return dataclasses.replace(base, **{name: convert(name, text) for name, text in values.items()})  # type: ignore[arg-type]


def convert(name: str, text: str) -> object:
    """The text of a parameter as its type."""
    kind = type(getattr(Settings, name))
    if kind is bool:
        if text.strip().lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ValueError(f"{name} is {text[:40]!r}; wanted true or false")
        return text.strip().lower() in ("true", "1", "yes", "on")
    try:
        return kind(text.strip())
    except ValueError as error:
        raise ValueError(f"{name} is {text[:40]!r}; wanted {'a number' if kind is not str else 'a text'}") from error


def from_wire(values: dict[str, str], base: Settings, folders: Folders) -> Settings:
    """Settings from an untrusted peer: files are named, not located, and lie in folders of our own configuration."""
    located = dict(values)
    for name in PATHS:
        if values.get(name):
            located[name] = locate(name, values[name], getattr(folders, name))
    settings = build(located, base)
    if base.memory and settings.memory > base.memory:
        raise ValueError(f"memory {settings.memory} MiB is above this server's {base.memory} MiB")
    return dataclasses.replace(settings, memory=settings.memory or base.memory)


def locate(name: str, value: str, folder: Path | None) -> str:
    """The path that a bare name means; it must lie inside `folder` after every link is followed."""
    if not NAME.fullmatch(value) or value in (".", ".."):
        raise ValueError(f"{name} must be a bare name of 1 to 64 letters, digits, dots, dashes or underscores")
    if folder is None:
        if name == "weights":
            return value  # a name in the packaged zoo
        raise ValueError(f"{name} can't be named by a peer: this server's configuration gives no folder for it")
    if name == "weights" and not value.endswith(".safetensors"):
        value += ".safetensors"
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, value))
    if os.path.commonpath([root, path]) != root:
        raise ValueError(f"{name} {value!r} leads outside the folder configured for it")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per parameter."""
    group = parser.add_argument_group("reconstruction")
    for item in dataclasses.fields(Settings):
        option = f"--{item.name.replace('_', '-')}"
        kind, text = type(item.default), item.metadata["help"]
        if kind is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(option, type=kind, choices=item.metadata["choices"] or None, default=None, help=text)


def from_arguments(args: argparse.Namespace, base: Settings | None = None) -> Settings:
    """Settings from parsed options; those not given keep the base's value."""
    given = {name: getattr(args, name) for name in names() if getattr(args, name, None) is not None}
    return dataclasses.replace(base or Settings(), **given)
