"""What memory there is, what will be needed, and what is done where it does not suffice."""

import dataclasses
import resource

import pytest

from koosh_gadgets.stages import budget
from koosh_gadgets.stages.budget import SMALLEST, WHOLE, Size
from koosh_models import memory
from koosh_models.networks import Dims, tiles
from koosh_models.networks.unrolled import regularizer as regularizer_of
from koosh_models.reconstruction import HELD, MEMORY
from tests.fakes.runs import run
from tests.fakes.streams import header_xml, point_scan

GIB = 1 << 30
SIZE = Size(voxels=128**3, inside=100**3, coils=16, samples=2_000_000)


def machine(root, free_kib=8 << 20, line="0::/a/b", **files):
    """A root directory with /proc and cgroups in it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free_kib} kB\n")
    (root / "proc/self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("--", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups_the_kernel_says_what_is_free(tmp_path):
    assert memory.available(machine(tmp_path)) == 8 * GIB


def test_a_cgroup_of_version_2_limits_it_and_so_does_the_one_above(tmp_path):
    files = {"a__memory--max": f"{3 * GIB}", "a__memory--current": f"{GIB}", "a__b__memory--max": "max",
             "a__b__memory--current": "5", "a__memory--stat": f"anon 3\ninactive_file {GIB // 2}\n"}  # fmt: skip
    assert memory.available(machine(tmp_path, **files)) == 2 * GIB + GIB // 2  # what is cached can be had


def test_a_cgroup_of_version_1_limits_it(tmp_path):
    files = {"memory__x__memory--limit_in_bytes": f"{2 * GIB}", "memory__x__memory--usage_in_bytes": f"{GIB}"}
    assert memory.available(machine(tmp_path, line="4:cpu,memory:/x", **files)) == GIB


def test_a_container_that_does_not_see_its_own_path_finds_the_limit_at_the_mount(tmp_path):
    files = {"memory--max": f"{2 * GIB}", "memory--current": "0"}
    assert memory.available(machine(tmp_path, line="0::/kubepods/pod7", **files)) == 2 * GIB


def test_a_cgroup_that_is_over_its_limit_leaves_nothing(tmp_path):
    files = {"memory--max": "1000", "memory--current": "2000"}
    assert memory.available(machine(tmp_path, **files)) == 0


def test_a_system_without_proc_is_taken_to_have_plenty(tmp_path):
    assert memory.available(tmp_path) is None
    assert memory.free_mib(tmp_path) == memory.PLENTY >> 20


def test_a_limit_of_the_process_counts(tmp_path, monkeypatch):
    root = machine(tmp_path)
    (root / "proc/self/status").write_text("VmSize: 1024 kB\nVmData: 512 kB\n")
    limits = {resource.RLIMIT_AS: 5 << 20, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], limits[which]))
    assert memory.available(root) == 4 << 20


def test_the_cap_leaves_what_is_held_and_a_share_of_what_is_free():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        held = memory.table(memory.Path("/proc/self/status"))["VmData"] << 10
        cap = memory.confine(0.5)
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == cap
        assert held < cap < held + (memory.available() or 0) * 2 + GIB
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_peaks_start_anew():
    block = bytearray(64 << 20)
    high = memory.peak()
    del block
    memory.forget_peak()
    assert memory.resident() <= memory.peak() <= high


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("FINUFFT general malloc failure"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("the matrix is singular"), False),
        (ValueError("memory is -1"), False),
    ],
)
def test_want_of_memory_is_known_by_its_words(error, wanted):
    assert memory.ran_out(error) is wanted


def test_less_memory_means_fewer_coils_at_a_time_then_a_smaller_kernel_then_nothing():
    peaks = [budget.peak(SIZE, "l1", cut) for cut in budget.CUTS]
    assert peaks == sorted(peaks, reverse=True)
    assert budget.cut_for(SIZE, "l1", 0) == budget.cut_for(SIZE, "l1", peaks[0]) == WHOLE
    least = peaks.index(peaks[-1])
    assert budget.cut_for(SIZE, "l1", peaks[-1]) == budget.CUTS[least]
    assert budget.cut_for(SIZE, "l1", peaks[-1] - 1) is None


def test_a_network_of_160_voxels_a_side_is_foreseen_to_fit_into_a_gibibyte_with_tiles_of_half_its_side():
    size = Size(voxels=160**3, inside=160**3, coils=8, samples=3351 * 320)
    assert budget.cut_for(size, "unrolled", GIB) == WHOLE
    left = GIB - budget.needs(size, "unrolled")["solve unrolled"] + budget.SMALLEST_TILE
    regularizer = regularizer_of(Dims(regularizer="unet", features=16, layers=2))
    assert tiles.side_for((160,) * 3, regularizer, min(left, MEMORY["cpu"]), HELD["bf16"]) >= 80


@pytest.mark.parametrize("method", ["gridding", "cg", "l1", "unrolled"])
def test_more_coils_samples_or_voxels_never_take_less(method):
    small = budget.peak(SIZE, method)
    for field in ("voxels", "inside", "coils", "samples"):
        more = dataclasses.replace(SIZE, **{field: 2 * getattr(SIZE, field)})
        assert budget.peak(more, method) >= small


def test_a_tight_budget_reconstructs_one_coil_at_a_time_and_says_so():
    items, header = point_scan(spokes=200), header_xml(spokes=200)
    whole = run(items, header, method="cg", memory=1000)[0][0]
    size = Size(16**3, 16**3, 3, 200 * 16)
    least = -(-budget.peak(size, "cg", SMALLEST) >> 20)
    tight = run(items, header, method="cg", memory=least)[0][0]
    assert "coil groups of 4" in whole.meta["koosh_plan"]
    assert tight.meta["koosh_method"] == "cg"


def test_memory_that_runs_out_for_good_is_a_memory_error_with_every_attempt(monkeypatch):
    from koosh_gadgets.stages import reconstruct as stage

    def none(*_):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(stage, "solved", none)
    monkeypatch.setattr(stage, "gridded", none)
    with pytest.raises(MemoryError, match=r"l1: std::bad_alloc; cg: .*gridding: "):
        run(point_scan(spokes=200), header_xml(spokes=200), method="l1")


def test_a_problem_that_does_not_fit_is_set_up_again_one_coil_at_a_time(monkeypatch):
    from koosh_gadgets.stages import reconstruct as stage

    real, cuts = stage.problem_of, []

    def problem_of(scan, maps, box, prepared, cut):
        cuts.append(cut)
        if len(cuts) == 1:
            raise RuntimeError("can't allocate memory")
        return real(scan, maps, box, prepared, cut)

    monkeypatch.setattr(stage, "problem_of", problem_of)
    (image,) = run(point_scan(spokes=200), header_xml(spokes=200), method="cg", layout="volume")[0]
    assert cuts == [WHOLE, SMALLEST]
    assert image.meta["koosh_method"] == "cg"
    assert "one coil at a time" in image.meta["koosh_notes"]
