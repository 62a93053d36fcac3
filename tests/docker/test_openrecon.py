"""The OpenRecon label: valid, complete, and what the scanner sends back by it is understood."""

import base64
import json
import re
import subprocess
import sys

import jsonschema
import pytest

from koosh_gadgets.session import Service
from koosh_gadgets.wire.parameters import from_json
from tests.docker.steps import OPENRECON, ROOT

HERE = OPENRECON.parent
KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
SCHEMA = json.loads((HERE / "schema.json").read_text())
CHECK = jsonschema.Draft7Validator(SCHEMA)
TORCH_FAMILY = {"torch", "triton"}


def printed(*words: str) -> str:
    """What the label's program writes."""
    done = subprocess.run([sys.executable, HERE / "label.py", *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def label() -> dict[str, object]:
    """The document, as the scanner gets it out of the image's label."""
    key, _, content = printed("label", "--date", "2026-01-31").partition("=")
    assert key == KEY
    return json.loads(base64.b64decode(content.strip(), validate=True))


def test_the_schema_is_a_schema_and_the_label_follows_it(label):
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert not list(CHECK.iter_errors(label))
    assert label == json.loads(printed("json", "--date", "2026-01-31"))


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("general", "version"), "0.1"),
        (("general", "vendor"), None),
        (("reconstruction", "emitter"), "kspace"),
        (("reconstruction", "content_qualification_type"), "CLINICAL"),
        (("parameters", 0, "id"), "time_limit"),
        (("parameters", 0, "default"), None),
    ],
)
def test_the_schema_refuses_what_a_scanner_would(label, place, wrong):
    broken = json.loads(json.dumps(label))
    inner = broken
    for key in place[:-1]:
        inner = inner[key]
    if wrong is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = wrong
    assert list(CHECK.iter_errors(broken))


def test_it_says_what_the_images_are_not_for(label):
    assert label["reconstruction"]["content_qualification_type"] == "RESEARCH"
    assert "not for diagnosis" in label["general"]["information"]["en"]


def test_the_port_is_the_one_that_the_image_shows(label):
    assert f"EXPOSE {label['reconstruction']['port']}\n" in OPENRECON.read_text()


def test_every_choice_that_the_scanner_offers_is_understood_by_the_server(label):
    service = Service()
    for one in label["parameters"]:
        for value in [one["default"], *(choice["id"] for choice in one.get("values", ()))]:
            name, parameters = from_json(json.dumps({"parameters": {one["id"]: value}}))
            service.settings(name, parameters)


def test_names_follow_from_the_label(label):
    general = label["general"]
    stem = f"OpenRecon_{general['vendor']}_{general['name']['en']}_V{general['version']}"
    names = dict(line.split("=") for line in printed("names").splitlines())
    assert names["package"] == f"{stem}.zip"
    assert (names["archive"], names["document"]) == (f"{stem}.tar", f"{stem}.pdf")
    assert names["image"] == f"openrecon_koosh_koosh:v{general['version']}"


def pins(path: str) -> dict[str, str]:
    """Name and version, as Python 3.11 reads the file."""
    lines = (ROOT / path).read_text().splitlines()
    rows = [re.match(r'([\w.-]+)==([^;\s]+)(?:; python_version ([<>]=?) "3.11")?$', line) for line in lines]
    return {row[1]: row[2] for row in rows if row and row[3] != "<"}


def test_its_constraints_differ_from_ours_in_torch_alone():
    ours, theirs = pins("constraints.txt"), pins("docker/openrecon/constraints.txt")
    assert theirs["torch"] == "2.7.1+cu118"
    assert {name: ours[name] for name in theirs if name not in TORCH_FAMILY} == {
        name: version for name, version in theirs.items() if name not in TORCH_FAMILY
    }
