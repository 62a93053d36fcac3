"""The demo as a newcomer runs it, at a small size."""

import re
import subprocess
import sys

import pydicom
import pytest

from koosh_gadgets.imagefile import read_series

pytestmark = pytest.mark.slow


def test_the_demo_goes_from_nothing_to_images_dicom_and_a_report(tmp_path):
    command = [sys.executable, "-m", "koosh_gadgets.cli", "demo", "--out", str(tmp_path / "demo"), "--matrix", "24"]
    more = ["--acceleration", "2", "--methods", "gridding", "cg"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    psnr = dict(re.findall(r"koosh (\w+): psnr ([\d.]+)", done.stdout))
    assert float(psnr["cg"]) > float(psnr["gridding"]) > 10
    assert "Next: open" in done.stdout
    series = read_series(tmp_path / "demo" / "cg.h5")[0]
    slices = sorted((tmp_path / "demo" / "dicom").glob("*.dcm"))
    assert len(slices) == 24
    assert pydicom.dcmread(slices[0]).Rows == 24
    assert series.geometry.position_mm == pytest.approx((5, -12, 20), abs=1e-3)
    assert "point spread" in (tmp_path / "demo" / "report.html").read_text()
