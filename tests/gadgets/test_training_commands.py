"""From recorded scans to a network that reconstructs the next one, by the commands a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest

from koosh_gadgets.cli import main
from koosh_models import weights
from koosh_models.training.cases import read_case

SMALL = ["--set", "data.cases=1", "--set", "data.validation_cases=1"]


@pytest.mark.slow
def test_recorded_scans_train_a_network_that_replay_uses(tmp_path, capsys):
    scans = [str(tmp_path / f"s{n}.h5") for n in (1, 2, 3)]
    for seed, (path, speed) in enumerate(zip(scans, ("1", "1", "6"), strict=True)):
        common = ["--matrix", "24", "--coils", "4", "--noise", "0.01", "--seed", str(seed)]
        assert main(["simulate", path, *common, "--acceleration", speed]) == 0
    cases, run, out = str(tmp_path / "cases"), str(tmp_path / "run"), str(tmp_path / "net.safetensors")
    assert main(["prepare", *scans[:2], "--validation", scans[1], "-o", cases, "--keep", "0.2"]) == 0
    train = ["train", "radial3d_blockwise", "--size", "test", *SMALL, "--cache", cases, "--out", run, "--device", "cpu"]
    assert main(train) == 0
    assert main(train) == 2  # the folder holds a run already
    assert main([*train, "--resume", "auto"]) == 0
    assert main(["weights", "export", run, "-o", out, "--no-scores", "--notes", "a test"]) == 0
    assert main(["weights", "verify", out]) == 0
    capsys.readouterr()
    assert main(["weights", "show", out]) == 0
    assert '"notes": "a test"' in capsys.readouterr().out
    assert weights.read_card(out).name == "net"
    dicom = tmp_path / "dicom"
    assert main(["replay", scans[2], "-o", str(tmp_path / "images.h5"), "--weights", out, "--dicom", str(dicom)]) == 0
    assert (tmp_path / "images.h5").is_file()
    assert any(pydicom.dcmread(path).Modality == "MR" for path in dicom.rglob("*.dcm"))


@pytest.mark.slow
def test_every_volume_of_a_file_becomes_a_case_and_the_frames_of_a_series_become_one(tmp_path, capsys):
    cine = ["--anatomy", "cine", "--trajectory", "cine_radial", "--matrix", "24", "--frames", "4", "--coils", "4"]
    names = [str(tmp_path / f"{name}.h5") for name in ("a", "b")]
    for seed, name in enumerate(names):
        assert main(["simulate", name, *cine, "--acceleration", "1", "--seed", str(seed)]) == 0
    cases = tmp_path / "cases"
    assert (
        main(["prepare", *names, "--validation", names[1], "-o", str(cases), "--keep", "0.5", "--iterates", "2"]) == 0
    )
    assert "1 training and 1 validation cases" in capsys.readouterr().out
    case = read_case(cases / "training-00000.safetensors")
    assert case.target.shape == (4, 24, 24)
    assert case.iterates is not None
    assert case.scan.n_frames == 4


@pytest.mark.slow
def test_evaluate_compares_and_reports(tmp_path, capsys):
    report, numbers = tmp_path / "r.html", tmp_path / "n.json"
    common = ["--recipe", "radial3d_blockwise", "--matrix", "24", "--cases", "1", "--against", "gridding,cg"]
    assert main(["evaluate", *common, "--acceleration", "12", "--report", str(report), "--json", str(numbers)]) == 0
    found = {row["method"]: row for row in json.loads(numbers.read_text())}
    assert found["cg"]["psnr"] > found["gridding"]["psnr"]
    assert found["cg"]["conditions"]["acceleration"] == 12
    assert "not for diagnosis" in report.read_text()
    assert "cg" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_prints_its_tables_and_goes_on_where_it_ended(tmp_path, capsys):
    numbers, report = tmp_path / "n.json", tmp_path / "r.html"
    common = ["evaluate", "--recipe", "radial3d_blockwise", "--matrix", "24", "--cases", "1", "--benchmark"]
    common += ["--json", str(numbers), "--cache", str(tmp_path / "cases"), "--report", str(report)]
    assert main([*common, "--against", "gridding", "--only", "R = 12", "4 coils"]) == 0
    assert len(json.loads(numbers.read_text())) == 2
    assert main([*common, "--against", "gridding,cg", "--only", "R = 12"]) == 0
    found = json.loads(numbers.read_text())
    assert [row["method"] for row in found] == ["gridding", "gridding", "cg"]
    assert found[2]["values"]["psnr"] > found[0]["values"]["psnr"]
    assert found[0]["conditions"]["acceleration"] == 12
    assert "| R = 12 | 1 | cg |" in capsys.readouterr().out
    assert "not for diagnosis" in report.read_text()
    assert main([*common, "--only", "R = 13"]) == 2


def test_a_dry_run_names_parameters_steps_and_memory(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "radial3d_blockwise", "--dry-run", "--out", str(out), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "40000 steps on cpu" in shown
    assert "MB (autograd" in shown
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "no_such_recipe"],
        ["train", "radial3d_blockwise", "--set", "training.emma=1"],
        ["train", "radial3d_blockwise", "--size", "huge"],
        ["train", "radial3d_blockwise", "--device", "abacus", "--dry-run"],
        ["evaluate", "no_such_weights"],
        ["weights", "export", "no_such_run", "-o", "x.safetensors"],
        ["prepare", "missing.h5", "-o", "cases", "--validation", "other.h5"],
    ],
    ids=" ".join,
)
def test_bad_input_exits_with_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert list(Path(tmp_path).iterdir()) == []
