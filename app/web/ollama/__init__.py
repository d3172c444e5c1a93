"""Ollama's dialect, under /api: thin translations to and from the one request type and the one stream."""

from typing import Any

from flask_openapi3.openapi import OpenAPI

from app.web.errors import Fault, speak
from app.web.ollama import embed, models, pull, talk

_UNKNOWN_MODEL = {"model_not_downloaded", "model_not_found"}


def register(app: OpenAPI) -> None:
    """Serves /api."""
    speak(app, "/api/", refusal)
    for blueprint in (talk.talk, models.models, pull.pull, embed.embed):
        app.register_api(blueprint)


def refusal(fault: Fault) -> tuple[dict[str, Any], int]:
    """An error in Ollama's words: one sentence, and a 404 for a model that is not here."""
    return {"error": fault.message}, 404 if fault.code in _UNKNOWN_MODEL else fault.status
