"""Models: list, and remove."""

import shutil
from pathlib import Path
from typing import Any

from flask import Response, jsonify

from app.errors import UnavailableError
from app.models import Model
from app.registry import Card
from app.web.answers import ModelsAnswer, RemovedAnswer, blueprint
from app.web.current import here
from app.web.errors import ModelInUseError
from app.web.offload import offload
from app.web.schemas import ModelPath

models = blueprint("models", "models", "What this machine can run.")


@models.get("/models", summary="List models", responses={200: ModelsAnswer})
def list_models() -> Response:
    """Every model on this machine, and which workers hold it."""
    kernel = here().kernel
    try:
        cards = kernel.registry.workers()
    except UnavailableError:
        cards = ()
    return jsonify({"models": [_show(model, cards) for model in kernel.catalog.models()]})


@models.delete("/models/<path:name>", summary="Remove a model", responses={200: RemovedAnswer})
def remove_model(path: ModelPath) -> Response:
    """Forgets a model that no open job needs, and deletes its files where they are ours alone."""
    kernel = here().kernel
    if any(model == path.name for _, model, _, _ in kernel.store.depths()):
        raise ModelInUseError(
            f"Model '{path.name}' has open jobs. Cancel them, or wait, then remove it.", param="model"
        )
    model = kernel.catalog.remove(path.name)
    deleted = offload(_delete_files, model, kernel.settings.models_dir)
    return jsonify({"status": "removed", "model": model.name, "files_deleted": deleted})


def _delete_files(model: Model, ours: Path) -> bool:
    """Files elsewhere belong to others too: to Hugging Face's cache, or to whoever made them."""
    path = Path(model.path).absolute()
    if not model.path or path == ours or not path.is_relative_to(ours) or ".." in path.parts:
        return False
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return True


def _show(model: Model, cards: tuple[Card, ...]) -> dict[str, Any]:
    held = [(card, holding) for card in cards for holding in card.holdings if holding.model == model.name]
    return {
        "model": model.name,
        "loaded": bool(held),
        "backend": held[0][1].backend if held else None,
        "size_bytes": model.size_bytes,
        "local_path": model.path,
        "load_duration": max((holding.load_ns for _, holding in held), default=0),
        "aliases": [],
        "workers": [card.node for card, _ in held],
    }
