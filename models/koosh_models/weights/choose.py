"""Which of the known networks fits a scan, or why none does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from koosh_models.scan import Scan
from koosh_models.weights.card import Card
from koosh_models.weights.store import names, read_card


@dataclass(frozen=True)
class Choice:
    """The newest network that takes the scan.

    name     None where none fits
    reasons  why each of the others does not, one sentence a network
    """

    name: str | None
    reasons: tuple[str, ...]


def choose(scan: Scan, cards: Iterable[Card] | None = None) -> Choice:
    """The newest card that takes the scan, of those given or of the whole zoo."""
    known = [read_card(name) for name in names()] if cards is None else list(cards)
    reasons = {card.name: card.refuses(scan) for card in known}
    fitting = [card for card in known if reasons[card.name] is None]
    best = max(fitting, key=lambda card: (card.created, card.name), default=None)
    others = tuple(f"{name}: {why}" for name, why in reasons.items() if why is not None)
    return Choice(best.name if best else None, others if known else ("no weights are installed",))
