"""Placement: which worker should load a model that has work and no holder, or too few. Nothing here asks anybody."""

from collections.abc import Collection, Sequence

from app.registry import Card

#: A worker with so much memory to spare beyond a model's files is taken to have room for it: for its cache and buffers.
MARGIN = 1.2


def is_placed(cards: Sequence[Card], model: str) -> bool:
    """Whether a worker holds the model or is loading it."""
    return any(card.held(model) is not None or card.awaited(model) is not None for card in cards)


def is_loading(cards: Sequence[Card], model: str) -> bool:
    """Whether a worker is loading the model."""
    return any(card.awaited(model) is not None for card in cards)


def allowed(cards: Sequence[Card], devices: Collection[str]) -> list[Card]:
    """The workers that a model may go to: those that it is bound to, by device, by node or by both (`gpu.0@node`)."""
    return [card for card in cards if not devices or not {card.device, card.host, card.node}.isdisjoint(devices)]


def choose(cards: Sequence[Card], size: int = 0, nodes: Collection[str] | None = None) -> Card | None:
    """The worker to load a model of so many bytes: one whose node has its files, one with room, the least busy one.

    `nodes` have the files; None: all do.
    """
    return min(cards, key=lambda card: _burden(card, size, nodes), default=None)


def spread(
    cards: Sequence[Card], model: str, size: int, waiting: Collection[str], nodes: Collection[str] | None = None
) -> Card | None:
    """A further worker for a model whose holders are full: one that need not end anything for it that is wanted.

    `waiting` are the models that have work in the queue.
    """
    able = [card for card in cards if card.held(model) is None and _is_spare(card, size, waiting)]
    return choose(able, size, nodes)


def _burden(card: Card, size: int, nodes: Collection[str] | None) -> tuple[bool, bool, bool, int, int, str]:
    models = len(card.holdings) + len(card.loading)
    running = sum(holding.running for holding in card.holdings)
    lacks = nodes is not None and card.host not in nodes
    return _is_too_small(card, size), lacks, not _has_room(card, size), running, models, card.node


def _is_too_small(card: Card, size: int) -> bool:
    return bool(card.memory_total) and size > card.memory_total


def _has_room(card: Card, size: int) -> bool:
    return len(card.holdings) + len(card.loading) < card.cache_limit and _fits(card, size, card.memory_free)


def _is_spare(card: Card, size: int, waiting: Collection[str]) -> bool:
    """Whether the worker has room, or makes room by ending what nobody wants just now."""
    idle = [h for h in card.holdings if not (h.running or h.leaving or h.pinned or h.model in waiting)]
    places = card.cache_limit - len(card.holdings) + len(idle)
    return not card.loading and places > 0 and _fits(card, size, card.memory_free + sum(h.bytes for h in idle))


def _fits(card: Card, size: int, free: int) -> bool:
    return not card.memory_total or size * MARGIN <= free
