"""POST /v1/embeddings."""

from typing import Annotated, Any, Literal

from flask import Response, jsonify
from pydantic import Field

from app.web.current import here
from app.web.dialect import TIMEOUT, Lenient
from app.web.embed import MAX_INPUTS, EmbedBody, encoded, vector
from app.web.errors import translating
from app.web.held import events_of, gathered
from app.web.openai.answers import EmbeddingsAnswer, blueprint
from app.web.openai.schemas import NoIds
from app.web.schemas import ModelName
from app.web.submit import submit_generation

embeddings = blueprint("embeddings")


class EmbeddingsBody(Lenient):
    """Texts to turn into vectors."""

    model: ModelName
    input: Annotated[str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)], NoIds]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def translated(self) -> EmbedBody:
        """The one request type. Raises ValidationError, ValueError."""
        inputs = [self.input] if isinstance(self.input, str) else self.input
        fields = {"model": self.model, "inputs": inputs, "dimensions": self.dimensions, "timeout": TIMEOUT}
        return EmbedBody.model_validate(fields)


@embeddings.post(
    "/v1/embeddings", summary="Turn texts into vectors, as OpenAI's API does", responses={200: EmbeddingsAnswer}
)
def create_embeddings(body: EmbeddingsBody) -> Response:
    """On GGUF models. The job's id is in `X-Job-Id`."""
    site = here()
    site.kernel.bus.ping()
    with translating():
        request = body.translated()
    job = submit_generation(site.kernel, request, held=True)
    tokens, ended = gathered(events_of(site, job), job.timeout)
    texts = encoded(tokens, job.request["n"])
    shown: list[Any] = [vector(text) for text in texts] if body.encoding_format == "float" else list(texts)
    read = ended.usage.completion_tokens
    return jsonify(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": n, "embedding": value} for n, value in enumerate(shown)],
            "model": job.model,
            "usage": {"prompt_tokens": read, "total_tokens": read},
        }
    )
