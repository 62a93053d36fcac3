"""`koosh weights`: which networks are known, what they were trained on, whether a file is whole."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    top = subparsers.add_parser("weights", help="list, show, verify and export trained networks", description=__doc__)
    what = top.add_subparsers(title="what", metavar="WHAT", required=True)
    what.add_parser("list", help="the known networks, one a line").set_defaults(run=list_all)
    show = what.add_parser("show", help="the card of a network")
    show.add_argument("weights", metavar="NAME|FILE")
    show.set_defaults(run=show_card)
    check = what.add_parser("verify", help="check hash, shapes and values of a file")
    check.add_argument("weights", metavar="NAME|FILE")
    check.set_defaults(run=verify_file)


def list_all(arguments: argparse.Namespace) -> int:
    """Names with what they are for."""
    from koosh_models.weights import names, read_card

    for name in names():
        card, fit = read_card(name), read_card(name).accepts
        sys.stdout.write(
            f"{name}\t{card.parameters} weights, {'/'.join(fit.families)} over {fit.axes} axes, "
            f"R {fit.acceleration[0]:g} to {fit.acceleration[1]:g}, matrix {fit.matrix[0]:g} to {fit.matrix[1]:g}, "
            f"{card.created}\n"
        )
    return 0


def show_card(arguments: argparse.Namespace) -> int:
    """The card as JSON, the recipe last as plain text."""
    from koosh_models.weights import read_card

    card = read_card(arguments.weights)
    sys.stdout.write(card.model_dump_json(indent=1, exclude={"recipe"}) + "\n")
    sys.stdout.write(f"\nrecipe:\n{card.recipe}\n")
    return 0


def verify_file(arguments: argparse.Namespace) -> int:
    """One line where all is right; an error otherwise."""
    from koosh_models.weights import path_of, verify

    state, card = verify(arguments.weights)
    sys.stdout.write(
        f"{path_of(arguments.weights)}: whole; {len(state)} tensors, {card.parameters} weights, sha256 {card.sha256}\n"
    )
    return 0
