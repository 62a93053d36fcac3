"""The quick form of every row of `python -m benchmarks.reliability`; times are left to the benchmark.

R17 to R19 are the tests of DICOM, PACS and Slurm themselves (`tests/system`, `tests/gadgets/dicom`), which run anyway.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from benchmarks.promises import rooms
from benchmarks.promises.peers import fuzzed
from benchmarks.reliability import ROWS

ELSEWHERE = ("R17", "R18", "R19", "plan")


@pytest.mark.slow
@pytest.mark.parametrize("row", [name for name in ROWS if name not in ELSEWHERE])
def test_the_row_holds(row):
    _, bar, measure = ROWS[row]
    with ProcessPoolExecutor(
        1, get_context("spawn")
    ) as alone:  # damaged files may leave the HDF5 library unfit for more
        found = alone.submit(measure, False).result()
    assert found.sound, f"{bar}: {found.measured}"


@pytest.mark.slow
def test_the_readers_withstand_fuzzing():
    found = fuzzed(3.0)
    assert found.sound, found.measured


def test_a_failing_test_fails_its_row(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text("def test_well():\n    pass\n\n\ndef test_ill():\n    assert False\n")
    found = rooms.tested(str(path), "-c", "/dev/null", f"--rootdir={tmp_path}")
    assert not found.passed
    assert "2 tests" in found.measured
    assert "test_ill" in found.measured
