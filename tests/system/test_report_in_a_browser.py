"""The report as a browser shows it, on a desk and on a phone."""

import numpy as np
import pytest
from PIL import Image

from koosh_gadgets.cli import main
from tests.fakes.chromium import measured, requests, screenshot

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    scan, truth = str(folder / "s.h5"), str(folder / "t.npz")
    simulated = ["--matrix", "24", "--coils", "3", "--acceleration", "2", "--truth", truth]
    assert main(["simulate", scan, *simulated]) == 0
    assert main(["replay", scan, "-o", str(folder / "cg.h5"), "--method", "cg", "--residual"]) == 0
    assert main(["replay", scan, "-o", str(folder / "g.h5"), "--method", "gridding", "--residual"]) == 0
    out = folder / "a page with a name.html"
    images = [str(folder / "cg.h5"), str(folder / "g.h5")]
    assert main(["report", *images, "-o", str(out), "--scan", scan, "--truth", truth, "--title", "A" * 200]) == 0
    return out


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen_and_every_picture_is_there(page, tmp_path, width):
    found = measured(tmp_path, page, width)
    assert found["width"] == width, found["wide"]
    assert found["broken"] == 0
    assert found["images"] > 10


def test_a_page_that_is_too_wide_would_be_noticed(page, tmp_path):
    wide = tmp_path / "wide.html"
    wide.write_text(page.read_text().replace("<h1>", '<div style="width:900px">x</div><h1>'))
    assert measured(tmp_path, wide, 390)["width"] > 390


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_is_not_blank(page, tmp_path, width):
    pixels = np.asarray(Image.open(screenshot(tmp_path, page, width, 900)).convert("L"), dtype=float)
    assert pixels.shape == (900, width)
    inked = (np.abs(pixels - np.median(pixels)) > 40).mean()
    assert 0.05 < inked < 0.95
    # the lower half shows images: many grey levels, not text on a plain ground
    assert len(np.unique(pixels[450:])) > 50


def test_the_page_asks_nothing_of_the_network(page, tmp_path):
    assert requests(tmp_path, page) == []
    asking = tmp_path / "asking.html"
    asking.write_text(page.read_text().replace("<h1>", '<img src="http://koosh.invalid/x.png"><h1>'))
    assert any("koosh.invalid" in line for line in requests(tmp_path, asking))
