"""Cardiac phases of a slice are reconstructed as one series."""

import numpy as np
import pytest
import torch

from koosh_gadgets.files import open_scan
from koosh_gadgets.pipeline import Job
from koosh_gadgets.settings import Settings
from koosh_models.metrics import psnr
from koosh_models.reconstruction import reconstruct
from koosh_models.scan import Geometry
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.recordfile import write_scan
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import trajectory


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    """A simulated cine of four phases: header and blocks."""
    path = tmp_path_factory.mktemp("cine") / "scan.h5"
    way = trajectory("cine_radial", (32, 32), 2.0, n_frames=4)
    anatomy = phantom("cine", (32, 32), n_frames=4)
    write_scan(path, simulate(anatomy.image, way, mask=anatomy.mask, n_coils=4, noise=0.01), way)
    with open_scan(path) as file:
        return file.xml, list(file.items()), anatomy.image.abs().numpy()


def test_the_phases_come_as_frames_of_one_series_under_one_scale(cine):
    xml, items, truth = cine
    images = list(Job(xml, Settings(method="cg")).images(items))
    assert [im.phase for im in images] == [0, 1, 2, 3]
    assert [im.image_index for im in images] == [0, 1, 2, 3]
    assert len({im.meta["RescaleSlope"] for im in images}) == 1
    assert {im.image_series_index for im in images} == {1}
    got = np.stack([im.data[0, 0] for im in images]).astype(float)
    for frame, wanted in zip(got, truth, strict=True):
        assert np.corrcoef(frame.ravel(), wanted.ravel())[0, 1] > 0.9


def test_frames_of_unlike_size_are_reconstructed_one_by_one(cine):
    xml, items, _ = cine
    readouts = [a for block in items for a in block.acquisitions()]
    images = list(Job(xml, Settings(method="cg")).images(readouts[:-1]))
    assert [im.phase for im in images] == [0, 1, 2, 3]
    assert images[-1].meta["koosh_complete"] == "false"


def test_a_series_is_reconstructed_as_a_whole_by_locally_low_rank(cine):
    xml, items, truth = cine
    images = list(Job(xml, Settings(method="llr")).images(items))
    assert {im.meta["koosh_method"] for im in images} == {"llr"}
    got = np.stack([im.data[0, 0] for im in images]).astype(float)
    for frame, wanted in zip(got, truth, strict=True):
        assert np.corrcoef(frame.ravel(), wanted.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_a_cartesian_series_is_given_to_the_network_that_takes_it_and_comes_out_as_offline(tmp_path):
    way, anatomy = trajectory("cine_cartesian", (64, 64), 8.0, 1, 10), phantom("cine", (64, 64), 5, 10)
    made = simulate(anatomy.image, way, mask=anatomy.mask, geometry=Geometry((64, 64), (240.0, 240.0)))
    write_scan(tmp_path / "a.h5", made, way)
    with open_scan(tmp_path / "a.h5") as file:
        xml, items = file.xml, list(file.items())
    images = {method: list(Job(xml, Settings(method=method)).images(items)) for method in ("unrolled", "llr")}
    assert {im.meta["koosh_weights"] for im in images["unrolled"]} == {"cine"}
    learned, plain = (
        torch.from_numpy(np.stack([im.data[0, 0] for im in images[method]]).astype(float)) for method in images
    )
    assert psnr(learned, reconstruct(made.scan, "unrolled").volume, made.mask) > 40
    assert psnr(learned, made.truth, made.mask) > psnr(plain, made.truth, made.mask)


def test_a_series_beyond_the_memory_budget_is_reconstructed_frame_by_frame(cine):
    xml, items, _ = cine
    (image, *_) = list(Job(xml, Settings(method="llr", memory=1)).images(items))
    assert image.meta["koosh_method"] == "l1"
    assert "MiB allowed" in image.meta["koosh_fallback"]


def test_locally_low_rank_asks_for_a_series():
    from tests.fakes.runs import run
    from tests.fakes.streams import header_xml, point_scan

    images, _ = run(point_scan(spokes=200, noise=0.001), header_xml(spokes=200), method="llr")
    assert images[0].meta["koosh_method"] == "l1"
    assert "needs the phases of a series" in images[0].meta["koosh_fallback"]
