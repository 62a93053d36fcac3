"""A real Slurm on loopback: munged, slurmctld and two slurmd, all files under one folder, all ports free ones."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo")

CONF = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=15
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=low  Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL Default=NO  PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def free_ports(n: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def program(name: str) -> str:
    """Where a program lies; daemons are not on every user's path."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install slurm-wlm munge")
    return found


class Cluster:
    """Start it, submit, stop it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.children: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}

    def start(self) -> None:
        """Both nodes idle."""
        root = self.root
        root.chmod(0o755)
        for name in ("state", "spool.n1", "spool.n2"):
            (root / name).mkdir()
        (root / "munge.key").write_bytes(secrets.token_bytes(128))
        (root / "munge.key").chmod(0o400)
        conf = CONF.format(host=socket.gethostname(), user=getpass.getuser(), root=root, ports=free_ports(3))
        (root / "slurm.conf").write_text(conf)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [*(f"--{option}={root}/munge.{end}" for option, end in files.items()), "--foreground", "--force"]
        self.spawn("munged", *munge)
        self.wait_for(lambda: (root / "munge.socket").exists(), "munged's socket")
        self.spawn("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.spawn("slurmd", "-D", "-N", node)
        self.wait_for(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split() == ["idle"] * 2, "idle nodes"
        )

    def spawn(self, name: str, *arguments: str) -> None:
        """A daemon in the foreground, so that it is our child and ends with us."""
        log = open(self.root / f"{name}.out", "ab")  # noqa: SIM115
        self.children.append(
            subprocess.Popen([program(name), *arguments], env=self.environment, stdout=log, stderr=log)
        )
        log.close()

    def stop(self) -> None:
        """End every daemon that was started here."""
        self.ask("scancel", "--full", "-u", getpass.getuser(), check=False)
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
        for child in reversed(self.children):
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def ask(self, name: str, *arguments: str, check: bool = True) -> str:
        """What a client program prints."""
        done = subprocess.run(
            [program(name), *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            return ""
        return done.stdout

    def submit(self, script: Path, *options: str, **variables: str) -> int:
        """The number of a new job."""
        done = subprocess.run(
            [program("sbatch"), "--parsable", *options, str(script)], env={**self.environment, **variables},
            cwd=self.root, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stdout.strip())

    def job(self, number: int) -> dict[str, str]:
        """What the controller knows of a job."""
        words = self.ask("scontrol", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def finished(self, number: int, seconds: float = 240) -> dict[str, str]:
        """The job once it is over for good."""
        over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
        self.wait_for(lambda: self.job(number).get("JobState") in over, f"the end of job {number}", seconds)
        return self.job(number)

    def wait_for(self, condition, what: str, seconds: float = 60) -> None:
        """Until the condition holds; an error that shows the daemons' last words otherwise."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [f"{p.name}:\n{p.read_text(errors='replace')[-1500:]}" for p in sorted(self.root.glob("*.log"))]
                raise AssertionError(f"waited {seconds:.0f} s for {what}\n" + "\n".join(logs))
            time.sleep(0.2)
