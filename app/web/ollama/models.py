"""Models in Ollama's dialect: tags, ps, show, delete, version; and what is not done here."""

import hashlib
import time
from typing import Any

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.errors import InvalidRequestError
from app.models import Model
from app.web.current import here
from app.web.health import version
from app.web.ollama.names import resolved, tagged
from app.web.ollama.schemas import Named
from app.web.views import iso

models = APIBlueprint("ollama_models", __name__, abp_tags=[Tag(name="ollama")])


@models.get("/api/version", summary="The version")
def show_ollama_version() -> Response:
    """Tokenyard's own."""
    return jsonify({"version": version("tokenyard")})


@models.get("/api/tags", summary="List models, as Ollama does")
def list_ollama_models() -> Response:
    """Every model on this machine."""
    return jsonify({"models": [_row(model) for model in here().kernel.catalog.models()]})


@models.post("/api/show", summary="Show a model, as Ollama does")
def show_ollama_model(body: Named) -> Response:
    """Its details, template and licence."""
    kernel = here().kernel
    model = kernel.catalog.get(resolved(kernel, body.model))
    facts = model.facts
    return jsonify(
        {
            "license": facts.get("licence") or "",
            "modelfile": f"# Made by Tokenyard\nFROM {model.name}\n",
            "parameters": "",
            "template": facts.get("template") or "",
            "details": _details(model),
            "model_info": _info(facts),
            "capabilities": ["completion"],
            "modified_at": iso(model.created_at),
        }
    )


@models.post("/api/create", summary="Not done here")
@models.post("/api/push", summary="Not done here")
def refuse_making() -> Response:
    """Tokenyard makes no models."""
    raise InvalidRequestError("Tokenyard neither creates nor pushes models. Pull one, or import a file or folder.")


def _row(model: Model) -> dict[str, Any]:
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "modified_at": iso(model.created_at or time.time()),
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(model),
    }


def _digest(model: Model) -> str:
    """Tells one model's files from another's; not a checksum of them, which would take minutes."""
    return hashlib.sha256(f"{model.path}\0{model.revision}\0{model.size_bytes}".encode()).hexdigest()


def _details(model: Model) -> dict[str, Any]:
    family = str(model.facts.get("architecture") or model.format)
    return {
        "parent_model": "",
        "format": model.format,
        "family": family,
        "families": [family],
        "parameter_size": _billions(model.facts.get("parameters")),
        "quantization_level": str(model.facts.get("quantization") or ""),
    }


def _billions(parameters: int | None) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _info(facts: dict[str, Any]) -> dict[str, Any]:
    name = str(facts.get("architecture") or "unknown")
    return {
        "general.architecture": name,
        "general.parameter_count": facts.get("parameters"),
        f"{name}.context_length": facts.get("context"),
    }
