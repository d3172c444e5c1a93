"""OpenAI's dialect, under /v1: thin translations to and from the one request type and the one stream."""

from flask_openapi3.openapi import OpenAPI

from app.web.errors import speak
from app.web.openai import batches, chat, completions, embeddings, files, models, responses
from app.web.openai.shapes import refusal


def register(app: OpenAPI) -> None:
    """Serves /v1."""
    speak(app, "/v1/", refusal)
    for blueprint in (
        chat.chat,
        completions.completions,
        embeddings.embeddings,
        models.models,
        files.files,
        batches.batches,
        responses.responses,
    ):
        app.register_api(blueprint)
    app.paths["/v1/files"].post.requestBody = files.UPLOAD
