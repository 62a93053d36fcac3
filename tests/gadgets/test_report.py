import re
import struct
import zlib

import numpy as np
import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.convert import mrd
from koosh_gadgets.report import pictures
from koosh_gadgets.report.content import Content, Shown
from koosh_gadgets.report.page import page
from koosh_models.scan import Geometry


def decoded(data: bytes) -> np.ndarray:
    """Grey pixels of a PNG, read by hand."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    columns, rows = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    raw = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), np.uint8)
    return raw.reshape(rows, columns + 1)[:, 1:]


def test_pictures_hold_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    assert np.array_equal(decoded(pictures.png(pixels)), pixels)


def test_heads_are_up_in_coronal_and_sagittal_cuts():
    volume = np.zeros((4, 5, 6))
    volume[-1] = 1
    assert (pictures.cut(volume, "coronal")[0] == 1).all()
    assert (pictures.cut(volume, "sagittal")[0] == 1).all()


def test_the_page_asks_nothing_of_the_network_and_escapes_what_files_say():
    shown = [Shown("<script>alert(1)</script>", np.ones((4, 4, 4)), {"notes": "a < b & c"}, {"psnr": 30.0})]
    out = page(Content("T<i>", shown, {"scanner": "<b>"}, truth=np.ones((4, 4, 4)), warnings=["<u>"]))
    assert "<script" not in out
    assert "a &lt; b &amp; c" in out
    assert re.findall(r"(?:src|href)=\"(?!data:)", out) == []
    assert "http" not in out
    assert "not for diagnosis" in out
    assert "30" in out


@pytest.fixture
def made(tmp_path):
    scan, truth = str(tmp_path / "s.h5"), str(tmp_path / "t.npz")
    assert main(["simulate", scan, "--matrix", "16", "--coils", "2", "--acceleration", "2", "--truth", truth]) == 0
    with np.load(truth) as content:
        image = np.abs(content["image"])
    mrd.write_volume(tmp_path / "i.h5", image * 7, Geometry((16, 16, 16), (240.0, 240.0, 240.0)))
    return tmp_path


def test_a_report_shows_scores_trajectory_and_point_spread(made, capsys):
    more = ["--scan", str(made / "s.h5"), "--truth", str(made / "t.npz")]
    assert main(["report", str(made / "i.h5"), "-o", str(made / "r.html"), *more]) == 0
    out = (made / "r.html").read_text()
    for words in ("Against the truth", "kx, ky", "point spread", "3D non-Cartesian", "coronal", "error x 5", "coil 2"):
        assert words in out
    (psnr,) = re.findall(r"<tr><th>series 1</th><td>([\d.]+)</td>", out)
    assert float(psnr) > 90  # the image is the truth up to its scale


def test_a_truth_of_another_size_is_a_warning_and_no_comparison(made):
    mrd.write_volume(made / "small.h5", np.ones((4, 8, 8), np.float32), Geometry((4, 8, 8), (40.0, 80.0, 80.0)))
    more = ["--truth", str(made / "t.npz")]
    assert main(["report", str(made / "small.h5"), "-o", str(made / "r.html"), *more]) == 0
    out = (made / "r.html").read_text()
    assert "no comparison" in out
    assert "Against the truth" not in out


@pytest.mark.parametrize("family", ["cine_radial", "cartesian3d", "radial2d"])
def test_series_slices_and_cartesian_scans_are_shown_too(tmp_path, family):
    size = ["16", "16"] if family != "cartesian3d" else ["8", "16", "16"]
    scan = str(tmp_path / "s.h5")
    main(
        [
            "simulate",
            scan,
            "--matrix",
            *size,
            "--coils",
            "2",
            "--acceleration",
            "1",
            "--trajectory",
            family,
            "--frames",
            "2",
        ]
    )
    frames = np.ones((2, 1, 16, 16), np.float32)
    mrd.write_volume(tmp_path / "i.h5", frames, Geometry((1, 16, 16), (5.0, 160.0, 160.0)))
    assert main(["report", str(tmp_path / "i.h5"), "-o", str(tmp_path / "r.html"), "--scan", scan]) == 0
    out = (tmp_path / "r.html").read_text()
    assert ("coil 2" in out) == (family != "cartesian3d")
    assert "coronal" not in out


def test_a_report_without_scan_and_truth_shows_the_images(made):
    assert main(["report", str(made / "i.h5"), "-o", str(made / "r.html")]) == 0
    out = (made / "r.html").read_text()
    assert "sagittal" in out
    assert "Against the truth" not in out


def test_a_file_without_images_exits_with_2_and_leaves_nothing(made, caplog):
    assert main(["report", str(made / "s.h5"), "-o", str(made / "r.html")]) == 2
    assert "holds no images" in caplog.text
    assert not (made / "r.html").exists()


def test_a_replayed_scan_is_shown_beside_another_method_with_residual_and_times(made):
    images, out = str(made / "g.h5"), made / "r.html"
    words = ["replay", str(made / "s.h5"), "-o", images, "--method", "gridding", "--report", str(out)]
    assert main(words) == 0
    page = out.read_text()
    for words in (
        "koosh gridding, axial",
        "koosh cg, axial",
        "Residual in k-space",
        "noise alone",
        "solve cg",
        "MiB at",
    ):
        assert words in page
    gridding, cg = (float(x) for x in re.findall(r"residual of all samples</th><td>([\d.]+)<", page))
    assert cg < 0.5 * gridding


def test_maps_of_doubt_have_a_section_of_their_own_and_are_no_reconstructions(made):
    words = ["replay", str(made / "s.h5"), "-o", str(made / "c.h5"), "--method", "cg", "--trust", "both"]
    assert main(words) == 0
    truth = ["--truth", str(made / "t.npz")]
    assert main(["report", str(made / "c.h5"), "-o", str(made / "r.html"), *truth]) == 0
    page = (made / "r.html").read_text()
    part = page[page.index("Where the image is doubtful") :]
    for kind in ("residual", "disagreement"):
        assert f"koosh cg {kind}, axial" in part
        assert page.count(f"koosh cg {kind}, axial") == 2  # a picture's words and its caption
        assert f"<th>koosh cg {kind}</th>" not in page
    assert "series 40" in page


def test_times_are_taken_from_the_images_and_nonsense_in_their_place_is_left_out():
    from koosh_gadgets.imagefile import Series
    from koosh_gadgets.report.gather import shown_series

    place = Geometry((4, 4, 4), (4.0, 4.0, 4.0))
    meta = {"koosh_seconds": "coil maps 0.50+1.25 s, solve l1 0.00+7.00 s", "koosh_residual_shells": "0.1 nan 0.3"}
    one = shown_series(Series(np.ones((4, 4, 4)), place, meta), None)
    assert one.times == [("coil maps", 0.5, 1.25), ("solve l1", 0.0, 7.0)]
    assert one.residual[::2] == [0.1, 0.3]
    odd = {"koosh_seconds": "<b>", "koosh_residual_shells": "a b", "koosh_weights": "nobody's"}
    one = shown_series(Series(np.ones((4, 4, 4)), place, odd), None)
    assert (one.times, one.residual) == ([], [])
    assert "not among the weights here" in one.card["card"]


def test_the_card_of_the_packaged_weights_is_shown_only_where_they_are_the_same():
    from koosh_gadgets.report.gather import card_of
    from koosh_models.weights import read_card

    card = read_card("radial3d")
    same = card_of({"koosh_weights": card.name, "koosh_weights_sha256": card.sha256})
    assert same["name"] == card.name
    assert "radial" in same["trained on"]
    assert "are others" in card_of({"koosh_weights": card.name, "koosh_weights_sha256": "0"})["card"]
