"""What can't run is replaced by the next best method, and the image says so."""

import pytest
import torch

from koosh_gadgets.stages import network
from koosh_gadgets.stages import reconstruct as stage
from koosh_models.networks.unrolled import Dims, build
from koosh_models.weights import Card, Range, save
from tests.fakes.runs import run
from tests.fakes.streams import header_xml, point_scan

SPOKES = 200
HEADER = header_xml(spokes=SPOKES)


def images(**settings):
    return run(point_scan(spokes=SPOKES, noise=0.001), HEADER, layout="volume", **settings)[0]


def pixels(found):
    return [im.data.tobytes() for im in found]


@pytest.fixture
def weights(tmp_path):
    """A small network, untrained, that takes any 3D radial scan."""
    torch.manual_seed(0)
    dims = Dims(stages=1, features=4, layers=2, cg_steps=2, start_steps=2)
    reach = Range(acceleration=(0.01, 1000.0), families=("radial", "other"))
    card = Card(name="tiny", dims=dims, trained=reach, accepts=reach)
    save(tmp_path / "tiny.safetensors", build(dims), card)
    return str(tmp_path / "tiny.safetensors")


def test_a_network_reconstructs_and_is_named_with_its_hash(weights):
    (image,) = images(method="unrolled", weights=weights)
    assert image.meta["koosh_method"] == "unrolled"
    assert image.meta["koosh_weights"] == "tiny"
    assert len(image.meta["koosh_weights_sha256"]) == 64
    assert "koosh_fallback" not in image.meta


def test_a_network_gives_the_same_bits_twice(weights):
    first, second = (images(method="unrolled", weights=weights) for _ in range(2))
    assert first[0].meta["koosh_method"] == "unrolled"
    assert pixels(first) == pixels(second)


def test_the_baseline_comes_in_a_series_beside_the_networks(weights):
    found = images(method="unrolled", weights=weights, baseline=True)
    assert [(im.image_series_index, im.meta["koosh_method"]) for im in found] == [(1, "unrolled"), (20, "l1")]
    assert "koosh_weights" not in found[1].meta  # no network made it


def test_without_weights_the_best_classical_method_stands_in():
    (image,) = images(method="unrolled", weights="none-of-this-name")
    assert (image.meta["koosh_asked"], image.meta["koosh_method"]) == ("unrolled", "l1")
    assert "none-of-this-name" in image.meta["koosh_fallback"]
    assert "l1 stands in for unrolled" in image.meta["ImageComments"]
    assert pixels([image]) == pixels(images(method="l1"))


def test_weights_that_do_not_take_the_scan_are_not_used(tmp_path, weights):
    dims = Dims(stages=1, features=4, layers=2, cg_steps=2, start_steps=2)
    card = Card(name="other", dims=dims, trained=Range(), accepts=Range(coils=(64, 64)))
    save(tmp_path / "other.safetensors", build(dims), card)
    (image,) = images(method="unrolled", weights=str(tmp_path / "other.safetensors"))
    assert image.meta["koosh_method"] == "l1"
    assert "number of coils is 3" in image.meta["koosh_fallback"]


def test_a_pickle_is_no_weights(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "bad.safetensors")
    (image,) = images(method="unrolled", weights=str(tmp_path / "bad.safetensors"))
    assert image.meta["koosh_method"] == "l1"


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory"), ArithmeticError("NaN")])
def test_a_method_that_fails_is_followed_by_the_next(failure, monkeypatch):
    real = stage.solved

    def solved(ready, problem, method, settings, journal):
        if method == "l1":
            raise failure
        return real(ready, problem, method, settings, journal)

    monkeypatch.setattr(stage, "solved", solved)
    (image,) = images(method="l1")
    assert image.meta["koosh_method"] == "cg"
    assert image.meta["koosh_fallback"].startswith("l1: ")


def test_an_image_that_is_not_finite_is_never_sent(monkeypatch, weights):
    monkeypatch.setattr(network, "solve", lambda scan, problem, *_: problem.b * float("nan"))
    (image,) = images(method="unrolled", weights=weights)
    assert image.meta["koosh_method"] == "l1"
    assert "not finite" in image.meta["koosh_fallback"]


def test_a_network_short_of_memory_goes_on_in_smaller_tiles(monkeypatch, weights):
    import koosh_models.reconstruction as models

    real, asked = models.unrolled, []

    def unrolled(problem, net, memory):
        asked.append(memory)
        if len(asked) < 3:
            raise RuntimeError("not enough memory: you tried to allocate too much")
        return real(problem, net, memory)

    monkeypatch.setattr(models, "unrolled", unrolled)
    (image,) = images(method="unrolled", weights=weights, memory=4096)
    assert asked == [300 << 20, 150 << 20, 75 << 20]
    assert image.meta["koosh_method"] == "unrolled"
    assert "tiles of 75 MiB" in image.meta["koosh_notes"]


def test_a_time_limit_leads_to_a_faster_method():
    (image,) = images(method="l1", time_limit=1e-6)
    assert image.meta["koosh_method"] == "gridding"
    assert "beyond the time limit" in image.meta["koosh_fallback"]


def test_a_memory_budget_leads_to_a_smaller_method():
    (image,) = images(method="cg", memory=1, matrix=32)
    assert image.meta["koosh_method"] == "gridding"
