"""`koosh pet`: simulate, reconstruct and evaluate PET scans."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from koosh_gadgets.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from koosh_gadgets.petfile import PetFile
    from koosh_models.physics.pet.scanner import Scanner
    from koosh_models.physics.problem import EmissionProblem
    from koosh_models.scan import Geometry
    from koosh_models.simulation.tissue import Patient

log = logging.getLogger(__name__)

COLUMNS = {"nrmse": "NRMSE", "total": "total", "lesions": "lesions", "psnr_db": "PSNR dB", "ssim": "SSIM"}
METHODS = ("mlem", "osem", "map", "bowsher", "network")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its three parts."""
    top = subparsers.add_parser("pet", help="simulate, reconstruct and evaluate PET scans", description=__doc__)
    parts = top.add_subparsers(title="parts", metavar="PART", required=True)
    add_simulate(parts)
    add_reconstruct(parts)
    p = parts.add_parser("evaluate", help="compare images with the truth of a simulated scan, in a table")
    p.add_argument("images", metavar="IMAGE.nii", nargs="+", help="NIfTI images on the scan's grid")
    p.add_argument("scan", metavar="SCAN.npz", help="simulated scan with its truth")
    p.add_argument("--json", metavar="FILE", help="also write the numbers there, by image")
    p.set_defaults(run=evaluate)


def add_simulate(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `koosh pet simulate`."""
    p = parts.add_parser("simulate", help="write a simulated scan with its truth")
    p.add_argument("out", metavar="SCAN.npz", help="scan file to write")
    p.add_argument("--phantom", default="head", help="head or chest (%(default)s)")
    p.add_argument("--labels", metavar="FILE.npz", help="a FreeSurfer label map instead of a phantom")
    p.add_argument("--size", type=int, default=96, help="voxels across (%(default)s)")
    p.add_argument("--fov-mm", type=float, default=256.0, help="across (%(default)s)")
    p.add_argument("--views", type=int, default=96, help="over 180 degrees (%(default)s)")
    p.add_argument("--rings", type=int, default=1, help="1 is 2D (%(default)s)")
    p.add_argument("--ring-mm", type=float, default=5.0, help="pitch of the rings (%(default)s)")
    p.add_argument("--max-difference", type=int, default=None, metavar="RINGS", help="half of the rings")
    p.add_argument("--span", type=int, default=1, help="ring differences added up (%(default)s)")
    p.add_argument("--counts", type=float, default=None, help="prompts (3e5 in 2D, 1e7 in 3D)")
    p.add_argument("--randoms", type=float, default=0.2, help="share of the prompts (%(default)s)")
    p.add_argument("--scatter", type=float, default=0.2, help="share of the prompts (%(default)s)")
    p.add_argument("--fwhm-mm", type=float, default=4.5, help="resolution (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    p.set_defaults(run=simulate)


def add_reconstruct(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `koosh pet reconstruct`."""
    p = parts.add_parser("reconstruct", help="write the image of a scan as NIfTI (.nii, .nii.gz) or Interfile (.hv)")
    p.add_argument("scan", metavar="SCAN.npz", help="scan file")
    p.add_argument("out", metavar="IMAGE.nii", help="image to write")
    p.add_argument("--method", choices=METHODS, default="osem", help="(%(default)s)")
    p.add_argument("--iterations", type=int, default=4, help="passes over all subsets (%(default)s)")
    p.add_argument("--subsets", type=int, default=12, help="need not divide the views (%(default)s)")
    p.add_argument("--strength", type=float, default=0.03, help="of the prior of map and bowsher (%(default)s)")
    p.add_argument("--neighbours", type=int, default=None, help="of a voxel that count in bowsher (half of them)")
    p.add_argument("--weights", metavar="NAME", help="of the network: a .safetensors file or a name from the zoo")
    p.add_argument("--smooth-mm", type=float, default=0.0, help="FWHM of a Gaussian afterwards (%(default)s)")
    p.set_defaults(run=reconstruct)


def simulate(arguments: argparse.Namespace) -> int:
    """Write a scan of a known patient."""
    from koosh_gadgets.petfile import PetFile, write_pet
    from koosh_models.physics.pet.projector import ordered_subsets
    from koosh_models.simulation.pet import Acquisition, measure

    scanner = scanner_of(arguments)
    geometry = grid_of(arguments, scanner)
    patient = patient_of(arguments, geometry)
    counts = arguments.counts if arguments.counts is not None else (3e5 if scanner.n_rings == 1 else 1e7)
    how = Acquisition(counts, arguments.randoms, arguments.scatter, arguments.fwhm_mm)
    scan = measure(patient, ordered_subsets(scanner, geometry, 1), how, arguments.seed + 1)
    write_pet(
        arguments.out,
        PetFile(
            scanner, geometry, scan.counts, scan.background, scan.factor, scan.guide, scan.truth, patient.lesions,
            scan.fwhm_mm,
        ),
    )  # fmt: skip
    shape = " x ".join(map(str, scanner.sinogram(len(geometry.matrix))))
    sys.stdout.write(
        f"{arguments.out}: {float(scan.counts.double().sum()):.0f} counts in {shape}, grid {geometry.matrix}\n"
    )
    return 0


def scanner_of(arguments: argparse.Namespace) -> Scanner:
    """The scanner asked for; bins as wide as voxels."""
    from koosh_models.physics.pet.scanner import Scanner

    if not 8 <= arguments.size <= 1024 or arguments.fov_mm <= 0:
        raise ValueError(
            f"--size {arguments.size} over {arguments.fov_mm} mm: wanted 8..1024 voxels and a positive size"
        )
    reach = arguments.max_difference if arguments.max_difference is not None else arguments.rings // 2
    return Scanner(
        arguments.views, arguments.size, arguments.fov_mm / arguments.size, n_rings=arguments.rings,
        ring_mm=arguments.ring_mm, max_difference=reach, span=arguments.span,
        diameter_mm=max(700.0, 2.0 * arguments.fov_mm),
    )  # fmt: skip


def grid_of(arguments: argparse.Namespace, scanner: Scanner) -> Geometry:
    """The image grid that goes with it."""
    from koosh_models.physics.pet.scanner import natural

    return natural(scanner, arguments.size, arguments.fov_mm)


def patient_of(arguments: argparse.Namespace, geometry: Geometry) -> Patient:
    """From the label map, else the phantom."""
    from koosh_models.simulation.tissue import from_labels, load_labels, procedural

    if arguments.labels:
        return from_labels(load_labels(arguments.labels), geometry, arguments.seed)
    return procedural(arguments.phantom, geometry, arguments.seed)


def reconstruct(arguments: argparse.Namespace) -> int:
    """Write the image of a scan."""
    from koosh_gadgets.petfile import read_pet
    from koosh_models.baselines.pet import smoothed

    if arguments.iterations < 1:
        raise ValueError(f"--iterations {arguments.iterations}: wanted at least 1")
    scan = read_pet(arguments.scan)
    image = by_network(arguments, scan) if arguments.method == "network" else by_iteration(arguments, scan)
    write_image(Path(arguments.out), smoothed(image, arguments.smooth_mm, scan.geometry.voxel_mm), scan.geometry)
    sys.stdout.write(f"{arguments.out}: {arguments.method}, {' x '.join(map(str, scan.geometry.matrix))} voxels\n")
    return 0


def by_network(arguments: argparse.Namespace, scan: PetFile) -> Tensor:
    """The image of a trained network, if it was trained for such scans."""
    import torch

    from koosh_models.weights import load

    if not arguments.weights:
        raise ValueError("--method network needs --weights")
    network, card = load(arguments.weights)
    if network.dims.consistency != "em":
        raise ValueError(f"{card.name} is a network for MRI ({network.dims.consistency} steps), not for PET")
    if (why := card.accepts.refuses_pet(scan.geometry)) is not None:
        raise ValueError(f"{card.name}: {why}; use --method osem")
    problem = problem_of(scan, network.dims.subsets or arguments.subsets, network.dims.guides > 0)
    with torch.no_grad():
        return network(problem)


def problem_of(scan: PetFile, n_subsets: int, guided: bool = False) -> EmissionProblem:
    """The problem of a scan file."""
    from koosh_models.physics.pet.emission import emission_problem, responses
    from koosh_models.physics.pet.projector import ordered_subsets
    from koosh_models.simulation.pet import blur

    if scan.factor is None:
        log.warning("the scan has no attenuation factors: its image will be too dark inside")
    projectors = ordered_subsets(scan.scanner, scan.geometry, n_subsets)
    model = responses(projectors, blur(projectors[0], scan.fwhm_mm), scan.factor)
    background = 0.0 if scan.background is None else scan.background
    return emission_problem(model, scan.counts, background, guide_of(scan) if guided else None)


def guide_of(scan: PetFile) -> Tensor:
    """The MR image of a scan file."""
    if scan.guide is None:
        raise ValueError("this method needs an MR image on the scan's grid, and the scan file has no `guide`")
    return scan.guide


def by_iteration(arguments: argparse.Namespace, scan: PetFile) -> Tensor:
    """The image of MLEM, OSEM or MAP-EM."""
    from koosh_models.baselines.pet import map_em, osem
    from koosh_models.physics.pet.prior import bowsher, quadratic

    problem = problem_of(scan, 1 if arguments.method == "mlem" else arguments.subsets)
    if arguments.method in ("mlem", "osem"):
        return osem(problem, arguments.iterations)
    voxel = scan.geometry.voxel_mm
    if arguments.method == "map":
        prior = quadratic(problem.shape, voxel, scan.counts)
    else:
        prior = bowsher(guide_of(scan), voxel, arguments.neighbours)
    return map_em(problem, prior, arguments.strength, arguments.iterations)


def write_image(path: Path, image: Tensor, geometry: Geometry) -> None:
    """As NIfTI or Interfile, by the name."""
    from koosh_gadgets.interfile import write_interfile
    from koosh_gadgets.nifti import write_nifti

    if path.suffix == ".hv":
        write_interfile(path, image.numpy(), geometry)
    elif path.name.endswith((".nii", ".nii.gz")):
        write_nifti(path, image.numpy(), geometry)
    else:
        raise ValueError(f"{path.name}: wanted a name that ends in .nii, .nii.gz or .hv")


def evaluate(arguments: argparse.Namespace) -> int:
    """Print how far images are from the truth, one a line."""
    from koosh_gadgets.petfile import read_pet

    scan = read_pet(arguments.scan)
    found = {name: numbers_of(Path(name), scan, Path(arguments.scan).name) for name in arguments.images}
    width = max(len(name) for name in ("image", *found))
    sys.stdout.write(f"{'image':{width}}{''.join(f'{title:>10}' for title in COLUMNS.values())}\n")
    for name, numbers in found.items():
        cells = (f"{numbers[key]:10.4f}" if key in numbers else f"{'-':>10}" for key in COLUMNS)
        sys.stdout.write(f"{name:{width}}{''.join(cells)}\n")
    if arguments.json:
        write_atomic(arguments.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


def numbers_of(path: Path, scan: PetFile, name: str) -> dict[str, float]:
    """NRMSE, errors of the total activity and of that in the lesions, PSNR and SSIM of an image file."""
    import torch

    from koosh_gadgets.nifti import read_nifti
    from koosh_models.baselines.pet import quantities
    from koosh_models.metrics import psnr, ssim

    if scan.truth is None:
        raise ValueError(f"{name} holds no truth: only simulated scans can be evaluated")
    volume, _ = read_nifti(path)
    if volume.size != scan.truth.numel():
        raise ValueError(f"{path.name} has {volume.shape} voxels, the scan's grid is {scan.geometry.matrix}")
    image = torch.from_numpy(volume.astype("float32")).reshape(scan.truth.shape)
    body = scan.truth > 0
    shown = {"psnr_db": psnr(image, scan.truth, body), "ssim": ssim(image, scan.truth, body)}
    return quantities(image, scan.truth, scan.lesions) | shown
