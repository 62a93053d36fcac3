"""The CPU image without Docker: its own steps in a clean Debian root, then used as its container would be.

A container's promises are tried: not root, a root file system that can't be written, no network but its own, a volume.
"""

import os
import shlex
import shutil

import pytest

from tests.docker.root import Root, built
from tests.docker.steps import MAIN, lineage, stages

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1200)]
STAGES = stages(MAIN)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    space = tmp_path_factory.mktemp("image")
    yield built(STAGES, "cpu", Root.debian(space / "root"), space)
    shutil.rmtree(space)  # more than a gigabyte that pytest would keep for three runs


@pytest.fixture
def inside(image, tmp_path):
    """Runs a command in the image with an empty volume of its user's."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, int(image.user), int(image.user))

    def run(command: str) -> str:
        done = image.run(command, volumes={"/var/lib/koosh": volume})
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def words(name: str) -> list[str]:
    return [step for step in lineage(STAGES, "cpu") if step.name == name][-1].words


def test_nothing_is_root_or_writable_but_the_volume_and_scratch(inside):
    assert inside("id -u").strip() == "10001"
    said = inside("touch $HOME/a /tmp/a && for p in /opt/koosh/a /usr/a /var/lib/a; do touch $p 2>&1 || true; done")
    assert said.count("Read-only file system") == 3


def test_the_doctor_finds_no_fault(inside):
    said = inside("koosh doctor")
    assert not [line for line in said.splitlines() if line.startswith("fault")]
    assert said.count("ms for 32^3") == 2


def test_a_scan_is_reconstructed_to_images_and_dicom(inside):
    inside(
        "koosh simulate scan.h5 --matrix 24 24 24 --coils 2 --acceleration 2"
        " && koosh replay scan.h5 -o images.h5 --method cg --dicom dicom && test $(ls dicom/*.dcm | wc -l) = 24"
    )


def test_its_command_serves_is_healthy_and_stops_in_order(inside):
    check = words("HEALTHCHECK")
    health = shlex.join(word.strip('[],"') for word in check[check.index("CMD") + 1 :])
    inside(
        f"{shlex.join(words('CMD'))} & server=$!; n=0;"
        f" until {health}; do n=$((n+1)); test $n -lt 60 || exit 9; sleep 1; done; kill -TERM $server; wait $server"
    )
