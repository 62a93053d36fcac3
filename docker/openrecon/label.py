"""The OpenRecon label of koosh, and the names that OpenRecon expects: `python docker/openrecon/label.py -h`.

The label is a JSON document in base64 that the scanner reads from the image. Its parameters are those of
`koosh_gadgets.settings.Settings`, with their help and defaults; the scanner shows them and sends them back by name.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import datetime
import json
import re
import sys
from pathlib import Path

import jsonschema

from koosh_gadgets.session import PRESETS
from koosh_gadgets.settings import Settings

KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
HERE = Path(__file__).parent
SCHEMA = HERE / "schema.json"
VENDOR, NAME = "koosh", "koosh"
NOTICE = "Research software: its images are not for diagnosis."
OFFERED = ("method", "matrix", "coils", "series", "preview", "baseline", "trust", "phase", "complex")
LIMITS = {"matrix": 1024, "coils": 128}


def text(words: str) -> dict[str, str]:
    """A text in the one language we write."""
    return {"en": words}


def parameter(field: dataclasses.Field[object]) -> dict[str, object]:
    """One setting as the scanner's user interface shows it."""
    found: dict[str, object] = {
        "id": field.name,
        "label": text(field.name.capitalize()),
        "information": text(str(field.metadata["help"])),
        "default": field.default,
    }
    if choices := field.metadata["choices"]:
        return {**found, "type": "choice", "values": [{"id": one, "name": text(one)} for one in choices]}
    if isinstance(field.default, bool):
        return {**found, "type": "boolean"}
    if isinstance(field.default, int):
        return {**found, "type": "int", "minimum": 0, "maximum": LIMITS[field.name]}
    return {**found, "type": "string"}


def configuration() -> dict[str, object]:
    """Which of the server's presets the scan asks for."""
    values = [{"id": name, "name": text(name)} for name in sorted(PRESETS)]
    return {
        "id": "config",
        "label": text("Configuration"),
        "type": "choice",
        "values": values,
        "default": "openrecon",
        "information": text("Preset of the koosh server"),
    }


def label(release: str, date: datetime.date) -> dict[str, object]:
    """The whole document for one release, valid by `schema.json`."""
    known = {field.name: field for field in dataclasses.fields(Settings)}
    found = {
        "general": {
            "name": text(NAME),
            "version": release,
            "vendor": VENDOR,
            "information": text(f"3D non-Cartesian MRI with unrolled networks. {NOTICE}"),
            "id": NAME,
            "regulatory_information": {
                "device_trade_name": NAME,
                "production_identifier": release,
                "manufacturer_address": "none: open-source software, not a medical device",
                "made_in": "none",
                "manufacture_date": f"{date:%Y/%m/%d}",
                "material_number": f"{NAME}_{release}",
                "gtin": "",
                "udi": "",
                "safety_advices": NOTICE,
                "special_operating_instructions": "None",
                "additional_relevant_information": "None",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": 9002,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": True,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 8192,
            "min_required_memory": 16384,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [configuration(), *(parameter(known[name]) for name in OFFERED)],
    }
    jsonschema.validate(found, json.loads(SCHEMA.read_text()), jsonschema.Draft7Validator)
    return found


def names(release: str) -> dict[str, str]:
    """What image and package are called: the scanner refuses a package whose names don't follow from its label."""
    stem = f"OpenRecon_{VENDOR}_{NAME}_V{release}"
    image = f"OpenRecon_{VENDOR}_{NAME}:V{release}".lower()
    return {"image": image, "archive": f"{stem}.tar", "document": f"{stem}.pdf", "package": f"{stem}.zip"}


def version() -> str:
    """The release in the project's own table."""
    table = (HERE / "../../pyproject.toml").read_text()
    return re.findall(r'^version = "(.+)"$', table, re.MULTILINE)[0]


def main() -> None:
    """Print the label, or the names, of the installed version."""
    given = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    given.add_argument(
        "what",
        choices=("label", "names", "json"),
        help="KEY=base64 for docker build --label, the names, or the plain document",
    )
    given.add_argument(
        "--date", type=datetime.date.fromisoformat, default=datetime.date.today(), help="of manufacture (today)"
    )
    chosen = given.parse_args()
    release = version()
    document = json.dumps(label(release, chosen.date), indent=2)
    if chosen.what == "names":
        sys.stdout.writelines(f"{kind}={name}\n" for kind, name in names(release).items())
    elif chosen.what == "json":
        sys.stdout.write(document + "\n")
    else:
        sys.stdout.write(f"{KEY}={base64.b64encode(document.encode()).decode()}\n")


if __name__ == "__main__":
    main()
