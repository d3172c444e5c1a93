"""POST /v1/embeddings."""

from typing import Annotated, Any, Literal

from flask import Response, jsonify
from pydantic import Field

from app.web.dialect import Lenient
from app.web.embed import MAX_INPUTS, vector, vectors
from app.web.openai.answers import EmbeddingsAnswer, blueprint
from app.web.openai.schemas import NoIds
from app.web.schemas import ModelName

embeddings = blueprint("embeddings")


class EmbeddingsBody(Lenient):
    """Texts to turn into vectors."""

    model: ModelName
    input: Annotated[str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)], NoIds]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@embeddings.post(
    "/v1/embeddings", summary="Turn texts into vectors, as OpenAI's API does", responses={200: EmbeddingsAnswer}
)
def create_embeddings(body: EmbeddingsBody) -> Response:
    """On GGUF models. The job's id is in `X-Job-Id`."""
    made = vectors(body.input, model=body.model, dimensions=body.dimensions)
    shown: list[Any] = [vector(text) for text in made.texts] if body.encoding_format == "float" else list(made.texts)
    read = made.usage.completion_tokens
    return jsonify(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": n, "embedding": value} for n, value in enumerate(shown)],
            "model": made.model,
            "usage": {"prompt_tokens": read, "total_tokens": read},
        }
    )
