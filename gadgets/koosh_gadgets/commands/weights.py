"""`koosh weights`: which networks are known, what they were trained on, whether a file is whole."""

from __future__ import annotations

import argparse
import json
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    top = subparsers.add_parser("weights", help="list, show, verify and export trained networks", description=__doc__)
    what = top.add_subparsers(title="what", metavar="WHAT", required=True)
    known = what.add_parser("list", help="the known networks, one a line")
    known.add_argument("--json", action="store_true", help="their cards as a JSON list")
    known.set_defaults(run=list_all)
    show = what.add_parser("show", help="the card of a network")
    show.add_argument("weights", metavar="NAME|FILE", help="from the list, or a .safetensors file")
    show.add_argument("--json", action="store_true", help="all of it as JSON, the recipe too")
    show.set_defaults(run=show_card)
    check = what.add_parser("verify", help="check hash, shapes and values of a file")
    check.add_argument("weights", metavar="NAME|FILE", help="from the list, or a .safetensors file")
    check.set_defaults(run=verify_file)
    out = what.add_parser("export", help="the network of a run, with its card")
    out.add_argument("training", metavar="RUN", help="folder that `koosh train` wrote")
    out.add_argument("-o", "--out", required=True, metavar="FILE.safetensors", help="to write")
    out.add_argument("--raw", action="store_true", help="the last weights instead of their running mean")
    out.add_argument("--notes", default="", help="a sentence for the card")
    out.add_argument("--no-scores", action="store_true", help="leave out the comparison with classical methods")
    out.set_defaults(run=export_run)


def list_all(arguments: argparse.Namespace) -> int:
    """Names with what they are for."""
    from koosh_models.weights import names, read_card

    if arguments.json:
        cards = [read_card(name).model_dump(mode="json") for name in names()]
        sys.stdout.write(json.dumps(cards, indent=1) + "\n")
        return 0
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
    if arguments.json:
        sys.stdout.write(card.model_dump_json(indent=1) + "\n")
        return 0
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


def export_run(arguments: argparse.Namespace) -> int:
    """Write weights and card, with quality on the run's validation cases beside the classical methods."""
    from pathlib import Path

    from koosh_models.training import export
    from koosh_models.training.feed import validation_cases
    from koosh_models.training.validate import compare, usual
    from koosh_models.weights import save

    folder, out = Path(arguments.training), Path(arguments.out)
    network, recipe, step = export.network_of(folder, arguments.raw)
    scores, data = [], recipe.data
    if not arguments.no_scores:
        cache = folder / "cases" if (folder / "cases").is_dir() else None
        cases = validation_cases(data, cache, data.validation_cases)
        scores = compare(cases, usual(data), {"network": network})
    seen = export.conditions(data)
    card = save(out, network, export.card_of(recipe, out.stem, step, scores, seen, arguments.notes))
    sys.stdout.write(f"{out}: {card.parameters} weights after {step} steps, sha256 {card.sha256}\n")
    for metric in card.metrics:
        sys.stdout.write(f"  {metric.method}: {metric.psnr:.2f} dB, SSIM {metric.ssim:.4f}\n")
    return 0
