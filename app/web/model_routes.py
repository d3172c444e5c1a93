"""Models: list."""

from typing import Any

from flask import Response, jsonify

from app.errors import UnavailableError
from app.models import Model
from app.registry import Card
from app.web.answers import ModelsAnswer, blueprint
from app.web.current import here

models = blueprint("models", "models", "What this machine can run.")


@models.get("/models", summary="List models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """Every model on this machine, and which workers hold it."""
    kernel = here().kernel
    try:
        cards = kernel.registry.workers()
    except UnavailableError:
        cards = ()
    aliases = kernel.aliases.of_models()
    return jsonify({"models": [_show(model, cards, aliases) for model in kernel.catalog.models()]})


def _show(model: Model, cards: tuple[Card, ...], aliases: dict[str, list[str]]) -> dict[str, Any]:
    held = [(card, holding) for card in cards for holding in card.holdings if holding.model == model.name]
    return {
        "model": model.name,
        "loaded": bool(held),
        "backend": held[0][1].backend if held else None,
        "size_bytes": model.size_bytes,
        "local_path": model.path,
        "load_duration": max((holding.load_ns for _, holding in held), default=0),
        "aliases": aliases.get(model.name, []),
        "workers": [card.node for card, _ in held],
    }
