"""Answers of OpenAI's dialect, as the API's description shows them; like the native ones, for no other use."""

from typing import Literal

from flask_openapi3.blueprint import APIBlueprint
from pydantic import ConfigDict, Field, RootModel

from app.web.answers import Answer, described, stream_of


class OpenAIError(Answer):
    """What went wrong. `code` is stable; `message` says what to do."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorAnswer(Answer):
    """Any error of this dialect; in a stream, its last event."""

    error: OpenAIError


def blueprint(name: str) -> APIBlueprint:
    """A noun of this dialect."""
    return described(f"openai_{name}", "openai", "OpenAI's dialect.", OpenAIErrorAnswer)


class CompletionUsage(Answer):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LikelyBytes(Answer):
    """A token that could stand at one place."""

    token: str
    logprob: float
    bytes: list[int]


class LogprobBytes(LikelyBytes):
    """A token, and the likeliest ones of its place."""

    top_logprobs: list[LikelyBytes]


class ChatLogprobs(Answer):
    """A chat's probabilities."""

    content: list[LogprobBytes]
    refusal: None


class CalledFunctionAnswer(Answer):
    """What is called; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallAnswer(Answer):
    """A call of a tool, whole."""

    id: str
    type: Literal["function"]
    function: CalledFunctionAnswer


class ToolCallDelta(ToolCallAnswer):
    """The same in a stream."""

    index: int


class Thoughtful(Answer):
    """The model's thoughts, under both names that clients read."""

    reasoning_content: str = ""
    reasoning: str = ""


class CompletedMessage(Thoughtful):
    """The model's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallAnswer] = Field([])


class MessageDelta(Thoughtful):
    """The next piece of a turn."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    tool_calls: list[ToolCallDelta] = Field([])


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatCompletionChoice(Answer):
    """One of several answers."""

    index: int
    message: CompletedMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatChunkChoice(Answer):
    """A piece of one of several answers."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class CompletionHead(Answer):
    """What every completion and chunk begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: None


class ChatCompletionChunk(CompletionHead):
    """A piece of an answer."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = Field(None, description="Shown where `include_usage` asks for it, in the last.")


class ChatCompletionEvent(RootModel[ChatCompletionChunk | OpenAIErrorAnswer]):
    """The data of one event of POST /v1/chat/completions; the last is `[DONE]`."""


class ChatCompletion(CompletionHead):
    """A whole answer, or with `stream` its events."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(ChatCompletionEvent)})  # type: ignore[typeddict-unknown-key]

    object: Literal["chat.completion"]
    choices: list[ChatCompletionChoice]
    usage: CompletionUsage


class PlainLogprobs(Answer):
    """A completion's probabilities."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    """One of several texts, or a piece of it."""

    index: int
    text: str
    logprobs: PlainLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextChunk(CompletionHead):
    """A piece of a text."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: CompletionUsage | None = None


class TextCompletionEvent(RootModel[TextChunk | OpenAIErrorAnswer]):
    """The data of one event of POST /v1/completions; the last is `[DONE]`."""


class TextCompletion(TextChunk):
    """A whole text, or with `stream` its events."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(TextCompletionEvent)})  # type: ignore[typeddict-unknown-key]

    usage: CompletionUsage


class EmbeddingEntry(Answer):
    """A text's vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 of 32-bit floats.")


class EmbeddingUsage(Answer):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage


class OpenAIModel(Answer):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(Answer):
    """Every model."""

    object: Literal["list"]
    data: list[OpenAIModel]
