"""Odd measurements end in a finite image or in a sentence, and the same measurement in the same bits."""

import numpy as np
import pytest

from tests.fakes.hostile import copies
from tests.fakes.runs import run, volume
from tests.fakes.streams import header_xml, point_scan

SPOKES = 200
HEADER = header_xml(spokes=SPOKES)
POINT = (9, 6, 10)


def scan():
    return copies(point_scan(spokes=SPOKES, noise=1e-4))


def peak(found):
    return tuple(int(n) for n in np.unravel_index(found.argmax(), found.shape))


@pytest.mark.parametrize("method", ["gridding", "l1"])
def test_an_empty_measurement_gives_an_empty_image(method):
    items = scan()
    for a in items:
        a.data[:] = 0
    assert (volume(run(items, HEADER, method=method)[0]) == 0).all()


def test_a_constant_measurement_gives_a_finite_image():
    items = scan()
    for a in items:
        a.data[:] = 1
    found = volume(run(items, HEADER, method="cg")[0])
    assert np.isfinite(found).all()
    assert peak(found) == (8, 8, 8)  # constant k-space is a point in the centre


def test_saturated_readouts_leave_the_object_in_its_place():
    items = scan()
    top = 0.5 * max(float(np.abs(a.data.real).max()) for a in items)
    for a in items:
        a.data[:] = np.clip(a.data.real, -top, top) + 1j * np.clip(a.data.imag, -top, top)
    found = volume(run(items, HEADER, method="l1")[0])
    assert np.isfinite(found).all()
    assert peak(found) == POINT


def test_a_dead_coil_costs_nothing_but_its_signal():
    items = scan()
    for a in items:
        a.data[1] = 0
    found = volume(run(items, HEADER, method="l1")[0])
    assert np.isfinite(found).all()
    assert peak(found) == POINT


def test_a_noisy_coil_does_not_hide_the_object():
    items, rng = scan(), np.random.default_rng(0)
    level = float(np.abs(items[0].data).mean())
    for a in items:
        noise = rng.standard_normal(a.data.shape[1]) + 1j * rng.standard_normal(a.data.shape[1])
        a.data[1] += (0.3 * level * noise).astype(np.complex64)
    found = volume(run(items, HEADER, method="l1")[0])
    assert np.isfinite(found).all()
    assert peak(found) == POINT


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_density_weights_that_are_off_by_a_factor_give_a_finite_image_of_the_same_object(factor, monkeypatch):
    from koosh_models.calibration import density

    real = density.pipe_menon
    monkeypatch.setattr(density, "pipe_menon", lambda *a, **k: factor * real(*a, **k))
    found = volume(run(scan(), HEADER, method="cg")[0])
    assert np.isfinite(found).all()
    assert peak(found) == POINT


def test_density_weights_turned_upside_down_still_give_a_finite_image(monkeypatch):
    from koosh_models.calibration import density

    real = density.pipe_menon
    monkeypatch.setattr(density, "pipe_menon", lambda *a, **k: 1 / real(*a, **k).clamp_min(1e-3))
    assert np.isfinite(volume(run(scan(), HEADER, method="cg")[0])).all()


@pytest.mark.parametrize("method", ["gridding", "cg", "l1"])
def test_the_same_scan_twice_gives_the_same_bits(method):
    first, second = (run(scan(), HEADER, method=method)[0] for _ in range(2))
    assert [im.data.tobytes() for im in first] == [im.data.tobytes() for im in second]
