"""The names that programs rely on, as docs/api.md shows them."""

import logging
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import koosh_models
from koosh_models import Scan, phantom, reconstruct, simulate, trajectory


def scan(family: str = "radial2d", matrix: tuple[int, ...] = (24, 24)):
    return simulate(phantom("head", matrix).image, trajectory(family, matrix, 1.0), n_coils=3).scan


def readouts(one: Scan):
    """The scan's arrays readout by readout, as numpy."""
    apart = (one.n_readouts, one.readout)
    return one.kspace.unflatten(-1, apart).numpy(), one.omega.unflatten(-1, apart).numpy()


@pytest.mark.parametrize("package", ["koosh_models", "koosh_gadgets"])
def test_a_package_is_imported_without_torch_and_names_what_it_has(package):
    code = f"import sys, {package} as p; print('torch' in sys.modules, [getattr(p, n) is not None for n in dir(p)])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("False [True")
    assert "False" not in said[5:]


def test_the_name_reconstruct_is_the_function_whatever_was_imported_before():
    code = "import koosh_models.reconstruction; from koosh_models import reconstruct; print(callable(reconstruct))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'magic'; it has Geometry, .*Scan"):
        koosh_models.magic  # noqa: B018


def test_plain_arrays_become_the_same_scan():
    wanted = scan()
    kspace, omega = readouts(wanted)
    got = Scan.from_arrays(kspace, omega.astype(np.float64), (24, 24))
    assert torch.equal(got.kspace, wanted.kspace)
    assert torch.equal(got.omega, wanted.omega)
    assert (got.readout, got.geometry) == (wanted.readout, wanted.geometry)
    assert torch.equal(reconstruct(got, "gridding").volume, reconstruct(wanted, "gridding").volume)


def test_a_series_keeps_its_frames_in_front():
    image = phantom("cine", (16, 16), n_frames=2).image
    wanted = simulate(image, trajectory("cine_radial", (16, 16), 1.0, n_frames=2), n_coils=2).scan
    got = Scan.from_arrays(*readouts(wanted), (16, 16), (160.0, 160.0))
    assert got.n_frames == 2
    assert torch.equal(got.omega, wanted.omega)


def test_arrays_that_do_not_belong_together_are_refused_in_words():
    kspace, omega = readouts(scan())
    with pytest.raises(ValueError, match=r"wanted \(coil, readout, sample\) and \(axis, readout, sample\)"):
        Scan.from_arrays(kspace, omega[:, :-1], (24, 24))


def test_a_trajectory_in_cycles_is_noticed(caplog):
    kspace, omega = readouts(scan())
    with caplog.at_level(logging.WARNING):
        Scan.from_arrays(kspace, omega / (2 * math.pi), (24, 24))
    assert "multiply it by 2 pi" in caplog.text


def test_reconstructing_twice_gives_the_same_bits_since_nothing_is_kept_between_calls():
    one = scan()
    first = reconstruct(one, "cg").volume
    reconstruct(scan(matrix=(16, 16)), "l1")
    assert torch.equal(reconstruct(one, "cg").volume, first)
