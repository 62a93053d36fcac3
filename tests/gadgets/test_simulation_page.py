"""Every command and program of docs/simulation.md and of the README's scan of your own runs as it stands there."""

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


def commands(text: str) -> list[list[str]]:
    """The indented `koosh ...` lines of a page, without comments."""
    return [shlex.split(line, comments=True) for line in re.findall(r"^    koosh (.*)$", text, re.MULTILINE)]


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
    for words in commands((ROOT / "docs/simulation.md").read_text()):
        if words[:2] == ["convert", "images.h5"]:
            assert main(images) == 0
        assert main(words) == 0, words


def test_the_readmes_scan_of_your_own_runs(at_work):
    page = (ROOT / "README.md").read_text()
    own = page[page.index("## A scan of your own") : page.index("## At the scanner")]
    (made,) = re.findall(r"`koosh (simulate SCAN\.h5 .*?)`", own)
    assert main([*shlex.split(made), "--matrix", "24"]) == 0
    for words in commands(own):
        # gridding in place of the slower methods: the page is tested here, not the method
        given = ["gridding" if word == "l1" else word for word in words]
        given += ["--method", "gridding"] if words[0] == "replay" and "--method" not in words else []
        assert main(given) == 0, words
