"""What an extra brings is asked for by name where it is absent."""

import importlib.util
import sys

import pytest

from koosh_gadgets.cli import main
from koosh_gadgets.commands import doctor
from koosh_models.physics import engines

ABSENT = ("pydicom", "pynetdicom", "torchkbnufft", "cufinufft", "tensorboard")


@pytest.fixture
def base_install(monkeypatch):
    """The packages of all extras can't be found, and nothing made of them is imported yet."""
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return None if name in ABSENT else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    for name in list(sys.modules):
        if name.startswith("koosh_gadgets.dicom"):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("base_install")
def test_dicom_names_its_extra():
    with pytest.raises(ImportError, match=r"pydicom and pynetdicom not installed: pip install 'koosh\[dicom\]'"):
        importlib.import_module("koosh_gadgets.dicom.write")


@pytest.mark.usefixtures("base_install")
def test_the_command_says_so_in_one_line(tmp_path, caplog):
    assert main(["dicom", "check", str(tmp_path)]) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "pydicom and pynetdicom not installed: pip install 'koosh[dicom]'"
    ]


@pytest.mark.usefixtures("base_install")
def test_transforms_for_the_gpu_name_their_extra():
    assert doctor.backend("cufinufft").mend == "optional: pip install 'koosh[gpu]'"
    with pytest.raises(ImportError, match=r"pip install 'koosh\[gpu\]'"):
        engines.build("torchkbnufft", None, (8, 8, 8), 1e-3)


@pytest.mark.usefixtures("base_install")
def test_a_pacs_that_can_not_be_asked_is_a_fault_that_names_the_extra():
    found = doctor.pacs("127.0.0.1:104", "ANY-SCP", "KOOSH")
    assert found.state == "fault"
    assert "koosh[dicom]" in found.mend
