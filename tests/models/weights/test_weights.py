"""Weights travel whole, with a card that says which scans they are for, or are refused with the reason."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from koosh_models import weights
from koosh_models.networks.unrolled import Dims, build
from koosh_models.physics.mri import non_cartesian
from koosh_models.reconstruction import calibrate, reconstruct, with_weights
from koosh_models.scan import Scan
from koosh_models.simulation.phantoms import phantom
from koosh_models.simulation.simulate import simulate
from koosh_models.simulation.trajectories import FAMILIES, FAMILIES_2D, trajectory
from koosh_models.weights.describe import describe
from koosh_models.weights.store import KEY

DIMS = Dims(stages=2, features=4, layers=3, cg_steps=2, start_steps=2)
RANGE = weights.Range(acceleration=(4, 16), matrix=(12, 64), voxel_mm=(0.5, 20), coils=(1, 16))
CARD = weights.Card(name="small", dims=DIMS, trained=RANGE, accepts=RANGE, created="2026-01-01")


def network(seed: int = 0):
    torch.manual_seed(seed)
    return build(DIMS)


def scan_of(family: str = "radial3d", matrix: tuple[int, ...] = (16, 16, 16), acceleration: float = 8) -> Scan:
    path = trajectory(family, matrix, acceleration, n_frames=4)
    name = "cine" if path.n_frames else "head"
    image = phantom(name, matrix, n_frames=4).image
    return simulate(image, path, n_coils=3).scan


def test_weights_come_back_to_the_bit_with_their_card(tmp_path):
    before = network()
    written = weights.save(tmp_path / "small.safetensors", before, CARD)
    after, card = weights.load(tmp_path / "small.safetensors")
    assert card == written
    assert card.parameters == sum(p.numel() for p in before.state_dict().values())
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    assert json.loads((tmp_path / "small.json").read_text())["sha256"] == card.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.json", "small.safetensors"]


def test_kernels_of_a_bf16_network_take_half_the_room_and_its_images_stay_the_same_to_the_bit(tmp_path):
    torch.manual_seed(0)
    dims = Dims(**{**DIMS.__dict__, "precision": "bf16", "regularizer": "unet", "layers": 1, "features": 8})
    before = build(dims).eval()
    whole = sum(4 * t.numel() for t in before.state_dict().values())
    weights.save(tmp_path / "half.safetensors", before, CARD.model_copy(update={"name": "half", "dims": dims}))
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * whole + 8192
    after, _ = weights.load(tmp_path / "half.safetensors")
    scan = with_weights(scan_of())
    problem = non_cartesian(scan, calibrate(scan).maps.coils(0, scan.n_coils))
    with torch.no_grad():
        assert torch.equal(before(problem), after(problem))


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "small.safetensors"
    weights.save(path, network(), CARD)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for at in (3, 9, 8 + header // 2, 8 + header + 5, len(whole) - 2):
        broken = bytearray(whole)
        broken[at] ^= 0x40
        path.write_bytes(bytes(broken))
        with pytest.raises(ValueError, match=r"small\.safetensors"):
            weights.load(path)


def test_a_card_that_was_changed_inside_the_file_is_noticed(tmp_path):
    path = tmp_path / "small.safetensors"
    card = weights.save(path, network(), CARD)
    (tmp_path / "small.json").write_text(card.model_copy(update={"anatomy": "knee"}).model_dump_json())
    with pytest.raises(ValueError, match=r"card inside small\.safetensors is not that of small\.json"):
        weights.load(path)
    (tmp_path / "small.json").write_text("{")
    with pytest.raises(ValueError, match="card beside"):
        weights.load(path)
    (tmp_path / "small.json").unlink()
    assert weights.load(path)[1] == card


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    weights.save(path, network(), CARD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        weights.load(path)


def test_a_pickle_is_refused_without_being_run(tmp_path):
    path = tmp_path / "evil.safetensors"
    torch.save({"a": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="no safetensors file"):
        weights.load(path)


def test_weights_with_nan_are_neither_written_nor_read(tmp_path):
    bad = network()
    with torch.no_grad():
        next(bad.parameters())[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        weights.save(tmp_path / "bad.safetensors", bad, CARD)
    assert list(tmp_path.iterdir()) == []
    save_file(dict(bad.state_dict()), tmp_path / "bad.safetensors", metadata={KEY: CARD.model_dump_json()})
    with pytest.raises(ValueError, match="NaN"):
        weights.load(tmp_path / "bad.safetensors")


def test_tensors_that_the_card_does_not_know_are_named(tmp_path):
    save_file({"surprise": torch.ones(3)}, tmp_path / "odd.safetensors", metadata={KEY: CARD.model_dump_json()})
    with pytest.raises(ValueError, match="disagree about tensors"):
        weights.load(tmp_path / "odd.safetensors")


def test_a_card_that_asks_for_a_giant_network_is_refused_before_it_is_built(tmp_path):
    card = json.loads(CARD.model_dump_json())
    card["dims"]["features"] = 10**9
    save_file({"a": torch.ones(3)}, tmp_path / "giant.safetensors", metadata={KEY: json.dumps(card)})
    with pytest.raises(ValueError, match="features"):
        weights.load(tmp_path / "giant.safetensors")


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    weights.save(tmp_path / "mine.safetensors", network(), CARD)
    monkeypatch.setenv("KOOSH_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="mine"):
        weights.load("yours")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_tells_its_family_and_acceleration(family):
    matrix = (40, 40) if family in FAMILIES_2D else (20, 20, 20)
    names = {
        "radial3d": "radial", "ute3d": "radial", "radial2d": "radial", "cine_radial": "radial",
        "stack_of_stars": "stack_of_stars", "stack_of_spirals": "stack_of_curves", "cartesian3d": "cartesian",
        "cine_cartesian": "cartesian", "cones": "curved", "spiral3d": "curved", "spiral2d": "curved",
    }  # fmt: skip
    seen = describe(scan_of(family, matrix, 4))
    assert seen.family == names[family]
    if "curve" not in seen.family:  # those are nominal in the simulation: by interleaf, or by the longest readout
        assert seen.acceleration == pytest.approx(4, rel=0.15)


def test_radial_acceleration_is_exact_in_cubes_and_slabs():
    assert describe(scan_of("radial3d", (32, 32, 32), 12)).acceleration == pytest.approx(12, rel=0.01)
    assert describe(scan_of("stack_of_stars", (8, 32, 32), 5)).acceleration == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (scan_of(), None),
        (scan_of(acceleration=100), "acceleration"),
        (scan_of(matrix=(16, 16, 8)), "matrix"),
        (scan_of("cones"), "trajectory is curved"),
        (scan_of("radial2d", (16, 16)), "2 axes"),
        (scan_of("cine_radial", (16, 16), 2), "a series"),
    ],
)
def test_the_card_says_which_scans_are_out_of_range_and_why(scan, reason):
    why = CARD.refuses(scan)
    assert why is None if reason is None else reason in why


@pytest.mark.parametrize(("frames", "reason"), [((4, 8), None), ((8, 20), "number of frames is 4")])
def test_a_card_for_series_says_how_many_frames_it_takes(frames, reason):
    reach = weights.Range(axes=2, families=("cartesian",), dynamic=True, frames=frames)
    why = reach.refuses(scan_of("cine_cartesian", (24, 24), 2))
    assert why is None if reason is None else reason in why


def test_reconstruct_gives_a_series_to_a_network_as_a_whole(tmp_path):
    dims = Dims(ndim=3, stages=1, regularizer="spacetime", layers=2, features=4, start="llr", start_steps=3)
    reach = weights.Range(axes=2, families=("cartesian",), dynamic=True)
    card = weights.Card(name="moving", dims=dims, trained=reach, accepts=reach)
    weights.save(tmp_path / "moving.safetensors", build(dims), card)
    done = reconstruct(scan_of("cine_cartesian", (24, 24), 2), "unrolled", weights=str(tmp_path / "moving.safetensors"))
    assert done.volume.shape == (4, 24, 24)
    assert done.weights.startswith("moving ")


def test_the_newest_fitting_network_is_chosen():
    old, new = CARD, CARD.model_copy(update={"name": "newer", "created": "2026-02-01"})
    other = CARD.model_copy(update={"name": "other", "accepts": RANGE.model_copy(update={"families": ("cartesian",)})})
    choice = weights.choose(scan_of(), [old, new, other])
    assert choice.name == "newer"
    assert choice.reasons == ("other: the trajectory is radial, the network knows cartesian",)
    assert weights.choose(scan_of(), [other]).name is None


def test_reconstruct_runs_a_network_by_path_and_names_it(tmp_path):
    path, scan = tmp_path / "small.safetensors", scan_of()
    card = weights.save(path, network(), CARD)
    done = reconstruct(scan, "unrolled", weights=str(path))
    assert done.volume.shape == (16, 16, 16)
    assert done.weights == f"small {card.sha256}"
    tiled = reconstruct(scan, "unrolled", done.maps, str(path), memory=300_000)
    assert torch.allclose(tiled.volume, done.volume, atol=1e-5 * float(done.volume.abs().max()))


def test_reconstruct_refuses_a_scan_out_of_range(tmp_path):
    weights.save(tmp_path / "small.safetensors", network(), CARD)
    with pytest.raises(ValueError, match="does not take this scan: the acceleration"):
        reconstruct(scan_of(acceleration=100), "unrolled", weights=str(tmp_path / "small.safetensors"))


def test_what_is_no_weights_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        weights.load(tmp_path / "none.safetensors")
    save_file({"a": torch.ones(3)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="no card inside"):
        weights.load(tmp_path / "bare.safetensors")
    monkeypatch.setattr("koosh_models.weights.store.LARGEST", 10)
    with pytest.raises(ValueError, match="are refused"):
        weights.load(tmp_path / "bare.safetensors")


def test_a_card_of_another_network_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="the card says"):
        weights.save(tmp_path / "a.safetensors", build(Dims(stages=1, features=4, layers=2)), CARD)


def test_tensors_of_another_shape_or_type_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {name: tensor.half() for name, tensor in network().state_dict().items()}
    save_file(state, path, metadata={KEY: CARD.model_dump_json()})
    with pytest.raises(ValueError, match=r"torch\.float16"):
        weights.load(path)


@pytest.mark.parametrize("interval", [(5, 1), (-1, 2), (0, float("inf"))])
def test_an_interval_that_holds_nothing_is_refused(interval):
    with pytest.raises(ValueError, match="no interval"):
        weights.Range(coils=interval)


def test_a_card_tells_pet_scans_apart():
    from koosh_models.scan import Geometry

    grid = Geometry((16, 16, 16), (32.0, 32.0, 32.0))
    pet = RANGE.model_copy(update={"families": ("pet",)})
    assert pet.refuses_pet(grid) is None
    assert "the scan is PET over 3 axes" in RANGE.refuses_pet(grid)
    assert "voxel size" in pet.refuses_pet(Geometry((16, 16, 16), (3200.0,) * 3))


def test_readouts_of_two_samples_are_no_lines():
    from koosh_models.weights.describe import family_of

    assert family_of(torch.zeros(3, 5, 2)) == "curved"
