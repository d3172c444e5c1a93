"""Loads: who is asked to load which model for its work, and which models nobody can load just now."""

import math
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
import structlog
from celery import Celery

from app import placement
from app.catalog import Catalog
from app.cooldown import Cooldown, Cooldowns
from app.drains import Drains
from app.errors import Failure, ModelCooldownError, ModelNotDownloadedError
from app.logs import later
from app.registry import Card, Loading, Registry
from app.sending import tell

log = structlog.get_logger(__name__)

#: Longer than a control message needs to reach a worker and to show in its card, in seconds.
PLACING = 5.0
#: A worker's card shows what it was asked for sooner than this, in seconds.
SHOWING = 1.0
#: Failures that say nothing against another worker of the same host. With any other one, its files or its engines
#: are at fault, and they are the host's.
OF_DEVICE = frozenset({"out_of_memory", "load_timeout", "engine_failed", "bad_engine_options"})


class Needs(NamedTuple):
    """What a model asks of a worker."""

    devices: tuple[str, ...]
    size: int
    nodes: frozenset[str] | None = None  #: those that have its files; None: all


class Loads:
    """Places models on workers. The workers carry it out; a message that is lost is sent again by the next sweep."""

    def __init__(
        self, registry: Registry, cooldowns: Cooldowns, catalog: Catalog, drains: Drains, celery: Celery
    ) -> None:
        self._registry = registry
        self._drains = drains
        self._cooldowns = cooldowns
        self._catalog = catalog
        self._celery = celery
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[str, float]] = {}

    def place(self, model: str) -> None:
        """Asks a worker to load a model that nobody holds or loads."""
        with later("not_placed", model=model):
            card = self.choose(model)
            if card is not None:
                self._send(model, card)

    def choose(self, model: str) -> Card | None:
        """The worker to load a model that nobody holds or loads. Raises UnavailableError."""
        if placement.is_placed(self._registry.workers(), model):
            return None
        self._registry.forget()  # what was just placed decides where the next one goes
        cards = self._cards()
        if placement.is_placed(cards, model):
            return None
        needs = self._needs(model)
        return placement.choose(self._able(cards, model, needs), needs.size, needs.nodes)

    def is_placed(self, model: str) -> bool:
        """Whether a worker holds the model or is loading it. Raises UnavailableError."""
        self._registry.forget()
        return placement.is_placed(self._registry.workers(), model)

    def spread(self, model: str, waiting: Collection[str]) -> None:
        """Asks a further worker to load a model whose holders are full, where it takes nothing from anybody."""
        with later("not_spread", model=model):
            cards = self._cards()
            if placement.is_loading(cards, model) or not placement.is_placed(cards, model):
                return
            needs = self._needs(model)
            able = self._able(cards, model, needs)
            card = placement.spread(able, model, needs.size, waiting, needs.nodes)
            if card is not None:
                self._send(model, card, gentle=True)

    def check(self, model: str) -> None:
        """Raises ModelCooldownError where it would be in vain to ask for a model now; UnavailableError."""
        cooldown = self.cooldown(model)
        if cooldown is not None:
            raise ModelCooldownError(model, cooldown.message, math.ceil(cooldown.seconds))

    def cooldown(self, model: str) -> Cooldown | None:
        """The failure that is over first, where each worker that may load the model has failed to.

        Raises UnavailableError.
        """
        cards = self._registry.workers()
        if placement.is_placed(cards, model):
            return None
        able = self._allowed(cards, self._needs(model))
        failed = self._cooldowns.of(model, [card.node for card in able])
        if not able or len(failed) < len(able):
            return None
        return min(failed.values(), key=lambda cooldown: cooldown.seconds)

    def failed(self, model: str, node: str, failure: Failure) -> None:
        """Keeps that a worker could not load a model. Raises UnavailableError."""
        self._cooldowns.note(model, self._blamed(node, failure), failure)

    def not_fetched(self, model: str, host: str, failure: Failure) -> None:
        """Keeps that a node could not get a model's files. Raises UnavailableError."""
        nodes = [card.node for card in self._registry.workers() if card.host == host]
        self._cooldowns.note(model, nodes, failure)

    def _blamed(self, node: str, failure: Failure) -> set[str]:
        if failure.code in OF_DEVICE:
            return {node}
        cards = self._registry.workers()
        hosts = {card.host for card in cards if card.node == node}
        return {node} | {card.node for card in cards if card.host in hosts}

    def failures(self) -> list[Cooldown]:
        """Every load that failed lately. Raises UnavailableError."""
        return self._cooldowns.all()

    def arrived(self, model: str) -> None:
        """A pull has brought its files: what failed with the earlier ones may work now, and who holds those lets go."""
        with later("not_announced", model=model):  # the cooldown ends by itself; the new files come at a reload
            self.forgive(model)
            self._registry.forget()
            holders = [card.node for card in self._registry.workers() if card.held(model) is not None]
            if holders:
                self.ask("renew", model, holders)

    def forgive(self, model: str | None = None) -> list[str]:
        """Ends the cooldown of a model, or of all; returns those that had one. Raises UnavailableError."""
        return self._cooldowns.clear(model)

    def ask(self, verb: str, model: str, nodes: Iterable[str], **arguments: object) -> None:
        """Sends workers a control command about a model. Raises UnavailableError."""
        tell(self._celery, verb, list(nodes), model=model, **arguments)

    def _send(self, model: str, card: Card, **arguments: object) -> None:
        if not self._registry.reserve(model, PLACING):
            return  # another process has just placed it
        with self._lock:
            self._sent[model] = (card.node, time.monotonic())
        self.ask("load", model, [card.node], **arguments)
        log.info("placed", model=model, node=card.node, **arguments)

    def _cards(self) -> list[Card]:
        """The workers, and on them also what this process has sent and their cards do not show yet."""
        with self._lock:
            self._sent = {m: s for m, s in self._sent.items() if time.monotonic() - s[1] < SHOWING}
            sent = {model: node for model, (node, _) in self._sent.items()}
        return [_with(card, [m for m, node in sent.items() if node == card.node]) for card in self._registry.workers()]

    def _able(self, cards: list[Card], model: str, needs: Needs) -> list[Card]:
        allowed = self._allowed(cards, needs)
        failed = self._cooldowns.of(model, [card.node for card in allowed])
        return [card for card in allowed if card.node not in failed]

    def _allowed(self, cards: Sequence[Card], needs: Needs) -> list[Card]:
        draining = self._drains.all()
        return [card for card in placement.allowed(cards, needs.devices) if card.host not in draining]

    def _needs(self, model: str) -> Needs:
        try:
            row = self._catalog.get(model)
        except ModelNotDownloadedError:
            return Needs((), 0)  # whoever loads it says so
        return Needs(tuple(row.devices or ()), row.size_bytes, self._catalog.nodes(row))


def _with(card: Card, models: list[str]) -> Card:
    further = [model for model in models if card.awaited(model) is None and card.held(model) is None]
    if not further:
        return card
    return msgspec.structs.replace(card, loading=(*card.loading, *(Loading(model) for model in further)))
