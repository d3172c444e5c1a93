"""GET /v1/models: what clients may name."""

from typing import Any

from flask import Response, jsonify

from app.stock import Model
from app.web.access import identity
from app.web.current import here
from app.web.dialect import named
from app.web.openai.answers import OpenAIModel, OpenAIModels, blueprint
from app.web.schemas import NamePath
from app.web.submit import adapters_of, model_of

models = blueprint("models")


@models.get("/v1/models", summary="List models, as OpenAI's API does", responses={200: OpenAIModels})
def list_openai_models() -> Response:
    """Every model on this machine that the key may use, under each name that it was given, and with each adapter."""
    there = named(here().kernel)
    there |= {f"{model.name}@{adapter}": model for model in there.values() for adapter in adapters_of(model)}
    return jsonify({"object": "list", "data": [_show(model, name) for name, model in there.items()]})


@models.get("/v1/models/<path:name>", summary="Show a model, as OpenAI's API does", responses={200: OpenAIModel})
def show_openai_model(path: NamePath) -> Response:
    """One of them."""
    model, _ = model_of(here().kernel, path.name, identity())
    return jsonify(_show(model, path.name))


def _show(model: Model, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(model.created_at), "owned_by": "tokenyard"}
