"""The rules of the house that no other tool checks."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "gadgets").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
# inside koosh_models each room may use itself and those below it
ORDER = ("training", "weights", "strategies", "networks", "baselines", "calibration", "physics")


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, dotted."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def room(path: Path) -> str:
    """The package directly below koosh_models that a file is in, or its own name."""
    return path.relative_to(ROOT / "models/koosh_models").parts[0].removesuffix(".py")


MODELS = [p for p in SOURCES if "koosh_models" in p.parts]


def test_models_know_no_gadgets_no_sockets_and_no_wire():
    offenders = []
    for path in MODELS:
        allowed = {"ismrmrd"} if room(path) == "simulation" else set()
        outside = {"koosh_gadgets", "socket", "socketserver", "gadgetron", "ismrmrd"} - allowed
        offenders += [(path.name, name) for name in imported(path) if name.split(".")[0] in outside]
    assert not offenders


def test_inside_models_imports_go_one_way():
    offenders = []
    for path in MODELS:
        above = ORDER[: ORDER.index(room(path))] if room(path) in ORDER else ()
        used = {name.split(".")[1] for name in imported(path) if name.startswith("koosh_models.")}
        offenders += [(str(path.relative_to(ROOT)), name) for name in used & set(above)]
    assert not offenders


def test_the_command_starts_without_torch():
    code = "import sys, koosh_gadgets.cli, koosh_gadgets.entry; print('torch' in sys.modules)"
    env = {"PYTHONPATH": f"{ROOT / 'gadgets'}:{ROOT / 'models'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False"
