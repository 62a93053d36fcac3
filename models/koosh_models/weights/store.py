"""Weights on disk: safetensors whose metadata is the card, the same card as JSON beside it; nothing is unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from importlib import resources
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from koosh_models.networks.unrolled import Dims, Unrolled, build
from koosh_models.weights.card import Card
from koosh_models.weights.describe import finite

KEY = "koosh_card"
FOLDER = "KOOSH_WEIGHTS"  # environment variable: a folder of weights looked into before those that ship
LARGEST = 8 << 30


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def folders() -> list[Path]:
    """Where names are looked up, in order."""
    own = Path(str(resources.files("koosh_models.weights") / "zoo"))
    named = os.environ.get(FOLDER)
    return [Path(named), own] if named else [own]


def names() -> list[str]:
    """The known networks; a name found twice is the first one's."""
    return sorted({path.stem for folder in folders() if folder.is_dir() for path in folder.glob("*.safetensors")})


def path_of(name_or_path: str | Path) -> Path:
    """The file of a name, or the path itself."""
    text = str(name_or_path)
    if text.endswith(".safetensors") or os.sep in text:
        if not Path(text).is_file():
            raise FileNotFoundError(f"no weights at {text}; give a .safetensors file or one of {', '.join(names())}")
        return Path(text)
    for folder in folders():
        if (found := folder / f"{text}.safetensors").is_file():
            return found
    raise FileNotFoundError(f"no weights are called {text!r}; known: {', '.join(names()) or 'none'}")


def save(path: str | Path, network: Unrolled, card: Card) -> Card:
    """Write the weights with the card inside and beside; the card returned has the hash and count filled in."""
    path = Path(path)
    state = {name: stored(name, tensor, card.dims) for name, tensor in network.state_dict().items()}
    if bad := finite(state):
        raise ValueError(f"{path.name} was not written: {', '.join(bad[:3])} hold NaN or Inf")
    if card.dims != network.dims:
        raise ValueError(f"the card says {card.dims}, the network is {network.dims}")
    card = card.model_copy(update={"sha256": digest(state), "parameters": sum(t.numel() for t in state.values())})
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        save_file(state, part, metadata={KEY: card.model_dump_json()})
        beside = part.with_suffix(".json")
        beside.write_text(card.model_dump_json(indent=1) + "\n")
        part.chmod(beside.stat().st_mode)  # safetensors writes for its owner alone
        os.replace(beside, path.with_suffix(".json"))
        os.replace(part, path)
    finally:
        for left in (part, part.with_suffix(".json")):
            with contextlib.suppress(FileNotFoundError):
                left.unlink()
    return card


def stored(name: str, tensor: Tensor, dims: Dims) -> Tensor:
    """A tensor as it is written: kernels of a network that convolves in bf16 as bf16, which loses nothing there.

    A clone: safetensors refuses tensors that share memory, as those of shared parts do.
    """
    kernel = dims.precision == "bf16" and name.startswith("regularizers.") and tensor.ndim > 1
    own = tensor.detach().cpu().to(torch.bfloat16 if kernel else tensor.dtype)
    return own.clone().contiguous()


def read_card(name_or_path: str | Path) -> Card:
    """The card inside a weights file; no tensor is read."""
    path = path_of(name_or_path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; weights of over {LARGEST} are refused")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is no safetensors file or is damaged ({error}): copy it again") from error
    if KEY not in metadata:
        raise ValueError(f"{path.name} has no card inside: export it with `koosh weights export`")
    try:
        return Card.model_validate(json.loads(metadata[KEY]))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"the card inside {path.name} can't be read: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What is wrong with a card, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def check_twin(path: Path, card: Card) -> None:
    """Refuse a file whose card is not the one beside it: a hash of the tensors says nothing of damage to the card."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return
    try:
        twin = Card.model_validate_json(beside.read_bytes())
    except ValueError as error:
        raise ValueError(f"the card beside {path.name} can't be read: {first_line(error)}") from error
    if twin != card:
        raise ValueError(f"the card inside {path.name} is not that of {beside.name}: copy both again")


def verify(name_or_path: str | Path) -> tuple[dict[str, Tensor], Card]:
    """Tensors (float32) and card of a weights file, once hash, names, shapes, types and finiteness are found right."""
    path, card = path_of(name_or_path), read_card(name_or_path)
    check_twin(path, card)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged ({error}): copy it again") from error
    with torch.device("meta"):
        wanted = build(card.dims).state_dict()
    if missing := sorted(set(wanted) ^ set(state)):
        raise ValueError(f"{path.name} and its card disagree about tensors: {', '.join(missing[:3])}")
    for name, tensor in state.items():
        like = wanted[name]
        if tensor.shape != like.shape or tensor.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"{path.name}: {name} is {tensor.dtype} {tuple(tensor.shape)}, wanted float32 or bfloat16 "
                f"{tuple(like.shape)}"
            )
    if bad := finite(state):
        raise ValueError(f"{path.name}: {', '.join(bad[:3])} hold NaN or Inf; these weights can't be used")
    if (found := digest(state)) != card.sha256:
        raise ValueError(f"{path.name} has changed: sha256 {found[:12]}, its card says {card.sha256[:12]}")
    return {name: tensor.float() for name, tensor in state.items()}, card


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> tuple[Unrolled, Card]:
    """The network, ready to reconstruct, and its card; by name from the zoo or by path."""
    state, card = verify(name_or_path)
    network = build(card.dims)
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False), card
