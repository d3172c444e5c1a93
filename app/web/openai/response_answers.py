"""Answers of /v1/responses, as the API's description shows them."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, RootModel

from app.web.answers import Answer, stream_of
from app.web.openai.answers import OpenAIErrorAnswer
from app.web.openai.response_schemas import Status


class ResponseFailure(Answer):
    """Why a response failed."""

    code: Literal["server_error", "invalid_prompt"]
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
