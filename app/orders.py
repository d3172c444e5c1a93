"""Orders: what operators ask of workers about a model. What came of it shows in the workers' cards."""

from collections.abc import Callable, Collection

from app import placement
from app.drains import Drains
from app.errors import InvalidRequestError, UnavailableError
from app.loads import Loads
from app.registry import Card, Registry


class Orders:
    """Load, unload, reload, cancel, keep, move."""

    def __init__(self, registry: Registry, loads: Loads, drains: Drains) -> None:
        self._registry = registry
        self._drains = drains
        self._loads = loads

    def order(self, model: str, *, worker: str | None = None, keep_alive: float | None = None) -> list[str]:
        """Asks for a model, on a worker or on the best one; returns the nodes that have it or load it.

        Raises ModelCooldownError, InvalidRequestError, UnavailableError.
        """
        self._registry.forget()
        nodes = [self._ready(worker).node] if worker else self._where(lambda card: _has(card, model))
        if not nodes:
            self._loads.check(model)
            card = self._loads.choose(model)
            if card is None:
                raise UnavailableError(
                    "no_worker", f"No worker is alive that may load model '{model}'. See GET /workers"
                )
            nodes = [card.node]
        self._loads.ask("load", model, nodes, keep_alive=keep_alive)
        return nodes

    def cancel(self, model: str) -> list[str]:
        """Ends the loads of a model; returns the nodes that were asked. Raises UnavailableError."""
        self._registry.forget()
        return self._tell("cancel_load", model, self._where(lambda card: card.awaited(model) is not None))

    def unload(self, model: str, *, worker: str | None = None, force: bool = False) -> list[str]:
        """Asks a worker, or all that have a model or load it, to end it.

        Raises InvalidRequestError, UnavailableError.
        """
        self._registry.forget()
        nodes = [self._named(worker).node] if worker else self._where(lambda card: _has(card, model))
        return self._tell("unload", model, nodes, force=force)

    def reload(self, model: str) -> list[str]:
        """Has a model loaded anew by all that have it, or by the best worker. Raises as `order` does."""
        self._loads.forgive(model)
        self._registry.forget()
        nodes = self._where(lambda card: _has(card, model))
        return self._tell("reload", model, nodes) if nodes else self.order(model)

    def move(self, model: str, devices: Collection[str]) -> list[str]:
        """Has a model unloaded where it may no longer be; returns those nodes. Raises UnavailableError."""
        self._registry.forget()
        allowed = {card.node for card in placement.allowed(self._registry.workers(), devices)}
        nodes = self._where(lambda card: _has(card, model) and card.node not in allowed)
        return self._tell("unload", model, nodes)

    def keep(self, model: str, seconds: float, *, pinned: bool) -> None:
        """Tells those that hold a model how long to keep it without work. Raises UnavailableError."""
        self._tell("keep", model, self._where(lambda card: _has(card, model)), seconds=seconds, pinned=pinned)

    def empty(self, *, node: str | None = None, force: bool = False) -> None:
        """Has the workers of the drained nodes, or of one, end all models. Run in each sweep: messages may be lost.

        Raises UnavailableError.
        """
        drained = self._drains.all()
        for card in self._registry.workers() if drained else ():
            if card.host in drained and node in (None, card.host):
                held = [holding.model for holding in card.holdings if force or not holding.leaving]
                for model in {*held, *(loading.model for loading in card.loading)}:
                    self._tell("unload", model, [card.node], force=force)

    def _ready(self, worker: str) -> Card:
        card = self._named(worker)
        if card.host in self._drains.all():
            raise InvalidRequestError(
                f"Worker '{worker}' is on node '{card.host}', which is drained. To undo that: "
                f"tokenyard drain {card.host} --undo",
                param="worker",
            )
        return card

    def _tell(self, verb: str, model: str, nodes: list[str], **arguments: object) -> list[str]:
        if nodes:  # no destination would mean everybody
            self._loads.ask(verb, model, nodes, **arguments)
        return nodes

    def _where(self, true: Callable[[Card], bool]) -> list[str]:
        return [card.node for card in self._registry.workers() if true(card)]

    def _named(self, worker: str) -> Card:
        cards = self._registry.workers()
        card = next((card for card in cards if worker in (card.node, card.device)), None)
        if card is None:
            there = ", ".join(card.node for card in cards) or "none"
            raise InvalidRequestError(f"No worker is named '{worker}'. There are: {there}.", param="worker")
        return card


def _has(card: Card, model: str) -> bool:
    """Whether a model is in memory there, on its way in or on its way out."""
    return card.awaited(model) is not None or any(holding.model == model for holding in card.holdings)
