"""Answers of OpenAI's dialect, as the API's description shows them; like the native ones, for no other use."""

from typing import Any, Literal

from flask_openapi3.blueprint import APIBlueprint
from pydantic import ConfigDict, Field, RootModel

from app.batches import Stage
from app.web.answers import Answer, described, stream_of
from app.web.openai.response_schemas import Status


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


class FileAnswer(Answer):
    """An upload, or an output of a batch."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class DeletedAnswer(Answer):
    """It was forgotten."""

    id: str
    object: Literal["file", "response.deleted"]
    deleted: Literal[True]


class PageAnswer(Answer):
    """What all pages have."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FilesAnswer(PageAnswer):
    """A page of files."""

    data: list[FileAnswer]


class BatchFault(Answer):
    """What is wrong with a file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(Answer):
    """All that is wrong with it."""

    object: Literal["list"]
    data: list[BatchFault]


class RequestCounts(Answer):
    """How a batch's lines stand."""

    total: int
    completed: int
    failed: int


class BatchAnswer(Answer):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchFaults | None
    input_file_id: str
    completion_window: str
    status: Stage
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchesAnswer(PageAnswer):
    """A page of batches."""

    data: list[BatchAnswer]


class ResponseFailure(Answer):
    """Why a response failed."""

    code: Literal["server_error"]
    message: str


class ResponseCounts(Answer):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """What was said."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[Any] = Field(max_length=0)


class OutputMessage(Answer):
    """The model's turn."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class ReasoningText(Answer):
    """What was thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(Answer):
    """The model's thoughts."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]


class OutputCall(Answer):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class ResponseAnswer(Answer):
    """A response as it stands."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseFailure | None
    incomplete_details: dict[Literal["reason"], Literal["max_output_tokens"]] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | OutputReasoning | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseCounts | None
    user: None


class ResponseEventHead(Answer):
    """One event of a response; what else it holds is that of its `type`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(pattern=r"^response\.")
    sequence_number: int


class ResponseEvent(RootModel[ResponseEventHead | OpenAIErrorAnswer]):
    """The data of one event of a response's stream."""


class StreamedResponse(ResponseAnswer):
    """A response, or with `stream` its events."""

    model_config = ConfigDict(openapi_extra={"content": stream_of(ResponseEvent)})  # type: ignore[typeddict-unknown-key]
