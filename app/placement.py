"""Placement: which worker should load a model that has work and no holder."""

from collections.abc import Sequence

from app.registry import Card


def is_placed(cards: Sequence[Card], model: str) -> bool:
    """Whether a worker holds the model or is loading it."""
    return any(card.holds(model) or model in card.loading for card in cards)


def choose(cards: Sequence[Card]) -> Card | None:
    """The worker to load a further model: one with room for it, then the one that has least to do."""
    return min(cards, key=_burden, default=None)


def _burden(card: Card) -> tuple[bool, int, int, str]:
    models = len(card.holdings) + len(card.loading)
    running = sum(holding.running for holding in card.holdings)
    return models >= card.cache_limit, running, models, card.node
