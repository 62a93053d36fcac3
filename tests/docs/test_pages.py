"""Every command and program of every page: run here at a small size, or listed with the reason why not, and parsed."""

import glob
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from koosh_gadgets.cli import main, parser
from koosh_gadgets.examples import walk
from koosh_gadgets.nifti import write_nifti
from koosh_models.scan import Geometry
from koosh_models.simulation.recordfile import write_scan  # noqa: F401  (torch, imported once for all)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = (
    "koosh|python|make|git|pip|source|sbatch|torchrun|tail|tensorboard|for|cat|gadgetron_\\S+|eval|cd|docker|pytest"
)
COMMAND = re.compile(rf"^    ((?:{STARTS}) .*|koosh|make)$", re.MULTILINE)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# what does not run here, by its beginning, and where it runs or why it can't
ELSEWHERE = {
    "git clone": "the network",
    "make ": "continuous integration; `koosh demo` runs in tests/system/test_demo.py",
    "source ": "the tests' own environment stands in for .venv",
    "koosh serve": "runs until it is stopped: the server of the other commands here is one",
    "koosh dicom push": "tests/system/test_orthanc.py pushes to a real PACS",
    "gadgetron_ismrmrd_client": "needs Gadgetron; the next line is the same with our client",
    "sbatch": "tests/system/test_slurm.py submits these scripts to a real Slurm",
    "torchrun": "tests/models/training/test_ranks.py trains on several ranks",
    "tensorboard": "a server of its own",
    "eval": "tests/gadgets/test_parsers.py asks both shells",
    "koosh pet reconstruct scan.npz image.nii --method network": "tests/gadgets/test_pet_command.py",
    "python -m benchmarks": "a benchmark, and it takes its time; below: that there is one of this name",
    "koosh doctor": "tests/gadgets/test_doctor.py",
    "koosh evaluate radial3d --benchmark": "hours; tests/gadgets/test_training_commands.py runs a small one",
}
# sizes at which a page's command is quick enough for a test
SMALLER = {
    "--matrix 64 64 64": "--matrix 24 24 24", "--matrix 64": "--matrix 24", "--matrix 96": "--matrix 24",
    "--matrix 48": "--matrix 24", "--size small": "--size test", "--frames 20": "--frames 3", "--coils 16": "--coils 4",
    "--set data.cases=40": "--size test --set data.cases=1", "--counts 3e5": "--size 32 --views 32",
    "--set data.volumes='\"FOLDER\"'": "--size test",
    "--against l1,cg,gridding": "--against gridding", "--against cg,l1": "--against gridding",
    "--acceleration 12": "--acceleration 2", "--acceleration 6": "--acceleration 2", "GADGETRON": "127.0.0.1",
    "evaluate a.nii b.nii": "evaluate image.nii image.nii",
    "evaluate runs/first --report": "evaluate runs/first --against gridding --report",
}  # fmt: skip
PRELUDE = {
    "networks": """
        from koosh_models import phantom, simulate, trajectory, with_weights
        from koosh_models.networks import Dims, build
        from koosh_models.physics.mri import non_cartesian
        found = simulate(phantom("head", (16, 16, 16)).image, trajectory("radial3d", (16, 16, 16), 2), n_coils=2)
        problem = non_cartesian(with_weights(found.scan), found.maps)
        network = build(Dims(ndim=3, stages=1, features=2, layers=2, consistency="gradient"))
        x = network.start(problem)
    """,
    "strategies": """
        import torch
        from koosh_models import phantom, simulate, trajectory, with_weights
        from koosh_models.networks import Dims, build
        from koosh_models.physics.mri import non_cartesian
        from koosh_models.strategies import *
        found = simulate(phantom("head", (24, 24)).image, trajectory("radial2d", (24, 24), 2), n_coils=2)
        problem, target = non_cartesian(with_weights(found.scan), found.maps), found.truth
        network = build(Dims(ndim=2, stages=2, features=2, layers=2, consistency="gradient"))
    """,
    "dicom": """
        import numpy as np
        from koosh_gadgets.imagefile import read_series
        one = read_series("images.h5")[0]
        volume, geometry, meta, header = one.volume, one.geometry, one.meta, one.header
    """,
}


def commands(page: Path) -> list[str]:
    """The indented commands of a page, without comments."""
    return [re.split(r"\s+#", line)[0].strip() for line in COMMAND.findall(page.read_text())]


def reason(line: str) -> str | None:
    return next((why for start, why in ELSEWHERE.items() if line.startswith(start)), None)


def usage(line: str) -> bool:
    """Whether a line tells what there is instead of being a call."""
    return "[" in line or "|" in line.split("koosh")[-1] or "..." in line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_are_not_run_are_ones_that_the_parser_takes(page):
    known = {" ".join(path): one for path, one in walk(parser())}
    for line in commands(page):
        if not line.startswith("koosh "):
            continue
        if usage(line):
            words = line.split()
            one = known.get(" ".join(words[1:3])) or known[words[1]]
            taken = {option for action in one._actions for option in action.option_strings}
            assert set(re.findall(r"--[a-z-]+", line)) <= taken, line
        elif reason(line):
            assert callable(parser().parse_args(shlex.split(line)[1:]).run), line


def test_nothing_is_listed_that_no_page_says():
    said = [line for page in PAGES for line in commands(page)]
    unused = [start for start in ELSEWHERE if not any(line.startswith(start) for line in said)]
    assert not unused


def test_benchmarks_that_pages_name_exist():
    for page in PAGES:
        for name in re.findall(r"python -m (benchmarks(?:\.[a-z]\w*)+)", page.read_text()):
            assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"{page.name}: {name}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Everything that the pages take for granted: a scan, images, arrays, a volume, a run."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        simulated = "simulate scan.h5 --matrix 24 --coils 3 --acceleration 2 --truth truth.npz"
        assert main(simulated.split()) == 0
        assert main(["replay", "scan.h5", "-o", "images.h5", "--method", "gridding"]) == 0
        for name in ("l1.h5", "SCAN.h5", "new_scan.h5", "s01.h5"):
            shutil.copy("images.h5" if name == "l1.h5" else "scan.h5", name)
        for name in ("s01", "s07", "s08"):
            Path("scans").mkdir(exist_ok=True)
            shutil.copy("scan.h5", f"scans/{name}.h5")
        assert main(["convert", "scan.h5", "scan.npz"]) == 0
        assert main(["convert", "scan.h5", "scan.cfl"]) == 0
        with np.load("scan.npz") as arrays:
            np.save("kspace.npy", arrays["kspace"].reshape(arrays["kspace"].shape[-3:]))
            np.save("omega.npy", arrays["omega"].reshape(arrays["omega"].shape[-3:]))
        head = np.random.default_rng(0).random((24, 24, 24))
        write_nifti("head.nii.gz", head, Geometry((24, 24, 24), (240.0, 240.0, 240.0)))
        Path("images").mkdir()
        write_stream(Path("scan.h5"), Path("scan.mrd"))
        assert main(["train", "radial3d_blockwise", "--size", "test", "--out", "runs/first"]) == 0
        koosh = Path("bin/koosh")
        koosh.parent.mkdir()
        koosh.write_text(f'#!/bin/sh\nexec {sys.executable} -m koosh_gadgets.cli "$@"\n')
        koosh.chmod(koosh.stat().st_mode | stat.S_IXUSR)
    return folder


def write_stream(scan: Path, out: Path) -> None:
    """The scan as an MRD stream with the parameters of a quick method."""
    from koosh_gadgets.client import singly
    from koosh_gadgets.files import open_scan
    from koosh_gadgets.wire import ids, messages

    with open_scan(scan) as file, out.open("wb") as stream:
        stream.write(messages.script(ids.HEADER, file.xml))
        for item in singly(file.items()):
            stream.writelines(messages.serialise(item))
        stream.write(messages.CLOSE)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A server for the commands that send scans."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("wb")
    command = [sys.executable, "-m", "koosh_gadgets.cli", "serve", "-p", str(number), "--spool", "none"]
    server = subprocess.Popen([*command, "--method", "gridding"], stdout=log, stderr=log)
    yield number
    server.terminate()
    server.wait(30)
    log.close()


def smaller(line: str) -> str:
    for long, short in SMALLER.items():
        line = line.replace(long, short)
    return line


def run(line: str, port: int) -> int:
    """The exit code of a command; pipes and loops run in a shell, the rest in this process."""
    line = smaller(re.sub(r"-p 90[02][02]", f"-p {port}", line))
    if not line.startswith("koosh ") or "|" in line:
        path = f"{Path('bin').absolute()}:{os.environ['PATH']}"
        quick = re.sub(r"koosh replay (\S+)", r"koosh replay \1 --method gridding", line)
        return subprocess.run(["bash", "-eo", "pipefail", "-c", quick], env={**os.environ, "PATH": path}).returncode
    words = [name for word in shlex.split(line)[1:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    words = ["gridding" if word == "l1" else word for word in words]
    quick = ["--method", "gridding"] if words[0] == "replay" and "--method" not in words else []
    return main([*words, *quick])


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that does much else
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, prepared, port, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(prepared, work)
    monkeypatch.chdir(work)
    if "--out runs/first" in page.read_text():
        shutil.rmtree("runs")
    for line in commands(page):
        if not usage(line) or line.startswith(("for", "cat")):
            assert reason(line) or run(line, port) == 0, line


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that does much else
@pytest.mark.parametrize("page", [p for p in PAGES if PROGRAM.search(p.read_text())], ids=lambda page: page.stem)
def test_the_programs_of_a_page_run_one_after_the_other(page, prepared, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(prepared, work)
    monkeypatch.chdir(work)
    known: dict[str, object] = {"__name__": page.stem}
    exec("\n".join(line.strip() for line in PRELUDE.get(page.stem, "").splitlines()), known)
    for program in PROGRAM.findall(page.read_text()):
        exec(compile(program, page.name, "exec"), known)
