"""Numbers of the benchmark: spheres that are kept or lost, blobs that are invented, paired differences."""

from __future__ import annotations

import pytest
import torch

from koosh_models.baselines import bart
from koosh_models.networks import Dims, build
from koosh_models.simulation.lesions import with_spheres
from koosh_models.simulation.phantoms import Phantom, phantom
from koosh_models.training import benchmark
from koosh_models.training.benchmark import Row, differences
from koosh_models.training.benchmark_groups import FREE, bony, groups, inverted
from koosh_models.training.benchmark_tables import shown
from koosh_models.training.findings import ball, blobs, invented, spots
from koosh_models.training.tables import Data
from koosh_models.training.validate import usual


@pytest.fixture(scope="module")
def pair():
    body = phantom("head", (40, 40, 40), seed=3)
    return body, *with_spheres(body, 5, 6, 4.0, (0.2, 0.5))


def test_spheres_lie_apart_inside_the_object_and_change_nothing_else(pair):
    body, made, voxels = pair
    assert len(voxels) >= 3
    assert bool((voxels.sum(0) <= 1).all())
    assert bool(body.mask[voxels.any(0)].all())
    near = torch.nn.functional.max_pool3d(voxels.any(0).float()[None], 3, 1, 1)[0] > 0
    assert torch.equal(made.image[~near], body.image[~near])
    ratio = (made.image / body.image).abs()[voxels.any(0)]
    assert float(((ratio - 1).abs()).max()) <= 0.5 + 1e-5
    assert torch.equal(with_spheres(body, 5, 6, 4.0, (0.2, 0.5))[0].image, made.image)


def test_spheres_are_kept_whole_half_or_not_at_all(pair):
    body, made, voxels = pair
    half = (made.image + body.image) / 2
    for image, share in ((made.image, 1.0), (half, 0.5), (body.image, 0.0)):
        found = spots(image, made.image, body.image, body.mask)
        assert len(found) == len(voxels)
        assert sum(spot.kept for spot in found) / len(found) == pytest.approx(share, abs=0.03)
        assert all(0.2 - 1e-6 <= abs(spot.contrast) <= 0.5 + 1e-6 for spot in found)


def test_a_blob_of_four_voxels_counts_as_invented_and_noise_or_a_fainter_one_does_not():
    truth = torch.ones(32, 32, 32, dtype=torch.complex64)
    mask = torch.ones(32, 32, 32, dtype=torch.bool)
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    spot = ((grid - 16).norm(dim=0) <= 2.0).float()
    noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert invented(truth + noise, truth, mask) == 0
    assert invented(truth + 0.08 * spot, truth, mask) == 0
    assert invented(truth + 0.2 * spot + noise, truth, mask) == 1


def test_connected_parts_are_found_each_once():
    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[1:3, 1, 1] = mask[6, 6, 2:7] = True
    assert sorted(len(part[0]) for part in blobs(mask)) == [2, 5]
    assert blobs(torch.zeros(4, 4, 4, dtype=torch.bool)) == []
    assert float(ball(4.0).sum()) == pytest.approx(1)


def rows(gain: float) -> list[Row]:
    values = {"ssim": 0.9, "nrmse": 0.1, "hfen": 0.1}
    mine = [
        Row(
            "R = 12", f"c{k}", "net", {"psnr": 30 + k + gain + 0.1 * k, **values}, 1.0, (0.9, 1.1), {}, (-0.25, 0.45),
            640.0,
        )
        for k in range(8)
    ]  # fmt: skip
    return mine + [Row("R = 12", f"c{k}", "l1", {"psnr": 30.0 + k, **values}, 2.0, (0.8,)) for k in range(8)]


def test_differences_are_paired_so_that_the_spread_of_the_cases_does_not_enter():
    found = differences(rows(1.0), "R = 12", "net", "l1", "psnr")
    assert found.count == 8
    assert found.mean == pytest.approx(1.35)
    assert 1.1 < found.low < found.mean < found.high < 1.6
    assert found.case == "c0"
    assert found.worst == pytest.approx(1.0)
    assert differences(rows(1.0), "R = 12", "net", "cg", "psnr") is None


def test_less_error_counts_as_better():
    made = [Row("g", "a", "net", {"nrmse": 0.1}, 1.0), Row("g", "a", "l1", {"nrmse": 0.2}, 1.0)]
    assert differences(made, "g", "net", "l1", "nrmse").mean == pytest.approx(0.1)


def test_the_tables_name_every_group_method_and_worst_case():
    text = shown(rows(-0.5), ("net",))
    assert "| R = 12 | 8 | net | 33.35 | 0.9000 | 0.1000 | 0.1000 | 1.0 | 640 |" in text
    assert "| R = 12 | 8 | l1 | 33.50 | 0.9000 | 0.1000 | 0.1000 | 2.0 | - |" in text
    assert "-0.50 | c0 |" in text
    assert "| R = 12 | net | 16 | 1.000 |" in text
    assert "| R = 12 | net | 0.900 (8) | - | - | - | - | 1.100 (8) |" in text
    assert "not for diagnosis" in text


def test_invented_blobs_are_counted_by_volume():
    some = [Row(FREE, f"c{k}", "net", {"psnr": 30.0, "invented": float(n)}, 1.0) for k, n in enumerate((0, 3, 0, 1))]
    assert f"| {FREE} | net | 4 | 2 | 4 | 3 |" in shown(some, ("net",))


def test_the_whole_benchmark_has_enough_spheres_and_a_hundred_phantoms_without_a_lesion():
    found = {g.title: g for g in groups(Data(), 20)}
    assert {f"R = {r}" for r in (4, 8, 12, 16, 20)} < set(found)
    assert len(found["spheres inserted"].numbers) == 14
    assert len(found[FREE].numbers) == 100
    assert found[FREE].inserts is None
    assert len(found["R = 12"].numbers) == 20


SERIES = Data(phantoms=("cine",), trajectory=("cine_cartesian",), matrix=((20, 24),), frames=4, validation_coils=4)


def test_groups_keep_to_the_main_one_of_several_trajectories():
    several = Data(phantoms=("head",), trajectory=("radial3d", "cones", "stack_of_stars"))
    own = {"half spokes (UTE)": "ute3d", "cones": "cones", "stack of stars": "stack_of_stars"}
    for group in groups(several, 20):
        assert group.data.trajectory == (own.get(group.title, "radial3d"),)


def test_series_are_compared_at_eight_fold_speed_and_with_other_frames_coils_and_noise():
    found = {g.title: g for g in groups(SERIES, 15)}
    assert list(found) == [
        "R = 4", "R = 8", "R = 12", "4 coils", "16 coils", "2 frames", "8 frames", "noise 6 %", "no noise",
    ]  # fmt: skip
    assert len(found["R = 8"].numbers) == 15
    assert found["8 frames"].data.frames == 8
    assert found["8 frames"].data.validation_acceleration == 8


def test_locally_low_rank_is_tuned_on_the_truth_of_a_series():
    (group,) = [g for g in groups(SERIES, 1) if g.title == "R = 8"]
    plain, tuned = benchmark.run([group], ("llr-default", "llr"), {}, None)
    assert tuned.values["psnr"] >= plain.values["psnr"]
    assert usual(SERIES) == ("gridding", "cg", "l1", "llr")
    assert "llr" not in usual(Data())


@pytest.mark.parametrize("change", [inverted, bony])
def test_another_contrast_is_one_inside_the_object_alone_and_keeps_the_phases(change, pair):
    body = pair[0]
    made = change(body, 0)
    assert torch.equal(made.image[~body.mask], body.image[~body.mask])
    inside = body.mask & (body.image.abs() > 0.05 * body.image.abs().max())
    turned = (made.image * body.image.conj())[inside]
    assert float((turned.imag.abs() - 1e-3 * turned.abs()).max()) <= 0
    seen, was = made.image.abs()[inside], body.image.abs()[inside]
    assert float((seen - was).norm()) > 0.2 * float(was.norm())


@pytest.mark.system
def test_bart_is_tuned_on_the_truth_and_its_cost_is_its_own():
    assert bart.installed()
    data = Data(matrix=((24, 24, 24),), maps="true")
    (group,) = [g for g in groups(data, 1) if g.title == "R = 4"]
    (row, ours) = benchmark.run([group], ("bart", "l1"), {}, None)
    assert abs(row.values["psnr"] - ours.values["psnr"]) < 1.5
    assert row.memory > 10
    assert row.seconds > 0


def test_what_is_done_is_not_done_again_and_cases_come_back_from_the_cache(tmp_path):
    data = Data(matrix=((20, 20, 20),))
    chosen = [g for g in groups(data, 1) if g.title in ("R = 12", "motion 1 voxel, 1 degree")]
    first = benchmark.run(chosen, ("gridding",), {}, tmp_path)
    assert len(first) == 2
    assert first[0].values["psnr"] > first[1].values["psnr"]  # it moved
    told: list[Row] = []
    again = benchmark.run(chosen, ("gridding", "cg"), {}, tmp_path, first, told.append)
    assert [r.method for r in told] == ["cg", "cg"]
    assert again[:2] == first


def test_rows_of_other_weights_under_the_same_name_are_done_again(tmp_path):
    data = Data(matrix=((20, 20, 20),), maps="true")
    chosen = [g for g in groups(data, 1) if g.title == "R = 4"]
    network = build(Dims(stages=1, features=2, layers=2, cg_steps=1, start_steps=1))
    old = benchmark.run(chosen, ("gridding",), {"net": network}, tmp_path, hashes={"net": "a"})
    told: list[Row] = []
    new = benchmark.run(chosen, ("gridding",), {"net": network}, tmp_path, old, told.append, {"net": "b"})
    assert [(r.method, r.weights) for r in told] == [("net", "b")]
    assert sorted((r.method, r.weights) for r in new) == [("gridding", ""), ("net", "b")]
    assert benchmark.run(chosen, ("gridding",), {"net": network}, tmp_path, new, told.append, {"net": "b"}) == new


def test_spheres_need_a_volume_with_an_object():
    with pytest.raises(ValueError, match="spheres need"):
        with_spheres(Phantom(torch.ones(8, 8), torch.ones(8, 8)), 0, 1, 4.0, (0.2, 0.5))
