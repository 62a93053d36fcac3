"""Promises of SECURITY.md that no other test holds."""

import re
from pathlib import Path

import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.stages.encoding import encodings
from koosh_gadgets.wire.errors import Malformed
from koosh_gadgets.wire.header import read_header
from koosh_models import private
from tests.fakes.hostile import CANARY, canary_header
from tests.fakes.modes import loose, written
from tests.fakes.runs import run
from tests.fakes.streams import header_xml, point_file, point_scan

ROOT = Path(__file__).parent.parent.parent
LEAST = {"pydicom": (3, 0, 2), "pynetdicom": (3, 0, 4), "defusedxml": (0, 7, 1), "safetensors": (0, 4, 3)}


@pytest.mark.parametrize("name", LEAST)
def test_dependencies_with_known_holes_have_least_versions(name):
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(rf'"{name}(?:\[[^\]]*\])?>=([\d.]+)', text)
    assert found is not None
    assert tuple(int(n) for n in found[1].split(".")) >= LEAST[name]


@pytest.mark.parametrize("value", ["inf", "nan", "-3", "1e400", CANARY])
def test_a_count_in_the_header_that_is_none_is_refused_without_being_repeated(value):
    extra = (
        f"<userParameters><userParameterString><name>expectedReadouts</name><value>{value}</value>"
        "</userParameterString></userParameters>"
    )
    with pytest.raises(ValueError, match="readouts is no number") as seen:
        encodings(read_header(header_xml(extra=extra)))
    assert CANARY not in str(seen.value)


@pytest.mark.parametrize(
    "broken",
    [
        canary_header()[:-30],
        canary_header().replace("ismrmrdHeader", CANARY.replace("^", "")),
        f'<!DOCTYPE x [<!ENTITY e "{CANARY}">]>' + canary_header(),
    ],
    ids=["cut", "root", "entity"],
)
def test_a_broken_header_is_refused_without_being_repeated(broken):
    with pytest.raises(Malformed) as seen:
        read_header(broken.replace('<?xml version="1.0"?>', ""))
    assert "Canary" not in str(seen.value)


def test_a_unit_that_the_header_makes_up_is_refused_without_being_repeated():
    xml = canary_header().replace(f"<name>{CANARY}<", "<name>trajectoryUnit<")
    with pytest.raises(ValueError, match="trajectoryUnit is unknown; known: cycles/voxel") as seen:
        run(point_scan(), xml)
    assert CANARY not in str(seen.value)


@pytest.mark.slow
def test_neither_a_report_nor_a_description_names_the_patient(tmp_path, capsys):
    scan, images, page = (str(tmp_path / name) for name in ("scan.h5", "images.h5", "report.html"))
    point_file(Path(scan), header=canary_header())
    assert main(["info", scan]) == 0
    assert main(["replay", scan, "-o", images, "--method", "gridding"]) == 0
    assert main(["report", images, "--scan", scan, "-o", page]) == 0
    shown = capsys.readouterr()
    text = shown.out + shown.err + Path(page).read_text()
    assert "encoding 0" in text
    assert "Canary" not in text
    assert "4711" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)


@pytest.mark.slow
def test_what_is_written_of_a_scan_can_be_read_by_this_user_alone_whatever_the_umask(tmp_path):
    written(tmp_path / "home")
    assert loose(tmp_path / "home") == []


def test_a_folder_that_exists_keeps_the_mode_its_owner_gave_it(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o750)
    (tmp_path / "shared").chmod(0o750)
    private.folder(tmp_path / "shared")
    private.folder(tmp_path / "shared" / "own")
    assert [oct(p.stat().st_mode & 0o777) for p in (tmp_path / "shared", tmp_path / "shared" / "own")] == [
        "0o750",
        "0o700",
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        private.folder(tmp_path / "file")
