"""Answers of Ollama's dialect, as the API's description shows them; like the native ones, for no other use."""

from datetime import datetime
from typing import Any, Literal

from flask_openapi3.blueprint import APIBlueprint
from pydantic import ConfigDict, Field, RootModel

from app.web.answers import Answer, described, stream_of
from app.web.bodies import NDJSON
from app.web.chat_answers import Counts, TokenLogprob


class OllamaErrorAnswer(Answer):
    """Any error of this dialect; in a stream, its last line."""

    error: str


def blueprint(name: str) -> APIBlueprint:
    """A noun of this dialect."""
    return described(f"ollama_{name}", "ollama", "Ollama's dialect.", OllamaErrorAnswer)


class CalledTool(Answer):
    """What is called."""

    name: str
    arguments: dict[str, Any]


class OllamaCall(Answer):
    """A call of a tool."""

    id: str
    function: CalledTool


class OllamaMessage(Answer):
    """The model's turn, or its next piece."""

    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[OllamaCall] = Field([])


class OllamaHead(Answer):
    """What every line begins with."""

    model: str
    created_at: datetime
    logprobs: list[TokenLogprob] = Field([])


class Told(OllamaHead):
    """A line that more follow."""

    done: Literal[False]


class Done(OllamaHead):
    """The last line. One that only says that a model was loaded or unloaded has no counts."""

    done: Literal[True]
    done_reason: Literal["stop", "length", "load", "unload"]


class ChatLine(Told):
    """A piece of an answer."""

    message: OllamaMessage


class ChatLoaded(Done):
    """A model was loaded, or unloaded."""

    message: OllamaMessage


class ChatDone(ChatLoaded, Counts):
    """The end of an answer; where nothing was streamed, all of it."""


class GenerateLine(Told):
    """A piece of an answer."""

    response: str
    thinking: str = ""


class GenerateLoaded(Done):
    """A model was loaded, or unloaded."""

    response: str


class GenerateDone(GenerateLoaded, Counts):
    """The end of an answer; where nothing was streamed, all of it."""

    thinking: str = ""
    context: list[int] = Field([], description="What the next prompt goes on from.")


class OllamaChatEvent(RootModel[ChatLine | ChatDone | OllamaErrorAnswer]):
    """One line of POST /api/chat."""


class OllamaGenerateEvent(RootModel[GenerateLine | GenerateDone | OllamaErrorAnswer]):
    """One line of POST /api/generate."""


class OllamaChatAnswer(RootModel[ChatDone | ChatLoaded]):
    """A whole answer, or with `stream` its lines."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(OllamaChatEvent, NDJSON)})  # type: ignore[typeddict-unknown-key]


class OllamaGenerateAnswer(RootModel[GenerateDone | GenerateLoaded]):
    """A whole answer, or with `stream` its lines."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(OllamaGenerateEvent, NDJSON)})  # type: ignore[typeddict-unknown-key]


class PullLine(Answer):
    """Where a download stands."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class PullEvent(RootModel[PullLine | OllamaErrorAnswer]):
    """One line of POST /api/pull."""


class PullDone(Answer):
    """A whole download, or with `stream` its lines."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(PullEvent, NDJSON)})  # type: ignore[typeddict-unknown-key]

    status: Literal["success"]


class EmbedAnswer(Answer):
    """The vectors, in the order of the texts."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OneEmbedding(Answer):
    """A vector."""

    embedding: list[float]


class OllamaVersion(Answer):
    """Tokenyard's version."""

    version: str


class OllamaDetails(Answer):
    """What a model is."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaRow(Answer):
    """A model under one of its names."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(Answer):
    """Every model."""

    models: list[OllamaRow]


class OllamaResident(OllamaRow):
    """A loaded model, and what waits for it."""

    size_vram: int
    context_length: int
    expires_at: datetime
    queued: int
    running: int


class OllamaResidents(Answer):
    """Every loaded model."""

    models: list[OllamaResident]


class OllamaShown(Answer):
    """A model's details."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[Literal["completion", "tools", "thinking", "embedding"]]
    modified_at: datetime


#: A success that has no body.
EMPTY: dict[str, Any] = {"description": "It is done."}
