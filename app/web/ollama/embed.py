"""POST /api/embed and, in its older form, /api/embeddings."""

from typing import Annotated

from flask import Response, jsonify
from pydantic import Field

from app.events import Ended
from app.web.current import here
from app.web.dialect import TIMEOUT
from app.web.embed import MAX_INPUTS, EmbedBody, encoded, vector
from app.web.errors import translating
from app.web.held import events_of, gathered
from app.web.ollama.answers import EmbedAnswer, OneEmbedding, blueprint
from app.web.ollama.names import resolved
from app.web.ollama.schemas import Named
from app.web.schemas import KeepAlive
from app.web.submit import submit_generation

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
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, ended = _vectors(body, texts, body.dimensions)
    usage = ended.usage
    return jsonify(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": usage.total_ns,
            "load_duration": usage.load_ns,
            "prompt_eval_count": usage.completion_tokens,
        }
    )


@embed.post("/api/embeddings", summary="Turn one text into a vector, as Ollama did", responses={200: OneEmbedding})
def create_ollama_vector(body: EmbeddingsRequest) -> Response:
    """On GGUF models. The job's id is in `X-Job-Id`."""
    return jsonify({"embedding": _vectors(body, [body.prompt])[0][0]})


def _vectors(
    body: EmbedRequest | EmbeddingsRequest, texts: list[str], dimensions: int | None = None
) -> tuple[list[list[float]], Ended]:
    site = here()
    site.kernel.bus.ping()
    asked = {"model": resolved(site.kernel, body.model), "keep_alive": body.keep_alive, "dimensions": dimensions}
    with translating():
        request = EmbedBody.model_validate({**asked, "inputs": texts, "timeout": TIMEOUT})
    job = submit_generation(site.kernel, request, held=True)
    tokens, ended = gathered(events_of(site, job), job.timeout)
    return [vector(text) for text in encoded(tokens, job.request["n"])], ended
