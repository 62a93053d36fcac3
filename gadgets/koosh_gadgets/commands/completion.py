"""`koosh completion`: a script that lets a shell complete commands, options and their values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

SHELLS = ("bash", "zsh")

BASH = """\
# koosh for bash: eval "$(koosh completion bash)"
_koosh() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} path= words= values= i
    local prev=${{COMP_WORDS[COMP_CWORD-1]}}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${{COMP_WORDS[i]}}" in
            {paths}) path="$path ${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$path" in
{words}
    esac
    case "$path $prev" in
{values}
    esac
    COMPREPLY=()
    if [[ -n $values ]]; then COMPREPLY=($(compgen -W "$values" -- "$cur"))
    elif [[ $cur == -* || $words != -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
}}
complete -o default -F _koosh koosh
"""

ZSH = """\
#compdef koosh
# koosh for zsh: eval "$(koosh completion zsh)", after compinit
_koosh() {{
    local cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} place= known= values= i
    for ((i = 2; i < CURRENT; i++)); do
        case "$place ${{words[i]}}" in
            {paths}) place="$place ${{words[i]}}" ;;
        esac
    done
    case "$place" in
{words}
    esac
    case "$place $prev" in
{values}
    esac
    if [[ -n $values ]]; then compadd -- ${{=values}}
    elif [[ $cur == -* || $known != -* ]]; then compadd -- ${{=known}}
    else _files; fi
}}
compdef _koosh koosh
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("completion", help="let a shell complete commands and options", description=__doc__)
    p.add_argument("shell", choices=SHELLS, help="whose script to print")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The script for one shell, made from the parsers themselves."""
    from koosh_gadgets.cli import parser
    from koosh_gadgets.examples import walk

    words: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    for path, one in walk(parser()):
        place = "".join(f" {word}" for word in path)
        words[place] = []
        for action in one._actions:
            below = isinstance(action, argparse._SubParsersAction)
            words[place] += list(action.choices or ()) if below else action.option_strings
            if action.choices and not below:
                # of a positional the values come right after the command itself
                for name in action.option_strings or path[-1:]:
                    at = f"{place} {name}"
                    values[at] = [str(value) for value in action.choices]
    paths = "|".join(f'"{place}"' for place in words if place)
    name, form = ("words", BASH) if shell == "bash" else ("known", ZSH)
    return form.format(paths=paths, words=cases(words, name), values=cases(values, "values"))


def cases(table: Mapping[str, list[str]], variable: str) -> str:
    """The branches of a `case` that set a variable; commands stand before options."""
    lines = (f'        "{key}") {variable}="{" ".join(sorted(v, key=order))}" ;;' for key, v in table.items())
    return "\n".join(lines)


def order(word: str) -> tuple[bool, str]:
    """Names first, then options."""
    return word.startswith("-"), word
