"""Nothing heavy is imported before it is needed: modules are counted here, seconds by `python -m benchmarks.start`."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "ismrmrd",
    "xsdata",
    "pydicom",
    "pynetdicom",
    "pydantic",
    "rich",
    "finufft",
    "ducc0",
}
WIRE = HEAVY - {"numpy", "h5py", "ismrmrd", "xsdata"}
AFTER = "\nimport json, sys; json.dump(sorted({name.partition('.')[0] for name in sys.modules}), sys.stderr)"


def imported(code: str) -> set[str]:
    """Top-level modules that a new interpreter holds after `code`."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'gadgets'}:{ROOT / 'models'}"}
    done = subprocess.run([sys.executable, "-c", code + AFTER], capture_output=True, text=True, check=True, env=env)
    return set(json.loads(done.stderr))


def test_both_packages_import_nothing_heavy():
    assert not imported("import koosh_gadgets, koosh_models") & HEAVY


def test_the_parsers_of_all_commands_import_nothing_heavy():
    assert not imported("import koosh_gadgets.cli as cli; cli.parser().format_help()") & HEAVY


def test_gadgetrons_target_opens_the_wire_without_torch_or_dicom():
    assert not imported("import koosh_gadgets.entry") & WIRE


def test_a_scan_is_described_without_any_transform_library():
    assert not imported("import koosh_models.scan") & {"finufft", "ducc0", "scipy", "ismrmrd", "pydantic"}
