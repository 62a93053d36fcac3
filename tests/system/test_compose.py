"""The composition of Gadgetron, koosh and Orthanc, read by docker-compose itself."""

import os
import subprocess

import pytest

from tests.docker.steps import MAIN, ROOT, stages

pytestmark = pytest.mark.system
FILE = ROOT / "docker/compose.yaml"


def read(**images: str) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of the file, the named images given."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_IMAGE")}
    words = ["docker-compose", "-f", str(FILE), "config"]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**env, **images})


def test_it_follows_the_specification_and_builds_a_stage_that_is_there():
    done = read(GADGETRON_IMAGE="gadgetron@sha256:1", ORTHANC_IMAGE="orthanc@sha256:2")
    assert done.returncode == 0, done.stderr
    assert "target: cpu" in done.stdout
    assert "cpu" in stages(MAIN)


def test_only_loopback_is_published():
    said = read(GADGETRON_IMAGE="a", ORTHANC_IMAGE="b").stdout
    published = [line.strip(" -") for line in said.splitlines() if line.endswith("/tcp")]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("given", ["GADGETRON_IMAGE", "ORTHANC_IMAGE"])
def test_an_image_that_nobody_chose_is_asked_for(given):
    done = read(**{given: "a"})
    assert done.returncode != 0
    assert "by its digest" in done.stderr
