"""`koosh evaluate`: networks beside the classical methods on subjects that no network was trained on."""

from __future__ import annotations

import argparse
import dataclasses
import html
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from koosh_gadgets.atomic import write_atomic

if TYPE_CHECKING:
    from koosh_models.networks.unrolled import Unrolled
    from koosh_models.training.feed import AnyCase
    from koosh_models.training.tables import Data
    from koosh_models.training.validate import Score

log = logging.getLogger(__name__)
CASES = 20  # of the benchmark at R = 12, of series at R = 8


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = subparsers.add_parser("evaluate", help="compare networks with the classical methods", description=__doc__)
    p.add_argument("weights", nargs="*", metavar="WEIGHTS", help="name, file or run folder; none: the methods alone")
    p.add_argument("--recipe", help="whose data is used; that of the first network where not given")
    p.add_argument("--data", metavar="FOLDER", help="of volumes (.npz) instead of the recipe's")
    p.add_argument(
        "--against",
        metavar="LIST",
        help="classical methods: gridding,cg,l1 (these), l1-default, bart; of series llr too; osem,map for PET",
    )
    p.add_argument(
        "--benchmark", action="store_true",
        help="R = 4 to 20, 8 coils, 2 %% noise, lesions, groups unlike training; differences, worst cases",
    )  # fmt: skip
    p.add_argument("--only", nargs="+", metavar="GROUP", help="of the benchmark, such as 'R = 12'")
    p.add_argument("--cache", type=Path, metavar="FOLDER", help="of the benchmark's cases, made once")
    p.add_argument("--acceleration", type=float, metavar="R", help="in place of the recipe's")
    p.add_argument("--noise", type=float, metavar="SHARE", help="in place of the recipe's, of the mean signal")
    p.add_argument("--coils", type=int, help="in place of the recipe's")
    p.add_argument("--matrix", type=int, nargs="+", metavar="N", help="one size, or one for each axis")
    p.add_argument("--cases", type=int, metavar="N", help="the recipe's number where not given")
    p.add_argument("--report", metavar="FILE.html", help="also a page with images and scores")
    p.add_argument(
        "--json",
        metavar="FILE",
        help="every number; - for stdout, in place of the table; a benchmark goes on where the file ends",
    )
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the means, write what was asked for."""
    from koosh_gadgets.terminal import write_table
    from koosh_models.training.feed import validation_cases
    from koosh_models.training.report import comparison, page
    from koosh_models.training.validate import compare, usual

    networks, hashes, data = loaded(arguments)
    if arguments.benchmark and data.pet is None:
        return benchmark(arguments, networks, hashes, data)
    cases = validation_cases(data, None, arguments.cases or data.validation_cases)
    against = usual(data) if arguments.against is None else [n for n in arguments.against.split(",") if n]
    scores = compare(cases, against, networks)
    if arguments.json == "-":
        sys.stdout.write(json.dumps(numbers(scores, cases), indent=1) + "\n")
    else:
        write_table(("method", "PSNR dB", "SSIM", "NRMSE", "HFEN", "s"), rows(scores))
    if arguments.json not in (None, "-"):
        write_atomic(arguments.json, (json.dumps(numbers(scores, cases), indent=1) + "\n").encode())
    if arguments.report:
        write_atomic(arguments.report, page("koosh evaluate", comparison(scores, cases)).encode())
    return 0


def rows(scores: list[Score]) -> list[tuple[str, ...]]:
    """One row of means for every method."""
    from koosh_models.training.validate import means

    places = {"psnr": 2, "ssim": 4, "nrmse": 4, "hfen": 4, "seconds": 2}
    return [(method, *(f"{v[name]:.{n}f}" for name, n in places.items())) for method, v in means(scores).items()]


def loaded(arguments: argparse.Namespace) -> tuple[dict[str, Unrolled], dict[str, str], Data]:
    """The networks by name, the hashes of their weights, and the data they are compared on."""
    from koosh_models.training.recipe import Recipe, read, recipe_path

    networks, hashes, recipe = {}, {}, None
    for name in arguments.weights:
        network, shown, own, sha256 = network_of(name)
        networks[shown], hashes[shown] = network, sha256
        recipe = recipe or own
    if arguments.recipe:
        recipe = read(recipe_path(arguments.recipe))
    if recipe is None:
        recipe = read(recipe_path("radial3d_blockwise"), size="small")
    assert isinstance(recipe, Recipe)
    return networks, hashes, conditions(recipe.data, arguments)


def network_of(name: str) -> tuple[Unrolled, str, object, str]:
    """A network of a run folder, a file or the zoo; what to call it, the recipe on its card, its weights' SHA-256."""
    from koosh_models import weights
    from koosh_models.training import export
    from koosh_models.training.recipe import Recipe

    if (Path(name) / "recipe.json").is_file():
        network, recipe, step = export.network_of(Path(name))
        return network, f"{Path(name).name}@{step}", recipe, ""
    network, card = weights.load(name)
    return network, card.name, Recipe.model_validate_json(card.recipe) if card.recipe else None, card.sha256


def conditions(data: Data, arguments: argparse.Namespace) -> Data:
    """The recipe's data with what the command line changes."""
    changes: dict[str, object] = {}
    if arguments.data:
        changes["volumes"] = arguments.data
    if arguments.benchmark and data.pet is None:
        changes |= {"validation_acceleration": 12.0, "validation_noise": 0.02, "validation_coils": 8}
    for name in ("acceleration", "noise", "coils"):
        if (value := getattr(arguments, name)) is not None:
            changes[f"validation_{name}"] = value
    if arguments.matrix:
        sizes = arguments.matrix * len(data.matrix[0]) if len(arguments.matrix) == 1 else arguments.matrix
        changes["matrix"] = (tuple(sizes),)
    return type(data).model_validate({**data.model_dump(), **changes})


def benchmark(arguments: argparse.Namespace, networks: dict[str, Unrolled], hashes: dict[str, str], data: Data) -> int:
    """Run the groups, print their tables; every row is written as soon as it is there."""
    from koosh_models.training import benchmark as bench
    from koosh_models.training.benchmark_groups import groups
    from koosh_models.training.benchmark_tables import shown
    from koosh_models.training.report import page
    from koosh_models.training.validate import usual

    chosen = groups(data, arguments.cases or CASES)
    if unknown := sorted(set(arguments.only or ()) - {g.title for g in chosen}):
        raise ValueError(f"no group {', '.join(unknown)}; known: {', '.join(g.title for g in chosen)}")
    chosen = [g for g in chosen if not arguments.only or g.title in arguments.only]
    file = Path(arguments.json) if arguments.json not in (None, "-") else None
    rows = [bench.Row(**row) for row in json.loads(file.read_text())] if file and file.is_file() else []

    def told(row: bench.Row) -> None:
        rows.append(row)
        log.info("%s, %s: %.2f dB, %.1f s", row.case, row.method, row.values["psnr"], row.seconds)
        if file is not None:
            write_atomic(file, (json.dumps([dataclasses.asdict(r) for r in rows], indent=1) + "\n").encode())

    against = usual(data) if arguments.against is None else [n for n in arguments.against.split(",") if n]
    done = bench.run(chosen, against, networks, arguments.cache, list(rows), told, hashes)
    titles = [g.title for g in chosen]
    rows = [row for row in done if row.group in titles]
    text = shown(rows, tuple(networks))
    sys.stdout.write(
        json.dumps([dataclasses.asdict(r) for r in rows], indent=1) + "\n" if arguments.json == "-" else text
    )
    if arguments.report:
        content = page("koosh evaluate --benchmark", [f"<pre>{html.escape(text)}</pre>"])
        write_atomic(arguments.report, content.encode())
    return 0


def numbers(scores: list[Score], cases: list[AnyCase]) -> list[dict[str, object]]:
    """Every number with the conditions of its case."""
    facts = {case.name: case.facts for case in cases}
    return [
        {"case": s.case, "method": s.method, "seconds": s.seconds, **s.values, "conditions": facts[s.case]}
        for s in scores
    ]
