"""A Dockerfile as the steps of one target, parsed and not copied: what a builder would do, in its order."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAIN = ROOT / "docker/Dockerfile"
OPENRECON = ROOT / "docker/openrecon/Dockerfile"


@dataclass(frozen=True)
class Step:
    """One instruction, its line continuations joined; `words` are those of its JSON or shell form."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments apart."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(frozen=True)
class Stage:
    """What follows one FROM: the stage or image it starts from, its name, its steps."""

    base: str
    name: str
    steps: tuple[Step, ...]


def steps(text: str) -> list[Step]:
    """All instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [Step(*line.strip().split(None, 1)) for line in joined.splitlines()]


def stages(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, with the arguments before the first FROM filled in."""
    given: dict[str, str] = {}
    found: list[tuple[str, str, list[Step]]] = []
    for step in steps(path.read_text()):
        if step.name == "FROM":
            base, _, name = step.text.partition(" AS ")
            for key, value in given.items():
                base = base.replace(f"${{{key}}}", value)
            found.append((base, name, []))
        elif found:
            found[-1][2].append(step)
        elif step.name == "ARG":
            key, _, value = step.text.partition("=")
            given[key] = value
    return {name: Stage(base, name, tuple(rest)) for base, name, rest in found}


def lineage(found: dict[str, Stage], target: str) -> list[Step]:
    """Every step of a target from its outermost base on."""
    stage = found[target]
    before = lineage(found, stage.base) if stage.base in found else []
    return [*before, *stage.steps]


def built_from(found: dict[str, Stage], target: str) -> list[str]:
    """The stages that a target copies from, in order."""
    marks = [re.match(r"--from=(\S+)", step.text) for step in lineage(found, target) if step.name == "COPY"]
    return [mark[1] for mark in marks if mark]
