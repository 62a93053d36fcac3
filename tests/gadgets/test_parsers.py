"""Every parser of the command line, walked: help, examples, names, the page docs/cli.md, completion."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from koosh_gadgets.cli import COMMANDS, EXIT_CODES, main, parser
from koosh_gadgets.commands.completion import SHELLS, script
from koosh_gadgets.examples import EXAMPLES, walk
from koosh_gadgets.settings import METHODS

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
PARSERS = dict(walk(parser()))
# one letter means one thing everywhere, and what it means to Gadgetron's client where that has it too
LETTERS = {
    "-a": "--address", "-p": "--port", "-c": "--config", "-o": "--out", "-g": "--in-group", "-G": "--out-group",
    "-f": "--filename", "-h": "--help", "-v": "--verbose", "-l": "--loops", "-t": "--timeout", "-C": "--config-local",
}  # fmt: skip


def options(one: argparse.ArgumentParser) -> list[argparse.Action]:
    return [a for a in one._actions if not isinstance(a, argparse._SubParsersAction)]


@pytest.mark.parametrize("path", PARSERS, ids=" ".join)
def test_a_command_shows_examples_and_each_of_them_parses(path):
    lines = EXAMPLES[path]
    help_text = PARSERS[path].format_help()
    for line in lines:
        assert line in help_text
        calls = re.findall(r"koosh ([^|&>)]*)", line.split(" #")[0])
        assert calls
        for call in calls:
            assert callable(parser().parse_args(shlex.split(call)).run)


def test_no_example_is_left_over():
    assert set(EXAMPLES) == set(PARSERS)


@pytest.mark.parametrize("path", PARSERS, ids=" ".join)
def test_every_argument_says_what_it_is(path):
    silent = [a.option_strings or a.dest for a in options(PARSERS[path]) if not a.help]
    assert not silent


@pytest.mark.parametrize("path", PARSERS, ids=" ".join)
def test_a_letter_means_the_same_everywhere(path):
    for action in options(PARSERS[path]):
        for short in (s for s in action.option_strings if len(s) == 2):
            assert LETTERS.get(short) in action.option_strings, (path, action.option_strings)


def test_the_page_names_every_command_and_every_exit_code():
    for name in COMMANDS:
        assert f"`koosh {name}`" in PAGE
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in PAGE
        assert meaning in parser().format_help()


def test_the_page_names_every_command_that_speaks_json():
    speaking = {" ".join(path) for path, one in PARSERS.items() if any(a.dest == "json" for a in options(one))}
    speaking.discard("dicom export")  # there --json is what goes in
    told = re.search(r"`--json` .*?:(.*?)\n\n", PAGE, re.DOTALL)
    assert told is not None
    assert set(re.findall(r"`([a-z ]+)`", told[1])) == speaking


def test_machines_read_json(capsys, tmp_path):
    assert main(["weights", "list", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert [card["name"] for card in cards]
    assert main(["weights", "show", cards[0]["name"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == cards[0]
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    assert main(["dicom", "check", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"]


def completed(shell: str, *words: str) -> set[str]:
    """What the shell offers for the last word, asked in the shell itself."""
    if shell == "bash":
        quoted = " ".join(map(shlex.quote, words))
        asked = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _koosh; printf "%s\\n" "${{COMPREPLY[@]}}"'
        text = script("bash") + asked
    else:
        quoted = " ".join(map(shlex.quote, words))
        stubs = 'compdef() { : }; compadd() { shift; print -rl -- "$@" }; _files() { print FILES }\n'
        text = f"{stubs}{script('zsh')}\nwords=({quoted}); CURRENT={len(words)}; _koosh"
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=pytest.mark.system)])
def test_a_shell_completes_commands_options_and_values(shell):
    assert shutil.which(shell), "apt-get install zsh"
    assert {"replay", "simulate", "dicom"} <= completed(shell, "koosh", "")
    assert {"export", "push", "check"} <= completed(shell, "koosh", "dicom", "")
    assert {"--called", "--outbox"} <= completed(shell, "koosh", "dicom", "push", "-")
    assert completed(shell, "koosh", "replay", "scan.h5", "--method", "") == set(METHODS)
    assert completed(shell, "koosh", "completion", "") == set(SHELLS)
    assert completed(shell, "koosh", "info", "") == ({"FILES"} if shell == "zsh" else set())


def test_a_completed_word_is_one_that_the_shell_can_start():
    assert completed("bash", "koosh", "simu") == {"simulate"}
    assert completed("bash", "koosh", "replay", "s.h5", "--meth") == {"--method"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_made_without_torch(shell):
    code = "import sys; from koosh_gadgets.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "completion", shell], stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert b"_koosh" in done.stdout
