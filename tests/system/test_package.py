"""What `pip install koosh` gives: built as it is published, installed without any extra into a clean environment."""

import shutil
import socket
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent.parent


def checked(*words: object, **options: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the sdist of what git tracks, and the wheel made of that sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = checked("git", "-C", ROOT, "ls-files", "-z").split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    checked(sys.executable, "-m", "build", "--outdir", out, source)
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """bin/ of an environment with the wheel and what it requires."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=True)
    wheel = next(built.glob("*.whl"))
    # -I: a checkout on PYTHONPATH would count as installed
    checked(home / "bin/python", "-I", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    yield home / "bin"
    shutil.rmtree(home)  # more than a gigabyte that pytest would keep for three runs


def run(installed: Path, folder: Path, *words: str) -> str:
    """The installed command, away from the checkout and from what the tests' own environment sets."""
    return checked(installed / "koosh", *words, cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)})


def test_the_wheel_brings_types_weights_chains_recipes_and_jobs(built):
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    for package in ("koosh_gadgets", "koosh_models"):
        assert f"{package}/py.typed" in names
    places = {
        "models/koosh_models/weights/zoo/*": "koosh_models/weights/zoo/",
        "config_xml/*.xml": ".data/data/share/gadgetron/config/",
        "models/recipes/*.toml": ".data/data/share/koosh/recipes/",
        "models/cluster/*": ".data/data/share/koosh/cluster/",
    }
    for here, there in places.items():
        files = [path.name for path in ROOT.glob(here) if path.is_file()]
        assert files
        assert all(any(name.endswith(there + file) for name in names) for file in files)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name and ".data/" not in name} == {
        "koosh_gadgets",
        "koosh_models",
    }


def test_the_sdist_brings_what_the_wheel_is_made_of(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "config_xml/koosh_3d.xml", "models/cluster/train.sbatch"} <= names


def test_the_doctor_finds_no_fault_in_a_clean_install(installed, tmp_path):
    said = run(installed, tmp_path, "doctor")
    assert not [line for line in said.splitlines() if line.startswith("fault")]
    assert "pip install 'koosh[gpu]'" in said


def test_the_base_install_replays_on_the_cpu(installed, tmp_path):
    run(installed, tmp_path, "simulate", "scan.h5", "--matrix", "24", "24", "24", "--coils", "2", "--acceleration", "2")
    said = run(installed, tmp_path, "replay", "scan.h5", "-o", "images.h5", "--method", "cg", "--report", "report.html")
    assert "24 images written" in said
    assert (tmp_path / "report.html").is_file()


def test_the_base_install_serves_a_scan_over_a_socket(installed, tmp_path):
    run(installed, tmp_path, "simulate", "scan.h5", "--matrix", "16", "16", "16", "--coils", "2")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [installed / "koosh", "serve", "-p", port, "--spool", "none"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while subprocess.run(
                [installed / "koosh", "doctor", "-p", port], capture_output=True, check=False
            ).returncode:
                assert server.poll() is None
                time.sleep(0.5)
            said = run(installed, tmp_path, "replay", "scan.h5", "-o", "images.h5", "-a", "127.0.0.1", "-p", port)
        finally:
            server.terminate()
    assert "16 images written" in said
    assert server.returncode == 0


def test_without_its_extra_dicom_is_refused_in_one_line_that_names_it(installed, tmp_path):
    done = subprocess.run(
        [installed / "koosh", "dicom", "check", "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'koosh[dicom]'" in done.stderr
    assert "Traceback" not in done.stderr
