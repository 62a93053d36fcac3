"""Training on a real Slurm: whatever interrupts it, the final weights are those of a run that nothing did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from koosh_models.training import checkpoint
from koosh_models.training.journal import rows
from tests.models.training.small import TEXT
from tests.system.slurm import Cluster, free_ports

SCRIPTS = Path(__file__).parents[2] / "models" / "cluster"
KOOSH = f"{sys.executable} -m koosh_gadgets.cli"
# a run of some seconds, most of them steps
SLOW = TEXT.replace("steps = 4", "steps = 45").replace("steps = 3\n", "steps = 45\n").replace("accumulate = 2", "")
SLOW = SLOW.replace("save_every = 2\n", "save_every = 10\n")

pytestmark = [pytest.mark.slow, pytest.mark.system]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "slow.toml").write_text(SLOW)
    return folder / "slow.toml"


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """Two ranks side by side, started by hand."""
    out, port = tmp_path_factory.mktemp("whole"), free_ports(1)[0]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [*KOOSH.split(), "train", str(recipe), "--out", str(out), "--cache", str(recipe.parent / "cases")]
    children = [subprocess.Popen(command, env={**common, "RANK": r, "LOCAL_RANK": r}) for r in "01"]
    assert [child.wait(120) for child in children] == [0, 0]
    return checkpoint.newest(out / "checkpoints")


def variables(recipe: Path, out: Path) -> dict[str, str]:
    return {"RECIPE": str(recipe), "OUT": str(out), "KOOSH": KOOSH, "OPTIONS": f"--cache {recipe.parent / 'cases'}"}


def steps(out: Path) -> int:
    if not (out / "log.csv").is_file():
        return 0
    return max((int(row["step"]) for row in rows(out / "log.csv") if (row["step"] or "").isdigit()), default=0)


def preempt(cluster: Cluster, job: int, out: Path) -> None:
    script = out.parent / "urgent.sh"
    script.write_text("#!/bin/bash\nsleep 1\n")
    cluster.submit(script, "-p", "high", "-N2", "--output=/dev/null")


def requeue(cluster: Cluster, job: int, out: Path) -> None:
    cluster.ask("scontrol", "requeue", str(job))


def kill_rank(cluster: Cluster, job: int, out: Path) -> None:
    found = subprocess.run(["pgrep", "-f", f"koosh_gadgets.cli train .* --out {out} "], capture_output=True, text=True)
    own = [int(pid) for pid in found.stdout.split() if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    python = [pid for pid in own if Path(f"/proc/{pid}/comm").read_text().startswith("python")]
    os.kill(python[0], signal.SIGKILL)


def time_limit(cluster: Cluster, job: int, out: Path) -> None:
    """The signal that `--signal=USR1@120` has Slurm send to the steps of a job before its time is up."""
    cluster.ask("scancel", "--signal=USR1", str(job))


@pytest.mark.parametrize("disturb", [preempt, requeue, kill_rank, time_limit])
def test_a_disturbed_job_ends_with_the_weights_of_an_undisturbed_one(cluster, recipe, undisturbed, tmp_path, disturb):
    out = tmp_path / "run"
    job = cluster.submit(SCRIPTS / "train_multi.sbatch", "--output=job.log", **variables(recipe, out))
    cluster.wait_for(lambda: steps(out) > 15, "fifteen steps", 120)
    disturb(cluster, job, out)
    cluster.wait_for(lambda: int(cluster.job(job).get("Restarts", 0)) >= 1, "the restart", 60)
    end = cluster.finished(job)
    assert end["JobState"] == "COMPLETED"
    assert int(end["Restarts"]) >= 1
    final = checkpoint.newest(out / "checkpoints")
    assert final.step == 90
    for kind in ("network", "mean", "optimizers"):
        before, after = getattr(undisturbed, kind), getattr(final, kind)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bad_recipe_fails_at_once_and_is_not_queued_again(cluster, recipe, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text(SLOW.replace("coils =", "coil ="))
    job = cluster.submit(SCRIPTS / "train.sbatch", f"--output={tmp_path}/bad.log", **variables(bad, tmp_path / "run"))
    end = cluster.finished(job)
    assert end["JobState"] == "FAILED"
    assert end["Restarts"] == "0"
    assert "did you mean 'coils'" in (tmp_path / "bad.log").read_text()


def test_a_missing_variable_is_named(cluster, tmp_path):
    job = cluster.submit(SCRIPTS / "train.sbatch", f"--output={tmp_path}/job.log")
    assert cluster.finished(job)["JobState"] == "FAILED"
    assert "name a recipe" in (tmp_path / "job.log").read_text()


def test_an_array_replays_a_folder_lists_failures_and_passes_over_what_is_done(cluster, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "images"
    scans.mkdir()
    for seed in (1, 2):
        made = [*KOOSH.split(), "simulate", str(scans / f"s{seed}.h5"), "--matrix", "16", "--coils", "2"]
        subprocess.run([*made, "--seed", str(seed), "--acceleration", "4"], check=True)
    (scans / "s3.h5").write_bytes(b"not a scan")
    common = {"IN": str(scans), "OUT": str(out), "KOOSH": KOOSH, "OPTIONS": "--method cg"}
    for words in (["s1.h5 done", "s2.h5 done", "s3.h5 FAILED"], ["s1.h5 there already", "s2.h5 there already"]):
        options = ("--array=0-1", f"--output={tmp_path}/array-%a.log", "--open-mode=truncate")
        job = cluster.submit(SCRIPTS / "replay_array.sbatch", *options, **common)
        cluster.wait_for(lambda job=job: not cluster.ask("squeue", "-h", "-j", str(job)).strip(), "the array", 240)
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("array-*.log")))
        assert all(word in logs for word in words), logs
        assert "1 scans failed:\ns3.h5" in logs
    assert sorted(path.name for path in out.glob("*.h5")) == ["s1.h5", "s2.h5"]
