"""Pulseq sequences become the k-space positions that their gradients reach."""

import numpy as np
import pytest

from koosh_gadgets.stages import pulseq

SEQ = """# Pulseq sequence file
[VERSION]
major 1
minor 4
revision 1
[DEFINITIONS]
BlockDurationRaster 1e-05
GradientRasterTime 1e-05
RadiofrequencyRasterTime 1e-06
# id duration rf gx gy gz adc ext
[BLOCKS]
1 10 1 0 0 4 0 0
2 12 0 1 0 0 0 0
3 30 0 2 3 0 1 0
[RF]
1 100 2 2 0 20 0 0
[GRADIENTS]
3 1000 1 0 100
[TRAP]
1 -50000 10 100 10 0
2 100000 20 200 20 0
4 30000 10 80 10 0
[ADC]
1 8 20000 30 0 0
[SHAPES]
shape_id 1
num_samples 10
1
0
0
7

shape_id 2
num_samples 60
1
0
0
57
"""
NEWER = (
    SEQ.replace("minor 4", "minor 5")
    .replace("1 100 2 2 0 20 0 0", "1 100 2 2 0 30 20 0 0 0 0 e")
    .replace("3 1000 1 0 100", "3 1000 1000 1000 1 0 100")
    .replace("1 8 20000 30 0 0", "1 8 20000 30 0 0 0 0 0")
)
T = 30e-6 + (np.arange(8) + 0.5) * 20e-6


def k_of(text, folder):
    (folder / "k.seq").write_text(text)
    return pulseq.trajectory_of(folder / "k.seq", 8)


@pytest.mark.parametrize("text", [SEQ, NEWER], ids=["1.4", "1.5"])
def test_gradients_are_integrated_from_the_centre_of_the_pulse_up_to_each_sample(text, tmp_path):
    k = k_of(text, tmp_path)
    assert k.shape == (1, 8, 3)
    prephase, ramp = -50_000 * 110e-6, 100_000 * 20e-6 / 2
    assert np.allclose(k[0, :, 0], prephase + ramp + 100_000 * (T - 20e-6))
    assert np.allclose(k[0, :, 1], 1000 * np.clip(T - 100e-6, 0, 100e-6))
    assert np.allclose(k[0, :, 2], 30_000 * 45e-6)  # what comes after the pulse's centre at 50 us


def test_a_refocusing_pulse_mirrors_k_space(tmp_path):
    echo = NEWER.replace("3 30 0 2 3 0 1 0", "3 10 2 0 0 4 0 0\n4 30 0 2 3 0 1 0")
    echo = echo.replace("[GRADIENTS]", "2 100 2 2 0 30 20 0 0 0 0 r\n[GRADIENTS]")
    k, plain = k_of(echo, tmp_path), k_of(NEWER, tmp_path)
    assert np.allclose(k[0, :, 0], plain[0, :, 0] + 2 * 50_000 * 110e-6)
    assert np.allclose(k[0, :, 2], -30_000 * 45e-6 - 30_000 * 45e-6 + 30_000 * 45e-6)


@pytest.mark.parametrize("use", "spio")
def test_other_pulses_leave_k_space_alone(use, tmp_path):
    more = NEWER.replace("3 30 0 2 3 0 1 0", "3 10 2 0 0 0 0 0\n4 30 0 2 3 0 1 0")
    more = more.replace("[GRADIENTS]", f"2 100 2 2 0 30 20 0 0 0 0 {use}\n[GRADIENTS]")
    assert np.allclose(k_of(more, tmp_path), k_of(NEWER, tmp_path))


def test_a_rotation_turns_the_gradients_of_its_block(tmp_path):
    extensions = """[EXTENSIONS]
1 1 1 0
extension LABELSET 2
1 3 LIN
extension ROTATIONS 1
1 0.70710678 0 0 0.70710678
[SHAPES]"""
    text = NEWER.replace("[SHAPES]", extensions)
    text = text.replace("2 12 0 1 0 0 0 0", "2 12 0 1 0 0 0 1").replace("3 30 0 2 3 0 1 0", "3 30 0 2 3 0 1 1")
    k, plain = k_of(text, tmp_path), k_of(NEWER, tmp_path)
    assert np.allclose(k[0, :, 0], -plain[0, :, 1], atol=1e-6)  # a quarter turn about z
    assert np.allclose(k[0, :, 1], plain[0, :, 0], atol=1e-6)


def test_first_and_last_values_and_twice_as_dense_samples_are_those_of_the_file(tmp_path):
    ramp = "shape_id 1\nnum_samples 19\n0.05\n0.05\n17\n"  # 0.05 to 0.95 every half raster
    start, stop = NEWER.index("shape_id 1"), NEWER.index("shape_id 2")
    text = (NEWER[:start] + ramp + "\n" + NEWER[stop:]).replace("3 1000 1000 1000 1 0 100", "3 1000 0 1000 1 -1 100")
    t = np.clip(T - 100e-6, 0, 100e-6)
    assert np.allclose(k_of(text, tmp_path)[0, :, 1], 1000 * t**2 / 2 / 100e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no version"),
        ("no sequence", "names no version"),
        (SEQ.replace("minor 4", "minor 6"), "version 1.6 is not known here"),
        (SEQ.replace("1 8 20000", "x 8 y"), "could not convert"),
        (SEQ.replace("1 100 2 2 0 20 0 0", "1 100 9 2 0 20 0 0"), "event or shape 9 is missing"),
        (SEQ.replace("1 10 1 0 0 4 0 0", "1 10 7 0 0 4 0 0"), "event or shape 7 is missing"),
        (SEQ.replace("1 8 20000", "1 16 20000"), "no readout of 8 samples"),
    ],
)
def test_files_that_are_no_such_sequence_are_refused_with_the_reason(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        k_of(text, tmp_path)
