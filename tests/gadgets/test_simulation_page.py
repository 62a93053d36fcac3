"""Every command and program of docs/simulation.md and of the README's first scans runs as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.nifti import write_nifti
from koosh_models.scan import Geometry

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[list[str]]:
    """The indented `koosh ...` lines of a page, without comments."""
    lines = re.findall(r"^    koosh (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_nifti(
        "head.nii.gz", np.random.default_rng(0).random((40, 40, 40)), Geometry((40, 40, 40), (240.0, 240.0, 240.0))
    )


def test_the_program_on_the_page_runs(at_work):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/simulation.md").read_text(), re.DOTALL)
    exec(compile(program, "docs/simulation.md", "exec"), {})
    assert main(["info", "scan.h5"]) == 0


def test_the_commands_on_the_page_run(at_work):
    images = ["replay", "scan.h5", "-o", "images.h5", "--method", "gridding"]
    for words in commands("docs/simulation.md"):
        if words[:2] == ["convert", "images.h5"]:
            assert main(images) == 0
        assert main(words) == 0, words


def test_the_first_scans_of_the_readme_run(at_work):
    mine = [words for words in commands("README.md") if words[0] in ("simulate", "info", "replay", "report", "convert")]
    assert len(mine) >= 5
    for words in mine:
        # gridding in place of the slower methods: the page is tested here, not the method
        given = ["gridding" if w in ("l1", "cg") else w for w in words]
        assert main(given) == 0, words
