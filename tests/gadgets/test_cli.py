import errno
import os
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


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_nifti_volume_is_scanned_with_the_patient_the_right_way_round(tmp_path, flip):
    from koosh_gadgets.nifti import write_nifti
    from koosh_models.scan import Geometry

    image = np.zeros((12, 12, 12), np.float32)
    image[3:9, 3:9, 3:9], image[7:9, 3:5, 3:5] = 0.5, 1.0
    signs = [tuple(float(f) * (i == axis) for i in range(3)) for axis, f in enumerate(flip)]
    stored = image[:: flip[2], :: flip[1], :: flip[0]]
    write_nifti(
        tmp_path / "v.nii.gz", np.ascontiguousarray(stored), Geometry((12, 12, 12), (24, 24, 24), (0, 0, 0), *signs)
    )
    truth = str(tmp_path / "t.npz")
    assert simulate(tmp_path / "a.h5", "--volume", str(tmp_path / "v.nii.gz"), "--truth", truth) == 0
    with np.load(truth) as content:
        got = np.abs(content["image"])
    assert np.corrcoef(got.ravel(), image.ravel())[0, 1] > 0.98
    with h5py.File(tmp_path / "a.h5") as file:
        assert b"<x>24.0</x>" in file["dataset/xml"][0]


def test_a_volume_with_a_dynamic_trajectory_is_refused(tmp_path, caplog):
    np.savez(tmp_path / "v.npz", image=np.ones((8, 8, 8), np.uint16))
    assert simulate(tmp_path / "a.h5", "--volume", str(tmp_path / "v.npz"), "--trajectory", "cine_radial") == 2
    assert "one still volume, but cine_radial needs frames" in caplog.text


@pytest.mark.parametrize("wrong", ["--off-resonance 2000", "--delays 0.5 0 0", "--motion 1 2", "--breathing 2"])
def test_what_goes_wrong_changes_the_data_and_not_the_trajectory(tmp_path, wrong):
    assert simulate(tmp_path / "a.h5") == simulate(tmp_path / "b.h5", *wrong.split()) == 0
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        ideal, real = a["dataset/data"][16:], b["dataset/data"][16:]
    assert all(np.array_equal(x, y) for x, y in zip(ideal["traj"], real["traj"], strict=True))
    clean, changed = np.stack(ideal["data"]), np.stack(real["data"])
    assert np.linalg.norm(clean - changed) > 0.01 * np.linalg.norm(clean)


def test_a_full_disk_is_no_fault_of_the_input(tmp_path, caplog):
    assert simulate("/dev/full/a.h5") == 2  # not a folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("koosh_models.simulation.recordfile.os.replace", full)
        assert simulate(tmp_path / "a.h5") == 1
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    assert simulate(tmp_path / "a.h5") == 0
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    koosh = f"{sys.executable} -m koosh_gadgets.cli info {tmp_path / 'a.h5'}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{koosh} | true"], env=buffered, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
