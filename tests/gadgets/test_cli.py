import subprocess
import sys

import h5py
import numpy as np
import pytest

from koosh_gadgets.cli import main


def simulate(path, *more: str) -> int:
    return main(["simulate", str(path), "--matrix", "12", "--coils", "2", "--acceleration", "2", *more])


def test_simulate_writes_the_file_and_its_truth(tmp_path, capsys):
    assert simulate(tmp_path / "a.h5", "--truth", str(tmp_path / "t.npz")) == 0
    assert "radial3d, 113 readouts of 24 samples, 2 coils, matrix 12 x 12 x 12" in capsys.readouterr().out
    with np.load(tmp_path / "t.npz") as truth:
        assert truth["image"].shape == truth["mask"].shape == (12, 12, 12)
        assert truth["maps"].shape == (2, 12, 12, 12)


def test_simulate_is_deterministic(tmp_path):
    assert simulate(tmp_path / "a.h5", "--seed", "3") == simulate(tmp_path / "b.h5", "--seed", "3") == 0
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        assert np.array_equal(a["dataset/data"][-1]["data"], b["dataset/data"][-1]["data"])


def test_orientation_turns_the_axes_and_position_moves_them(tmp_path):
    assert simulate(tmp_path / "a.h5", "--orientation", "0", "0", "90", "--position", "1", "2", "3") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        head = file["dataset/data"][0]["head"]
    assert head["read_dir"] == pytest.approx([0, 1, 0], abs=1e-6)
    assert head["phase_dir"] == pytest.approx([-1, 0, 0], abs=1e-6)
    assert head["position"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--trajectory", "radial4d"], "unknown trajectory 'radial4d'"),
        (["--anatomy", "foot"], "unknown anatomy 'foot'"),
        (["--acceleration", "0"], "acceleration is 0"),
        (["--coils", "0"], "asked for 0 coils"),
        (["--noise", "-1"], "noise is -1"),
        (["--matrix", "8", "8"], "wanted one size or 3"),
        (["--seed", "-1"], "the seed is -1"),
    ],
)
def test_bad_input_exits_with_2_and_one_sentence_and_leaves_nothing(tmp_path, caplog, more, says):
    assert simulate(tmp_path / "a.h5", *more) == 2
    assert says in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch():
    code = "import sys; from koosh_gadgets.cli import parser; parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
