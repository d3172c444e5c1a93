"""Models: list."""

from typing import Any

import structlog
from flask import Response, jsonify

from app.cooldown import Cooldown
from app.errors import UnavailableError
from app.registry import Card
from app.stock import Model
from app.web.access import for_operators, usable
from app.web.answers import blueprint
from app.web.current import here
from app.web.fleet_answers import ModelsAnswer
from app.web.residence import residence

log = structlog.get_logger(__name__)

models = blueprint("models", "models", "What this machine can run.")


@models.get("/models", summary="List models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """Every model on this machine that the key may use, and which workers hold it."""
    kernel = here().kernel
    cards: tuple[Card, ...] = ()
    failures: list[Cooldown] = []
    try:
        cards, failures = kernel.registry.workers(), kernel.loads.failures()
    except UnavailableError:
        log.info("models_without_workers")
    aliases, models = kernel.aliases.of_models(), usable(kernel.catalog.models())
    shown = [_show(model, aliases.get(model.name, [])) | residence(model, cards, failures) for model in models]
    return jsonify({"models": shown})


def _show(model: Model, aliases: list[str]) -> dict[str, Any]:
    return {
        "model": model.name,
        "state": model.state,
        "size_bytes": model.size_bytes,
        "local_path": for_operators(model.path),
        "aliases": aliases,
    }
