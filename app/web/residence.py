"""Where models live, as the native API shows it: workers, what they hold, what they load, what they could not load."""

from collections.abc import Iterable, Sequence
from typing import Any

from app.cooldown import Cooldown
from app.errors import UnavailableError
from app.kernel import Kernel
from app.registry import Card
from app.stock import Model
from app.web.access import for_operators
from app.web.fleet_answers import HeldModel, LoadFailure, LoadingModel
from app.web.views import iso


def fleet(kernel: Kernel) -> tuple[Sequence[Card], Sequence[Cooldown]]:
    """The living workers, and the loads that failed lately; nobody while the broker is away."""
    try:
        return kernel.registry.workers(), kernel.loads.failures()
    except UnavailableError:
        return (), ()


def worker(card: Card, failures: Iterable[Cooldown]) -> dict[str, Any]:
    """A worker whole."""
    return {
        "node": card.node,
        "device": card.device,
        "host": card.host,
        "pid": card.pid,
        "cache_limit": card.cache_limit,
        "memory_total": card.memory_total or None,
        "memory_free": card.memory_free if card.memory_total else None,
        "utilization": card.utilization,
        "temperature": card.temperature,
        "models": [HeldModel.of(holding) for holding in card.holdings],
        "loading": [LoadingModel.of(loading) for loading in card.loading],
        "failures": [LoadFailure.of(failure) for failure in failures if failure.node == card.node],
    }


def residence(model: Model, cards: Sequence[Card], failures: Iterable[Cooldown]) -> dict[str, Any]:
    """What the workers say of a model, beside what its row does."""
    held = [(card, holding) for card in cards for holding in card.holdings if holding.model == model.name]
    loading = [(card, load) for card in cards if (load := card.awaited(model.name)) is not None]
    facts, first = model.facts or {}, held[0][1] if held else None
    return {
        "loaded": bool(held),
        "backend": first.backend if first else None,
        "why": first.why or None if first else None,
        "quantize": model.quantize,
        "quantization": (first.quantization if first else "") or facts.get("quantization"),
        "dtype": (first.dtype if first else "") or facts.get("dtype"),
        "context": (first.context if first else None) or facts.get("context"),
        "load_duration": max((holding.load_ns for _, holding in held), default=0),
        "keep_alive": first.keep_alive if first else model.keep_alive,
        "expires_at": iso(first.expires_at) if first else None,
        "devices": list(model.devices or ()),
        "engine_options": for_operators(model.engine_options) or {},
        "workers": for_operators([card.node for card, _ in held]) or [],
        "loading": [{"worker": for_operators(card.node), **LoadingModel.of(load)} for card, load in loading],
        "failures": [
            {"worker": for_operators(failure.node), **LoadFailure.of(failure)}
            for failure in failures
            if failure.model == model.name
        ],
    }
