"""Parameters: the same names everywhere, and nothing that a peer names leads outside the folders of the site."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from koosh_gadgets import settings
from koosh_gadgets.config import from_tables, load
from koosh_gadgets.settings import Folders, Settings, build, from_wire
from koosh_gadgets.wire.errors import Malformed
from koosh_gadgets.wire.parameters import from_text

CHAINS = sorted((Path(__file__).parents[2] / "config_xml").glob("*.xml"))


def test_xml_json_and_command_line_take_the_same_names():
    want = Settings(method="cg", coils=4, preview=True)
    xml = from_text(
        '<configuration><property name="method" value="cg"/><property name="coils" value="4"/>'
        '<property name="preview" value="True"/></configuration>'
    )[1]
    json = from_text('{"parameters": {"method": "cg", "coils": 4, "preview": true}}')[1]
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    arguments = parser.parse_args(["--method", "cg", "--coils", "4", "--preview"])
    assert build(xml) == build(json) == settings.from_arguments(arguments) == want


@pytest.mark.parametrize("chain", CHAINS, ids=lambda p: p.name)
def test_the_chains_name_only_parameters_that_exist(chain):
    found = from_text(chain.read_text())[1]
    assert found
    build(found)


def test_there_are_the_five_chains():
    names = {p.stem for p in CHAINS}
    assert names >= {"koosh_3d", "koosh_3d_execute", "koosh_3d_dicom", "koosh_3d_noiseadjust", "koosh_gridding"}


BAD = [
    ({"colour": "red"}, "unknown parameters 'colour'; known: method, weights"),
    ({"method": "magic"}, "wanted one of unrolled"),
    ({"coils": "many"}, "wanted a number"),
    ({"coils": "-1"}, "must not be negative"),
    ({"preview": "perhaps"}, "wanted true or false"),
    ({"time_limit": "nan"}, "must not be negative"),
    ({"matrix": "100000"}, "at most 2048"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        build(values)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\0b", "x" * 65, "..", ".", "", " "])
def test_names_that_are_paths_are_refused(name, tmp_path):
    values = {"trajectory_file": name}
    if name == "":
        assert from_wire(values, Settings(), Folders(trajectory_file=tmp_path)).trajectory_file == ""
        return
    with pytest.raises(ValueError, match="bare name"):
        from_wire(values, Settings(), Folders(trajectory_file=tmp_path))


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.npz").write_text("x")
    (tmp_path / "in" / "link.npz").symlink_to(tmp_path / "out.npz")
    with pytest.raises(ValueError, match="leads outside"):
        from_wire({"trajectory_file": "link.npz"}, Settings(), Folders(trajectory_file=tmp_path / "in"))
    (tmp_path / "in" / "own.npz").write_text("x")
    found = from_wire({"trajectory_file": "own.npz"}, Settings(), Folders(trajectory_file=tmp_path / "in"))
    assert Path(found.trajectory_file) == (tmp_path / "in" / "own.npz").resolve()


def test_a_peer_may_not_take_more_memory_than_the_server_allows():
    with pytest.raises(ValueError, match="above this server's 100 MiB"):
        from_wire({"memory": "200"}, Settings(memory=100), Folders())
    assert from_wire({"memory": "0"}, Settings(memory=100), Folders()).memory == 100


@pytest.mark.parametrize(
    "text", ["{", '{"parameters": 3}', "[1]{", '{"a": {"b": 1}}', "<a><b></a>", "<!DOCTYPE a []><a/>"]
)
def test_broken_parameters_are_malformed(text):
    if text == "[1]{":
        assert from_text(text) == (text, {})
        return
    with pytest.raises(Malformed):
        from_text(text)


def test_a_site_configures_folders_presets_and_limits(tmp_path):
    file = tmp_path / "koosh.toml"
    file.write_text(
        '[settings]\nmethod = "cg"\npreview = true\n[folders]\ntrajectory_file = "traj"\n[presets.lung]\ncoils = 8\n'
        '[spool]\nfolder = "spool"\nkeep_gib = 1\n[server]\nport = 7000\nidle_s = 60\n'
    )
    found = load(file)
    assert found.settings == Settings(method="cg", preview=True)
    assert found.folders.trajectory_file == tmp_path / "traj"
    assert found.service().settings("lung", {}) == dataclasses.replace(found.settings, coils=8)
    assert found.spool is not None
    assert (found.spool.folder, found.spool.keep_bytes) == (tmp_path / "spool", 1 << 30)
    assert (found.port, found.limits.idle_s, found.limits.header_s) == (7000, 60.0, 30.0)


@pytest.mark.parametrize("table", [{"extra": {}}, {"folders": {"x": "y"}}, {"server": {"x": 1}}, {"spool": {"x": 1}}])
def test_unknown_configuration_is_refused_with_what_is_known(table, tmp_path):
    with pytest.raises(ValueError, match="known:"):
        from_tables(table, tmp_path)
