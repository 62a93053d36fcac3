"""Series that show where an image is doubtful: what they hold, when they come, and that no image depends on them."""

from dataclasses import replace

import ismrmrd
import numpy as np
import pydicom
import pytest

from koosh_gadgets.dicom.check import check
from koosh_gadgets.settings import Settings
from koosh_gadgets.stages import budget, trust
from koosh_gadgets.stages.budget import WHOLE, Size
from koosh_gadgets.stages.image import rescaled
from koosh_gadgets.stages.journal import Journal
from koosh_gadgets.stages.reconstruct import calibrated
from koosh_models import calibrate, phantom, simulate, trajectory, with_weights
from tests.fakes.runs import run
from tests.fakes.site import exchange, running
from tests.fakes.streams import header_xml, point_scan, scan_stream

SPOKES = 200
HEADER = header_xml(spokes=SPOKES)


def images(items=None, **settings):
    settings = {"method": "cg", "layout": "volume", **settings}
    return run(items or point_scan(spokes=SPOKES, noise=0.001), HEADER, **settings)


def numbers(found):
    return [im.image_series_index for im in found]


@pytest.fixture(scope="module")
def both():
    return images(trust="both")[0]


def test_the_image_goes_out_first_and_is_the_same_to_the_bit(both):
    alone, found = images()[0], both
    assert numbers(found) == [1, 40, 60]
    assert found[0].data.tobytes() == alone[0].data.tobytes()
    assert found[0].meta["koosh_trust"] == "residual: series 40; disagreement: series 60"
    assert "koosh_trust" not in alone[0].meta


@pytest.mark.parametrize(("kind", "place"), [("residual", 1), ("disagreement", 2)])
def test_a_map_says_what_it_shows_on_the_scale_and_in_the_place_of_its_image(both, kind, place):
    image, shown = both[0], both[place]
    assert shown.image_series_index == trust.SERIES[kind]
    assert shown.meta["koosh_map"] == kind
    assert shown.meta["SeriesDescription"] == f"koosh cg {kind}"
    assert shown.meta["ImageComments"].startswith(f"Research output, not for diagnosis; {trust.SHOWS[kind]}")
    assert shown.meta["RescaleSlope"] == image.meta["RescaleSlope"]
    assert (float(shown.meta["WindowCenter"]), float(shown.meta["WindowWidth"])) == (819, 1638)
    assert list(shown.position) == list(image.position)
    assert list(shown.field_of_view) == list(image.field_of_view)
    assert shown.data.shape == image.data.shape


def test_a_scan_without_noise_is_explained_by_its_image_and_a_spike_in_one_readout_is_not():
    clean = [int(im.data.max()) for im in images(point_scan(spokes=SPOKES), trust="residual")[0]]
    scan = point_scan(spokes=SPOKES)
    scan[7].data[:, 3] += 1.0
    spiked = [int(im.data.max()) for im in images(scan, trust="residual")[0]]
    assert clean[1] < 0.02 * clean[0]
    assert spiked[1] > 5 * clean[1]


def test_disagreement_grows_with_the_noise(both):
    noisy = images(point_scan(spokes=SPOKES, noise=0.1), trust="disagreement")[0][1]
    assert np.median(noisy.data) > 3 * np.median(both[2].data)


@pytest.mark.slow
def test_no_image_of_a_scan_waits_for_a_disagreement_map():
    first, second = point_scan(spokes=SPOKES, noise=0.001), point_scan(spokes=SPOKES, noise=0.001, voxel=(4, 8, 8))
    for a in second:
        a.idx.repetition = 1
        a.scan_counter = a.scan_counter + SPOKES
    found, _ = images([*first, *second], trust="both")
    assert numbers(found) == [1, 40, 1, 40, 60, 60]
    assert [im.repetition for im in found] == [0, 0, 1, 1, 0, 1]


def test_what_fails_in_a_map_costs_the_map_and_is_noted(monkeypatch):
    def broken(*_):
        raise RuntimeError("not enough memory: you tried to allocate too much")

    monkeypatch.setattr(trust, "disagreeing", broken)
    found, journal = images(trust="both")
    assert numbers(found) == [1, 40]
    assert "no disagreement map: not enough memory: you tried to allocate too much" in journal.notes


def test_a_map_that_does_not_fit_into_memory_is_left_out_and_the_image_says_why():
    size = Size(voxels=16**3, inside=16**3, coils=3, samples=16 * SPOKES)
    whole, needed = budget.peak(size, "cg"), budget.doubt(size, "disagreement", "cg", budget.SMALLEST)
    assert whole < needed
    allowed = -(-max(whole, budget.doubt(size, "residual", "cg")) >> 20)
    found, journal = images(trust="both", memory=allowed)
    wanted = [1, 40, 60] if needed <= allowed << 20 else [1, 40]
    assert numbers(found) == wanted
    assert ("MiB allowed" in found[0].meta["koosh_trust"]) == (len(wanted) == 2)
    assert any(note.startswith("no disagreement map: ") for note in journal.notes) == (len(wanted) == 2)


def test_a_time_limit_holds_for_the_maps_as_well():
    body = phantom("head", (16, 16, 16))
    made = simulate(body.image, trajectory("radial3d", (16,) * 3, 2.0), mask=body.mask, n_coils=2)
    scan, journal, settings = with_weights(made.scan), Journal(), Settings(method="cg", time_limit=1.0)
    ready = calibrated(scan, calibrate(scan), settings, journal)
    basis = trust.Basis(ready, made.truth, "cg")
    assert trust.refusal("disagreement", basis, settings, journal, 0) == ""
    journal.after["solve cg"] = 2.0
    assert "beyond the time limit of 1 s" in trust.refusal("disagreement", basis, settings, journal, 0)
    assert trust.refusal("residual", basis, settings, journal, 0) == ""
    crowded = replace(settings, memory=64, time_limit=0.0)
    assert "wait for theirs already" in trust.refusal("disagreement", basis, crowded, journal, 16 << 20)


def test_a_method_without_normal_equations_has_no_maps_and_says_so():
    found, _ = images(method="gridding", trust="both")
    assert numbers(found) == [1]
    assert "gridding sets up no normal equations" in found[0].meta["koosh_trust"]


def test_a_gadget_that_scales_complex_images_keeps_a_map_on_the_scale_of_its_image():
    found, _ = images(trust="residual", complex=True)
    raw = {im.image_series_index: im for im in found if im.image_type == ismrmrd.IMTYPE_COMPLEX}
    assert sorted(raw) == [201, 240]
    (image, *_), (shown,) = (list(rescaled(raw[n], ("magnitude", "phase"))) for n in (201, 240))
    assert float(shown.meta["RescaleSlope"]) == pytest.approx(float(image.meta["RescaleSlope"]), rel=1e-6)
    assert shown.meta["WindowWidth"] == "1638"
    assert shown.image_type == ismrmrd.IMTYPE_MAGNITUDE  # a map has no phase


@pytest.mark.slow
def test_maps_are_evened_with_their_image(both):
    plain, (even, _) = both, images(trust="both", even=True)
    assert numbers(even) == [1, 40, 60]
    true = [im.data.astype(float) * float(im.meta["RescaleSlope"]) for im in (*plain, *even)]
    at = np.unravel_index(true[0].argmax(), true[0].shape)
    ratio = true[3][at] / true[0][at]
    assert true[5][at] / true[2][at] == pytest.approx(ratio, rel=0.05)


@pytest.mark.slow
def test_previews_and_phase_images_have_no_maps():
    found, _ = images(trust="residual", preview=True, phase=True)
    assert sorted(set(numbers(found)) - {90}) == [1, 40, 101]


def test_the_budget_foresees_more_for_parts_than_for_the_image_alone():
    size = Size(voxels=96**3, inside=80**3, coils=8, samples=231_552)
    for method in ("cg", "l1", "unrolled"):
        stages = budget.needs(size, method, WHOLE)
        assert budget.doubt(size, "disagreement", method) > stages[f"solve {method}"]
        assert budget.doubt(size, "residual", method) < budget.doubt(size, "disagreement", method)


def test_dicom_of_the_maps_is_valid_and_in_series_of_their_own(tmp_path):
    found, _ = images(trust="both", layout="slices", dicom=str(tmp_path / "d"))
    judged = check(tmp_path / "d")
    assert judged.faults == []
    assert sorted(stack.files for stack in judged.series.values()) == [16, 16, 16]
    kinds = {}
    for path in (tmp_path / "d").glob("*.dcm"):
        one = pydicom.dcmread(path)
        kinds[one.SeriesDescription] = list(one.ImageType)
        assert "NOT FOR DIAGNOSTIC USE" in one.ImageComments
    assert kinds["koosh cg"] == ["DERIVED", "PRIMARY", "OTHER"]
    assert kinds["koosh cg residual"] == ["DERIVED", "SECONDARY", "OTHER", "RESIDUAL"]
    assert kinds["koosh cg disagreement"] == ["DERIVED", "SECONDARY", "OTHER", "DISAGREEMENT"]
    assert len(found) == 48


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["mrd", "gadgetron"])
def test_both_series_come_over_a_real_socket(tmp_path, dialect):
    xml = '<configuration><property name="method" value="cg"/><property name="trust" value="both"/></configuration>'
    text = '{"parameters": {"config": "koosh_cg", "trust": "both"}}'
    scan = point_scan(spokes=SPOKES, noise=0.001)
    with running(tmp_path) as server:
        answer = exchange(server.port, scan_stream(scan, HEADER, config=xml if dialect == "gadgetron" else text))
    assert (answer.errors, answer.texts, answer.closed) == ([], [], True)
    assert numbers(answer.images) == [1] * 16 + [40] * 16 + [60] * 16
    want, _ = images(scan, trust="both", layout="slices")
    same = [im.data.astype(np.int16).tobytes() for im in answer.images]
    assert same == [im.data.astype(np.int16).tobytes() for im in want]
    assert all(im.image_type == ismrmrd.IMTYPE_MAGNITUDE for im in answer.images)
