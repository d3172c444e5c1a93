"""Models in Ollama's dialect: tags, ps, show, delete, version; and what is not done here."""

import hashlib
import time
from collections import Counter
from typing import Any

from flask import Response, jsonify

from app.errors import InvalidRequestError, NotFoundError
from app.jobs import Kind, State
from app.registry import Card, Holding
from app.stock import Model
from app.web.access import Access, identity, needs, permitted, usable
from app.web.current import here
from app.web.dialect import named
from app.web.health import version
from app.web.ollama.answers import EMPTY, OllamaResidents, OllamaShown, OllamaTags, OllamaVersion, blueprint
from app.web.ollama.names import LATEST, resolved, tagged
from app.web.ollama.schemas import BlobPath, CopyRequest, Named
from app.web.stock import remove
from app.web.views import iso

#: The year 2262: Ollama's own tools show it as "Forever".
FOR_EVER = 9_214_646_400

models = blueprint("models")


@models.get("/api/version", summary="The version", responses={200: OllamaVersion})
def show_ollama_version() -> Response:
    """Tokenyard's own."""
    return jsonify({"version": version("tokenyard")})


@models.get("/api/tags", summary="List models, as Ollama does", responses={200: OllamaTags})
def list_ollama_models() -> Response:
    """Every model on this machine, under each name that it was given."""
    return jsonify({"models": [_row(model, name) for name, model in named(here().kernel).items()]})


@models.get("/api/ps", summary="List loaded models, as Ollama does", responses={200: OllamaResidents})
def list_ollama_residents() -> Response:
    """What is in memory, until when; and what waits for it, which Ollama does not tell."""
    kernel = here().kernel
    waiting = Counter[str]()
    for depth in kernel.store.depths(identity().scope):
        if depth.kind == Kind.GENERATE and depth.status == State.QUEUED:
            waiting[depth.model] += depth.jobs
    rows = {model.name: model for model in usable(kernel.catalog.models())}
    held = [(card, holding) for card in kernel.registry.workers() for holding in card.holdings]
    shown = [_resident(rows[h.model], card, h, waiting[h.model]) for card, h in held if h.model in rows]
    return jsonify({"models": shown})


@models.delete("/api/delete", summary="Delete a model, as Ollama does", responses={200: EMPTY})
@needs(Access.OPERATORS)
def delete_ollama_model(body: Named) -> Response:
    """Only the name, where it is a further one."""
    kernel = here().kernel
    name = body.model.removesuffix(LATEST)
    alias = next((a.name for a in kernel.aliases.all() if a.name in (body.model, name)), None)
    if alias is not None:
        kernel.aliases.remove(alias)
    else:
        remove(kernel, resolved(kernel, body.model))
    return Response(status=200)


@models.post("/api/copy", summary="Give a model a further name, as Ollama's copies are", responses={200: EMPTY})
@needs(Access.OPERATORS)
def copy_ollama_model(body: CopyRequest) -> Response:
    """Nothing is copied: the new name stands for the model."""
    kernel = here().kernel
    kernel.aliases.put(body.destination.removesuffix(LATEST), resolved(kernel, body.source))
    return Response(status=200)


@models.post("/api/show", summary="Show a model, as Ollama does", responses={200: OllamaShown})
def show_ollama_model(body: Named) -> Response:
    """Its details, template and licence."""
    kernel = here().kernel
    model = permitted(kernel.catalog.get(resolved(kernel, body.model)))
    facts = model.facts
    return jsonify(
        {
            "license": facts.get("licence") or "",
            "modelfile": f"# Made by Tokenyard\nFROM {model.name}\n",
            "parameters": "",
            "template": facts.get("template") or "",
            "details": _details(model),
            "model_info": _info(facts),
            "capabilities": _capabilities(model),
            "modified_at": iso(model.created_at),
        }
    )


@models.post("/api/create", summary="Not done here")
@models.post("/api/push", summary="Not done here")
def refuse_making() -> Response:
    """Tokenyard makes no models."""
    raise InvalidRequestError("Tokenyard neither creates nor pushes models. Pull one, or import a file or folder.")


@models.get("/api/blobs/<digest>", summary="Not done here")  # and HEAD, by which clients ask
def find_blob(path: BlobPath) -> Response:
    """Blobs are what models are created from."""
    raise NotFoundError(f"There is no blob '{path.digest}': Tokenyard creates no models.", param="digest")


@models.post("/api/blobs/<digest>", summary="Not done here")
def refuse_blob(path: BlobPath) -> Response:
    """Tokenyard creates no models."""
    raise InvalidRequestError(
        f"Blob '{path.digest}' is not taken: Tokenyard creates no models. Pull one, or import a file or folder."
    )


def _resident(model: Model, card: Card, holding: Holding, waiting: int) -> dict[str, Any]:
    expires = FOR_EVER if holding.keep_alive < 0 else holding.expires_at or time.time() + holding.keep_alive
    size = holding.bytes or model.size_bytes
    return {
        **_row(model, model.name),
        "size": size,
        "size_vram": 0 if card.device.startswith("cpu") else size,
        "context_length": holding.context or model.facts.get("context") or 0,
        "expires_at": iso(expires),
        "queued": waiting,
        "running": holding.running,
    }


def _capabilities(model: Model) -> list[str]:
    template = model.facts.get("template") or ""
    embeds = model.facts.get("task") == "embed"
    can = {
        "completion": not embeds,
        "tools": "tools" in template,
        "thinking": "<think>" in template,
        # Any GGUF model makes vectors here, but `ollama run` asks a model that says so for nothing else.
        "embedding": embeds and model.format == "gguf",
    }
    return [name for name, has in can.items() if has]


def _row(model: Model, name: str) -> dict[str, Any]:
    return {
        "name": tagged(name),
        "model": tagged(name),
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
