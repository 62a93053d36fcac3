import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koosh_gadgets.units import UNITS, canonical, choose, from_radians, to_radians

MATRIX, FOV_MM = (60, 80, 100), (180.0, 200.0, 300.0)


def omega_to_the_edge(seed: int = 0, share: float = 1.0) -> np.ndarray:
    omega = np.random.default_rng(seed).uniform(-1, 1, (3, 200))
    return (share * np.pi * omega / np.abs(omega).max()).astype(np.float32)


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_goes_there_and_back(unit):
    omega = omega_to_the_edge()
    assert np.allclose(to_radians(from_radians(omega, unit, MATRIX, FOV_MM), unit, MATRIX, FOV_MM), omega, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "edge"),
    [("cycles/voxel", 0.5), ("cycles/FOV", 50), ("1/m", 1 / 0.006), ("rad/m", np.pi / 0.003), ("rad/voxel", np.pi)],
)
def test_the_edge_of_k_space_has_the_known_value_and_columns_are_x_y_z(unit, edge):
    k = from_radians(np.array([[0], [0], [np.pi]]), unit, MATRIX, FOV_MM)
    assert k[0] == pytest.approx([edge, 0, 0])


@settings(max_examples=60, deadline=None)
@given(unit=st.sampled_from(UNITS), share=st.floats(0.5, 1.0), seed=st.integers(0, 99))
def test_the_unit_is_detected(unit, share, seed):
    k = from_radians(omega_to_the_edge(seed, share), unit, MATRIX, FOV_MM)
    assert choose(k, MATRIX, FOV_MM).unit == unit


def test_two_units_that_fit_are_an_error_that_lists_both():
    k = from_radians(omega_to_the_edge(), "cycles/FOV", (64, 64, 64), (800.0, 800.0, 800.0))
    with pytest.raises(ValueError, match="fits two units: cycles/FOV and 1/m"):
        choose(k, (64, 64, 64), (800.0, 800.0, 800.0))


def test_the_configuration_goes_before_the_header_and_the_header_before_detection():
    k = from_radians(omega_to_the_edge(share=0.2), "cycles/voxel", MATRIX, FOV_MM)
    assert choose(k, MATRIX, FOV_MM, "rad/voxel", "cycles/voxel").source == "configuration"
    chosen = choose(k, MATRIX, FOV_MM, None, "cycles/voxel")
    assert (chosen.unit, chosen.source) == ("cycles/voxel", "header")
    assert chosen.peak == pytest.approx(0.2 * np.pi, rel=1e-5)
    with pytest.raises(ValueError, match="fits none of"):
        choose(k, MATRIX, FOV_MM)


def test_a_wrong_name_is_an_error_that_says_what_would_fit():
    k = from_radians(omega_to_the_edge(), "1/m", MATRIX, FOV_MM)
    with pytest.raises(ValueError, match=r"the header says .* rad/voxel, .* beyond pi; it would fit 1/m"):
        choose(k, MATRIX, FOV_MM, None, "rad/voxel")
    with pytest.raises(ValueError, match="unknown trajectory unit 'furlongs'; known: cycles/voxel"):
        choose(k, MATRIX, FOV_MM, "furlongs")
    with pytest.raises(ValueError, match="beyond pi, for the encoded matrix"):
        to_radians(k, "cycles/voxel", MATRIX, FOV_MM)


def test_common_spellings_are_known():
    assert [canonical(u) for u in ("1/FOV", "cycles/pixel", "RAD/M", " m^-1 ")] == [
        "cycles/FOV",
        "cycles/voxel",
        "rad/m",
        "1/m",
    ]


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.full((5, 3), np.nan), np.zeros((5, 1))])
def test_unusable_trajectories_are_refused(bad):
    with pytest.raises(ValueError, match=r"empty|NaN|wanted \(sample, 3\)"):
        choose(bad, MATRIX, FOV_MM)


def test_a_third_column_of_2d_data_is_left_alone():
    k = np.array([[0.5, -0.5, 7.0]])
    assert to_radians(k, "cycles/voxel", (8, 8), (80.0, 80.0))[:, 0] == pytest.approx([-np.pi, np.pi])
