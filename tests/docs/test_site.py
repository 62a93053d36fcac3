"""The site builds without a warning, and a browser needs no network to show it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.chromium import measured, requests

ROOT = Path(__file__).parents[2]
LOADED = r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml"), "-d"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False, env=quiet)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return out


@pytest.mark.slow
def test_every_page_is_there_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    names = {page.relative_to(site).with_suffix("").as_posix() for page in pages}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= names
    assert {f"notebooks/{path.stem}" for path in (ROOT / "docs/notebooks").glob("*.py")} <= names
    for page in pages:
        text = page.read_text()
        loaded = re.findall(LOADED, text)
        assert loaded == [], page.name
        assert ":::" not in text
        assert "$`" not in text


@pytest.mark.slow
def test_every_equation_became_one(site):
    for source in (ROOT / "docs").glob("*.md"):
        text = source.read_text()
        wanted = len(re.findall(r"^```math$", text, re.MULTILINE)) + len(re.findall(r"\$`[^`]+`\$", text))
        assert (site / f"{source.stem}.html").read_text().count("<math") == wanted, source.name


@pytest.mark.slow
def test_the_reference_shows_signatures_and_docstrings(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for words in ("reconstruct(scan: Scan, method: str", "from_arrays(kspace", "Every volume of an ISMRMRD file"):
        assert words in text


@pytest.mark.system
def test_a_page_of_equations_fits_a_phone_and_asks_nothing_of_the_network(site, tmp_path):
    assert requests(tmp_path, site / "algorithms.html") == []
    found = measured(tmp_path, site / "algorithms.html", 390)
    assert found["width"] == 390, found["wide"]
