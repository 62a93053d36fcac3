import numpy as np
import pytest
import torch

from koosh_gadgets import read_scans, read_series, write_image
from koosh_gadgets.cli import main
from koosh_gadgets.nifti import read_nifti
from koosh_models import evaluate, reconstruct


@pytest.fixture
def file(tmp_path):
    words = ["--matrix", "16", "--coils", "3", "--acceleration", "1", "--truth", str(tmp_path / "t.npz")]
    assert main(["simulate", str(tmp_path / "s.h5"), *words]) == 0
    return tmp_path / "s.h5"


def test_a_file_becomes_an_image_in_ten_lines(file, tmp_path):
    (scan,) = read_scans(file)
    found = reconstruct(scan, "cg")
    with np.load(tmp_path / "t.npz") as truth:
        scores = evaluate(found.volume, torch.from_numpy(truth["image"]), torch.from_numpy(truth["mask"]))
    assert scores["psnr"] > 25
    write_image(tmp_path / "i.nii.gz", found.volume, scan.geometry)
    volume, affine = read_nifti(tmp_path / "i.nii.gz")
    assert np.allclose(volume, found.volume.abs().numpy())
    assert np.diag(affine)[:3] == pytest.approx([-15, -15, 15])


@pytest.mark.parametrize("ending", [".h5", ".npz", ".cfl"])
def test_complex_images_are_written_in_every_format_that_holds_them(file, tmp_path, ending):
    (scan,) = read_scans(file, matrix=12)
    image = reconstruct(scan, "gridding").volume
    assert image.shape == (12, 12, 12)
    write_image(tmp_path / f"i{ending}", image, scan.geometry)
    if ending == ".h5":
        (series,) = read_series(tmp_path / "i.h5")
        assert np.allclose(series.volume, image.abs().numpy())


def test_an_unknown_ending_is_refused(file, tmp_path):
    (scan,) = read_scans(file)
    with pytest.raises(ValueError, match="unknown ending"):
        write_image(tmp_path / "i.png", np.ones((16, 16, 16)), scan.geometry)
