"""Trained networks: safetensors with a card each; save, load, verify, choose."""

from koosh_models.weights.card import Card, Metric, Range
from koosh_models.weights.choose import Choice, choose
from koosh_models.weights.store import load, names, path_of, read_card, save, verify

__all__ = ["Card", "Choice", "Metric", "Range", "choose", "load", "names", "path_of", "read_card", "save", "verify"]
