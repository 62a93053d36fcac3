import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.petfile import read_pet
from koosh_models.networks import Dims, build
from koosh_models.weights import Card, Range, save

SMALL = ["--size", "24", "--views", "18", "--counts", "2e5", "--seed", "3"]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    assert main(["pet", "simulate", str(path), *SMALL]) == 0
    return path


def numbers(image: Path, scan: Path) -> dict[str, float]:
    out = image.with_suffix(".json")
    assert main(["pet", "evaluate", str(image), str(scan), "--json", str(out)]) == 0
    return json.loads(out.read_text())[str(image)]


def test_images_are_compared_in_one_table(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(scan.with_name(f"{n}.nii")) for n in (1, 8)]
    for path, iterations in zip(images, ("1", "8"), strict=True):
        assert main(["pet", "reconstruct", str(scan), path, "--subsets", "5", "--iterations", iterations]) == 0
    capsys.readouterr()
    assert main(["pet", "evaluate", *images, str(scan)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split()[:3] == ["image", "NRMSE", "total"]
    assert [line.split()[0] for line in lines] == images
    assert [float(line.split()[1]) for line in lines] == [
        pytest.approx(numbers(Path(path), scan)["nrmse"], abs=1e-4) for path in images
    ]


@pytest.mark.parametrize("method", ["mlem", "osem", "map", "bowsher"])
def test_every_method_gives_a_quantitative_image(scan: Path, method: str) -> None:
    image = scan.with_name(f"{method}.nii.gz")
    run = ["pet", "reconstruct", str(scan), str(image), "--method", method]
    assert main([*run, "--subsets", "5", "--iterations", "10"]) == 0
    found = numbers(image, scan)
    assert found["nrmse"] < 0.6
    assert abs(found["total"]) < 0.05
    loaded = nibabel.load(image)
    assert loaded.shape == (24, 24, 1)


def weights(folder: Path, voxel_mm: tuple[float, float] = (8.0, 12.0), **change: object) -> Path:
    fields: dict[str, object] = {
        "ndim": 2, "stages": 2, "features": 4, "layers": 2, "consistency": "em", "channels": 1, "guides": 1,
        "start": "osem", "start_steps": 8, "subsets": 5, "gamma": 0.0,
    }  # fmt: skip
    dims = Dims(**(fields | change))  # type: ignore[arg-type]
    known = Range(axes=2, families=("pet",), voxel_mm=voxel_mm)
    path = folder / "net.safetensors"
    save(path, build(dims), Card(name="net", dims=dims, trained=known, accepts=known))
    return path


def test_a_network_of_strength_zero_gives_the_image_of_osem(scan: Path) -> None:
    ours, plain = scan.with_name("net.nii"), scan.with_name("osem.nii")
    run = ["pet", "reconstruct", str(scan)]
    assert main([*run, str(ours), "--method", "network", "--weights", str(weights(scan.parent))]) == 0
    assert main([*run, str(plain), "--subsets", "5", "--iterations", "2"]) == 0
    assert np.array_equal(nibabel.load(ours).get_fdata(), nibabel.load(plain).get_fdata())


@pytest.mark.parametrize(
    ("change", "voxel_mm", "message"),
    [
        ({}, (2.0, 3.0), "use --method osem"),
        ({"consistency": "cg", "channels": 2, "start": "cg"}, (8.0, 12.0), "network for MRI"),
        ({"ndim": 3}, (8.0, 12.0), "over 3 axes"),
    ],
)
def test_a_network_for_other_scans_is_refused(
    scan: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], voxel_mm: tuple[float, float], message: str
) -> None:
    path = weights(scan.parent, voxel_mm, **change)
    run = ["pet", "reconstruct", str(scan), str(scan.with_name("x.nii")), "--method", "network"]
    assert main([*run, "--weights", str(path)]) == 2
    assert message in caplog.text
    assert main(run) == 2


def test_three_dimensions_run_from_simulation_to_interfile(tmp_path: Path) -> None:
    scan, image = tmp_path / "scan.npz", tmp_path / "image.hv"
    rings = ["--rings", "4", "--ring-mm", "20", "--span", "3", "--counts", "1e6"]
    assert main(["pet", "simulate", str(scan), "--size", "16", "--views", "10", "--phantom", "chest", *rings]) == 0
    assert main(["pet", "reconstruct", str(scan), str(image), "--smooth-mm", "8", "--subsets", "3"]) == 0
    header = image.read_text()
    assert "!matrix size [3] := 7" in header
    assert "scaling factor (mm/pixel) [3] := 10" in header
    assert "!name of data file := image.v" in header
    voxels = np.fromfile(tmp_path / "image.v", "<f4").reshape(7, 16, 16)
    truth = read_pet(scan).truth
    assert truth is not None
    assert abs(voxels.sum() / float(truth.sum()) - 1) < 0.1


def test_smoothing_brings_a_noisy_image_closer_to_the_truth(tmp_path: Path) -> None:
    scan = tmp_path / "scan.npz"
    assert main(["pet", "simulate", str(scan), *SMALL, "--counts", "8e3"]) == 0
    plain, smooth = scan.with_name("a.nii"), scan.with_name("b.nii")
    run = ["pet", "reconstruct", str(scan)]
    assert main([*run, str(plain), "--iterations", "30", "--subsets", "6"]) == 0
    assert main([*run, str(smooth), "--iterations", "30", "--subsets", "6", "--smooth-mm", "14"]) == 0
    assert numbers(smooth, scan)["nrmse"] < numbers(plain, scan)["nrmse"]


def test_the_same_seed_gives_the_same_file(scan: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    assert main(["pet", "simulate", str(again), *SMALL]) == 0
    assert read_pet(again).counts.equal(read_pet(scan).counts)


def damaged(scan: Path, change: dict[str, object], drop: str = "") -> Path:
    with np.load(scan) as file:
        held = {n: file[n] for n in file.files if n != drop} | change
    path = scan.with_name("damaged.npz")
    np.savez(path, **held)
    return path


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({}, "counts", "counts missing"),
        ({"counts": np.ones((3, 3))}, "", "the scanner measures"),
        ({"counts": -np.ones((18, 24))}, "", "give the prompts"),
        ({"truth": np.ones((3, 3))}, "", "the image grid is"),
        ({"scanner": "{]"}, "", "can't be read"),
        ({"scanner": '{"n_views": 18}'}, "", "can't be read"),
    ],
)
def test_a_damaged_scan_is_bad_input_and_says_why(
    scan: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], drop: str, message: str
) -> None:
    path = damaged(scan, change, drop)
    assert main(["pet", "reconstruct", str(path), str(scan.with_name("x.nii"))]) == 2
    assert message in caplog.text
    assert not scan.with_name("x.nii").exists()


def test_missing_attenuation_is_told_and_a_missing_guide_refused(scan: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = scan.with_name("x.nii")
    assert main(["pet", "reconstruct", str(damaged(scan, {}, "factor")), str(image)]) == 0
    assert "no attenuation factors" in caplog.text
    assert main(["pet", "reconstruct", str(damaged(scan, {}, "guide")), str(image), "--method", "bowsher"]) == 2
    assert "needs an MR image" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [["--subsets", "99"], ["--iterations", "0"], ["--method", "map", "--strength", "-1"]],
)
def test_settings_that_cannot_be_are_bad_input(scan: Path, wrong: list[str]) -> None:
    assert main(["pet", "reconstruct", str(scan), str(scan.with_name("x.nii")), *wrong]) == 2
    assert main(["pet", "reconstruct", str(scan), str(scan.with_name("x.png"))]) == 2


def test_files_that_are_no_scans_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    for name in ("text.npz", "cut.npz", "absent.npz"):
        assert main(["pet", "reconstruct", str(tmp_path / name), str(tmp_path / "x.nii")]) == 2
