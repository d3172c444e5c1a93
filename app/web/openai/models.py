"""GET /v1/models: what clients may name."""

from typing import Any

from flask import Response, jsonify

from app.models import Model
from app.web.access import usable
from app.web.current import here
from app.web.openai.answers import OpenAIModel, OpenAIModels, blueprint
from app.web.schemas import ModelPath

models = blueprint("models")


@models.get("/v1/models", summary="List models, as OpenAI's API does", responses={200: OpenAIModels})
def list_openai_models() -> Response:
    """Every model on this machine that the key may use."""
    return jsonify({"object": "list", "data": [_show(model) for model in usable(here().kernel.catalog.models())]})


@models.get("/v1/models/<path:name>", summary="Show a model, as OpenAI's API does", responses={200: OpenAIModel})
def show_openai_model(path: ModelPath) -> Response:
    """One of them."""
    return jsonify(_show(here().kernel.catalog.get(path.name)))


def _show(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created_at), "owned_by": "tokenyard"}
