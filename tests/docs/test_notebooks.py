"""Every notebook runs from its first cell to its last; each says by itself whether its results are right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that does much else
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("\n") >= 4


def test_there_are_four_and_each_begins_with_its_title():
    assert [path.stem for path in NOTEBOOKS] == ["compare", "gadgetron", "image", "train"]
    for path in NOTEBOOKS:
        text = path.read_text()
        assert re.match(r"# %% \[markdown\]\n# # \w", text)
        assert re.search(r"^assert ", text, re.MULTILINE), "a notebook checks its own result"
