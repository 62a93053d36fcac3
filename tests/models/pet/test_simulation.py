import json
from pathlib import Path

import numpy as np
import pytest
import torch

from koosh_models.physics.pet.projector import ordered_subsets
from koosh_models.physics.pet.scanner import Scanner, TimeOfFlight, natural
from koosh_models.scan import Geometry
from koosh_models.simulation.pet import Acquisition, measure
from koosh_models.simulation.tissue import Labels, Tissue, from_labels, load_labels, procedural

FLAT = Scanner(20, 32, 8.0)
GRID = natural(FLAT, 32)


@pytest.mark.parametrize("counts", [1e5, 3e6])
def test_a_scan_holds_the_counts_and_shares_asked_for(counts: float) -> None:
    patient = procedural("head", GRID, 1)
    scan = measure(patient, ordered_subsets(FLAT, GRID, 4), Acquisition(counts, randoms=0.3, scatter=0.15), 2)
    assert abs(float(scan.counts.double().sum()) / counts - 1) < 5 / counts**0.5
    assert abs(float(scan.background.double().sum()) / counts - 0.45) < 1e-4
    assert bool((scan.counts == scan.counts.round()).all())


def test_the_spread_of_repeated_scans_is_poisson() -> None:
    patient, projectors = procedural("chest", GRID, 1), ordered_subsets(FLAT, GRID, 1)
    scans = [measure(patient, projectors, Acquisition(2e5), seed) for seed in range(40)]
    counts = torch.stack([s.counts for s in scans]).double()
    ratio = counts.var(0) / scans[0].mean.double()
    assert abs(float(ratio.mean()) - 1) < 0.05


@pytest.mark.parametrize("name", ["head", "chest"])
@pytest.mark.parametrize("matrix", [(32, 32), (7, 24, 24)])
def test_patients_are_plausible_reproducible_and_different(name: str, matrix: tuple[int, ...]) -> None:
    geometry = Geometry(matrix, tuple(8.0 * n for n in matrix))
    patient, again, other = (procedural(name, geometry, seed) for seed in (4, 4, 5))
    assert torch.equal(patient.activity, again.activity)
    assert not torch.equal(patient.activity, other.activity)
    assert patient.activity.shape == matrix
    assert float(patient.activity.min()) >= 0
    assert 0.009 < float(patient.mu.quantile(0.98)) < 0.017
    assert patient.guide.shape == (1, *matrix)
    body = float((patient.mu > 0.002).float().mean())
    assert 0.2 < body < 0.9


def test_attenuation_takes_most_counts_from_the_middle() -> None:
    scan = measure(procedural("head", GRID, 1), ordered_subsets(FLAT, GRID, 1), Acquisition(1e5), 0)
    assert float(scan.factor[:, 16].mean()) < 0.35
    assert float(scan.factor[:, 0].mean()) > 0.95


def test_three_dimensional_and_time_of_flight_scans_have_the_scanners_shape() -> None:
    scanner = Scanner(6, 12, 20.0, n_rings=3, ring_mm=20.0, max_difference=2, span=3, tof=TimeOfFlight(3, 80.0, 60.0))
    geometry = natural(scanner, 12)
    scan = measure(procedural("head", geometry, 0), ordered_subsets(scanner, geometry, 2), Acquisition(1e6), 0)
    assert scan.counts.shape == scanner.sinogram(3) == (6, 3, 12, scanner.n_planes)
    assert bool(torch.isfinite(scan.mean).all())


def head_labels() -> Labels:
    """A head of FreeSurfer-like classes, 40 mm voxels apart in z."""
    classes = torch.zeros(9, 40, 40, dtype=torch.long)
    classes[1:8, 5:35, 8:32] = int(Tissue.BONE)
    classes[1:8, 7:33, 10:30] = int(Tissue.GREY)
    classes[2:7, 10:30, 13:27] = int(Tissue.WHITE)
    return Labels(classes, (20.0, 6.0, 6.0))


@pytest.mark.parametrize("geometry", [GRID, Geometry((5, 32, 32), (160.0, 256.0, 256.0))])
def test_label_maps_become_patients_on_the_grid_asked_for(geometry: Geometry) -> None:
    patient = from_labels(head_labels(), geometry, 3)
    assert patient.activity.shape == geometry.matrix
    middle = patient.activity[..., 16, 16]
    assert float(patient.activity.quantile(0.97)) > 0.8  # grey matter
    assert float(middle.mean()) < 0.7  # white matter
    assert float(patient.mu.max()) > 0.012  # skull


def test_label_files_are_read_into_the_axes_of_an_image(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 6), np.uint16)
    image[3, 4, 5] = 3  # right, anterior, superior
    image[0, 0, 0] = 515
    path = tmp_path / "labels.npz"
    np.savez(path, image=image, spacing_mm=np.array([1.0, 2.0, 3.0]), meta=json.dumps({"contrast": "labels"}))
    labels = load_labels(path)
    assert labels.classes.shape == (6, 5, 4)
    assert labels.spacing_mm == (3.0, 2.0, 1.0)
    assert labels.classes[5, 0, 0] == int(Tissue.GREY)
    assert labels.classes[0, 4, 3] == int(Tissue.BONE)


def test_files_and_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mri.npz", image=np.ones((2, 2, 2)), spacing_mm=np.ones(3), meta='{"contrast": "T1"}')
    np.savez(tmp_path / "none.npz", other=np.ones(3))
    with pytest.raises(ValueError, match="no label map"):
        load_labels(tmp_path / "mri.npz")
    with pytest.raises(ValueError, match="wanted image"):
        load_labels(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="unknown PET phantom"):
        procedural("knee", GRID, 0)
    with pytest.raises(ValueError, match="leave trues"):
        Acquisition(1e5, randoms=0.6, scatter=0.5)
