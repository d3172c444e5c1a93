"""POST /api/embed and, in its older form, /api/embeddings."""

from typing import Annotated

from flask import Response, jsonify
from pydantic import Field

from app.web.current import here
from app.web.embed import MAX_INPUTS, Vectors, vector, vectors
from app.web.ollama.answers import EmbedAnswer, OneEmbedding, blueprint
from app.web.ollama.names import resolved
from app.web.ollama.schemas import Named
from app.web.schemas import KeepAlive

embed = blueprint("embed")


class EmbedRequest(Named):
    """Texts to turn into vectors."""

    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    dimensions: int | None = None
    keep_alive: KeepAlive | None = None


class EmbeddingsRequest(Named):
    """One text."""

    prompt: str
    keep_alive: KeepAlive | None = None


@embed.post("/api/embed", summary="Turn texts into vectors, as Ollama does", responses={200: EmbedAnswer})
def create_ollama_vectors(body: EmbedRequest) -> Response:
    """On GGUF models. The job's id is in `X-Job-Id`."""
    made = _vectors(body, body.input, body.dimensions)
    usage = made.usage
    return jsonify(
        {
            "model": body.model,
            "embeddings": [vector(text) for text in made.texts],
            "total_duration": usage.total_ns,
            "load_duration": usage.load_ns,
            "prompt_eval_count": usage.completion_tokens,
        }
    )


@embed.post("/api/embeddings", summary="Turn one text into a vector, as Ollama did", responses={200: OneEmbedding})
def create_ollama_vector(body: EmbeddingsRequest) -> Response:
    """On GGUF models. The job's id is in `X-Job-Id`."""
    return jsonify({"embedding": vector(_vectors(body, body.prompt).texts[0])})


def _vectors(body: EmbedRequest | EmbeddingsRequest, texts: str | list[str], dimensions: int | None = None) -> Vectors:
    model = resolved(here().kernel, body.model)
    return vectors(texts, model=model, keep_alive=body.keep_alive, dimensions=dimensions)
