"""The images as written: linted by hadolint, not root, pinned, and their commands are ones that koosh knows."""

import subprocess
import sys
from pathlib import Path

import pytest

from koosh_gadgets.cli import parser
from koosh_gadgets.config import load
from tests.docker.steps import MAIN, OPENRECON, ROOT, built_from, lineage, stages

TARGETS = [(MAIN, "cpu"), (MAIN, "cuda"), (MAIN, "train"), (OPENRECON, "openrecon")]
SERVERS = [one for one in TARGETS if one[1] != "train"]


def last(path: Path, target: str, name: str) -> list[str]:
    """The words of the last instruction of that name, which is the one that counts."""
    found = [step for step in lineage(stages(path), target) if step.name == name]
    assert found, f"{target} has no {name}"
    return found[-1].words


@pytest.mark.parametrize("path", [MAIN, OPENRECON], ids=lambda path: path.parent.name)
def test_hadolint_has_nothing_to_say(path):
    program = Path(sys.executable).parent / "hadolint"
    words = [program, "--config", ROOT / ".hadolint.yaml", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", [MAIN, OPENRECON], ids=lambda path: path.parent.name)
def test_every_base_image_is_pinned_to_a_release(path):
    found = stages(path)
    outside = {stage.base for stage in found.values() if stage.base not in found}
    assert outside == {"python:3.11.13-slim-bookworm"}


@pytest.mark.parametrize(("path", "target"), TARGETS)
def test_compilers_and_sources_stay_behind_in_a_stage_of_their_own(path, target):
    found = stages(path)
    own = lineage(found, target)
    assert built_from(found, target)
    assert not [step for step in own if step.name == "RUN" and "pip" in step.text]
    assert all(step.text.startswith("--from=") for step in own if step.name == "COPY")


@pytest.mark.parametrize(("path", "target"), TARGETS)
def test_installs_are_held_to_the_constraints(path, target):
    found = stages(path)
    runs = [s.text for built in built_from(found, target) for s in lineage(found, built) if s.name == "RUN"]
    installs = [part for text in runs for part in text.split("&&") if "pip install" in part]
    assert installs
    assert all("-c constraints.txt" in part for part in installs)


@pytest.mark.parametrize("target", ["cpu", "cuda", "train"])
def test_our_own_images_do_not_run_as_root(target):
    assert last(MAIN, target, "USER") == ["10001"]


def test_openrecon_runs_as_root_as_it_must_and_keeps_no_scan():
    assert last(OPENRECON, "openrecon", "USER") == ["0"]
    assert last(OPENRECON, "openrecon", "CMD")[-2:] == ["--spool", "none"]


@pytest.mark.parametrize(("path", "target"), SERVERS)
def test_a_server_is_asked_for_its_health_on_the_port_it_listens_on_and_shows(path, target):
    served = parser().parse_args(last(path, target, "CMD")[1:])
    asked = last(path, target, "HEALTHCHECK")
    asked = parser().parse_args([word.strip('[],"') for word in asked[asked.index("CMD") + 2 :]])
    assert served.port == asked.port == int(last(path, target, "EXPOSE")[0])
    assert served.address == "0.0.0.0"


def test_the_training_image_takes_kooshs_own_words():
    assert last(MAIN, "train", "ENTRYPOINT") == ["koosh"]
    with pytest.raises(SystemExit, match="0"):
        parser().parse_args(last(MAIN, "train", "CMD"))


def test_the_composed_servers_configuration_is_one():
    found = load(ROOT / "docker/koosh.toml")
    assert (found.address, found.port, found.outbox.archive.host) == ("127.0.0.1", 9020, "orthanc")
