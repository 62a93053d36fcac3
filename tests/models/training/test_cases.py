"""Cases are the same for the same number, different for others, and never leak between splits."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from koosh_models.metrics import psnr
from koosh_models.physics.mri import dynamic
from koosh_models.training import cases
from koosh_models.training.feed import Feed, Place, ahead, number
from koosh_models.training.recorded import recorded
from koosh_models.training.tables import Data
from koosh_models.training.volumes import Source, check_splits, sources_of
from tests.models.training.small import recipe

DATA = recipe().data


def volume_file(path, subject: str, split: str = "train", contrast: str = "T1", seed: int = 0):
    rng = np.random.default_rng(seed)
    image = np.zeros((24, 20, 22), np.uint16)
    image[4:20, 4:16, 4:18] = rng.integers(1, 9, (16, 12, 14)) if contrast == "labels" else 600
    image[8:14, 7:12, 8:14] = 3 if contrast == "labels" else 900
    meta = {"subject": subject, "split": split, "contrast": contrast}
    np.savez(path, image=image, spacing_mm=[1.0, 1.0, 1.5], meta=json.dumps(meta))


def equal(a: cases.Case, b: cases.Case) -> bool:
    return torch.equal(a.scan.kspace, b.scan.kspace) and torch.equal(a.target, b.target) and a.facts == b.facts


def test_a_case_depends_on_its_number_alone():
    first, again, other = (cases.draw(DATA, "training", n) for n in (3, 3, 4))
    assert equal(first, again)
    assert not equal(first, other)
    assert not torch.equal(first.target, cases.draw(DATA, "validation", 3).target)


def test_a_case_survives_the_disk(tmp_path):
    case = cases.draw(DATA, "training", 0)
    cases.write_case(tmp_path / "a.safetensors", case)
    back = cases.read_case(tmp_path / "a.safetensors")
    assert equal(case, back)
    assert back.scan.geometry == case.scan.geometry
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "what",
    [
        {"off_resonance_hz": (800, 800), "dwell_us": 20},
        {"delays": (0.5, 1.0)},
        {"motion_voxels": (1, 1)},
        {"motion_degrees": (4, 4)},
    ],
)
def test_imperfections_change_the_data_and_not_the_truth(what):
    clean = cases.draw(Data(matrix=((16, 16, 16),), coils=(3, 3), maps="true"), "training", 0)
    spoilt = cases.draw(Data(matrix=((16, 16, 16),), coils=(3, 3), maps="true", **what), "training", 0)
    assert torch.equal(clean.target, spoilt.target)
    assert torch.equal(clean.scan.omega, spoilt.scan.omega)
    off = (clean.scan.kspace - spoilt.scan.kspace).norm() / clean.scan.kspace.norm()
    assert 0.01 < off < 1.5


@pytest.mark.parametrize("family", ["radial3d", "cartesian3d"])
def test_iterates_of_the_full_scan_approach_the_truth_stage_by_stage(tmp_path, family):
    data = Data(matrix=((16, 16, 16),), coils=(3, 3), trajectory=(family,), iterates=4, maps="true")
    case = cases.draw(data, "training", 0)
    cases.write_case(tmp_path / "a.safetensors", case)
    goal = cases.read_case(tmp_path / "a.safetensors").inside().goal(torch.device("cpu"))
    error = [float((goal(k) - goal(9)).norm() / goal(9).norm()) for k in (1, 2, 3, 4, 5)]
    if family == "radial3d":  # on a grid the first iterate is the image
        assert error[0] > error[1] > error[2]
    assert error[3] < 0.15
    assert error[4] == 0
    assert cases.draw(data, "validation", 0).iterates is None


def test_a_recorded_series_keeps_other_readouts_in_each_frame(tmp_path):
    data = Data(trajectory=("cine_radial",), matrix=((24, 24),), frames=4, coils=(4, 4), acceleration=(1, 1))
    data = data.model_copy(update={"phantoms": ("cine",)})
    scan = cases.draw(data, "training", 0).scan
    case = recorded(replace(scan, weights=None), 0.5, 0, "cine", iterates=2)
    assert case.scan.n_readouts == round(0.5 * scan.n_readouts)
    assert case.target.shape == case.mask.shape == (4, 24, 24)
    assert not torch.equal(case.scan.omega[0], case.scan.omega[1])
    cases.write_case(tmp_path / "a.safetensors", case)
    back = cases.read_case(tmp_path / "a.safetensors").inside()
    problem = back.problem()
    assert problem.shape == back.target.shape == back.goal(torch.device("cpu"))(2).shape
    gridded = problem.b * (problem.b.conj() * back.target).sum() / problem.b.norm() ** 2
    assert float((gridded - back.target).norm() / back.target.norm()) < 0.6


def test_a_cartesian_series_poses_the_problem_that_it_poses_online():
    data = Data(trajectory=("cine_cartesian",), phantoms=("cine",), matrix=((20, 24),), frames=3, coils=(3, 3))
    case = cases.draw(data, "training", 0)
    trained, online = case.problem(), dynamic(case.scan, case.maps)
    assert trained.scale == pytest.approx(online.scale, rel=1e-3)
    for mine, other in ((trained.b, online.b), (trained.normal(case.target), online.normal(case.target))):
        assert float((mine - other).norm() / other.norm()) < 1e-3


def test_the_box_of_the_object_keeps_the_measurement():
    case = cases.draw(Data(matrix=((24, 24, 24),), coils=(3, 3), noise=(0, 0)), "training", 1)
    small = case.inside()
    whole, boxed = case.problem(), small.problem()
    box = tuple(slice(0, n) for n in small.target.shape)
    assert small.mask.sum() == case.mask.sum()
    assert boxed.b.shape == small.target[box].shape
    assert psnr(boxed.b, small.target, small.mask) == pytest.approx(psnr(whole.b, case.target, case.mask), abs=0.2)


@pytest.mark.parametrize("family", ["radial3d", "stack_of_stars", "cartesian3d", "cones"])
def test_every_family_gives_a_problem_its_truth_nearly_solves(family):
    data = Data(trajectory=(family,), matrix=((16, 16, 16),), acceleration=(1, 1), noise=(0, 0), coils=(4, 4))
    case = cases.draw(data, "training", 0)
    problem = case.problem()
    misfit = (problem.normal(case.target) - problem.b).norm() / problem.b.norm()
    assert misfit < 0.15


def test_subjects_marked_or_named_for_validation_stay_there(tmp_path):
    volume_file(tmp_path / "a_t1.npz", "anna")
    volume_file(tmp_path / "a_t2.npz", "anna")
    volume_file(tmp_path / "b.npz", "ben", "val")
    volume_file(tmp_path / "c.npz", "cleo", contrast="labels")
    found = {s.name: s.split for s in sources_of(tmp_path, ["a_t1"])}
    assert found == {"a_t1": "validation", "a_t2": "validation", "b": "validation", "c": "training"}
    data = Data(volumes=str(tmp_path), matrix=((16, 16, 16),), coils=(2, 2), validation=("a_t1",))
    subjects = {split: {str(cases.draw(data, split, n).facts["subject"]) for n in range(3)} for split in
                ("training", "validation")}  # fmt: skip
    assert subjects["validation"] == {"anna", "ben"}
    assert not subjects["training"] & subjects["validation"]


def test_a_subject_in_both_splits_is_refused():
    with pytest.raises(ValueError, match="anna: in training and in validation"):
        check_splits([Source("a", "anna", "training"), Source("b", "anna", "validation")])


def test_an_unknown_subject_lists_the_known_ones(tmp_path):
    volume_file(tmp_path / "a.npz", "anna")
    with pytest.raises(ValueError, match="anna"):
        sources_of(tmp_path, ["bella"])


def test_a_folder_without_volumes_says_so(tmp_path):
    with pytest.raises(ValueError, match="no folder of volumes"):
        cases.sources(Data(volumes=str(tmp_path / "missing")))
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"a\.npz is no volume"):
        sources_of(tmp_path)


def test_every_epoch_shows_every_case_once_in_another_order():
    data = DATA.model_copy(update={"cases": 5})
    epochs = [[number(data, 5 * e + i) for i in range(5)] for e in range(3)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def names(feed: Feed, first: int, last: int) -> list[list[str]]:
    return [[case.name for case, _ in batch] for batch in feed.batches(first, last)]


def test_ranks_share_the_cases_and_a_later_start_sees_the_same_ones(tmp_path):
    data = DATA.model_copy(update={"cases": 4})
    alone = names(Feed(data, tmp_path, Place(), 2), 0, 4)
    assert names(Feed(data, tmp_path, Place(), 2), 2, 4) == alone[2:]
    halves = [names(Feed(data, tmp_path, Place(rank, 2), 1), 0, 4) for rank in range(2)]
    assert [[*a, *b] for a, b in zip(*halves, strict=True)] == alone


def test_held_cases_are_the_fetched_ones(tmp_path):
    assert names(Feed(DATA, tmp_path, Place(), 1, hold=2), 0, 6) == names(Feed(DATA, tmp_path, Place(), 1), 0, 6)


def counting(last: int, seen: list[int], ended: threading.Event):
    try:
        for n in range(last):
            seen.append(n)
            yield n
        raise ValueError("no more")
    finally:
        ended.set()


def test_what_is_made_ahead_is_the_same_and_its_errors_arrive_in_their_place():
    items = ahead(counting(5, [], threading.Event()), depth=1)
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="no more"):
        next(items)
    assert list(ahead((n for n in range(3)), depth=1)) == [0, 1, 2]


def test_no_more_is_made_ahead_than_asked_for_and_nothing_after_the_loop_has_ended():
    seen, ended = [], threading.Event()
    items = ahead(counting(1000, seen, ended), depth=1)
    assert next(items) == 0
    items.close()
    assert ended.wait(5)
    assert len(seen) <= 4


@pytest.mark.slow
def test_worker_processes_give_the_same_cases(tmp_path):
    alone = [case for batch in Feed(DATA, None, Place(), 1).batches(0, 3) for case, _ in batch]
    helped = [case for batch in Feed(DATA, None, Place(), 1, workers=1).batches(0, 3) for case, _ in batch]
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
