"""Our conversions against BART itself: the same samples give the same image in its programs and in ours."""

import subprocess

import numpy as np
import pytest
import torch

from koosh_gadgets.cli import main
from koosh_gadgets.convert import bart
from koosh_gadgets.convert.recording import read_recording
from koosh_models.physics.nufft import Nufft

pytestmark = pytest.mark.system


def run(folder, *words: str) -> None:
    subprocess.run(["bart", *words], cwd=folder, check=True, capture_output=True)


def likeness(a: np.ndarray, b: np.ndarray) -> complex:
    """1 where the images are equal up to a positive factor."""
    return complex(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("family", ["radial3d", "radial2d", "spiral2d"])
def test_bart_grids_a_converted_scan_to_our_image(tmp_path, family):
    matrix = (20, 24) if family.endswith("2d") else (16, 20, 24)
    size = [str(n) for n in matrix]
    main(["simulate", str(tmp_path / "a.h5"), "--matrix", *size, "--trajectory", family, "--coils", "2"])
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "a.cfl")]) == 0
    x, y, z = (*matrix[::-1], 1)[:3]
    run(tmp_path, "nufft", "-a", "-d", f"{x}:{y}:{z}", "a_traj", "a", "image")
    theirs = bart.read_cfl(tmp_path / "image").reshape(2, *matrix)
    scan = read_recording(tmp_path / "a.h5")
    omega, y_data = (torch.from_numpy(a.reshape(*a.shape[6:-2], -1)) for a in (scan.omega, scan.kspace))
    ours = Nufft(omega, matrix, 1e-5).adjoint(y_data).numpy()
    assert likeness(ours, theirs) == pytest.approx(1, abs=2e-3)
    assert np.linalg.norm(theirs) == pytest.approx(np.linalg.norm(ours), rel=1e-2)


def test_bart_transforms_a_converted_cartesian_scan_to_our_image(tmp_path):
    arguments = ["--matrix", "12", "14", "16", "--trajectory", "cartesian3d", "--coils", "2", "--acceleration", "1"]
    more = ["--noise", "0", "--truth", str(tmp_path / "t.npz")]
    main(["simulate", str(tmp_path / "a.h5"), *arguments, *more])
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "a.cfl")]) == 0
    run(tmp_path, "fft", "-u", "-i", "7", "a", "image")
    theirs = bart.read_cfl(tmp_path / "image").reshape(2, 12, 14, 16)
    scan = read_recording(tmp_path / "a.h5")
    axes = (-3, -2, -1)
    grid = np.fft.ifftshift(scan.kspace.reshape(2, 12, 14, 16), axes)
    ours = np.fft.fftshift(np.fft.ifftn(grid, axes=axes, norm="ortho"), axes)
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(ours)
    with np.load(tmp_path / "t.npz") as truth:
        assert likeness(truth["maps"] * truth["image"], theirs).real > 0.98


def test_a_scan_made_by_bart_becomes_an_ismrmrd_file_that_shows_its_phantom(tmp_path):
    run(tmp_path, "traj", "-x", "32", "-y", "101", "-r", "-o", "2", "t_traj")
    run(tmp_path, "phantom", "-k", "-s", "3", "-t", "t_traj", "t")
    run(tmp_path, "phantom", "-k", "-x", "32", "-s", "3", "grid")
    run(tmp_path, "fft", "-u", "-i", "7", "grid", "image")
    more = ["--matrix", "32", "32", "--fov-mm", "200", "200"]
    assert main(["convert", str(tmp_path / "t.cfl"), str(tmp_path / "t.h5"), *more]) == 0
    scan = read_recording(tmp_path / "t.h5")
    omega, y = (torch.from_numpy(a.reshape(*a.shape[6:-2], -1)) for a in (scan.omega, scan.kspace))
    weights = omega.norm(dim=0).clamp_min(0.02)
    ours = Nufft(omega, (32, 32), 1e-5).adjoint(weights * y).numpy()
    theirs = bart.read_cfl(tmp_path / "image").reshape(3, 32, 32)
    assert likeness(ours, theirs).real > 0.93
