"""The stages together: what comes out, whatever order, gaps and faults the readouts come with."""

import random

import ismrmrd
import numpy as np
import pytest

from koosh_gadgets.pipeline import in_background
from tests.fakes.hostile import WRONG, copies, disordered, wrong
from tests.fakes.runs import run, volume
from tests.fakes.streams import header_xml, noise_readout, point_scan, readout


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("method", ["gridding", "cg"])
def test_a_point_lands_in_its_voxel(method):
    images, _ = run(point_scan(spokes=400), header_xml(spokes=400), method=method)
    found = volume(images)
    assert found.shape == (16, 16, 16)
    assert np.unravel_index(found.argmax(), found.shape) == (9, 6, 10)


def test_slices_lie_around_the_centre_along_the_slice_direction():
    scan = point_scan()
    for a in scan:
        a.position[:], a.read_dir[:], a.phase_dir[:], a.slice_dir[:] = (1, 2, 3), (0, 1, 0), (0, 0, 1), (1, 0, 0)
    images, _ = run(scan)
    assert [im.image_index for im in images] == list(range(16))
    for k, im in enumerate(images):
        assert list(im.position) == pytest.approx([1 + (k - 8) * 10.0, 2, 3], abs=1e-5)
        assert list(im.field_of_view) == [160.0, 160.0, 10.0]
        assert im.image_type == ismrmrd.IMTYPE_MAGNITUDE


def test_a_volume_image_keeps_the_centre():
    images, _ = run(point_scan(), layout="volume")
    assert len(images) == 1
    assert images[0].data.shape == (1, 16, 16, 16)
    assert list(images[0].field_of_view) == [160.0] * 3


def test_shuffled_and_doubled_readouts_give_the_same_image():
    scan, mixed = disordered()
    want = volume(run(scan, header_xml(spokes=100))[0])
    images, journal = run(mixed, header_xml(spokes=100))
    assert relative(volume(images), want) < 1e-6
    assert any("5 readouts came twice" in n for n in journal.notes)


def test_compressed_shuffled_readouts_give_the_same_image():
    scan = point_scan(spokes=100, coils=6, noise=0.01)
    mixed = list(scan)
    random.Random(1).shuffle(mixed)
    want, got = (volume(run(s, header_xml(spokes=100), coils=3)[0]) for s in (scan, mixed))
    assert relative(got, want) < 1e-6


def test_missing_readouts_are_reported_and_the_image_says_so():
    scan = point_scan(spokes=100)
    images, journal = run(scan[:40] + scan[45:], header_xml(spokes=100))
    assert any("95 of 100 readouts arrived (5 missing)" in n for n in journal.notes)
    assert images[0].meta["koosh_complete"] == "false"
    assert images[0].meta["koosh_readouts"] == "95 of 100"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_readouts_that_are_not_finite_are_dropped_and_reported(bad):
    scan = copies(point_scan(spokes=100))
    scan[7].data[1, 3] = bad
    scan[9].traj[0, 0] = np.nan
    images, journal = run(scan, header_xml(spokes=100))
    assert any("2 readouts with NaN or Inf were dropped" in n for n in journal.notes)
    assert np.isfinite(volume(images)).all()


def test_a_scan_of_nothing_but_nan_is_refused():
    scan = copies(point_scan())
    for a in scan:
        a.data[:] = np.nan
    with pytest.raises(ValueError, match="all 64 imaging readouts contain NaN"):
        run(scan)


def test_navigators_and_waveforms_leave_the_image_alone():
    scan = point_scan()
    navigator = readout(1000, np.full((3, 8), 100, np.complex64))
    navigator.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    wave = ismrmrd.Waveform.from_array(np.zeros((1, 4), np.uint32))
    want, got = (volume(run(s)[0]) for s in (scan, [*scan[:30], navigator, wave, *scan[30:]]))
    assert (got == want).all()


def test_discarded_samples_change_nothing():
    scan = point_scan()
    padded = []
    for number, a in enumerate(scan):
        data = np.pad(a.data, ((0, 0), (3, 2)), constant_values=50)
        trajectory = np.pad(a.traj, ((3, 2), (0, 0)))
        padded.append(readout(number, data, trajectory, discard_pre=3, discard_post=2))
    assert (volume(run(padded)[0]) == volume(run(scan)[0])).all()


def test_repetitions_become_volumes_of_their_own():
    first, second = point_scan(), copies(point_scan(voxel=(4, 8, 8)))
    for a in second:
        a.idx.repetition = 1
        a.scan_counter = a.scan_counter + 64
    images, _ = run([*first, *second])
    assert [im.repetition for im in images] == [0] * 16 + [1] * 16
    peaks = [np.unravel_index(v.argmax(), v.shape) for v in (volume(images[:16]), volume(images[16:]))]
    assert peaks == [(9, 6, 10), (4, 8, 8)]
    assert len({im.image_index for im in images}) == 32


def test_averages_are_added_up():
    noisy = [point_scan(noise=0.02, spokes=80), copies(point_scan(noise=0.0, spokes=80))]
    for a in noisy[1]:
        a.idx.average = 1
        a.scan_counter = a.scan_counter + 80
    images, _journal = run(noisy[0] + noisy[1], header_xml(spokes=80))
    assert len(images) == 16
    assert images[0].meta["koosh_complete"] == "true"


@pytest.mark.slow
def test_more_spokes_than_an_index_can_number_are_all_used():
    scan = point_scan(n=2, spokes=70_000, coils=1, voxel=(1, 1, 1))
    images, _journal = run(scan, header_xml(n=2, spokes=65_536), trajectory_unit="cycles/voxel")
    assert images[0].meta["koosh_readouts"] == "70000"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_readout_is_named(name):
    items, message, settings = wrong(name)
    with pytest.raises(ValueError, match=message):
        run(items, **settings)


def test_a_matrix_that_no_memory_holds_is_refused_before_it_is_allocated():
    with pytest.raises(ValueError, match="the matrix 4096x4096x4096 needs at least 3145728 MiB"):
        run(point_scan(), header_xml(n=4096), trajectory_unit="cycles/voxel")


def test_a_header_that_describes_an_endless_trajectory_costs_nothing():
    extra = (
        "<trajectoryDescription><identifier>radial3d</identifier><userParameterLong><name>readouts</name>"
        "<value>2000000000</value></userParameterLong><userParameterLong><name>samples</name><value>16</value>"
        "</userParameterLong></trajectoryDescription>"
    )
    xml = header_xml().replace("<trajectory>radial</trajectory>", f"<trajectory>radial</trajectory>{extra}")
    assert len(run(point_scan(), xml)[0]) == 16


def test_a_scan_above_the_memory_budget_is_refused_by_name():
    with pytest.raises(ValueError, match="memory budget of 1 MiB"):
        run(point_scan(spokes=3000), header_xml(spokes=3000), memory=1)


def test_a_scan_that_promises_more_than_memory_holds_is_refused_at_its_first_readout_with_what_fits():
    extra = "<userParameters><userParameterLong><name>expectedReadouts</name><value>3000</value></userParameterLong>"
    xml = header_xml(extra=f"{extra}</userParameters>")
    with pytest.raises(ValueError, match=r"promises 3000 readouts of 3 coils .* budget of 1 MiB, which holds 1144"):
        run(point_scan()[:1], xml, memory=1)
    with pytest.raises(ValueError, match="at most 27"):
        run(point_scan()[:1], header_xml(n=64), memory=1)


def test_white_noise_has_unit_variance_after_whitening():
    from koosh_gadgets.stages.journal import Journal
    from koosh_gadgets.stages.whiten import whiten
    from koosh_gadgets.wire.readouts import blocks

    mix = np.array([[1, 0.5, 0], [0, 2, 0.3j], [0, 0, 0.1]])

    def noisy(number, noise=True):
        a = noise_readout(number, samples=512, scale=1.0)
        a.data[:] = mix @ a.data
        if not noise:
            a.clear_all_flags()
        return a

    items = [*(noisy(i) for i in range(20)), *(noisy(i, False) for i in range(50, 70))]
    out = np.concatenate([b.data for b in whiten(blocks(items), Journal())])
    cov = np.einsum("rcs,rds->cd", out, out.conj()) / (out.shape[0] * out.shape[2])
    assert np.abs(cov - np.eye(3)).max() < 0.05


def test_previews_come_before_the_volume_and_in_a_series_of_their_own():
    scan = point_scan(n=16, spokes=600)
    images, _ = run(scan, header_xml(spokes=600), preview=True, layout="volume")
    assert [im.image_series_index for im in images][-1] == 1
    assert {im.image_series_index for im in images[:-1]} == {90}
    assert len(images) > 1


def test_a_background_reader_hands_on_items_and_errors():
    def broken():
        yield 1
        raise ValueError("seen")

    got = []
    with pytest.raises(ValueError, match="seen"):
        got.extend(in_background(broken(), 0))
    assert list(in_background(iter(range(5)), 1)) == list(range(5))


def test_nothing_of_the_patient_is_logged(caplog):
    subject = "<subjectInformation><patientName>Doe^Jane</patientName><patientID>4711</patientID></subjectInformation>"
    caplog.set_level("DEBUG")
    run(point_scan(), header_xml().replace("<measurementInformation>", subject + "<measurementInformation>"))
    assert caplog.text
    assert "Jane" not in caplog.text
    assert "4711" not in caplog.text
