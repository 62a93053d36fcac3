"""What each command is called like: the end of its help, and the page docs/cli.md; a test parses every line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

Path = tuple[str, ...]

EXAMPLES: dict[Path, tuple[str, ...]] = {
    (): (
        "koosh demo                                    # everything once, in a minute or two",
        "koosh replay scan.h5 -o images.h5             # reconstruct a file",
        "koosh serve                                   # reconstruct what a scanner sends",
    ),
    ("simulate",): (
        "koosh simulate scan.h5 --matrix 64 --acceleration 6 --truth truth.npz",
        "koosh simulate knee.h5 --anatomy knee --trajectory cones --orientation 8 -5 3",
        "koosh simulate mine.h5 --volume head.nii.gz --coils 16 --noise 0.03",
    ),
    ("info",): (
        "koosh info scan.h5",
        "koosh info images.h5 --json | jq .images",
    ),
    ("convert",): (
        "koosh convert images.h5 image.nii.gz",
        "koosh convert scan.h5 scan.cfl                # for BART",
        "koosh convert scan.cfl scan.h5 --matrix 64 64 64 --fov-mm 240 240 240",
    ),
    ("report",): (
        "koosh report images.h5 -o report.html --scan scan.h5",
        "koosh report network.h5 l1.h5 gridding.h5 -o report.html --scan scan.h5 --truth truth.npz",
    ),
    ("demo",): (
        "koosh demo",
        "koosh demo --out demo --matrix 32 --methods gridding cg",
    ),
    ("weights",): ("koosh weights list",),
    ("weights", "list"): ("koosh weights list", "koosh weights list --json"),
    ("weights", "show"): ("koosh weights show radial3d", "koosh weights show radial3d --json"),
    ("weights", "verify"): ("koosh weights verify first.safetensors",),
    ("weights", "export"): ("koosh weights export runs/first -o first.safetensors",),
    ("prepare",): (
        "koosh prepare s01.h5 s02.h5 s03.h5 --validation s03.h5 -o cases",
        "koosh train radial3d_blockwise --cache cases --set data.cases=2 --set data.validation_cases=1",
    ),
    ("train",): (
        "koosh train radial3d_blockwise --dry-run        # memory and time beforehand",
        "koosh train radial3d_blockwise --size small --out runs/first",
        "koosh train radial3d_blockwise --size small --out runs/first --resume auto",
    ),
    ("evaluate",): (
        "koosh evaluate radial3d --benchmark",
        "koosh evaluate runs/first --against cg,l1 --report first.html --json first.json",
    ),
    ("replay",): (
        "koosh replay scan.h5 -o images.h5 --report report.html --dicom dicom",
        "koosh replay scan.h5 -o l1.h5 --method l1",
        "koosh replay scan.h5 -o images.h5 -a 127.0.0.1 -p 9002 -c koosh_3d.xml",
        "cat scan.mrd | koosh replay - -o - > images.mrd",
    ),
    ("pet",): ("koosh pet simulate scan.npz && koosh pet reconstruct scan.npz image.nii",),
    ("pet", "simulate"): (
        "koosh pet simulate scan.npz --phantom head --counts 3e5",
        "koosh pet simulate volume.npz --rings 8 --size 48",
    ),
    ("pet", "reconstruct"): (
        "koosh pet reconstruct scan.npz image.nii --method osem --iterations 3",
        "koosh pet reconstruct scan.npz image.hv --method bowsher",
    ),
    ("pet", "evaluate"): ("koosh pet evaluate image.nii scan.npz --json scores.json",),
    ("serve",): (
        "koosh serve                                   # this machine alone may connect",
        "koosh serve -a 0.0.0.0 -p 9020 --method l1",
        "koosh serve -c site.toml --spool none",
    ),
    ("dicom",): ("koosh dicom export images.h5 dicom && koosh dicom check dicom",),
    ("dicom", "export"): (
        "koosh dicom export images.h5 dicom",
        "koosh dicom export images.h5 dicom --enhanced --template scanner.dcm --nifti image.nii.gz",
    ),
    ("dicom", "push"): (
        "koosh dicom push dicom 10.0.0.7:104 --called PACS",
        "koosh dicom push outbox 10.0.0.7:11112 --called PACS --outbox --tls-ca hospital.pem",
    ),
    ("dicom", "check"): ("koosh dicom check dicom", "koosh dicom check dicom --json"),
    ("doctor",): (
        "koosh doctor",
        "koosh doctor -p 9020                          # is the server well?",
        "koosh doctor --pacs 10.0.0.7:104 --called PACS --json",
    ),
    ("completion",): (
        'eval "$(koosh completion bash)"               # into ~/.bashrc',
        'eval "$(koosh completion zsh)"                # into ~/.zshrc, after compinit',
    ),
}


def walk(parser: argparse.ArgumentParser, path: Path = ()) -> Iterator[tuple[Path, argparse.ArgumentParser]]:
    """The parser and all below it, each with the words that lead there."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from walk(below, (*path, name))


def show(parser: argparse.ArgumentParser) -> None:
    """Put the examples at the end of the help of every command below the parser."""
    for path, one in walk(parser):
        if lines := EXAMPLES.get(path):
            told = "examples:\n" + "\n".join(f"  {line}" for line in lines)
            one.epilog = f"{told}\n\n{one.epilog}" if one.epilog else told
            one.formatter_class = argparse.RawDescriptionHelpFormatter
