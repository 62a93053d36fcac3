"""R17 to R19: DICOM, PACS and Slurm, judged by the programs themselves through the tests of those rooms."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as plain
from pathlib import Path

from benchmarks.promises.found import Found
from koosh_gadgets.workers import environment

ROOT = Path(__file__).parent.parent.parent


def tested(*words: str) -> Found:
    """The outcome of tests, by name; one that is skipped counts as failed."""
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if not report.is_file():
            return Found(False, f"pytest did not run: {done.stdout[-300:]}{done.stderr[-300:]}")
        suite = next(plain.parse(report).getroot().iter("testsuite"))  # our own file
    count = {name: int(suite.get(name) or 0) for name in ("tests", "failures", "errors", "skipped")}
    bad = [case.get("name") or "" for case in suite.iter("testcase") if len(case)]
    text = (
        f"{count['tests']} tests in {float(suite.get('time') or 0):.0f} s, {len(bad)} failed or skipped {bad[:3] or ''}"
    )
    return Found(count["tests"] > 0 and not bad, text)


def objects(full: bool) -> Found:
    """R17: every DICOM object before dciodvfy, dcentvfy, dcm2niix, highdicom and Orthanc."""
    everything = ("tests/system/test_dicom_judges.py", "tests/system/test_orthanc.py")
    return tested(*everything) if full else tested(everything[0], "-k", "dciodvfy or dcentvfy")


def archive(full: bool) -> Found:
    """R18: an archive that is down, has another name, or dies in the middle."""
    names = ["tests/gadgets/dicom/test_outbox.py", "tests/gadgets/dicom/test_push.py"]
    return tested(*names, "tests/system/test_orthanc.py") if full else tested(names[0])


def cluster(full: bool) -> Found:
    """R19: preemption, requeue, killed rank, time limit on a real Slurm."""
    return tested("tests/system/test_slurm.py", *(() if full else ("-k", "bad_recipe or missing_variable")))
